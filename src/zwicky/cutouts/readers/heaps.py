"""The heaps in which HDF5 keeps text of variable length: one damaged byte there and its library never returns."""

from __future__ import annotations

import mmap
from pathlib import Path

from zwicky.cutouts.readers.record import Unreadable

LARGEST = 2**30  # bytes of a file that is looked through; of a larger one it would cost as much as its images
_HEAD = b"GCOL\x01\0\0\0"  # signature, version, reserved


def refuse_endless_heaps(path: Path) -> None:
    """Raise Unreadable for a heap with a free piece of no bytes, over which `H5HG__cache_heap_deserialize` never gets,
    or with a piece larger than itself, whose size may wrap around to no bytes.

    A heap is a head of 16 bytes with its size, then pieces: number (2 bytes, 0 if free), 6 bytes of other things, size
    (8 bytes); a free piece's size includes these 16, a used one's data is padded to 8 (HDF5's file format, III.E).
    """
    if path.stat().st_size > LARGEST:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(_HEAD)
        while start >= 0:
            end = min(start + int.from_bytes(data[start + 8 : start + 16], "little"), len(data))
            place = start + 16
            while place + 16 <= end:
                free = data[place : place + 2] == b"\0\0"
                size = int.from_bytes(data[place + 8 : place + 16], "little")
                if size > end - place or (free and size == 0):
                    raise Unreadable("has a damaged heap of texts")
                place += size if free else 16 + (size + 7) // 8 * 8
            start = data.find(_HEAD, start + 1)
