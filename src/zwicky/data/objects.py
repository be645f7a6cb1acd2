"""The table of an ingest: what catalogue, files and folders say about each image, and what that assumed."""

import datetime
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd

from zwicky.data import columns as meanings
from zwicky.data.catalog import is_catalog_name, read_catalog, read_sidecars
from zwicky.data.columns import ROLES, as_text, find_column, is_unknown, plain_name
from zwicky.data.cutouts import STANDARD_COLUMNS
from zwicky.data.duplicates import nearest_position
from zwicky.data.image_format import IngestConfig
from zwicky.data.labels import Labels
from zwicky.data.matching import match_rows
from zwicky.data.readers import Unreadable, format_of
from zwicky.data.source import Source, read_folders, read_index, split_role
from zwicky.data.splits import Split
from zwicky.errors import UserError
from zwicky.io import STORE

PER_BAND = ("psf_fwhm", "noise")  # standard columns with a number a band
_STANDARD = ("id", "label", "ra", "dec", "split", "pixel_scale", "survey")
_POSITION = re.compile(r"(?<![\d.])(\d{1,3}\.\d{4,})[_, ]*([-+_ ,]\d{1,2}\.\d{4,})")  # cutout_150.1234_2.1234


@dataclass
class Description:
    """The tables of a store, and where they come from."""

    table: pd.DataFrame
    labels: Labels
    splits: list[Split]
    catalog: str
    position_columns: str


def describe(
    data: Source, objects: pd.DataFrame, from_files: pd.DataFrame, config: IngestConfig, catalog: Path | str | None
) -> Description:
    """Combine what the catalogue, the files and the folders say; tables that are used leave `data.set_aside`.

    `objects` has the name of each image (the path, with #row in a file of many), its unit, its row in a file of many
    and its standard columns; `from_files` has what the files say. Without a catalogue those in the folder are taken.
    UserError if a catalogue, column or class that the user names does not fit.
    """
    if not meanings.find_position_columns(list(from_files)):
        positions = objects["name"].map(os.path.basename).str.extract(_POSITION)
        if positions[0].notna().any():
            from_files = from_files.assign(ra=positions[0], dec=positions[1].str.replace(r"[_ ,]", "", regex=True))
            data.warnings.append(f"{positions[0].notna().sum()} positions were taken from the file names")
    tables = [*_join_catalogs(data, objects, from_files, config, catalog), from_files]
    if config.file_column and len(tables) == 1:
        raise UserError(f"file_column: no catalogue names images in {config.file_column!r}; give it by --catalog")
    for name in (config.label_column, config.id_column, config.ra_column, config.dec_column):
        find_column([column for table in tables for column in table], "label", name)  # it must exist
    catalogs = [table.attrs["path"] for table in tables[:-1]]
    facts, *others = [_interpret(table, config, data) for table in tables]
    sources = [facts.attrs, *(other.attrs for other in others)]
    for other in others:
        facts = facts.combine_first(other)[list(dict.fromkeys([*facts, *other]))]

    def sources_of(role: str) -> str:
        return " and ".join(dict.fromkeys(source[role] for source in sources if role in source))

    paths = [_path(data, name, row) for name, row in zip(objects["unit"], objects["row"], strict=True)]
    class_of, role_of = read_folders(paths)
    label, source = pd.Series([class_of.get(path) for path in paths], dtype=object), "class folders"
    if "label" in facts and facts["label"].notna().any():
        label, source = facts["label"].astype(object).where(facts["label"].notna(), None), sources_of("label")
        if class_of:
            data.warnings.append(f"folders {', '.join(sorted(set(class_of.values()))[:4])} were not used as classes")
    elif not class_of and (hints := sources_of("hints")):
        data.warnings.append(f"no column is known to hold labels; if one of {hints} does: --label_column")
    label, merged = meanings.merge_spellings(label, config.positive)
    if merged:
        data.warnings.append(f"spellings of one class: {'; '.join(merged)}; the first of each names it")
    ids = _ids(objects["name"], facts.get("id"))
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    values = dict(zip(ids[label.notna()], label.dropna(), strict=True))
    labels = Labels(values, source, time, config.positive)
    if config.positive and config.positive not in labels.classes:
        raise UserError(f"there is no class {config.positive!r}; the classes are {', '.join(labels.classes) or 'none'}")
    role = pd.Series([role_of.get(path) for path in paths], dtype=object)
    if "split" in facts:
        role = facts["split"].astype(object).where(facts["split"].notna(), role)
    splits = _splits(data, objects, ids, role, label)

    columns = {name: objects[name] for name in ("pixel_hash", "bands_present", *PER_BAND) if name in objects}
    columns |= {"id": ids, "simulated": config.simulated, "ra": facts.get("ra"), "dec": facts.get("dec")}
    columns |= {name: getattr(config, name) or facts.get(name) for name in ("pixel_scale", "survey")}
    columns |= {name: facts[name] for name in facts if name not in _STANDARD}
    return Description(pd.DataFrame(columns), labels, splits, ", ".join(catalogs), sources_of("positions"))


