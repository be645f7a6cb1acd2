"""What every reader gives: one `Image`, or `Unreadable` with a short reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_BANDS = 6  # an axis of a 3-D array this short is taken for the bands


class Unreadable(ValueError):
    """The file is not an image zwicky can use. The message is a short reason for the list of what was set aside."""


@dataclass(frozen=True)
class Image:
    """One file's content.

    pixels: [bands, H, W] uint8, uint16 or float32; NaN where invalid.
    bands: names of the channels as far as the file says; empty where it does not.
    ra, dec: degrees, of the image centre. pixel_scale: arcsec per pixel. None where the file does not say.
    """

    pixels: np.ndarray
    bands: tuple[str, ...] = ()
    ra: float | None = None
    dec: float | None = None
    pixel_scale: float | None = None


def as_pixels(array: np.ndarray) -> np.ndarray:
    """Any 2-D or 3-D array of numbers → [bands, H, W] in one of the store's types.

    uint8 and uint16 stay, booleans become uint8, all else becomes float32 with NaN for infinities. In three
    dimensions the bands are the first axis if it has at most MOST_BANDS entries, else the last if that has.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "buif":
        raise Unreadable(f"holds {array.dtype.name} values, not real numbers")
    while array.ndim > 3 and array.shape[0] == 1:  # radio images have axes for frequency and polarisation
        array = array[0]
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise Unreadable(f"has {array.ndim} axes; a cutout has 2, or 3 with the bands")
    if array.size == 0:
        raise Unreadable("holds no pixels")
    if array.shape[0] > MOST_BANDS:
        if array.shape[2] > MOST_BANDS:
            raise Unreadable(f"shape {array.shape}: no axis of at most {MOST_BANDS} bands; keep one cutout a file")
        array = np.moveaxis(array, 2, 0)
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(np.float32)
        array[~np.isfinite(array)] = np.nan
        if np.isnan(array).all():
            raise Unreadable("has no valid pixel")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
