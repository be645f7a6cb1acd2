"""HDF5: a dataset of images and one dataset a column; images are read in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zwicky.data.bands import parse_bands
from zwicky.data.readers.arrays import read_arrays
from zwicky.data.readers.record import ReadOptions, Record, Unreadable

try:
    import h5py
except ImportError as error:  # an extra
    raise Unreadable("is HDF5, which needs h5py: pip install 'zwicky[hdf5]'") from error


def read_hdf5(path: Path, options: ReadOptions) -> Iterator[Record | Unreadable]:
    """Read the dataset of images with the datasets beside it; an attribute `bands` or `filters` names the bands."""
    with h5py.File(path, "r") as file:
        arrays: dict[str, Any] = {}
        attributes = [file.attrs]

        def visit(name: str, item: Any) -> None:
            attributes.append(item.attrs)
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                is_text = h5py.check_string_dtype(item.dtype) is not None
                arrays[name] = np.asarray(item.asstr()[()] if is_text else item[()]) if item.ndim < 2 else item

        file.visititems(visit)
        named = (attrs.get(key) for attrs in attributes for key in ("bands", "band", "filters"))
        bands = next((parse_bands(value) for value in named if value is not None), ())
        yield from read_arrays(arrays, options, bands)
