"""The images an ingest offers, one batch after another: each is ready to store or comes with the reason it is not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from rich.console import Console
from rich.progress import Progress

from zwicky.data.config import IngestConfig
from zwicky.data.cutouts import pixel_hash
from zwicky.data.frame import Frame, Kind, choose_frame, kind_of
from zwicky.data.plan import Plan
from zwicky.data.readers import Image, Unreadable
from zwicky.data.readers.record import said

SAMPLE = 500  # files looked at to learn size and type before writing begins
SAMPLED_SETS = 50  # and files of many images, of each of which the first good image counts for all
BATCH_BYTES = 8 * 2**20  # of pixels decoded at a time
_NO_IMAGE = Image(np.empty((0, 0, 0)))


@dataclass(frozen=True)
class Offer:
    """One image: its place (`file`, or `file#row` in a file of many) and either its pixels as stored or a reason."""

    name: str
    file: str
    reason: str
    image: Image = _NO_IMAGE
    pixels: np.ndarray = field(default_factory=lambda: _NO_IMAGE.pixels)
    digest: str = ""


def sample_frame(plan: Plan, config: IngestConfig, pool: ThreadPoolExecutor) -> Frame | None:
    """The form of the store, from some files spread over all; None, with reasons set aside, if no image is good."""
    kinds: Counter[Kind] = Counter()
    chosen = _spread(plan.files, SAMPLE)
    sets = _spread(list(plan.sets), SAMPLED_SETS)
    while True:
        looked = pool.map(lambda file: _kind_of(plan, file), chosen)
        for kind in looked:
            if kind is not None:
                kinds[kind] += max(1, round(len(plan.files) / len(chosen)))
        for file in sets:
            some = islice(_images(plan, file), 64 if kinds or len(sets) < len(plan.sets) else None)
            first = next((image for image in some if isinstance(image, Image)), None)
            if first is not None:
                kinds[kind_of(first)] += max(1, plan.sets[file].rows)
        if kinds:
            return choose_frame(kinds, config)
        if len(chosen) == len(plan.files) and len(sets) == len(plan.sets):
            break
        chosen, sets = plan.files, list(plan.sets)  # none of the sample is good: look at all
    for file in plan.files[:100]:
        plan.set_aside.append((file, _reason(plan, file)))
    for file in plan.sets:
        reasons = islice(_images(plan, file), 100)
        plan.set_aside += [(f"{file}#{row}", reason) for row, reason in enumerate(reasons) if isinstance(reason, str)]
    return None


def _spread(names: list[str], count: int) -> list[str]:
    if not names:
        return []
    return [names[index] for index in np.unique(np.linspace(0, len(names) - 1, count).astype(int))]


def _kind_of(plan: Plan, file: str) -> Kind | None:
    try:
        return kind_of(plan.read(file))
    except Unreadable:
        return None


def _reason(plan: Plan, file: str) -> str:
    try:
        plan.read(file)
    except Unreadable as error:
        return str(error)
    return ""


def _images(plan: Plan, file: str) -> Iterator[Image | str]:
    """Exactly as many images or reasons as the file of many offers."""
    rows, given = plan.sets[file].rows, 0
    reason = "the file ended before this image"
    try:
        for image in islice(plan.sets[file].images(), rows):
            given += 1
            yield image
    except Exception as error:  # a reader that gave up: the rest of its images are set aside
        reason = said(error, plan.source / file)
    for _ in range(rows - given):
        yield reason


def batches(
    plan: Plan, frame: Frame, max_invalid: float, pool: ThreadPoolExecutor, kinds: Counter[Kind]
) -> Iterator[list[Offer]]:
    """All images, a bounded number at a time. `kinds` counts the kind of each that could be read."""
    count = int(np.clip(BATCH_BYTES // (np.prod(frame.size) * len(frame.bands) * 4), 8, 1024))
    console = Console(stderr=True)
    total = len(plan.files) + sum(images.rows for images in plan.sets.values())
    done = 0
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("reading", total=total)
        said_at = time.monotonic()
        for batch in _read(plan, frame, max_invalid, pool, count):
            for offer in batch:
                if offer.image is not _NO_IMAGE:
                    kinds[kind_of(offer.image)] += 1
            yield batch
            done += len(batch)
            progress.advance(task, len(batch))
            if not console.is_terminal and time.monotonic() - said_at > 10:
                said_at = time.monotonic()
                console.print(f"read {done} of {total} images", highlight=False)


def _read(plan: Plan, frame: Frame, max_invalid: float, pool: ThreadPoolExecutor, count: int) -> Iterator[list[Offer]]:
    def one(file: str) -> Offer:
        try:
            image = plan.read(file)
        except Unreadable as error:
            return Offer(file, file, str(error))
        return _fitted(file, file, image, frame, max_invalid)

    def of_many(entry: tuple[str, str, Image | str]) -> Offer:
        name, file, image = entry
        return Offer(name, file, image) if isinstance(image, str) else _fitted(name, file, image, frame, max_invalid)

    for start in range(0, len(plan.files), count):
        yield list(pool.map(one, plan.files[start : start + count]))
    for file in plan.sets:
        numbered = ((f"{file}#{row}", file, image) for row, image in enumerate(_images(plan, file)))
        while some := list(islice(numbered, count)):
            yield list(pool.map(of_many, some))


def _fitted(name: str, file: str, image: Image, frame: Frame, max_invalid: float) -> Offer:
    reason = frame.misfit(kind_of(image))
    if reason is None and image.pixels.dtype.kind == "f":
        share = float(np.isnan(image.pixels).mean())
        if share > max_invalid:
            reason = f"{share:.0%} of its pixels are invalid"
    if reason is not None:
        return Offer(name, file, reason, image)
    pixels = frame.fit(image)
    if pixels.dtype.kind == "f" and np.isnan(pixels).all():
        return Offer(name, file, "has no valid pixel in the bands and the middle that are kept", image)
    return Offer(name, file, "", image, pixels, pixel_hash(pixels))
