"""From a folder of images to a store: every file is read or listed with the reason, and what was assumed is printed."""

import lzma
import os
import shutil
import tarfile
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zwicky.data.columns import exact_types
from zwicky.data.cutouts import pixel_hash
from zwicky.data.explain import add_warnings, explain
from zwicky.data.image_format import ImageFormat, IngestConfig, StoreFormat, check_uniform, choose_format, find_sentinel
from zwicky.data.labels import write_labels
from zwicky.data.objects import PER_BAND, describe
from zwicky.data.readers import ReadOptions, Record, Unreadable, format_of
from zwicky.data.source import ARCHIVES, Source
from zwicky.data.splits import write_split
from zwicky.data.store import StoreWriter, check_writable
from zwicky.errors import UserError
from zwicky.io import write_set_aside
from zwicky.progress import StepProgress

SAMPLE = 500  # files read to choose the format of the store
BATCH = 64  # files or images read at a time
PIECE = 2**22  # bytes; larger files are read in pieces, as BATCH of them at once would fill the memory
# Damaged or, RuntimeError, encrypted or packed by a method that Python lacks.
_DAMAGED = (OSError, EOFError, KeyError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error)


@dataclass(frozen=True)
class IngestReport:
    """What an ingest read and assumed; `read + len(set_aside) == found`."""

    store: str
    found: int  # images, unreadable files, and catalogue rows without a file
    read: int  # images in the store
    set_aside: tuple[tuple[str, str], ...]  # (file, reason) of the others; `file#7` is the eighth image of a file
    classes: dict[str, int]  # number of objects by class, the positive class last
    splits: tuple[str, ...]
    seconds: float
    catalog: str  # paths of the catalogues, "" without one
    explanation: tuple[str, ...]  # what was taken for bands, labels, positions and splits, and the options
    warnings: tuple[str, ...]  # what was found and not used, or looks wrong

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
        lines = [f"{self.read} of {self.found} images read into {self.store} in {self.seconds:.1f} s"]
        lines += self.explanation
        if self.set_aside:
            reasons = Counter(reason for _, reason in self.set_aside).most_common(3)
            listed = "; ".join(f"{count} × {reason}" for reason, count in reasons)
            lines.append(f"set aside: {len(self.set_aside)}, listed in {self.store}/set_aside.csv: {listed}")
        shown, rest = list(self.warnings), 10 - len(lines)
        if len(shown) > rest:
            shown[rest - 1 :] = [f"{len(shown) - rest + 1} more: {' | '.join(shown[rest - 1 :])}"]
        return "\n".join(lines + [f"warning: {warning}" for warning in shown])


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar, links as the files they name; UserError if it is damaged or a file leaves the folder.

    By hand, as Python 3.11 has no safe `extractall` before 3.11.4.
    """
    try:
        if archive.suffix.lower() == ".zip":
            shutil.unpack_archive(archive, folder)
            return
        with tarfile.open(archive) as tar:
            for member in tar:
                content = None if member.isdir() else tar.extractfile(member)
                if content is None:
                    continue
                path = (folder / member.name).resolve()
                if not path.is_relative_to(folder.resolve()):
                    raise UserError(f"{archive}: {member.name!r} lies outside of its folder; leave it out")
                path.parent.mkdir(parents=True, exist_ok=True)
                with content, path.open("wb") as file:
                    shutil.copyfileobj(content, file)
    except _DAMAGED as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); unpack it, and give the folder") from error


def ingest(
    source: Path | str, out: Path | str, catalog: Path | str | None = None, config: IngestConfig | None = None
) -> IngestReport:
    """Read every image below a folder into a new store, with flat memory, and report what was read and assumed.

    Class folders, a catalogue (given, or found in the folder) or columns of files of many images give labels,
    positions and properties; folders called train and test, or a column `split`, give the split `holdout`. All images
    must share size and type; a tenth may differ and is set aside; `config.size` crops and pads instead.

    `source` is a folder, one file of many images, or a .zip or .tar of either; `catalog` a table in any usual format.
    UserError if nothing can be read, the images are of several kinds, an option does not fit, or `out` exists.
    """
    source, out, config = Path(source), Path(out), config or IngestConfig()
    is_archive = source.name.lower().endswith(ARCHIVES)
    if not source.exists():
        raise UserError(f"{source} does not exist; give the folder that holds the images")
    if source.is_file() and not is_archive and not format_of(source.name):
        raise UserError(f"{source} is a file; give the folder that holds the images")
    config.check()
    check_writable(out)
    if source.is_file() and is_archive:
        with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None) as unpacked:
            _unpack(source, Path(unpacked))
            for path in Path(unpacked).glob(r"*\*"):  # folders as old programs for Windows write them
                target = Path(unpacked, *(part for part in path.name.split("\\") if part.strip(".")))
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
            try:
                return ingest(unpacked, out, catalog, config)
            except UserError as error:
                raise UserError(str(error).replace(unpacked, str(source))) from error
    started = time.perf_counter()
    with warnings.catch_warnings(), ThreadPoolExecutor(config.workers) as pool:
        warnings.simplefilter("ignore")  # decoders warn of odd headers; what matters comes as an error
        options = ReadOptions(tuple(map(str, config.bands)), config.axes.upper(), tuple(map(str, config.hdu)))
        data = Source.open(source, options)
        data.units.pop("" if catalog is None else os.path.relpath(catalog, data.folder), None)
        store = choose_store_format(data, config, pool)
        with StoreWriter(out, store.bands, store.size, store.dtype, truth=tuple(sorted(options.truth))) as writer:
            objects, from_files = _read_all(data, store, config, pool, writer)
            description = describe(data, objects, from_files, config, catalog)
            add_warnings(data, objects, store, description)
            writer.replace_table(description.table)
            writer.metadata["positive"] = description.labels.positive
            if description.labels.values:
                write_labels(writer.folder, description.labels)
            for split in description.splits:
                write_split(writer.folder / "splits", split)
            write_set_aside(writer.folder / "set_aside.csv", data.set_aside)
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
        explanation=explain(data, store, config, description),
        warnings=tuple(data.warnings),
    )


def choose_store_format(data: Source, config: IngestConfig, pool: ThreadPoolExecutor) -> StoreFormat:
    """Choose the format of the store from files spread over all; of a file of many images the first counts for all."""
    names = list(data.units)
    sentinels: Counter[float] = Counter()

    def sample(name: str) -> tuple[str, ImageFormat, int] | None:
        record = next((item for item in islice(data.read(name), BATCH) if isinstance(item, Record)), None)
        if record is None:
            return None
        size = sum((data.folder / file).stat().st_size for file in data.units[name].values())
        if config.invalid is None and (value := find_sentinel(record.image)) is not None:
            sentinels[value] += 1
        count = 1 if record.row is None else max(1, size // record.image.nbytes)
        return data.folder_of(name), ImageFormat.of(record), count

    chosen = names[:: max(1, len(names) // SAMPLE)]
    samples = [item for item in pool.map(sample, chosen) if item] or [item for item in pool.map(sample, names) if item]
    lengths = {item[1].shape[0] for item in samples if not item[1].bands}
    if len(lengths) > 1 and max(lengths) > 6 and not data.options.stacks and not config.bands:
        data.options.stacks = True  # of varying length: images, no bands
        return choose_store_format(data, config, pool)
    if not samples:
        data.set_aside += [(name, str(item)) for name in names[:100] for item in islice(data.read(name), 1)]
        raise _nothing_read(data)
    for value, count in sentinels.most_common(1):
        rule = f"--invalid {value:g} makes them NaN"
        data.warnings.append(f"pixels of {value:g} in {count} of {len(samples)} sampled images may be invalid; {rule}")
    types = Counter(folder.partition(":")[0] for folder in {folder for folder, *_ in samples})  # → folders
    (common, most), *others = types.most_common(2)
    is_clear = bool(others) and others[0][1] < most  # then plots beside arrays do not count
    formats: Counter[ImageFormat] = Counter()
    by_folder: Counter[tuple[str, ImageFormat]] = Counter()
    for folder, form, count in samples:
        formats[form] += count * (not is_clear or folder.startswith(f"{common}:"))
        by_folder[folder, form] += count
    store = choose_format(+formats, config)
    check_uniform(by_folder, store)
    return store


def main_reason(set_aside: Sequence[tuple[str, str]]) -> tuple[str, int]:
    """Return the most frequent reason of (file, reason), "not an image" only if there is no other, and its count."""
    reasons = Counter(reason for _, reason in set_aside)
    return max(reasons.items(), key=lambda item: (item[0] != "not an image", item[1]))


def _nothing_read(data: Source) -> UserError:
    if not data.set_aside:
        return UserError(f"{data.folder} is empty; give the folder that holds the images")
    reason, count = main_reason(data.set_aside)
    problem = f"no image could be read in {data.folder}: {len(data.set_aside)} files set aside, {count} of them because"
    return UserError(f"{problem}: {reason}; zwicky reads PNG, JPEG, TIFF, .npy, .npz, FITS, HDF5 and Parquet")


@dataclass
class _Image:
    """One image in the format of the store, or the reason why it is set aside."""

    facts: dict[str, Any]  # name (the path, with #row in a file of many), unit, row, gray, and its standard columns
    columns: dict[str, Any] = field(default_factory=dict)  # what the file says
    form: ImageFormat | None = None  # in the file
    pixels: np.ndarray = field(default_factory=lambda: np.empty(0))
    reason: str = ""


def _read_all(
    data: Source, store: StoreFormat, config: IngestConfig, pool: ThreadPoolExecutor, writer: StoreWriter
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write all pixels; return what is known of each image, and what its file says, one row an image."""
    tables: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    formats: Counter[tuple[str, ImageFormat]] = Counter()
    for batch in _batches(data, lambda name, item: _conform(name, item, store, config), pool):
        formats.update((data.folder_of(image.facts["unit"]), image.form) for image in batch if image.form)
        data.set_aside += [(image.facts["name"], image.reason) for image in batch if image.reason]
        if good := [image for image in batch if not image.reason]:
            objects = pd.DataFrame([image.facts for image in good], dtype=object)
            tables.append((objects, exact_types(pd.DataFrame([image.columns for image in good], dtype=object))))
            ids = [str(len(writer) + row) for row in range(len(good))]  # until all is known
            writer.append(np.stack([image.pixels for image in good]), objects[["pixel_hash"]].assign(id=ids))
    stray = check_uniform(formats, store)
    if not tables:
        raise _nothing_read(data)
    data.warnings += [f"folder {name.partition(':')[2]!r} holds other images: set aside" for name in stray]
    objects, from_files = (pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True))
    return objects, from_files


