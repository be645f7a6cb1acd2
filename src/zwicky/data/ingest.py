"""From a folder of images to a store. Nothing is lost without a word: what is not read is listed with the reason."""

from __future__ import annotations

import datetime
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zwicky.data.config import IngestConfig
from zwicky.data.frame import Kind, refuse_mixed
from zwicky.data.labels import Labels, order_classes, write_labels
from zwicky.data.offers import Offer, batches, sample_frame
from zwicky.data.plan import Plan, make_plan
from zwicky.data.readers import is_image_name
from zwicky.data.rows import make_rows
from zwicky.data.splits import Split, write_split
from zwicky.data.store import StoreWriter, check_writable
from zwicky.errors import UserError
from zwicky.io import write_csv

MOST_PIXELS = 8192  # a side


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did; `read + len(set_aside) == found` always.

    found: files, images of the files that hold many, catalogue rows without a file, and folders that could not be
    read. set_aside: (file, reason), where `file#7` is the eighth image of a file. splits: names of those written.
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
    splits: tuple[str, ...] = ()
    unit: str = "files"
    warnings: tuple[str, ...] = ()

    def text(self) -> str:
        """A few lines for the terminal."""
        lines = [f"{self.read} of {self.found} {self.unit} read into {self.store} in {self.seconds:.1f} s"]
        if self.catalog:
            lines.append(f"catalogue: {self.catalog}")
        if self.splits:
            lines.append(f"splits: {', '.join(self.splits)}")
        counts = ", ".join(f"{name} {count}" for name, count in self.classes.items())
        lines.append(f"labelled: {self.labelled}{f' ({counts})' if counts else ''}; unlabelled: {self.unlabelled}")
        if self.set_aside:
            lines.append(f"warning: {len(self.set_aside)} set aside, listed in {self.store}/set_aside.csv:")
            reasons = Counter(reason for _, reason in self.set_aside).most_common(5)
            lines += [f"  {count} × {reason}" for reason, count in reasons]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def ingest(
    source: Path | str, out: Path | str, catalog: Path | str | None = None, config: IngestConfig | None = None
) -> IngestReport:
    """Read every image below `source` (or in the file `source`) into a new store at `out`, with flat memory.

    Subfolders that hold images are classes; a CSV catalogue (given, or the only one in the folder) says label,
    position and properties instead; files of many images bring their own columns. All images must share size and
    type; a tenth may differ and is set aside; `config.size` crops and pads instead. Where files name their bands, the
    store has all of them, NaN where an object lacks one.
    Raises UserError if nothing can be read, the images are of several kinds, or `out` exists.
    """
    started = time.perf_counter()
    source, out, config = Path(source), Path(out), config or IngestConfig()
    _check(source, config)
    check_writable(out)
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=max(1, config.workers)) as pool:
        warnings.simplefilter("ignore")  # decoders talk about odd headers; what matters comes as an error
        plan = make_plan(source, None if catalog is None else Path(catalog), config, pool)
        found, unit = plan.offered, "images" if plan.sets else "files"
        frame = sample_frame(plan, config, pool)
        if frame is None:
            raise _nothing(source, plan.set_aside)
        with StoreWriter(out, frame.bands, frame.size, frame.dtype, truth=plan.truth) as writer:
            kinds: Counter[Kind] = Counter()
            ids: dict[str, str] = {}  # file → id, of files in a split
            labels: dict[str, str] = {}
            indexed = {file for split in plan.splits for file in split.roles}
            renamed = 0
            for batch in batches(plan, frame, config.max_invalid, pool, kinds):
                plan.set_aside += [(offer.name, offer.reason) for offer in batch if offer.reason]
                good = [offer for offer in batch if not offer.reason]
                names = _unique_ids(good, plan, writer)
                for offer, identifier in zip(good, names, strict=True):
                    renamed += bool(offer.image.id) and identifier != offer.image.id
                    stored = plan.stored_labels.get(offer.file, {}).get(offer.image.id)
                    if (label := offer.image.label or stored or plan.labels.get(offer.file)) is not None:
                        labels[identifier] = label
                    if offer.file in indexed:
                        ids[offer.file] = identifier
                if good:
                    table = make_rows(good, names, plan, frame, config)
                    writer.append(np.stack([offer.pixels for offer in good]), table)
            if not len(writer):
                raise _nothing(source, plan.set_aside)
            refuse_mixed(kinds, frame)
            if renamed:
                plan.warnings.append(f"{renamed} ids were given before; their objects are called by file and place")
            _write_tables(writer.folder, plan, labels, ids)
            read = len(writer)
    if read + len(plan.set_aside) != found:
        raise AssertionError(f"{read} read and {len(plan.set_aside)} set aside of {found} {unit}")
    counts = Counter(labels.values())
    return IngestReport(
        store=str(out),
        found=found,
        read=read,
        set_aside=tuple(plan.set_aside),
        labelled=len(labels),
        unlabelled=read - len(labels),
        classes={name: counts[name] for name in order_classes(set(counts))},
        seconds=time.perf_counter() - started,
        catalog=plan.catalog,
        splits=tuple(split.name for split in plan.splits),
        unit=unit,
        warnings=tuple(plan.warnings),
    )


def _check(source: Path, config: IngestConfig) -> None:
    if not source.exists():
        raise UserError(f"{source} does not exist; give the folder that holds the images")
    if source.is_file() and not is_image_name(source.name):
        raise UserError(f"{source} is a file; give the folder that holds the images")
    if config.pixel_scale is not None and not 0 < config.pixel_scale < float("inf"):
        raise UserError(f"the pixel scale is {config.pixel_scale}; it must be a positive number of arcsec per pixel")
    if config.size is not None and not 1 <= config.size <= MOST_PIXELS:
        raise UserError(f"the size is {config.size}; it must be a number of pixels from 1 to {MOST_PIXELS}")
    if len(set(config.bands)) < len(config.bands) or not all(config.bands):
        raise UserError(f"the bands {', '.join(config.bands)} repeat a name or lack one; give each its own")


def _unique_ids(offers: list[Offer], plan: Plan, writer: StoreWriter) -> list[str]:
    """The catalogue's id, the file's own, or else the place; where an id was given before, the place."""
    ids: dict[str, None] = {}
    for offer in offers:
        identifier = offer.image.id or plan.ids.get(offer.name, offer.name)
        if identifier in ids or identifier in writer:
            identifier = offer.name
        while identifier in ids or identifier in writer:
            identifier += "+"
        ids[identifier] = None
    return list(ids)


def _write_tables(folder: Path, plan: Plan, labels: dict[str, str], ids: dict[str, str]) -> None:
    """Labels, splits and the list of what was set aside, beside the pixels."""
    if labels:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_labels(folder, Labels(labels, plan.label_source, now))
    for split in plan.splits:
        roles = {ids[file]: role for file, role in split.roles.items() if file in ids}
        write_split(folder / "splits", Split(split.name, roles))
    rows = [{"file": file, "reason": reason} for file, reason in plan.set_aside]
    write_csv(folder / "set_aside.csv", rows, ("file", "reason"))


def _nothing(source: Path, set_aside: list[tuple[str, str]]) -> UserError:
    if not set_aside:
        return UserError(f"{source} is empty; give the folder that holds the images")
    (reason, count), *_ = Counter(reason for _, reason in set_aside).most_common(1)
    return UserError(
        f"no image could be read in {source}: {len(set_aside)} files set aside, {count} of them because: {reason}; "
        "zwicky reads PNG, JPEG, TIFF, .npy, .npz, FITS, HDF5 and Parquet"
    )
