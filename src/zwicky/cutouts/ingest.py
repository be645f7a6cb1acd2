"""From a folder of images to a store. Nothing is lost without a word: what is not read is listed with the reason."""

from __future__ import annotations

import datetime
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import Progress

from zwicky.cutouts import catalog as catalogs
from zwicky.cutouts.config import IngestConfig
from zwicky.cutouts.contract import make_table, pixel_hash
from zwicky.cutouts.readers import Image, Unreadable, read_image
from zwicky.cutouts.scan import folder_labels, scan_folder
from zwicky.cutouts.store import StoreWriter, refuse_existing
from zwicky.cutouts.tables import Labels, order_classes, write_labels
from zwicky.errors import UserError
from zwicky.files import write_csv

SAMPLE = 500  # files looked at to learn size and type before writing begins
MINORITY = 0.1  # a larger share of images of another size or type is refused
BATCH_BYTES = 32 * 2**20  # of pixels decoded at a time

Kind = tuple[tuple[int, ...], str, tuple[str, ...]]  # shape [bands, H, W], dtype, band names


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did; `read + len(set_aside) == found` always.

    found: files, catalogue rows without one, and folders that could not be read. set_aside: (file, reason).
    """

    store: str
    found: int
    read: int
    set_aside: tuple[tuple[str, str], ...]
    labelled: int
    unlabelled: int
    classes: dict[str, int]
    seconds: float
    catalog: str = ""
    warnings: tuple[str, ...] = ()

    def text(self) -> str:
        """A few lines for the terminal."""
        lines = [f"{self.read} of {self.found} files read into {self.store} in {self.seconds:.1f} s"]
        if self.catalog:
            lines.append(f"catalogue: {self.catalog}")
        counts = ", ".join(f"{name} {count}" for name, count in self.classes.items())
        lines.append(f"labelled: {self.labelled}{f' ({counts})' if counts else ''}; unlabelled: {self.unlabelled}")
        if self.set_aside:
            lines.append(f"warning: {len(self.set_aside)} set aside, listed in {self.store}/_set_aside.csv:")
            reasons = Counter(reason for _, reason in self.set_aside).most_common(5)
            lines += [f"  {count} × {reason}" for reason, count in reasons]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


@dataclass
class _Plan:
    """What is known of the files before any is decoded."""

    files: list[str]
    set_aside: list[tuple[str, str]]
    ids: dict[str, str]
    labels: dict[str, str]  # by file
    source: str  # of the labels
    row_of: dict[str, int] = field(default_factory=dict)
    values: dict[str, list] = field(default_factory=dict)  # catalogue column → one value a row
    kinds: dict[str, pa.DataType] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    catalog: str = ""


def ingest(
    source: Path | str, out: Path | str, catalog: Path | str | None = None, config: IngestConfig | None = None
) -> IngestReport:
    """Read every image below `source` into a new store at `out`.

    Subfolders that hold images are classes; a CSV catalogue (given, or the only one in the folder) says label,
    position and properties instead. All images must share size, bands and type; a tenth may differ and is set aside.
    Raises UserError if nothing can be read, the images are of several kinds, or `out` exists.
    """
    started = time.perf_counter()
    source, out, config = Path(source), Path(out), config or IngestConfig()
    _check(source, config)
    refuse_existing(out)
    plan = _plan(source, None if catalog is None else Path(catalog), config)
    found = len(plan.files) + len(plan.set_aside)
    if not plan.files:
        raise _nothing(source, plan.set_aside)
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=max(1, config.workers)) as pool:
        warnings.simplefilter("ignore")  # decoders talk about odd headers; what matters comes as an error
        kind = _sample_kind(source, plan, config, pool)
        shape, dtype, _ = kind
        bands = _band_names(kind, config)
        with StoreWriter(out, bands, (shape[1], shape[2]), dtype) as writer:
            other: Counter[Kind] = Counter()
            read_ids: dict[str, str] = {}  # file → id
            for batch in _batches(source, plan.files, kind, pool):
                kept = []
                for file, result in batch:
                    if isinstance(result, str):
                        plan.set_aside.append((file, result))
                    elif (reason := _misfit(result[0], kind, config.max_invalid, other)) is not None:
                        plan.set_aside.append((file, reason))
                    else:
                        kept.append((file, *result))
                if kept:
                    images = np.stack([image.pixels for _, image, _ in kept])
                    writer.append(images, _table(kept, plan, bands, config))
                    read_ids |= {file: plan.ids[file] for file, _, _ in kept}
            if not read_ids:
                raise _nothing(source, plan.set_aside)
            _refuse_mixed(other + Counter({kind: len(read_ids)}), kind)
            labels = {read_ids[file]: plan.labels[file] for file in read_ids if file in plan.labels}
            if labels:
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                write_labels(writer.folder, Labels(labels, plan.source, now))
            rows = [{"file": file, "reason": reason} for file, reason in plan.set_aside]
            write_csv(writer.folder / "_set_aside.csv", rows, ("file", "reason"))
    if len(read_ids) + len(plan.set_aside) != found:
        raise AssertionError(f"{len(read_ids)} read and {len(plan.set_aside)} set aside of {found} files")
    counts = Counter(labels.values())
    return IngestReport(
        store=str(out),
        found=found,
        read=len(read_ids),
        set_aside=tuple(plan.set_aside),
        labelled=len(labels),
        unlabelled=len(read_ids) - len(labels),
        classes={name: counts[name] for name in order_classes(set(counts))},
        seconds=time.perf_counter() - started,
        catalog=plan.catalog,
        warnings=tuple(plan.warnings),
    )


def _check(source: Path, config: IngestConfig) -> None:
    if not source.is_dir():
        what = "is a file" if source.exists() else "does not exist"
        raise UserError(f"{source} {what}; give the folder that holds the images")
    if config.pixel_scale is not None and not 0 < config.pixel_scale < float("inf"):
        raise UserError(f"the pixel scale is {config.pixel_scale}; it must be a positive number of arcsec per pixel")
    if len(set(config.bands)) < len(config.bands):
        raise UserError(f"the bands {', '.join(config.bands)} repeat a name; give each its own")


def _plan(source: Path, path: Path | None, config: IngestConfig) -> _Plan:
    """Scan the folder, and let the catalogue, if there is one, say which of its files count and what they are."""
    scan = scan_folder(source)
    labels, table, match = folder_labels(scan.files), None, None
    if path is not None:
        table = catalogs.read_catalog(path)
        match = catalogs.match_files(table, scan.files)
    else:
        found = [file for file, _ in scan.set_aside if "/" not in file and file.lower().endswith(".csv")]
        if len(found) == 1:  # a lone CSV is the catalogue if it names files of this folder
            try:
                table = catalogs.read_catalog(source / found[0])
                match = catalogs.match_files(table, scan.files)
                path = source / found[0]
            except UserError:
                table = match = None
    identity = {file: file for file in scan.files}
    if table is None or match is None or path is None:
        return _Plan(scan.files, scan.set_aside, identity, labels, config.label_source or "class folders")
    set_aside = [entry for entry in scan.set_aside if not _same_file(source / entry[0], path)]
    set_aside += match.orphans
    set_aside += [(file, "not in the catalogue") for file in scan.files if file not in match.row_of]
    files = [file for file in scan.files if file in match.row_of]
    row_labels = catalogs.labels_of(table)
    if row_labels is not None:
        labels = {file: label for file in files if (label := row_labels[match.row_of[file]]) is not None}
    ids = catalogs.unique_ids(table, [match.row_of[file] for file in files])
    values, kinds, complaints = catalogs.properties(table, match)
    return _Plan(
        files=files,
        set_aside=set_aside,
        ids=identity if ids is None else {file: ids[match.row_of[file]] for file in files},
        labels=labels,
        source=config.label_source or ("class folders" if row_labels is None else path.name),
        row_of=match.row_of,
        values=values,
        kinds=kinds,
        warnings=complaints,
        catalog=str(path),
    )


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _sample_kind(source: Path, plan: _Plan, config: IngestConfig, pool: ThreadPoolExecutor) -> Kind:
    """The commonest kind among some files spread over all; many kinds are refused before anything is written."""
    chosen = np.unique(np.linspace(0, len(plan.files) - 1, SAMPLE).astype(int))
    results = pool.map(lambda file: _kind_of(source / file), [plan.files[index] for index in chosen])
    kinds = Counter(kind for kind in results if kind is not None)
    if not kinds and len(chosen) < len(plan.files):  # none of the sample is good: look at all
        kinds = Counter(kind for kind in pool.map(lambda file: _kind_of(source / file), plan.files) if kind is not None)
    if not kinds:
        plan.set_aside += [(file, _reason(source / file)) for file in plan.files[:100]]
        raise _nothing(source, plan.set_aside)
    commonest = kinds.most_common(1)[0][0]
    _refuse_mixed(kinds, commonest)
    return commonest


def _kind_of(path: Path) -> Kind | None:
    try:
        return _kind(read_image(path))
    except Unreadable:
        return None


def _reason(path: Path) -> str:
    try:
        read_image(path)
    except Unreadable as error:
        return str(error)
    return ""


def _kind(image: Image) -> Kind:
    return image.pixels.shape, image.pixels.dtype.name, image.bands


def _refuse_mixed(kinds: Counter[Kind], chosen: Kind) -> None:
    """Raise UserError if more than a small minority of the images differ from the chosen kind."""
    common = kinds.most_common()
    total = sum(kinds.values())
    if total - kinds[chosen] > MINORITY * total:
        said = ", ".join(f"{_said(kind)} ({count} files)" for kind, count in common[:4]) + ", …" * (len(common) > 4)
        raise UserError(
            f"the images are of several kinds: {said}; ingest each kind into a store of its own or cut them to one size"
        )


def _said(kind: Kind) -> str:
    (bands, height, width), dtype, _ = kind
    return f"{bands} band{'s' if bands > 1 else ''} of {height}×{width} {dtype}"


def _band_names(kind: Kind, config: IngestConfig) -> tuple[str, ...]:
    shape, _, names = kind
    if config.bands:
        if len(config.bands) != shape[0]:
            given = ", ".join(config.bands)
            raise UserError(f"{len(config.bands)} band names given ({given}) but the images have {shape[0]}; name each")
        return tuple(config.bands)
    if names:
        return names
    return ("gray",) if shape[0] == 1 else tuple(f"band{number + 1}" for number in range(shape[0]))


def _batches(
    source: Path, files: list[str], kind: Kind, pool: ThreadPoolExecutor
) -> Iterator[list[tuple[str, tuple[Image, str] | str]]]:
    """(file, (image, hash) or the reason it is unreadable) for all files, a bounded number at a time."""
    shape, dtype, _ = kind
    count = int(np.clip(BATCH_BYTES // (np.prod(shape) * np.dtype(dtype).itemsize), 8, 1024))
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("reading", total=len(files))
        said = time.monotonic()
        for start in range(0, len(files), count):
            batch = files[start : start + count]
            yield list(zip(batch, pool.map(lambda file: _decode(source / file), batch), strict=True))
            progress.advance(task, len(batch))
            if not console.is_terminal and time.monotonic() - said > 10:
                said = time.monotonic()
                console.print(f"read {start + len(batch)} of {len(files)} files", highlight=False)


def _decode(path: Path) -> tuple[Image, str] | str:
    try:
        image = read_image(path)
    except Unreadable as error:
        return str(error)
    return image, pixel_hash(image.pixels)


def _misfit(image: Image, kind: Kind, max_invalid: float, other: Counter[Kind]) -> str | None:
    """Why this image does not belong in the store, None if it does; `other` counts those of another kind."""
    its_kind = _kind(image)
    if its_kind[:2] != kind[:2]:
        other[its_kind] += 1
        return f"has {_said(its_kind)}, the others {_said(kind)}"
    if image.pixels.dtype.kind == "f" and (share := float(np.isnan(image.pixels).mean())) > max_invalid:
        return f"{share:.0%} of its pixels are invalid"
    return None


def _table(kept: list[tuple[str, Image, str]], plan: _Plan, bands: tuple[str, ...], config: IngestConfig) -> pa.Table:
    """The rows of the images kept of one batch."""
    files, images, hashes = zip(*kept, strict=True)
    said: dict[str, list] = {
        name: [values[plan.row_of[file]] for file in files] for name, values in plan.values.items()
    }
    ra, dec = said.pop("ra", [None] * len(files)), said.pop("dec", [None] * len(files))
    places = [
        (a, d) if a is not None and d is not None else (image.ra, image.dec)
        for a, d, image in zip(ra, dec, images, strict=True)
    ]
    columns: dict[str, Any] = {
        "ra": [place[0] for place in places],
        "dec": [place[1] for place in places],
        "bands_present": [_present(image.pixels, bands) for image in images],
        "pixel_scale": [image.pixel_scale if config.pixel_scale is None else config.pixel_scale for image in images],
        "survey": [config.survey or None] * len(files),
        "simulated": [config.simulated] * len(files),
        "pixel_hash": hashes,
    }
    columns |= {name: pa.array(values, plan.kinds[name]) for name, values in said.items()}
    return make_table([plan.ids[file] for file in files], columns)


def _present(pixels: np.ndarray, bands: tuple[str, ...]) -> list[str]:
    if pixels.dtype.kind != "f":
        return list(bands)
    return [name for name, band in zip(bands, pixels, strict=True) if not np.isnan(band).all()]


def _nothing(source: Path, set_aside: list[tuple[str, str]]) -> UserError:
    if not set_aside:
        return UserError(f"{source} is empty; give the folder that holds the images")
    (reason, count), *_ = Counter(reason for _, reason in set_aside).most_common(1)
    return UserError(
        f"no image could be read in {source}: {len(set_aside)} files set aside, {count} of them because: {reason}; "
        "zwicky reads PNG, JPEG, TIFF, .npy and FITS"
    )
