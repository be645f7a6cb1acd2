"""What an ingest took for bands, labels, positions and splits, what looks wrong, and the options that change it."""

import os
import re
from collections import Counter, defaultdict

import pandas as pd

from zwicky.data.image_format import IngestConfig, StoreFormat
from zwicky.data.labels import is_usual_class
from zwicky.data.objects import Description
from zwicky.data.readers import format_of
from zwicky.data.source import Source
from zwicky.data.splits import ROLES

MAX_ENDS = 12  # of file names, that may be bands


def explain(data: Source, store: StoreFormat, config: IngestConfig, description: Description) -> tuple[str, ...]:
    """Return sentences on what was taken for bands, labels, positions and splits, with the options that change it."""
    table, labels, splits = description.table, description.labels, description.splits
    by_name = any("" not in unit for unit in data.units.values())
    source = "as given" if config.bands else "from the file names" if by_name else "as in the files"
    names = ", ".join(store.bands[:12]) + f", … ({len(store.bands)})" * (len(store.bands) > 12)
    bands = f"bands: {names}, {source} (--bands, --axes); {store.size[0]}×{store.size[1]} px, {store.dtype}"
    options, classes, counts = "(--catalog, --label_column)", labels.classes, Counter(labels.values.values())
    listed = ", ".join(f"{name} {counts[name]}" for name in classes[-8:]) + ", …" * (len(classes) > 8)
    about_labels = f"labels: none; {len(table)} unlabelled {options}"
    if classes:
        unlabelled = f"unlabelled {len(table) - len(labels.values)}; from {labels.source} {options}"
        about_labels = f"labels: {listed}; {unlabelled}; positive class: {classes[-1]} (--positive)"
    positions = "positions: none, so duplicates on the sky cannot be found (--catalog, --ra_column, --dec_column)"
    if n_positions := int(table["ra"].notna().sum()):
        source = f"from {description.position_columns} (--ra_column, --dec_column)"
        positions = f"positions: {n_positions} of {len(table)}, {source}"
    parts = []
    for split in splits:
        n_roles = Counter(split.roles.values())
        parts.append(f"{split.name} ({', '.join(f'{role} {n_roles[role]}' for role in ROLES if n_roles[role])})")
    about_splits = "splits: none given; `holdout` is drawn when a network is trained"
    if parts:
        about_splits = f"splits: {'; '.join(parts)}, from the folders, columns or indices (another by --split)"
    return bands, about_labels, positions, about_splits


def add_warnings(data: Source, objects: pd.DataFrame, store: StoreFormat, description: Description) -> None:
    """Add what looks wrong to `data.warnings`."""
    labels, ids = description.labels, description.table["id"]
    if grays := int(objects["gray"].sum()):
        to_colour = ("grey pictures repeated into R, G, B", "[gray]")
        change, option = to_colour if len(store.bands) == 3 else ("colour pictures turned into grey", "[R, G, B]")
        data.warnings.append(f"{grays} {change} (--bands '{option}' does the reverse)")
    if fractions := [name for name in labels.classes if re.fullmatch(r"-?\d*\.\d*[1-9]\d*", name)]:
        advice = "to learn them as numbers leave --label_column out, and train with --targets"
        data.warnings.append(f"labels such as {fractions[0]} are numbers, taken for classes; {advice}")
    for split in description.splits:
        role = ids.map(split.roles)
        if shared := set(objects["pixel_hash"][role == "test"]) & set(objects["pixel_hash"][role == "train"]):
            data.warnings.append(f"{len(shared)} images are both in train and in test of {split.name!r}")
    files: defaultdict[str | None, set[str]] = defaultdict(set)
    for name, file in zip(labels.of(ids), objects["unit"], strict=True):
        files[name].add(os.path.basename(file))
    first, *others = files.values()
    is_picture = format_of(objects["unit"][0]).startswith("pictures")
    may_be_bands = labels.source == "class folders" and len(store.bands) == 1 and not is_picture and len(first) > 4
    may_be_bands &= not any(map(is_usual_class, labels.classes))
    if may_be_bands and others and all(names == first for names in others):
        folders = ", ".join(map(str, files))
        data.warnings.append(f"the class folders hold the same file names; if they are bands: --bands '[{folders}]'")
    names = objects["name"].map(os.path.basename)
    ends = names.str.extract(r"^(.*\d.*)[_-]([A-Za-z]+|\d\d?)\.\w+$").groupby(0)[1].agg(frozenset)
    if len(store.bands) == 1 and len(ends) > 1 and len(set(ends)) == 1 < len(ends.iloc[0]) <= MAX_ENDS:
        listed = ", ".join(sorted(ends.iloc[0]))
        data.warnings.append(f"names differ in {listed} at their end alone; if they are bands: --bands '[{listed}]'")
    stems = names.str.extract(r"^([A-Za-z_ -]*)")[0].str.strip("_ -").value_counts(sort=False)
    if not labels.classes and 1 < len(stems) <= 5 and stems.min() > 1 and all(stems.index):
        listed = ", ".join(f"{stem} {count}" for stem, count in stems.items())
        advice = "if these are classes, make them folders or a catalogue"
        data.warnings.append(f"file names begin with {listed}; {advice}")
    data.warnings += sorted(data.options.notes)[:3]