def _path(data: Source, name: str, row: object) -> str:
    """Return the path of an image, in which a file of many is a folder: lens.npy and nonlens.npy are classes."""
    path = re.sub(rf"[^/]*/{STORE}$", STORE, data.units[name].get("", name))
    stem, suffix = os.path.splitext(path)
    is_class = suffix and not pd.isna(row) and not re.search(r"\d", os.path.basename(stem))  # numbered parts are none
    return f"{stem}/{row}" if is_class else path


def _join_catalogs(
    data: Source, objects: pd.DataFrame, from_files: pd.DataFrame, config: IngestConfig, given: Path | str | None
) -> list[pd.DataFrame]:
    """Return tables with one row an image: the one given, or those in the folder; `attrs` has their names."""
    # Files that are there, by path and by its ends: a row about one of them is listed with that reason alone.
    unreadable = {name.split("/", above)[-1] for name, _ in data.set_aside for above in range(name.count("/") + 1)}
    matches, sidecars = [], {} if given else _sidecars(data)
    for file in [os.path.relpath(given, data.folder)] if given else [*sidecars, *_catalog_files(data, sidecars)]:
        table = pd.DataFrame()
        try:
            path = Path(given) if given else data.folder / file
            is_beside = file in sidecars
            table = read_sidecars(data.folder, sidecars[file]) if is_beside else read_catalog(path, config.encoding)
            matches.append((file, table, *_match(table, data, objects, from_files, config, file)))
        except UserError as error:
            if given:
                raise UserError(f"the catalogue {given} was not used: {error}") from error
            if is_catalog_name(file, sure=True) or format_of(file) or meanings.has_usual_name(list(table)):
                data.warnings.append(f"{file} was not used: {error}")  # the others may be anything
    matches.sort(key=lambda match: (-(match[2] >= 0).sum(), meanings.find_labels(match[1])[0] is None))
    tables: list[pd.DataFrame] = []
    masks = [np.zeros(len(objects), bool)]  # the images that a table has a row for
    for file, table, rows, orphans, column in matches:
        has_row = rows >= 0
        if column in table and not meanings.is_id(column):
            table = table.drop(columns=column)
        overlap = any(
            (has_row & mask).any() and set(table) & set(t) - {column} for t, mask in zip(tables, masks[1:], strict=True)
        )
        if overlap or "submission" in file:
            data.warnings.append(f"{file} also fits {has_row.sum()} images and was not used (--catalog)")
            continue
        role = split_role(re.split(r"[._-]", os.path.basename(file))[0])[0]
        if role and not given and not find_column(list(table), "split"):
            table = table.assign(split=role)
        if encoding := table.attrs.get("encoding"):
            data.warnings.append(f"{file} is not in UTF-8 and was read as {encoding}; if text is wrong: --encoding")
        name = os.path.basename(file) + (f" by its column {column}" if column else "")
        attrs = table.attrs | {"path": os.path.normpath(data.folder / file), "name": name}
        aligned = meanings.exact_types(table).reindex(rows).reset_index(drop=True)
        aligned.attrs = attrs
        tables.append(aligned)
        masks.append(has_row)
        used = {file, *sidecars.get(file, ())}
        orphans = [orphan for orphan in orphans if orphan[0] not in unreadable]
        data.set_aside[:] = [entry for entry in data.set_aside if entry[0] not in used] + orphans
    if tables and (missing := int((~np.any(masks, axis=0)).sum())):
        data.warnings.append(f"{missing} images are not in the catalogue: kept, unlabelled")
    return tables