def _conform(name: str, item: Record | Unreadable, store: StoreFormat, config: IngestConfig) -> _Image:
    """Put one image into the format of the store, if it fits."""
    facts: dict[str, Any] = {"name": name if item.row is None else f"{name}#{item.row}", "unit": name, "row": item.row}
    if isinstance(item, Unreadable):
        return _Image(facts, reason=str(item))
    if config.invalid is not None and item.image.dtype.kind == "f":
        item = replace(item, image=np.where(item.image == config.invalid, np.float32(np.nan), item.image))
    form = ImageFormat.of(item)
    if reason := store.mismatch(form):
        return _Image(facts, form=form, reason=reason)
    if (share := np.isnan(item.image).mean()) > config.max_invalid:
        return _Image(facts, form=form, reason=f"{share:.0%} of its pixels are invalid")
    pixels = store.conform(item)
    is_present = ~np.isnan(pixels).all((1, 2))
    if not is_present.any():
        return _Image(facts, form=form, reason="has no valid pixel in the bands and the middle that are kept")
    facts["gray"] = len(item.image) != len(store.bands) and not store.source_bands
    facts["pixel_hash"] = pixel_hash(pixels)
    facts["bands_present"] = [band for band, present in zip(store.bands, is_present, strict=True) if present]
    columns = dict(item.columns)
    for key in PER_BAND:
        if isinstance(value := columns.get(key), int | float | tuple):
            values = value if isinstance(value, tuple) else (value,) * len(item.image)  # one number: that of all bands
            if len(values) == len(item.image):
                facts[key] = [None if n is None else values[n % len(values)] for n in store.band_indices(item)]
            del columns[key]
    columns = {key: next(iter(value), None) if isinstance(value, tuple) else value for key, value in columns.items()}
    return _Image(facts, columns, form, pixels)


def _batches(
    data: Source, conform: Callable[[str, Record | Unreadable], _Image], pool: ThreadPoolExecutor
) -> Iterator[list[_Image]]:
    """Yield all images, some at a time, decoded by threads."""
    large = [name for name in data.units if data.is_large(name, PIECE)]
    small = [name for name in data.units if name not in set(large)]
    starts = range(0, len(small), BATCH)
    with StepProgress("reading", len(starts) + len(large), 0, BATCH, unit="batch") as progress:
        for start in starts:
            names = small[start : start + BATCH]
            yield list(chain(*pool.map(lambda name: [conform(name, item) for item in data.read(name)], names)))
            progress.advance()
        for name in large:
            items = data.read(name)
            while batch := list(islice(items, BATCH)):
                yield list(pool.map(conform, [name] * len(batch), batch))
            progress.advance()
