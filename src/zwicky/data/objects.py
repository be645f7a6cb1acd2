"""The table of an ingest: what catalogue, files and folders say about each image, and what that assumed."""

from __future__ import annotations

import datetime
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from zwicky.data import columns as meanings
from zwicky.data.catalog import SUFFIXES, match_rows, read_catalog
from zwicky.data.columns import ROLES, UNKNOWN, find_column, to_text
from zwicky.data.cutouts import STANDARD_COLUMNS
from zwicky.data.image_format import IngestConfig, StoreFormat
from zwicky.data.labels import Labels
from zwicky.data.readers import Unreadable, format_of
from zwicky.data.source import STORE, Source, read_folders, read_index, split_role
from zwicky.data.splits import Split
from zwicky.errors import UserError

_PER_BAND = ("bands_present", "psf_fwhm", "noise")
_STANDARD = ("id", "label", "ra", "dec", "split", "pixel_scale", "survey")


@dataclass
class Description:
    """The tables of a store, and sentences on where they come from."""

    table: pd.DataFrame
    labels: Labels
    splits: list[Split]
    catalog: str
    explanation: tuple[str, ...]


def describe(
    data: Source, objects: pd.DataFrame, store: StoreFormat, config: IngestConfig, catalog: Path | str | None
) -> Description:
    """Combine what the catalogue, the files and the folders say; tables that are used leave `data.set_aside`.

    Args:
        data: the folder.
        objects: what the files say, one row an image; columns that begin with `_` are of the ingest.
        store: the format of the images.
        config: what the user states.
        catalog: path of the catalogue; None looks for some in the folder.

    Raises:
        UserError: A catalogue, column or class that the user names does not fit.
    """
    catalogs, path = _join_catalogs(data, objects, config, catalog)
    from_files = objects[[name for name in objects if name[0] != "_" and name not in _PER_BAND]]
    frames = [*(table for table, _ in catalogs), from_files]
    for name in (config.label_column, config.id_column, config.ra_column, config.dec_column):
        find_column([column for frame in frames for column in frame], "label", name)  # it must exist
    masks = [*(is_matched for _, is_matched in catalogs), None]
    facts, *others = [_interpret(frame, config, data, mask) for frame, mask in zip(frames, masks, strict=True)]
    columns_used = dict(facts.attrs)
    for other in others:
        columns_used = other.attrs | columns_used
        facts = facts.combine_first(other)[list(dict.fromkeys([*facts, *other]))]

    paths = [_path(data, name, row) for name, row in zip(objects["_unit"], objects["_row"], strict=True)]
    by_folder, role_of = read_folders(paths)
    source = "class folders"
    label: list[str | None] = [by_folder.get(file) for file in paths]
    if "label" in facts and facts["label"].notna().any():
        label = [value if isinstance(value, str) else None for value in facts["label"]]
        source = f"column {columns_used['label']} of {os.path.basename(path) or 'the files'}"
        if by_folder:
            data.warnings.append(f"folders {', '.join(sorted(set(by_folder.values()))[:4])} were not used as classes")
    ids = _ids(objects["_name"], facts.get("id"))
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    values = {identifier: name for identifier, name in zip(ids, label, strict=True) if name is not None}
    labels = Labels(values, config.label_source or source, time, config.positive)
    if config.positive and config.positive not in labels.classes:
        raise UserError(f"there is no class {config.positive!r}; the classes are {', '.join(labels.classes) or 'none'}")
    roles = [role_of.get(file) for file in paths]
    if "split" in facts:
        roles = [given if isinstance(given, str) else role for given, role in zip(facts["split"], roles, strict=True)]
    splits = _splits(data, objects, ids, roles, label)

    per_band = {name: objects[name] for name in _PER_BAND if name in objects}
    columns = per_band | {"id": ids, "simulated": config.simulated, "pixel_hash": objects["_hash"]}
    for name in ("ra", "dec", "pixel_scale", "survey"):
        given = getattr(config, name, None)
        columns[name] = given or facts.get(name)
    for name in facts:
        if name not in _STANDARD:
            columns[name] = facts[name]
    explanation = (
        _bands_line(data, store, config),
        _labels_line(label, labels),
        _positions_line(columns["ra"], columns_used.get("positions", "")),
        _splits_line(splits),
    )
    _warn(data, objects, ids, label, labels, splits, store)
    return Description(pd.DataFrame(columns), labels, splits, path, explanation)


