"""Stores of zwicky, read again to join or crop them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zwicky.data.labels import read_labels
from zwicky.data.readers.record import ReadOptions, Record, to_image
from zwicky.data.store import open_store


def read_store(path: Path, options: ReadOptions) -> Iterator[Record]:
    """Read the objects of the store that `path`, its `store.json`, describes, with their labels; splits stay behind."""
    cutouts = open_store(path.parent)
    options.truth |= set(cutouts.truth)
    table = cutouts.table.drop(columns=["bands_present", "simulated", "pixel_hash"])
    labels = read_labels(path.parent).of(cutouts.ids)
    for row, (facts, label) in enumerate(zip(table.to_dict("records"), labels, strict=True)):
        lists = {name: tuple(facts.pop(name)) for name in ("psf_fwhm", "noise") if facts[name] is not None}
        image = to_image(cutouts.images[row], "BHW")
        yield Record(image, cutouts.bands, facts | lists | {"label": label}, row)
