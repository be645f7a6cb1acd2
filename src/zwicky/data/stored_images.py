"""Pixels that stay in their store until they are asked for, and how to pass over many of them with flat memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

AHEAD = 2  # row groups that are read before they are needed


class Groups(Protocol):
    """Where pixels come from, a group of consecutive rows at a time: a store, or a simulation rendered when asked for.

    shape: [bands, H, W] of one image. rows: of all of it. starts: [groups] the first row of each.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def rows(self) -> int: ...
    @property
    def starts(self) -> np.ndarray: ...
    def read(self, group: int, rows: np.ndarray) -> np.ndarray:
        """Pixels [len(rows), bands, H, W] of these rows of one group, in an array of their own."""
        ...


class StoredImages:
    """Images [N, bands, H, W] of a store. `images[7]`, `images[10:20]` and `images[rows]` read arrays.

    rows: which rows of the store they are, all unless said. most: bytes that may be taken to keep images in memory.
    """

    ndim = 4

    def __init__(self, store: Groups, most: int, rows: np.ndarray | None = None) -> None:
        self.store, self.most = store, most
        self.dtype = store.dtype
        self.rows = np.arange(store.rows) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.store.shape)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def select(self, rows: Any) -> StoredImages:
        """The images of these rows (a slice, numbers or a mask), still unread."""
        return StoredImages(self.store, self.most, self.rows[rows])

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, int | np.integer):
            return self[[rows]][0]
        chosen = self.select(rows)
        images = np.empty(chosen.shape, self.dtype)
        for places, some in in_batches(chosen, 256):
            images[places] = some
        return images


Images = np.ndarray | StoredImages


def in_batches(images: Images, size: int, order: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pass over images `size` at a time: (places [b] in `images`, pixels [b, bands, H, W]).

    order: the places to pass over, in this order; left out, all of them, in the order in which they are stored.
    From a store each row group is read once, when its first row comes up (by a thread that is `AHEAD` of that), and
    let go after its last; so memory holds the groups whose rows are mixed in `order`, whatever the size of the store.
    """
    if isinstance(images, np.ndarray):
        order = np.arange(len(images)) if order is None else order
        for start in range(0, len(order), size):
            places = order[start : start + size]
            yield places, images[places]
        return
    order = np.argsort(images.rows, kind="stable") if order is None else order
    if not len(order):
        return
    rows = images.rows[order]
    wanted, which = _wanted(images.store, rows)
    last = len(rows) - 1 - np.unique(which[::-1], return_index=True)[1]  # the last place of each group
    held: dict[int, Future[np.ndarray]] = {}
    asked = 0
    reader = ThreadPoolExecutor(1)
    try:
        for start in range(0, len(rows), size):
            here, groups = rows[start : start + size], which[start : start + size]
            while asked < min(int(groups.max()) + 1 + AHEAD, len(wanted)):
                held[asked] = reader.submit(images.store.read, *wanted[asked])
                asked += 1
            pixels = np.empty((len(here), *images.store.shape), images.dtype)
            for number in np.unique(groups).tolist():
                places = np.flatnonzero(groups == number)
                pixels[places] = held[number].result()[np.searchsorted(wanted[number][1], here[places])]
                if last[number] < start + size:
                    del held[number]
            yield order[start : start + size], pixels
    finally:
        reader.shutdown(cancel_futures=True)


def _wanted(store: Groups, rows: np.ndarray) -> tuple[list[tuple[int, np.ndarray]], np.ndarray]:
    """(groups as they come up in `rows`, each with those of its rows that do; [n] which of these each row is in)."""
    group = np.searchsorted(store.starts, rows, side="right") - 1
    names, first, which = np.unique(group, return_index=True, return_inverse=True)
    turn = np.argsort(first)
    which = np.argsort(turn)[which]
    by_group = np.argsort(which, kind="stable")
    parts = np.split(rows[by_group], np.flatnonzero(np.diff(which[by_group])) + 1)
    return [(int(name), np.unique(part)) for name, part in zip(names[turn], parts, strict=True)], which
