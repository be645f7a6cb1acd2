"""PNG, JPEG and TIFF: Pillow, and tifffile for what Pillow does not read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image

from zwicky.data.readers import GRAY, RGB, ReadOptions, Record, Unreadable, to_image

_MODES = dict.fromkeys(("P", "PA", "YCbCr", "LAB", "HSV", "RGBA", "RGBX", "RGBa"), "RGB") | {"LA": "L", "La": "L"}
_MODES |= {mode: mode for mode in ("1", "L", "RGB", "F", "I", "I;16", "I;16L", "I;16B", "I;16N")}  # as stored


def read_picture(path: Path, options: ReadOptions) -> Iterator[Record]:
    """Read a grey picture as one band `gray`, a colour one as R, G, B; further pages or samples of a TIFF are bands."""
    with path.open("rb") as stream:
        is_tiff = path.name.lower().endswith((".tif", ".tiff"))
        yield _read_tiff(stream, options) if is_tiff else decode_picture(stream)


def decode_picture(stream: BinaryIO) -> Record:
    """Decode a picture; palettes become RGB, and an alpha channel that is opaque is dropped.

    Unreadable if it is transparent somewhere, CMYK, or has colour of 16 bits, of which Pillow keeps 8.
    """
    header = stream.read(25)  # the last byte of a PNG's is the bits of a channel
    stream.seek(0)
    with PIL.Image.open(stream) as picture:
        if picture.format == "PNG" and picture.mode in ("RGB", "RGBA", "LA") and header[24] > 8:
            raise Unreadable("colour of 16 bits a channel, of which 8 would be lost; save as TIFF, FITS or .npy")
        if picture.has_transparency_data and np.min(np.asarray(picture.convert("RGBA").getchannel("A"))) < 255:
            raise Unreadable("has transparent pixels; save it without an alpha channel")
        if picture.mode not in _MODES:
            raise Unreadable(f"colour mode {picture.mode} is neither grey nor RGB")
        array = np.asarray(picture.convert(_MODES[picture.mode]))
        if picture.mode == "I" and picture.format == "PNG":  # of 16 bits, which older versions of Pillow widen
            array = array.astype(np.uint16)
    return Record(to_image(array, "HWB"[: array.ndim]), RGB if array.ndim == 3 else GRAY)


def _read_tiff(stream: BinaryIO, options: ReadOptions) -> Record:
    import tifffile

    with tifffile.TiffFile(stream) as file:
        pages: list[Any] = [page for page in file.pages if not page.is_reduced]  # type: ignore[union-attr]
        page = pages[0]
        is_lzw = page.compression == 5 and page.samplesperpixel == 1  # for which tifffile needs another package
        if len(pages) == 1 and (is_lzw or (page.samplesperpixel <= 4 and np.max(page.bitspersample) <= 8)):
            stream.seek(0)
            return decode_picture(stream)
        if len({page.shape for page in pages}) > 1 or (len(pages) > 1 and page.samplesperpixel > 1):
            raise Unreadable("its pages differ in size or have several channels; keep one cutout a file")
        array = np.stack([page.asarray() for page in pages]).squeeze()
        axes = "HW" if array.ndim == 2 else "BHW" if len(pages) > 1 or page.planarconfig == 2 else "HWB"
    image = to_image(array, options.axes if len(options.axes) == array.ndim else axes)
    is_colour = page.photometric == 2
    if is_colour and len(image) == 4:
        image = image[:3]  # the fourth is alpha
    return Record(image, RGB if is_colour and len(image) == 3 else GRAY if len(image) == 1 else ())