def _sidecars(data: Source) -> dict[str, list[str]]:
    """Return "*.json" → texts named after an image, where half of the images or more have one."""
    stems, found = {os.path.splitext(name)[0] for name in data.units}, defaultdict(list)
    for file, reason in data.set_aside:
        stem, suffix = os.path.splitext(file)
        if reason == "not an image" and suffix in (".json", ".yaml", ".yml", ".txt", ".cls") and stem in stems:
            found[f"*{suffix}"].append(file)
    return {name: files for name, files in found.items() if 2 * len(files) >= len(stems) > 1}


def _catalog_files(data: Source, sidecars: dict[str, list[str]]) -> list[str]:
    """Return files that may be a catalogue: texts that are no images, and tables without images."""
    no_images = ("has no image HDU", "no array of images", "no column is recognised")
    beside = {file for files in sidecars.values() for file in files}
    texts = [file for file, reason in data.set_aside if reason == "not an image" and is_catalog_name(file)]
    files = [file for file in texts if file not in beside]
    return (files + [file for file, reason in data.set_aside if reason.startswith(no_images)])[:20]


def _match(
    table: pd.DataFrame, data: Source, objects: pd.DataFrame, from_files: pd.DataFrame, config: IngestConfig, file: str
) -> tuple[np.ndarray, list[tuple[str, str]], str]:
    """Return the row of each image, (what a row names, why it has no image), and the column that names images."""
    index_of = {name: index for index, name in enumerate(objects["name"])}
    is_stacked = objects["row"].notna()
    for index in np.flatnonzero(~is_stacked):
        index_of |= dict.fromkeys(data.units[objects["unit"][index]].values(), int(index))
    if is_stacked.any() and (column := find_column(list(from_files), "id")):
        index_of |= {text: index for index, text in enumerate(as_text(from_files[column])) if text}
    numbers = pd.to_numeric(table.get(find_column(list(table), "id"), pd.Series(dtype=float)), errors="coerce")
    order = numbers.sort_values()
    is_one = is_stacked.all() and objects["unit"].nunique() == 1
    at = objects["row"].to_numpy(int) if is_one else np.arange(len(objects))  # images set aside have a number too
    count = len(at) + sum(is_one and name.startswith(f"{objects['unit'][0]}#") for name, _ in data.set_aside)
    for first in (0, 1):  # of the numbers of all images of the one file
        if is_one and not config.file_column and order.tolist() == list(range(first, first + count)):
            return order.index.to_numpy()[at], [], str(numbers.name)
    try:
        folder = "" if file.startswith("..") else os.path.dirname(file)
        row_of, orphans, column = match_rows(table, list(index_of), config.file_column, folder)
    except UserError:
        if config.file_column:
            raise
        rows = nearest_position(*meanings.positions_of(from_files), *meanings.positions_of(table))
        if (rows >= 0).any():
            matched = f"{(rows >= 0).sum()} were matched by their positions on the sky"
            data.warnings.append(f"{file} names no images: {matched}")
            left = np.setdiff1d(np.arange(len(table)), rows)
            return rows, [(f"{file} row {row + 1}", "in the catalogue, but no image is there") for row in left], ""
        if not is_stacked.all() or len(table) != count:
            raise
        data.warnings.append(f"{file} names no images: its rows were taken in their order")
        return at, [], ""
    rows = np.full(len(objects), -1)
    for name, row in reversed(row_of.items()):
        rows[index_of[name]] = row
    return rows, [(f"{file} {name}" if name.startswith("row ") else name, reason) for name, reason in orphans], column


