"""The heaps in which HDF5 keeps text of variable length: one damaged byte there and its library never returns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from zwicky.data.readers.record import Unreadable

LARGEST = 2**30  # bytes of a file that is looked through; of a larger one it would cost as much as its images
PIECE = 2**20  # bytes read at once
_HEAD = b"GCOL\x01\0\0\0"  # signature, version, reserved


def refuse_endless_heaps(path: Path) -> None:
    """Raise Unreadable for a heap with a free piece of no bytes, over which `H5HG__cache_heap_deserialize` never gets,
    or with a piece larger than itself, whose size may wrap around to no bytes.

    A heap is a head of 16 bytes with its size, then pieces: number (2 bytes, 0 if free), 6 bytes of other things, size
    (8 bytes); a free piece's size includes these 16, a used one's data is padded to 8 (HDF5's file format, III.E).
    """
    length = path.stat().st_size
    if length > LARGEST:
        return
    with path.open("rb") as stream:
        for start in _heaps(stream):
            stream.seek(start)
            _check(stream.read(min(max(_number(stream.read(16)[8:]), 16), length - start) - 16))


def _heaps(stream: BinaryIO) -> Iterator[int]:
    """Where heaps begin; read in pieces, since a mapped file counts as memory of this process."""
    place, tail = 0, b""
    while stream.seek(place) is not None and (piece := stream.read(PIECE)):
        data, start = tail + piece, -1
        while (start := data.find(_HEAD, start + 1)) >= 0:
            yield place - len(tail) + start
        place, tail = place + len(piece), data[1 - len(_HEAD) :]


def _check(pieces: bytes) -> None:
    place = 0
    while place + 16 <= len(pieces):
        free, size = pieces[place : place + 2] == b"\0\0", _number(pieces[place + 8 : place + 16])
        if size > len(pieces) - place or (free and size == 0):
            raise Unreadable("has a damaged heap of texts")
        place += size if free else 16 + (size + 7) // 8 * 8


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
