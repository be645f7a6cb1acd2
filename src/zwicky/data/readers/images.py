"""PNG, JPEG and TIFF, through Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image

from zwicky.data.readers.record import Image, Unreadable, as_pixels

_BITS_PER_SAMPLE = 258  # TIFF tag
_GRAY = ("gray",)
_COLOURS = ("R", "G", "B")


def read_picture(path: Path) -> Image:
    """Read a grey image as one band `gray`, a colour image as `R`, `G`, `B`, with 8 or 16 bits or float32.

    An alpha channel is dropped if it is opaque everywhere. Colour of 16 bits is refused: Pillow would keep only
    8 of them. So are CMYK and files of several pages.
    """
    with path.open("rb") as stream:
        return _read(stream)


def decode_picture(data: bytes) -> Image:
    """The same for a picture in memory, as Parquet sets hold them."""
    return _read(io.BytesIO(data))


def _read(stream: BinaryIO) -> Image:
    with PIL.Image.open(stream) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise Unreadable("holds several images; keep one cutout a file")
        if _deep_colour(stream, picture):
            raise Unreadable("colour of 16 bits a channel, of which 8 would be lost; save as FITS or .npy")
        mode = picture.mode
        if mode in ("P", "YCbCr"):
            mode = "RGBA" if "transparency" in picture.info else "RGB"
            array = np.asarray(picture.convert(mode))
        else:
            array = np.asarray(picture)
    if mode in ("LA", "RGBA"):
        if array[..., -1].min() < 255:
            raise Unreadable("has transparent pixels; save it without an alpha channel")
        array = array[..., :-1]
    elif mode == "I" and picture.format == "PNG":  # PNG has at most 16 bits; older Pillow says 32
        array = array.astype(np.uint16)
    elif mode not in ("1", "L", "RGB", "F", "I", "I;16", "I;16L", "I;16B", "I;16N"):
        raise Unreadable(f"colour mode {mode} is neither grey nor RGB")
    bands_first = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    pixels = np.concatenate([as_pixels(band) for band in bands_first])  # by band: here the first axis is known
    return Image(pixels, _COLOURS if len(pixels) == 3 else _GRAY)


def _deep_colour(stream: BinaryIO, picture: PIL.Image.Image) -> bool:
    """Whether a colour file has more than 8 bits a channel."""
    if picture.mode not in ("RGB", "RGBA", "LA"):
        return False
    if picture.format == "PNG":
        place = stream.tell()
        stream.seek(24)  # IHDR: signature 8, length 4, type 4, width 4, height 4, then the depth
        depth = stream.read(1)[0]
        stream.seek(place)
        return depth > 8
    if picture.format == "TIFF":
        return max(np.atleast_1d(picture.tag_v2.get(_BITS_PER_SAMPLE, 8))) > 8  # type: ignore[attr-defined]
    return False
