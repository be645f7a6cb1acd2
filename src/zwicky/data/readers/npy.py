"""NumPy `.npy` arrays, the form of the DeepLense data."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from zwicky.data.readers.columns import number
from zwicky.data.readers.pickles import read_pickle
from zwicky.data.readers.record import LARGEST, Image, Unreadable, as_pixels

AXION_MASS = "axion_mass"  # what DeepLense's `axion` files tell of each image


def read_npy(path: Path) -> Image:
    """Read [H, W], [bands, H, W] or [H, W, bands]; float64 becomes float32. Nothing is ever unpickled.

    An object array [image, mass], as DeepLense saves its `axion` class, gives the image and the property
    `axion_mass`; its pickle is read by `read_pickle`, which runs nothing.
    """
    with path.open("rb") as stream:
        shape, _, dtype = read_header(stream)
        if dtype.hasobject:
            if path.stat().st_size > LARGEST:
                raise Unreadable("is too large for an object array of one image")
            return _axion(stream.read())
        # Told by the header before anything is allocated for it.
        if path.stat().st_size - stream.tell() < dtype.itemsize * int(np.prod(shape, dtype=object)):
            raise Unreadable("is cut short")
    return Image(as_pixels(np.load(path, allow_pickle=False)))


def read_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, Fortran order, type) of an array in NumPy's format; the stream then stands at its data."""
    if stream.read(6) != b"\x93NUMPY":
        raise Unreadable("is not a NumPy file")
    version = tuple(stream.read(2))
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise Unreadable("is no NumPy file of a known version")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def holds_objects(path: Path) -> bool:
    """Whether a `.npy` file is an object array; False for what cannot be read, which `read_npy` will say."""
    try:
        with path.open("rb") as stream:
            return read_header(stream)[2].hasobject
    except Exception:  # any damage is told when the file is read
        return False


def _axion(pickle: bytes) -> Image:
    array = read_pickle(pickle)
    if not isinstance(array, np.ndarray) or array.shape != (2,) or not isinstance(array[0], np.ndarray):
        raise Unreadable("holds Python objects other than [image, mass], never unpickled; save a plain array")
    mass = array[1].item() if isinstance(array[1], np.ndarray) and array[1].size == 1 else array[1]
    if not isinstance(mass, int | float):
        raise Unreadable("holds Python objects other than [image, mass], never unpickled; save a plain array")
    return Image(as_pixels(array[0]), properties={AXION_MASS: number(mass)})