def _path(data: Source, name: str, row: object) -> str:
    """The path of an image, in which a file of many is a folder: lens.npy and nonlens.npy are classes."""
    path = re.sub(rf"[^/]*/{STORE}$", STORE, data.units[name].get("", name))
    stem = re.match(r"(.*?)([^/.]+)\.[^/]*$", path)
    if stem is None or pd.isna(row) or re.search(r"\d", stem[2]):  # numbered parts are no classes
        return path
    return f"{stem[1]}{stem[2]}/{row}"


def _join_catalogs(
    data: Source, objects: pd.DataFrame, config: IngestConfig, given: Path | str | None
) -> tuple[list[tuple[pd.DataFrame, np.ndarray]], str]:
    """(tables with one row an image, which images they have; their paths): the one given, or those in the folder."""
    matches = []
    for file in [os.path.relpath(given, data.folder)] if given else _catalog_files(data):
        table = pd.DataFrame()
        try:
            table = read_catalog(Path(given) if given else data.folder / file)
            matches.append((file, table, *_match(table, data, objects, config, file)))
        except UserError as error:
            if given:
                raise UserError(f"the catalogue {given} was not used: {error}") from error
            is_catalog = not file.lower().endswith((".txt", ".dat", ".xml", ".list", ".lst", ".json"))
            if is_catalog or meanings.has_usual_name(list(table)):  # the others may be anything
                data.warnings.append(f"{file} was not used: {error}")
    matches.sort(key=lambda match: (-(match[2] >= 0).sum(), not meanings.likely_labels(match[1])))
    tables: list[tuple[pd.DataFrame, np.ndarray]] = []
    used: list[str] = []
    for file, table, rows, orphans, column in matches:
        has_row = rows >= 0
        if column and not meanings.is_id(column):
            table = table.drop(columns=column)
        overlap = any((has_row & other).any() and set(table) & set(columns) for columns, other in tables)
        if overlap or "submission" in file:
            data.warnings.append(f"{file} also fits {has_row.sum()} images and was not used (--catalog)")
            continue
        role = split_role(re.split(r"[._-]", os.path.basename(file))[0])[0]
        if role and not given and not find_column(list(table), "split"):
            table = table.assign(split=role)
        aligned = table.convert_dtypes(convert_floating=False).reindex(rows).reset_index(drop=True)
        aligned.attrs = table.attrs
        tables.append((aligned, has_row))
        used.append(file)
        data.set_aside[:] = [entry for entry in data.set_aside if entry[0] != file] + orphans
    missing = len(objects) - int(np.any([has_row for _, has_row in tables], axis=0).sum())
    if tables and missing:
        data.warnings.append(f"{missing} images are not in the catalogue: kept, unlabelled")
    return tables, ", ".join(os.path.normpath(data.folder / file) for file in used)


def _catalog_files(data: Source) -> list[str]:
    """Files that may be a catalogue: texts that are no images, and tables without images."""
    no_images = ("has no image HDU", "no array of images", "no column is recognised")
    return [
        file
        for file, reason in data.set_aside
        if (reason == "not an image" and file.lower().endswith(SUFFIXES)) or reason.startswith(no_images)
    ][:20]


def _match(
    table: pd.DataFrame, data: Source, objects: pd.DataFrame, config: IngestConfig, file: str
) -> tuple[np.ndarray, list[tuple[str, str]], str]:
    """(row of each image, (what a row names, why it has no image), the column that names images)."""
    index_of = {name: index for index, name in enumerate(objects["_name"])}
    is_stacked = objects["_row"].notna()
    for index in np.flatnonzero(~is_stacked):
        index_of |= dict.fromkeys(data.units[objects["_unit"][index]].values(), int(index))
    if is_stacked.any() and (column := find_column(list(objects), "id")):
        index_of |= {to_text(value): index for index, value in enumerate(objects[column]) if to_text(value)}
    try:
        folder = "" if file.startswith("..") else os.path.dirname(file)
        row_of, orphans, column = match_rows(table, list(index_of), config.file_column, folder)
    except UserError:
        if not is_stacked.all() or len(table) != len(objects) or config.file_column:
            raise
        data.warnings.append(f"{file} names no images: its rows were taken in their order")
        return np.arange(len(table)), [], ""
    rows = np.full(len(objects), -1)
    for name, row in row_of.items():
        rows[index_of[name]] = row if rows[index_of[name]] < 0 else rows[index_of[name]]
    cells = table[column].map(to_text)
    return rows, [(cells[row] or f"{file} row {row + 1}", reason) for row, reason in orphans.items()], column


