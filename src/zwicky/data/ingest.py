"""From a folder of images to a store: every file is read or listed with the reason, and what was assumed is printed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress

from zwicky.data.cutouts import pixel_hash
from zwicky.data.image_format import (
    ImageFormat,
    IngestConfig,
    StoreFormat,
    check_uniform,
    choose_format,
    find_sentinel,
)
from zwicky.data.labels import write_labels
from zwicky.data.objects import describe
from zwicky.data.readers import ReadOptions, Record, Unreadable, format_of, is_image_name
from zwicky.data.source import ARCHIVES, STORE, Source, Unit, group_units, scan_folder
from zwicky.data.splits import write_split
from zwicky.data.store import StoreWriter, check_writable
from zwicky.errors import UserError
from zwicky.io import write_csv

MAX_SIDE = 8192  # pixels
SAMPLE = 500  # files read to choose the format of the store
LARGE = 2**26  # bytes; larger files, and those of many images, are read in pieces
BATCH = 64  # files or images read at a time
_MANY = (".hdf5", ".h5", ".hdf", ".npz", ".parquet", ".pq", STORE)


@dataclass(frozen=True)
class IngestReport:
    """What an ingest read and assumed; `read + len(set_aside) == found`.

    Args:
        store: the path.
        found: images, unreadable files, and catalogue rows without a file.
        read: images in the store.
        set_aside: (file, reason) of the others; `file#7` is the eighth image of a file.
        classes: number of objects by class, the positive class last.
        splits: names of the splits written.
        seconds: duration.
        catalog: path of the catalogue, "" without one.
        explanation: what was taken for bands, labels, positions and splits, and the option that changes each.
        warnings: what was found and not used, or looks wrong.
    """

    store: str
    found: int
    read: int
    set_aside: tuple[tuple[str, str], ...]
    classes: dict[str, int]
    splits: tuple[str, ...]
    seconds: float
    catalog: str
    explanation: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def labelled(self) -> int:
        """Number of objects with a label."""
        return sum(self.classes.values())

    @property
    def unlabelled(self) -> int:
        """Number of objects without a label."""
        return self.read - self.labelled

    def text(self) -> str:
        """Return at most ten lines for the terminal."""
        lines = [
            f"{self.read} of {self.found} images read into {self.store} in {self.seconds:.1f} s",
            *self.explanation,
        ]
        if self.set_aside:
            reasons = Counter(reason for _, reason in self.set_aside).most_common(3)
            listed = "; ".join(f"{count} × {reason}" for reason, count in reasons)
            lines.append(f"set aside: {len(self.set_aside)}, listed in {self.store}/set_aside.csv: {listed}")
        room = 10 - len(lines)
        shown = list(self.warnings) if len(self.warnings) <= room else list(self.warnings[: room - 1])
        if len(shown) < len(self.warnings):
            shown.append(f"{len(self.warnings) - len(shown)} more: {' | '.join(self.warnings[len(shown) :])}")
        return "\n".join(lines + [f"warning: {warning}" for warning in shown])


def ingest(
    source: Path | str, out: Path | str, catalog: Path | str | None = None, config: IngestConfig | None = None
) -> IngestReport:
    """Read every image below a folder into a new store, with flat memory.

    Class folders, a catalogue (given, or found in the folder) or columns of files of many images give labels,
    positions and properties; folders called train and test, or a column `split`, give the split `holdout`. All images
    must share size and type; a tenth may differ and is set aside; `config.size` crops and pads instead.

    Args:
        source: a folder, one file of many images, or a .zip or .tar of either.
        out: the store, a new directory.
        catalog: a table in any usual format.
        config: what the files do not say.

    Returns:
        What was read and what was assumed.

    Raises:
        UserError: Nothing can be read, the images are of several kinds, an option does not fit, or `out` exists.
    """
    source, out, config = Path(source), Path(out), config or IngestConfig()
    _check(source, config)
    check_writable(out)
    if source.is_file() and source.name.lower().endswith(ARCHIVES):
        with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None) as unpacked:
            shutil.unpack_archive(source, unpacked, filter=None if source.suffix.lower() == ".zip" else "data")
            return ingest(unpacked, out, catalog, config)
    started = time.perf_counter()
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=max(1, config.workers)) as pool:
        warnings.simplefilter("ignore")  # decoders warn of odd headers; what matters comes as an error
        files, set_aside = scan_folder(source)
        folder = source.parent if source.is_file() else source
        given = None if catalog is None else os.path.relpath(catalog, folder)
        units = {name: unit for name, unit in group_units(folder, files, config.bands).items() if name != given}
        arrays = [file for file in files if file.lower().endswith(".npy") or "fits" in format_of(file)]
        options = ReadOptions(config.bands, config.axes.upper(), config.hdu, stacks=len(arrays) == 1)
        data = Source(folder, units, options, set_aside)
        store = _sample_format(data, config, pool)
        formats: Counter[tuple[str, ImageFormat]] = Counter()
        with StoreWriter(out, store.bands, store.size, store.dtype, truth=tuple(sorted(options.truth))) as writer:
            objects = _read_all(data, store, config, pool, writer, formats)
            stray = check_uniform(formats, store)
            if not len(writer):
                raise _nothing_read(source, data.set_aside)
            data.warnings += [f"folder {name.partition(':')[2]!r} holds other images: set aside" for name in stray]
            description = describe(data, objects, store, config, catalog)
            writer.replace_table(description.table)
            writer.metadata["positive"] = description.labels.positive
            if description.labels.values:
                write_labels(writer.folder, description.labels)
            for split in description.splits:
                write_split(writer.folder / "splits", split)
            rows = [{"file": file, "reason": reason} for file, reason in data.set_aside]
            write_csv(writer.folder / "set_aside.csv", rows, ("file", "reason"))
    counts = Counter(description.labels.values.values())
    return IngestReport(
        store=str(out),
        found=len(objects) + len(data.set_aside),
        read=len(objects),
        set_aside=tuple(data.set_aside),
        classes={name: counts[name] for name in description.labels.classes},
        splits=tuple(split.name for split in description.splits),
        seconds=time.perf_counter() - started,
        catalog=description.catalog,
        explanation=description.explanation,
        warnings=tuple(data.warnings),
    )


def _check(source: Path, config: IngestConfig) -> None:
    if not source.exists():
        raise UserError(f"{source} does not exist; give the folder that holds the images")
    if source.is_file() and not is_image_name(source.name) and not source.name.lower().endswith(ARCHIVES):
        raise UserError(f"{source} is a file; give the folder that holds the images")
    if config.pixel_scale is not None and not 0 < config.pixel_scale < float("inf"):
        raise UserError(f"the pixel scale is {config.pixel_scale}; it must be a positive number of arcsec per pixel")
    if config.size is not None and not 1 <= config.size <= MAX_SIDE:
        raise UserError(f"the size is {config.size}; it must be a number of pixels from 1 to {MAX_SIDE}")
    if len(set(config.bands)) < len(config.bands) or not all(config.bands):
        raise UserError(f"the bands {', '.join(config.bands)} repeat a name or lack one; give each its own")
    if set(config.axes.upper()) - set("NBHW") or len(set(config.axes)) < len(config.axes):
        raise UserError(f"the axes are {config.axes!r}; name each axis once, of N (images), B (bands), H and W")


def _sample_format(data: Source, config: IngestConfig, pool: ThreadPoolExecutor) -> StoreFormat:
    """Choose the format of the store from files spread over all; of a file of many images the first counts for all."""
    names = list(data.units)
    sentinels: Counter[float] = Counter()

    def sample(name: str) -> tuple[str, ImageFormat, int] | None:
        record = next((item for item in islice(data.read(name), BATCH) if isinstance(item, Record)), None)
        if record is None:
            return None
        size = sum((data.folder / file).stat().st_size for file in data.units[name].values())
        count = 1 if record.row is None else max(1, size // record.image.nbytes)
        if config.invalid is None and (value := find_sentinel(record.image)) is not None:
            sentinels[value] += 1
        return _folder_of(data, name), ImageFormat.of(record), count

    chosen = names[:: max(1, len(names) // SAMPLE)]
    samples = [item for item in pool.map(sample, chosen) if item] or [item for item in pool.map(sample, names) if item]
    lengths = {item[1].shape[0] for item in samples if not item[1].bands}
    if len(lengths) > 1 and max(lengths) > 6 and not data.options.stacks and not config.bands:
        data.options.stacks = True  # of varying length: images, no bands
        return _sample_format(data, config, pool)
    if not samples:
        for name in names[:100]:
            data.set_aside += [(name, str(item)) for item in islice(data.read(name), 1)]
        raise _nothing_read(data.folder, data.set_aside)
    for value, count in sentinels.most_common(1):
        rule = f"--invalid {value:g} makes them NaN"
        data.warnings.append(f"pixels of {value:g} in {count} of {len(samples)} sampled images may be invalid; {rule}")
    types = Counter(folder.partition(":")[0] for folder in {folder for folder, *_ in samples})  # → folders
    (common, most), *others = types.most_common(2)
    formats: Counter[ImageFormat] = Counter()
    by_folder: Counter[tuple[str, ImageFormat]] = Counter()
    for folder, image_format, count in samples:
        if not others or others[0][1] == most or folder.startswith(f"{common}:"):  # not the plots beside arrays
            formats[image_format] += count
        by_folder[folder, image_format] += count
    store = choose_format(formats, config)
    check_uniform(by_folder, store)
    return store


def _folder_of(data: Source, name: str) -> str:
    file = next(iter(data.units[name].values()))
    return f"{format_of(file).partition(':')[0]}:{file.rpartition('/')[0]}"


def _nothing_read(source: Path, set_aside: list[tuple[str, str]]) -> UserError:
    if not set_aside:
        return UserError(f"{source} is empty; give the folder that holds the images")
    reasons = Counter(reason for _, reason in set_aside)
    reason, count = max(reasons.items(), key=lambda item: (item[0] != "not an image", item[1]))
    return UserError(
        f"no image could be read in {source}: {len(set_aside)} files set aside, {count} of them because: {reason}; "
        "zwicky reads PNG, JPEG, TIFF, .npy, .npz, FITS, HDF5 and Parquet"
    )


def _read_all(
    data: Source,
    store: StoreFormat,
    config: IngestConfig,
    pool: ThreadPoolExecutor,
    writer: StoreWriter,
    formats: Counter[tuple[str, ImageFormat]],
) -> pd.DataFrame:
    """Write all pixels and return what the files say about each image, one row an image."""
    tables: list[pd.DataFrame] = []
    for batch in _batches(data, lambda name, item: _conform(name, item, store, config), pool):
        for facts, image_format, _ in batch:
            if image_format is not None:
                formats[_folder_of(data, facts["_unit"]), image_format] += 1
        data.set_aside += [(facts["_name"], facts["_reason"]) for facts, _, _ in batch if "_reason" in facts]
        good = [(facts, pixels) for facts, _, pixels in batch if pixels is not None]
        if good:
            table = pd.DataFrame([facts for facts, _ in good]).convert_dtypes(convert_floating=False)
            tables.append(table)
            ids = [str(len(writer) + row) for row in range(len(good))]  # until all is known
            columns = pd.DataFrame({"id": ids, "pixel_hash": table["_hash"].astype(object)})
            writer.append(np.stack([pixels for _, pixels in good]), columns)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


Item = tuple[dict[str, Any], ImageFormat | None, np.ndarray | None]


def _conform(name: str, item: Record | Unreadable, store: StoreFormat, config: IngestConfig) -> Item:
    """(facts, format, pixels in the store's format) of one image; `_reason` says why there are no pixels."""
    facts: dict[str, Any] = {"_name": name if item.row is None else f"{name}#{item.row}", "_unit": name}
    facts["_row"] = item.row
    if isinstance(item, Unreadable):
        return facts | {"_reason": str(item)}, None, None
    if config.invalid is not None and item.image.dtype.kind == "f":
        item = replace(item, image=np.where(item.image == config.invalid, np.float32(np.nan), item.image))
    image_format, pixels = ImageFormat.of(item), item.image
    reason = store.mismatch(image_format)
    if not reason and pixels.dtype.kind == "f" and (share := np.isnan(pixels).mean()) > config.max_invalid:
        reason = f"{share:.0%} of its pixels are invalid"
    if reason:
        return facts | {"_reason": reason}, image_format, None
    facts["_gray"] = len(pixels) != len(store.bands) and not store.source_bands
    for key, value in item.columns.items():
        if isinstance(value, tuple) and key not in ("psf_fwhm", "noise"):
            value = value[0] if value else None  # of the first band
        elif isinstance(value, tuple):
            indices = store.band_indices(item) if len(value) == len(pixels) else []
            value = [None if index is None else value[index] for index in indices] or None
        facts[key] = value
    pixels = store.conform(item)
    is_present = ~np.isnan(pixels).all((1, 2)) if pixels.dtype.kind == "f" else np.ones(len(pixels), bool)
    if not is_present.any():
        reason = "has no valid pixel in the bands and the middle that are kept"
        return facts | {"_reason": reason}, image_format, None
    present = [band for band, present in zip(store.bands, is_present, strict=True) if present]
    return facts | {"_hash": pixel_hash(pixels), "bands_present": present}, image_format, pixels


def _batches(
    data: Source, conform: Callable[[str, Record | Unreadable], Item], pool: ThreadPoolExecutor
) -> Iterator[list[Item]]:
    """All images, some at a time, decoded by threads."""

    def is_large(unit: Unit) -> bool:
        paths = [data.folder / file for file in unit.values()]
        return any(p.name.lower().endswith(_MANY) or p.is_dir() or p.stat().st_size > LARGE for p in paths)

    large = [name for name, unit in data.units.items() if is_large(unit)]
    small = [name for name in data.units if name not in set(large)]
    console, reported = Console(stderr=True), time.monotonic()
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("reading", total=len(data.units))
        for start in range(0, len(small), BATCH):
            names = small[start : start + BATCH]
            lists = pool.map(lambda name: [conform(name, item) for item in data.read(name)], names)
            yield [item for items in lists for item in items]
            progress.advance(task, len(names))
            if not console.is_terminal and time.monotonic() - reported > 10:
                reported = time.monotonic()
                console.print(f"read {start + len(names)} of {len(data.units)} files", highlight=False)
        for name in large:
            items = data.read(name)
            while batch := list(islice(items, BATCH)):
                yield list(pool.map(lambda item: conform(name, item), batch))  # noqa: B023 - used at once
            progress.advance(task)
