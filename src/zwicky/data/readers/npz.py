"""NumPy `.npz` archives: an array of images and one array a column. The images are streamed, never loaded whole."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zwicky.data.readers.arrays import BLOCK_BYTES, Layout, find_images, images_of, make_layout, told_by_band
from zwicky.data.readers.npy import read_header
from zwicky.data.readers.record import MOST_BANDS, Image, ImageSet, Unreadable, refuse_claims, said

MOST_DEFLATED = 1100  # the compression of zip cannot do better


def open_npz(path: Path) -> ImageSet:
    """Find the images and the columns of the same length. Arrays of Python objects are never unpickled.

    Without columns, a three-dimensional array with at most 6 entries along its first or last axis is one image.
    """
    with zipfile.ZipFile(path) as archive:
        headers = {}
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                with archive.open(entry) as stream:
                    shape, fortran, dtype = read_header(stream)  # type: ignore[arg-type]
                    claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
                    if not dtype.hasobject and entry.file_size - stream.tell() < claimed:
                        raise Unreadable(f"its array {entry.filename.removesuffix('.npy')} is cut short")
                    headers[entry.filename.removesuffix(".npy")] = shape, fortran, dtype
    shapes = {name: shape for name, (shape, _, _) in headers.items()}
    dtypes = {name: dtype for name, (_, _, dtype) in headers.items()}
    name = find_images(shapes, dtypes, least=2)
    shape, fortran, dtype = headers[name]
    layout = make_layout(name, shape[0], shapes, dtypes)
    alone = len(shape) == 2 or (len(shape) == 3 and not layout.columns.used and min(shape[0], shape[2]) <= MOST_BANDS)
    if alone:
        shape, layout = (1, *shape), make_layout(name, -1, {}, {})
    row_bytes = int(np.prod(shape[1:], dtype=object)) * dtype.itemsize
    refuse_claims(path.stat().st_size, shape[0], row_bytes)
    if shape[0] * row_bytes > MOST_DEFLATED * path.stat().st_size:
        raise Unreadable("claims more pixels than it can hold")
    if fortran and len(shape) > 1 and shape[0] > 1 and shape[0] * row_bytes > 2**30:
        raise Unreadable("its images are in Fortran order and too many to turn; save them in C order")
    return ImageSet(
        shape[0],
        lambda: _images(path, shape, dtype, fortran, alone, layout),
        layout.columns.properties,
        layout.left_out,
    )


def _images(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, fortran: bool, alone: bool, layout: Layout
) -> Iterator[Image | str]:
    rows, row_bytes = shape[0], int(np.prod(shape[1:])) * dtype.itemsize
    block = rows if fortran else max(1, BLOCK_BYTES // row_bytes)
    done = 0
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{layout.images}.npy") as stream:
            read_header(stream)  # type: ignore[arg-type]
            load = np.load(path, allow_pickle=False)
            columns: dict[str, Any] = {name: load[name] for name in layout.columns.used}
            per_band = {role: load[name] for role, name in layout.per_band.items()}
            for start in range(0, rows, block):
                count = min(block, rows - start)
                data = _exactly(stream, count * row_bytes)  # type: ignore[arg-type]
                array = np.frombuffer(data, dtype)
                if fortran:
                    array = array.reshape(shape[1:] if alone else shape, order="F").reshape(shape)
                values = {name: column[start : start + count] for name, column in columns.items()}
                told = {
                    role: told_by_band(column, role, rows, start, start + count) for role, column in per_band.items()
                }
                yield from images_of(array.reshape(count, *shape[1:]), values, layout, (), told)
                done += count
    except Exception as error:  # the rest of a compressed stream is lost with its first damaged byte
        yield from [said(error, path)] * (rows - done)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    parts, missing = [], count
    while missing:
        part = stream.read(missing)
        if not part:
            raise Unreadable("is cut short")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
