"""What an ingest is going to read, known before any pixel is decoded."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa

from zwicky.data import catalog as catalogs
from zwicky.data.bands import Group, group_bands, read_bands
from zwicky.data.config import IngestConfig
from zwicky.data.labels import LABELS, read_labels
from zwicky.data.readers import Image, ImageSet, Unreadable, format_of, open_set, read_image
from zwicky.data.readers.columns import common
from zwicky.data.readers.npy import AXION_MASS, holds_objects
from zwicky.data.scan import folder_labels, scan_folder
from zwicky.data.split_index import SUFFIXES as INDEX_SUFFIXES
from zwicky.data.split_index import SplitIndex, read_index
from zwicky.errors import UserError

_MOST_NAMED = 6  # columns named in a warning


@dataclass
class Plan:
    """files: of one image each, or stems of `groups`; sets: files of many. values, kinds: the catalogue's columns.

    Paths are relative to `source`. labels: by file. columns: the type of each property the files themselves tell.
    """

    source: Path
    files: list[str]
    set_aside: list[tuple[str, str]]
    ids: dict[str, str] = field(default_factory=dict)  # file → the catalogue's id
    labels: dict[str, str] = field(default_factory=dict)
    stored_labels: dict[str, dict[str, str]] = field(default_factory=dict)  # part of a store → labels by id
    label_source: str = "class folders"
    row_of: dict[str, int] = field(default_factory=dict)
    values: dict[str, list] = field(default_factory=dict)  # catalogue column → one value a row
    kinds: dict[str, pa.DataType] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    sets: dict[str, ImageSet] = field(default_factory=dict)
    columns: dict[str, pa.DataType] = field(default_factory=dict)
    truth: tuple[str, ...] = ()
    splits: list[SplitIndex] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    catalog: str = ""

    @property
    def offered(self) -> int:
        """Images that are there to be read, and what was set aside already."""
        return len(self.files) + sum(images.rows for images in self.sets.values()) + len(self.set_aside)

    def read(self, file: str) -> Image:
        """The image of one of `files`."""
        if file in self.groups:
            return read_bands(self.source, self.groups[file])
        return read_image(self.source / file)


def make_plan(source: Path, path: Path | None, config: IngestConfig, pool: ThreadPoolExecutor) -> Plan:
    """Scan the folder, open the files of many images, and let the catalogue, if any, say which files count."""
    scan = scan_folder(source)
    plan = Plan(source.parent if source.is_file() else source, [], scan.set_aside)
    alone = _open_sets(plan, scan.files, pool)
    plan.groups = group_bands(alone, config.bands)
    grouped = {file for group in plan.groups.values() for _, file in group}
    plan.files = sorted([file for file in alone if file not in grouped] + list(plan.groups))
    plan.labels = folder_labels([*plan.files, *plan.sets])
    _take_stored_labels(plan)
    _take_catalog(plan, path)
    _read_indices(plan)
    if config.label_source:
        plan.label_source = config.label_source
    return plan


def _open_sets(plan: Plan, files: list[str], pool: ThreadPoolExecutor) -> list[str]:
    """Open what holds many images; the other files are returned."""
    alone = []
    left_out: list[str] = []

    def look(file: str) -> ImageSet | str | None:
        try:
            return open_set(plan.source / file)
        except Unreadable as error:
            return str(error)

    for file, found in zip(files, pool.map(look, files), strict=True):
        if file.endswith("data_thumbnail.parquet"):
            plan.set_aside.append((file, "a thumbnail of a HATS catalogue: its rows are in the partitions"))
        elif isinstance(found, str):
            plan.set_aside.append((file, found))
        elif found is None:
            alone.append(file)
        else:
            plan.sets[file] = found
            left_out += found.left_out
            for name, kind in found.columns.items():
                plan.columns[name] = common(plan.columns[name], kind) if name in plan.columns else kind
    if left_out:
        names = list(dict.fromkeys(left_out))
        listed = ", ".join(names[:_MOST_NAMED]) + ", …" * (len(names) > _MOST_NAMED)
        plan.warnings.append(f"{len(names)} columns hold lists or objects and were left out: {listed}")
    arrays = [file for file in alone if format_of(file) == "npy"]
    if any(pool.map(lambda file: holds_objects(plan.source / file), arrays)):
        plan.columns[AXION_MASS], plan.truth = pa.float64(), (AXION_MASS,)
    return alone


def _take_stored_labels(plan: Plan) -> None:
    """The labels of stores that are read again, whose folders are then no classes. Their splits stay behind."""
    kept = []
    for file, reason in plan.set_aside:
        path = PurePosixPath(file)
        parts = [part for part in plan.sets if PurePosixPath(part).parent == path.parent]
        if path.name == LABELS and parts:
            try:
                labels = read_labels(plan.source / path.parent)
            except UserError:
                kept.append((file, "the labels of a store, which cannot be read"))
                continue
            plan.label_source = labels.source or plan.label_source
            for part in parts:
                plan.labels.pop(part, None)
                plan.stored_labels[part] = labels.values
        else:
            is_split = path.parent.name == "splits" and path.suffix == ".csv"
            kept.append((file, "a split of a store, which is not carried over" if is_split else reason))
    plan.set_aside = kept


def _take_catalog(plan: Plan, path: Path | None) -> None:
    """Labels, ids and properties of a CSV: the one given, or the only one in the folder if it names files there."""
    if path is not None:
        table = catalogs.read_catalog(path)
        match = catalogs.match_files(table, plan.files)
    else:
        found = [file for file, _ in plan.set_aside if "/" not in file and file.lower().endswith(".csv")]
        if len(found) != 1:
            return
        path = plan.source / found[0]
        try:
            table = catalogs.read_catalog(path)
            match = catalogs.match_files(table, plan.files)
        except UserError:
            return
    plan.set_aside = [entry for entry in plan.set_aside if not _same_file(plan.source / entry[0], path)]
    plan.set_aside += match.orphans
    plan.set_aside += [(file, "not in the catalogue") for file in plan.files if file not in match.row_of]
    plan.files = [file for file in plan.files if file in match.row_of]
    row_labels = catalogs.labels_of(table)
    if row_labels is not None:
        plan.labels = {file: label for file, label in plan.labels.items() if file in plan.sets}
        plan.labels |= {file: label for file in plan.files if (label := row_labels[match.row_of[file]]) is not None}
        plan.label_source = path.name
    ids = catalogs.unique_ids(table, [match.row_of[file] for file in plan.files])
    plan.ids = {} if ids is None else {file: ids[match.row_of[file]] for file in plan.files}
    plan.values, plan.kinds, complaints = catalogs.properties(table, match)
    plan.row_of, plan.catalog = match.row_of, str(path)
    if row_labels is None and not plan.labels:
        complaints.append(
            f"the catalogue gives no labels: none of its columns {', '.join(table.columns[:_MOST_NAMED])}"
            f"{', …' * (len(table.columns) > _MOST_NAMED)} is called 'label' or 'class'"
        )
    plan.warnings += complaints


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _read_indices(plan: Plan) -> None:
    """Turn pickles of file names into splits; any other pickle stays in the list of what was set aside."""
    kept = []
    for file, reason in plan.set_aside:
        if reason == "not an image" and file.lower().endswith(INDEX_SUFFIXES):
            try:
                index = read_index(plan.source, file, plan.files)
            except Unreadable as error:
                kept.append((file, str(error)))
                continue
            plan.splits.append(index)
            kept += index.orphans
        else:
            kept.append((file, reason))
    plan.set_aside = kept
