"""What every reader gives: `Image`s, one by one or as an `ImageSet`, or `Unreadable` with a short reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

MOST_BANDS = 6  # an axis of a 3-D array this short is taken for the bands
LARGEST = 2**30  # bytes of one image; more is a damaged header, not a cutout


class Unreadable(ValueError):
    """The file is not an image zwicky can use. The message is a short reason for the list of what was set aside."""


@dataclass(frozen=True)
class Image:
    """One cutout and what its file says of it.

    pixels: [bands, H, W] uint8, uint16 or float32; NaN where invalid.
    bands: names of the channels as far as the file says; empty where it does not.
    ra, dec: degrees, of the image centre. pixel_scale: arcsec per pixel. None where the file does not say.
    psf_fwhm (arcsec), noise: one number a band, or empty. label: None where there is none.
    id: the object's id where the file has one for each object. properties: name → value of any further column.
    """

    pixels: np.ndarray
    bands: tuple[str, ...] = ()
    ra: float | None = None
    dec: float | None = None
    pixel_scale: float | None = None
    psf_fwhm: tuple[float | None, ...] = ()
    noise: tuple[float | None, ...] = ()
    survey: str | None = None
    label: str | None = None
    id: str = ""
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageSet:
    """A file of many images, opened far enough to know what it holds.

    rows: how many images it offers. columns: the properties each may have, with their types.
    images: reads them in order, in blocks: one `Image`, or the reason why there is none, for each row.
    left_out: columns that fit no table (lists, objects).
    """

    rows: int
    images: Callable[[], Iterator[Image | str]]
    columns: Mapping[str, pa.DataType] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def as_pixels(array: np.ndarray, bands: int = 0) -> np.ndarray:
    """Any 2-D or 3-D array of numbers → [bands, H, W] in one of the store's types.

    uint8 and uint16 stay, booleans become uint8, all else becomes float32 with NaN for infinities. In three
    dimensions the bands are the first axis if it has at most MOST_BANDS entries, else the last if that has;
    where the file says how many `bands` there are, the first or else the last axis of that length.
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
    if bands not in array.shape[::2] if bands else array.shape[0] > MOST_BANDS < array.shape[2]:
        what = f"of {bands} bands" if bands else f"of at most {MOST_BANDS} bands; keep one cutout a file"
        raise Unreadable(f"shape {array.shape}: no axis {what}")
    if array.shape[0] != bands if bands else array.shape[0] > MOST_BANDS:
        array = np.moveaxis(array, 2, 0)
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(np.float32)
        finite = np.isfinite(array)
        if not finite.all():
            if not finite.any():
                raise Unreadable("has no valid pixel")
            array[~finite] = np.nan
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def in_blocks(
    rows: int, block: int, read: Callable[[int, int], Iterator[Image | str] | list[Image | str]]
) -> Iterator[Image | str]:
    """Images 0 … rows from `read(start, stop)`, `block` at a time. Where a block fails, each of its rows is tried."""
    for start in range(0, rows, block):
        stop = min(start + block, rows)
        try:
            results = list(read(start, stop))
        except Exception as error:  # a damaged block: libraries raise anything
            results = [said(error)] if stop - start == 1 else [_alone(row, read) for row in range(start, stop)]
        yield from results


def _alone(row: int, read: Callable[[int, int], Iterator[Image | str] | list[Image | str]]) -> Image | str:
    try:
        return next(iter(read(row, row + 1)))
    except Exception as error:
        return said(error)


def said(error: BaseException, path: object = "") -> str:
    """A short reason, of one line and without the path, from whatever a library raised."""
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, MemoryError):
        return "is larger than the memory"
    text = str(error).replace(str(path), "the file") if path else str(error)
    return f"cannot be read: {(' '.join(text.split()) or type(error).__name__)[:200]}"


def refuse_claims(size: int, rows: int, row_bytes: int) -> None:
    """Raise Unreadable for headers that claim what a file of `size` bytes cannot hold."""
    if row_bytes > LARGEST:
        raise Unreadable(f"claims {row_bytes / 2**30:.0f} GiB for one image")
    if rows > 16 * size:
        raise Unreadable(f"claims {rows} images in {size} bytes")
