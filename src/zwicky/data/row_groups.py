"""A store read one row group at a time, for what passes over it once with flat memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from zwicky.data.contract import Cutouts
from zwicky.data.parts import look, read_pixels, read_table


def iterate_store(path: Path | str) -> Iterator[Cutouts]:
    """The row groups of a store in order, each as `Cutouts` of about 15 MB. Raises UserError as `open_store`."""
    store = look(path)
    for group in store.groups:
        images = np.empty((group.rows, *store.shape), store.metadata["dtype"])
        read_pixels(group, images)
        bands, truth = tuple(store.metadata["bands"]), tuple(store.metadata["truth"])
        yield Cutouts(images, read_table(group), bands, truth, store.metadata)