def _interpret(frame: pd.DataFrame, config: IngestConfig, data: Source, is_matched: np.ndarray | None) -> pd.DataFrame:
    """Return a table with one row an image in our terms: the columns of _STANDARD that it has, then properties."""
    names = list(frame)
    here = {"", *map(meanings.plain_name, names)}

    def is_here(*wanted: str) -> bool:
        return all(meanings.plain_name(name) in here for name in wanted)

    facts, used, attrs = pd.DataFrame(index=frame.index), set(), {}
    likely = meanings.likely_labels(frame)
    label = (likely or [""])[0]
    if config.label_column:
        label = find_column(names, "label", config.label_column) if is_here(config.label_column) else ""
    if label:
        facts["label"], unknown = meanings.clean_labels(frame[label])
        used.add(label)
        attrs["label"] = label
        if unknown:
            data.warnings.append(f"{_spell(unknown)} in column {label!r} taken as unlabelled")
        if others := [name for name in likely if name != label]:
            data.warnings.append(f"column {', '.join(others)} may hold labels too and was not used (--label_column)")
    identifier = find_column(names, "id", config.id_column) if is_here(config.id_column) else ""
    if identifier and (config.id_column or meanings.is_id(identifier)):
        values = frame[identifier].map(to_text).astype(object)
        if is_matched is None or values[is_matched & (values != "")].is_unique:
            facts["id"] = values.where(values != "", None)
            used.add(identifier)
    given = (config.ra_column, config.dec_column)
    pair = None
    if is_here(*given):
        pair = meanings.find_position_columns(names, *given)
    if pair is not None:
        units = [meanings.unit_of(frame, name) for name in pair]
        facts["ra"], facts["dec"], count = meanings.parse_positions(frame[pair[0]], frame[pair[1]], units)
        used |= set(pair)
        attrs["positions"] = ", ".join(pair)
        if count:
            reason = "no angle, out of range, (0, 0) or -99"
            data.warnings.append(f"{count} positions in {', '.join(pair)} taken as unknown: {reason}")
    elif alone := [name for name in names if name.lower() in ("ra", "dec")]:
        data.warnings.append(
            f"column {alone[0]!r} has no other half; positions are unknown (--ra_column, --dec_column)"
        )
    for role in ("split", "pixel_scale", "survey"):
        name = find_column(names, role)
        values = frame[name].map(to_text).astype(object) if name and name not in used else None
        if values is None or (role == "split" and not set(values.str.lower()) <= set(ROLES) | UNKNOWN):
            continue
        if role == "pixel_scale":
            scale = pd.to_numeric(values, errors="coerce")
            facts[role] = scale.where((scale > 0) & (scale < np.inf)).map(lambda value: float(f"{value:.6g}"))
        else:
            facts[role] = values.str.lower().map(ROLES) if role == "split" else values.where(values != "", None)
        used.add(name)
    properties = {}
    for name in names:
        if name and name not in used:
            target = f"catalog_{name}" if name in (*STANDARD_COLUMNS, "image", *_STANDARD) else name
            properties[target], unknown = meanings.clean_property(frame[name])
            if unknown:
                data.warnings.append(f"{_spell(unknown)} in column {name!r} taken as unknown")
    result = pd.concat([facts, pd.DataFrame(properties, index=frame.index)], axis=1)
    result.attrs = attrs
    return result


def _spell(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} × {text!r}" for text, count in list(counts.items())[:3])


def _ids(names: pd.Series, given: pd.Series | None) -> list[str]:
    """The ids given, else the paths; repeated ones are replaced by the path."""
    result = names if given is None else given.astype(object).where(given.notna(), names)
    result = result.where(~result.duplicated(), names)
    while (repeated := result.duplicated()).any():
        result = result.where(~repeated, result + "+")
    return [str(name) for name in result]


def _splits(
    data: Source, objects: pd.DataFrame, ids: Sequence[str], roles: Sequence[object], labels: Sequence[str | None]
) -> list[Split]:
    """The user's own division as split `holdout`, and a split for each index of file names."""
    splits = []
    if {"test", "validation"} & set(roles):
        default = ["unlabelled" if label is None else "train" for label in labels]
        chosen = [role if isinstance(role, str) else other for role, other in zip(roles, default, strict=True)]
        splits.append(Split("holdout", dict(zip(ids, chosen, strict=True))))
    id_of = dict(zip(objects["_unit"], ids, strict=True))
    for file, _ in [entry for entry in data.set_aside if entry[0].lower().endswith((".pkl", ".pickle"))]:
        position = next(index for index, entry in enumerate(data.set_aside) if entry[0] == file)
        try:
            index, orphans = read_index(data.folder / file, file, list(id_of))
        except Unreadable as error:
            data.set_aside[position] = (file, str(error))
            continue
        data.set_aside[position : position + 1] = [
            (f"{file}: {name}", "in the index, but no such file") for name in orphans
        ]
        name = re.sub(r"[^\w.-]+", "_", Path(file).stem)
        splits.append(Split(name, {id_of[unit]: role for unit, role in index.items()}))
    return splits


