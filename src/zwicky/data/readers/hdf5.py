"""HDF5 sets: a dataset of images and one dataset a column, as large surveys ship them. Read in blocks, never whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zwicky.data.readers.arrays import (
    BLOCK_BYTES,
    Layout,
    band_names,
    find_images,
    images_of,
    make_layout,
    told_by_band,
)
from zwicky.data.readers.heaps import refuse_endless_heaps
from zwicky.data.readers.record import Image, ImageSet, Unreadable, in_blocks, refuse_claims

try:
    import h5py
except ImportError as error:  # an extra
    raise Unreadable("is HDF5, which needs h5py: pip install 'zwicky[hdf5]'") from error

_MOST_DATASETS = 10_000


def open_hdf5(path: Path) -> ImageSet:
    """Find the images [N, H, W], [N, bands, H, W] or [N, H, W, bands] and the columns [N] beside them.

    A dataset or an attribute `bands` (also `band`, `filters`) names the bands. Links to other files are not followed.
    """
    refuse_endless_heaps(path)
    with h5py.File(path, "r") as file:
        shapes, dtypes = _datasets(file)
        name = find_images(shapes, dtypes, least=3)
        data = file[name]
        rows, row_bytes = shapes[name][0], int(np.prod(shapes[name][1:], dtype=object)) * dtypes[name].itemsize
        refuse_claims(path.stat().st_size, rows, row_bytes)
        stored = data.id.get_storage_size()
        if stored == 0 or (data.chunks is None and stored < rows * row_bytes):
            raise Unreadable(f"holds {stored} of the {rows * row_bytes} bytes of its images")
        layout = make_layout(name, rows, shapes, dtypes)
        named = [place.attrs.get(key) for place in (data, file) for key in ("bands", "band", "filters")]
        bands = next((band_names(value) for value in named if value is not None), ())
        block = max(1, BLOCK_BYTES // row_bytes)
        if data.chunks:  # whole chunks, since each is decompressed whole
            block = max(1, block // data.chunks[0]) * data.chunks[0]
            block = min(block, max(1, 8 * BLOCK_BYTES // row_bytes))
    return ImageSet(rows, lambda: _images(path, rows, block, layout, bands), layout.columns.properties, layout.left_out)


def _datasets(file: h5py.File) -> tuple[dict[str, tuple[int, ...]], dict[str, np.dtype]]:
    """Shapes and types of the datasets; text of variable length counts as text."""
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, np.dtype] = {}

    def visit(name: str, item: Any) -> bool | None:
        if isinstance(item, h5py.Dataset) and item.shape is not None and not item.external:
            shapes[name] = item.shape
            dtypes[name] = np.dtype("S1") if h5py.check_string_dtype(item.dtype) else item.dtype
        return True if len(shapes) > _MOST_DATASETS else None

    file.visititems(visit)  # soft and external links are not visited
    return shapes, dtypes


def _images(path: Path, rows: int, block: int, layout: Layout, bands: tuple[str, ...]) -> Iterator[Image | str]:
    prefix = layout.images.rpartition("/")[0]
    with h5py.File(path, "r") as file:
        group = file[prefix] if prefix else file
        data = file[layout.images]
        columns = {name: group[name] for name in layout.columns.used}
        per_band = {role: file[name] for role, name in layout.per_band.items()}

        def read(start: int, stop: int) -> list[Image | str]:
            values = {name: column[start:stop] for name, column in columns.items()}
            told = {role: told_by_band(column, role, rows, start, stop) for role, column in per_band.items()}
            return images_of(data[start:stop], values, layout, bands, told)

        yield from in_blocks(rows, block, read)