def _interpret(table: pd.DataFrame, config: IngestConfig, data: Source) -> pd.DataFrame:
    """Return a table with one row an image in our terms: the columns of _STANDARD that it has, then properties.

    `attrs` has where labels and positions come from, and `hints`: columns that may hold labels.
    """
    names = [name for name in table if name]
    facts, used, sources = pd.DataFrame(index=table.index), set[str](), dict[str, str]()
    catalog, hints = table.attrs.get("name", ""), list[str]()

    def named(option: str) -> str:
        """The user's column, if this table has it."""
        return find_column(names, "id", option) if option and plain_name(option) in map(plain_name, names) else ""

    def warn(unknown: dict[str, int], column: str, meaning: str) -> None:
        if unknown:
            listed = ", ".join(f"{count} × {text!r}" for text, count in list(unknown.items())[:3])
            data.warnings.append(f"{listed} in column {column!r} taken as {meaning}")

    if named(config.label_column) or not config.label_column:
        labels, column, unknown, others = meanings.find_labels(table, named(config.label_column))
        hints = others if labels is None else []
        if labels is not None:
            facts["label"], sources["label"] = labels, f"column {column} of {catalog or 'the files'}"
            used |= {column, *column.split(", ")}
            warn(unknown, column, "unlabelled")
            if others:
                advice = "may hold labels too and was not used (--label_column)"
                data.warnings.append(f"column {', '.join(others)} {advice}")
    identifier = named(config.id_column) if config.id_column else find_column(names, "id")
    if identifier and (config.id_column or meanings.is_id(identifier)):
        values = as_text(table[identifier])
        if not catalog or values[values != ""].is_unique:
            facts["id"] = values.where(values != "", None)
            used.add(identifier)
    if pair := meanings.find_position_columns(names, named(config.ra_column), named(config.dec_column)):
        ra, dec, count = meanings.parse_positions(table, pair)
        if np.isfinite(ra).any() or not count:  # else they hold something else
            facts["ra"], facts["dec"] = ra, dec
            frame = meanings.frame_of(pair[0])
            sources["positions"] = ", ".join(pair) + f" ({frame})" * (frame != "icrs")
            used |= set(pair)
        if count and len(pair) > 1:
            reason = "no angle, out of range, (0, 0) or -99"
            data.warnings.append(f"{count} positions in {', '.join(pair)} taken as unknown: {reason}")
    elif maybe := [name for name in names if meanings.MAYBE_POSITION.fullmatch(name)]:
        advice = "if right ascension and declination are there: --ra_column, --dec_column"
        data.warnings.append(f"no position was taken from column {', '.join(maybe)}; {advice}")
    for role in ("split", "pixel_scale", "survey"):
        name = find_column(names, role)
        if not name or name in used:
            continue
        values = as_text(table[name])
        if role == "pixel_scale":
            scale = pd.to_numeric(values, errors="coerce")
            facts[role] = scale.where((scale > 0) & (scale < np.inf)).map(lambda value: float(f"{value:.6g}"))
        elif role == "survey":
            facts[role] = values.where(~values.map(is_unknown).astype(bool), None)
        elif (values.str.lower().isin(list(ROLES)) | values.map(is_unknown)).all():
            facts[role] = values.str.lower().map(ROLES)
        used |= {name} if role in facts else set()
    properties = {}
    for name in names:
        if name not in used:
            key = f"catalog_{name}" if name in (*STANDARD_COLUMNS, "image", *_STANDARD) else name
            properties[key], unknown = meanings.clean_property(table[name])
            warn(unknown, name, "unknown")
    result = pd.concat([facts, pd.DataFrame(properties, index=table.index)], axis=1)
    if hints := [name for name in hints if name not in used]:
        sources["hints"] = ", ".join(hints)
    result.attrs = sources
    return result


def _ids(names: pd.Series, given: pd.Series | None) -> pd.Series:
    """Return the ids given, else the paths; repeated ones are replaced by the path."""
    result = names if given is None else given.astype(object).where(given.notna(), names)
    result = result.where(~result.duplicated(), names)
    while (repeated := result.duplicated()).any():
        result = result.where(~repeated, result + "+")
    return result.map(str)


def _splits(data: Source, objects: pd.DataFrame, ids: pd.Series, role: pd.Series, label: pd.Series) -> list[Split]:
    """Return the user's own division as split `holdout`, and a split for each index of file names."""
    splits = []
    if role.isin(["test", "validation"]).any():
        default = np.where(label.isna(), "unlabelled", "train")
        splits.append(Split("holdout", dict(zip(ids, role.where(role.notna(), default), strict=True))))
    id_of = dict(zip(objects["unit"], ids, strict=True))
    set_aside, data.set_aside[:] = list(data.set_aside), []
    for file, reason in set_aside:
        if not file.lower().endswith((".pkl", ".pickle")):
            data.set_aside.append((file, reason))
            continue
        try:
            role_of, orphans = read_index(data.folder / file, file, list(id_of))
        except Unreadable as error:
            data.set_aside.append((file, str(error)))
        else:
            data.set_aside += [(f"{file}: {name}", "in the index, but no such file") for name in orphans]
            roles = {id_of[unit]: role for unit, role in role_of.items()}
            splits.append(Split(re.sub(r"[^\w.-]+", "_", Path(file).stem), roles))
    for one, other in permutations(splits, 2):
        if count := len(np.intersect1d(one.ids("train"), other.ids("test"))):
            data.warnings.append(f"{count} objects of train in split {one.name} are of test in split {other.name}")
    return splits