def _bands_line(data: Source, store: StoreFormat, config: IngestConfig) -> str:
    by_name = any("" not in unit for unit in data.units.values())
    source = "as given" if config.bands else "from the file names" if by_name else "as in the files"
    names = ", ".join(store.bands[:12]) + f", … ({len(store.bands)})" * (len(store.bands) > 12)
    return f"bands: {names}, {source} (--bands, --axes); {store.size[0]}×{store.size[1]} px, {store.dtype}"


def _labels_line(label: Sequence[str | None], labels: Labels) -> str:
    counts, classes = Counter(label), labels.classes
    if not classes:
        return f"labels: none; {len(label)} unlabelled (--catalog, --label_column)"
    listed = ", ".join(f"{name} {counts[name]}" for name in classes[-8:]) + ", …" * (len(classes) > 8)
    options = f"(--catalog, --label_column); positive class: {classes[-1]} (--positive)"
    return f"labels: {listed}; unlabelled {counts[None]}; from {labels.source} {options}"


def _positions_line(ra: pd.Series | None, columns: str) -> str:
    n_known = 0 if ra is None else int(ra.notna().sum())
    if ra is None or not n_known:
        return "positions: none, so duplicates on the sky cannot be found (--catalog, --ra_column, --dec_column)"
    return f"positions: {n_known} of {len(ra)}, from {columns} (--ra_column, --dec_column)"


def _splits_line(splits: list[Split]) -> str:
    if not splits:
        return "splits: none given; `holdout` is drawn when a network is trained"
    parts = []
    for split in splits:
        counts = Counter(split.roles.values())
        parts.append(f"{split.name} ({', '.join(f'{role} {counts[role]}' for role in ROLES if counts[role])})")
    return f"splits: {'; '.join(parts)}, from the folders, columns or indices (another by --split)"


def _warn(
    data: Source,
    objects: pd.DataFrame,
    ids: Sequence[str],
    label: Sequence[str | None],
    labels: Labels,
    splits: list[Split],
    store: StoreFormat,
) -> None:
    """Add what looks wrong to the warnings."""
    if grays := int(objects["_gray"].sum()):
        is_colour = len(store.bands) == 3
        change = "grey pictures repeated into R, G, B" if is_colour else "colour pictures turned into grey"
        data.warnings.append(f"{grays} {change} (--bands '{'[gray]' if is_colour else '[R, G, B]'}' does the reverse)")
    for split in splits:
        roles = np.array([split.roles.get(identifier, "") for identifier in ids])
        if shared := set(objects["_hash"][roles == "test"]) & set(objects["_hash"][roles == "train"]):
            data.warnings.append(f"{len(shared)} images are both in train and in test of {split.name!r}")
    names: dict[str | None, set[str]] = {}
    for name, file in zip(label, objects["_unit"], strict=True):
        names.setdefault(name, set()).add(file.rpartition("/")[2])
    is_picture = format_of(objects["_unit"][0]).startswith("pictures")
    first, *others = names.values()
    usual = re.compile(r"(no|non|not|un)([\W_]|lens)|.*(lens|anomal|einstein)", re.IGNORECASE)
    may_be_bands = not any(map(usual.match, labels.classes)) and len(store.bands) == 1 and not is_picture
    may_be_bands &= labels.source == "class folders" and len(first) > 4
    if may_be_bands and others and all(files == first for files in others):
        folders = ", ".join(map(str, names))
        data.warnings.append(f"the class folders hold the same file names; if they are bands: --bands '[{folders}]'")
    if not labels.classes:
        stems = Counter(re.match(r"[A-Za-z_ -]*", os.path.basename(name))[0].strip("_ -") for name in objects["_name"])  # type: ignore[index]
        if 1 < len(stems) <= 5 and min(stems.values()) > 1 and all(stems):
            listed = ", ".join(f"{stem} {count}" for stem, count in stems.items())
            data.warnings.append(
                f"file names begin with {listed}; if these are classes, make them folders or a catalogue"
            )
    data.warnings += sorted(data.options.notes)[:3]
