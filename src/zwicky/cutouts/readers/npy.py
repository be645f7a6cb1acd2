"""NumPy `.npy` arrays, the form of the DeepLense data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zwicky.cutouts.readers.record import Image, Unreadable, as_pixels


def read_npy(path: Path) -> Image:
    """Read [H, W], [bands, H, W] or [H, W, bands]; float64 becomes float32. Nothing is ever unpickled."""
    with path.open("rb") as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise Unreadable("is not a NumPy file")
        stream.seek(0)
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        if dtype.hasobject:
            raise Unreadable("holds Python objects, which are never unpickled; save the image as a plain array")
        # Told by the header before anything is allocated for it.
        if path.stat().st_size - stream.tell() < dtype.itemsize * int(np.prod(shape, dtype=object)):
            raise Unreadable("is cut short")
    return Image(as_pixels(np.load(path, allow_pickle=False)))
