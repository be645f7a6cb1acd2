"""FITS files of many images: image columns of binary tables, and cubes of more planes than there are bands."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from astropy.io import fits

from zwicky.data.readers.arrays import BLOCK_BYTES, make_image
from zwicky.data.readers.columns import Columns, kind_of
from zwicky.data.readers.fits import bands_of
from zwicky.data.readers.record import MOST_BANDS, Image, ImageSet, Unreadable, in_blocks, refuse_claims

_CARD = 80
_BLOCK = 2880
_MOST_PEEKED = 100  # blocks of a primary header


def may_hold_many(path: Path) -> bool:
    """Whether the first header speaks of no image, or of more planes than bands: told without parsing all of it."""
    try:
        with _open(path) as stream:
            sides: dict[str, int] = {}
            for _ in range(_MOST_PEEKED):
                block = stream.read(_BLOCK)
                for start in range(0, len(block), _CARD):
                    card = block[start : start + _CARD]
                    if card.startswith(b"NAXIS"):
                        sides[card[:8].decode("ascii").strip()] = int(card[10:].split(b"/")[0])
                    if card.rstrip() == b"END":
                        return _many(sides)
                if len(block) < _BLOCK or ("NAXIS" in sides and len(sides) == sides["NAXIS"] + 1):
                    return _many(sides)
    except Exception:  # whatever is wrong is told when the file is read
        return False
    return False


def _many(sides: dict[str, int]) -> bool:
    axes = sides.get("NAXIS", 2)
    if axes == 0:
        return True
    shape = [sides.get(f"NAXIS{axis}", 1) for axis in range(axes, 0, -1)]  # FITS counts the axes from the fastest
    return (axes == 3 and shape[0] > MOST_BANDS < shape[2]) or (axes == 4 and shape[0] > 1)


def open_fits_set(path: Path) -> ImageSet | None:
    """The set of the first HDU that holds images: a table with an image column, or a cube [N, H, W] or
    [N, bands, H, W]. None where the first HDU with images holds one image, which is `read_fits`'s."""
    with fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
        for number, hdu in enumerate(hdus):
            if isinstance(hdu, fits.BinTableHDU) and not isinstance(hdu, fits.CompImageHDU):
                column = _image_column(hdu.columns)
                if column is not None:
                    return _table(path, hdu, column)
            elif hdu.is_image and hdu.header.get("NAXIS", 0) >= 2:
                sides = {key: value for key, value in hdu.header.items() if key.startswith("NAXIS")}
                return _cube(path, number, hdu) if _many(sides) else None
    raise Unreadable("has no image HDU and no table with a column of images")


def _image_column(columns: fits.ColDefs) -> str | None:
    """The column of images: two or three axes by TDIM, or a square number of values that no other column has."""
    kinds = columns.dtype
    candidates = []
    for name in columns.names:
        base, shape = kinds[name].base, kinds[name].shape
        side = round(np.sqrt(np.prod(shape))) if len(shape) == 1 else 0
        if base.kind in "buif" and (len(shape) in (2, 3) or (side >= 8 and side * side == shape[0])):
            candidates.append(name)
    usual = [name for name in candidates if name.lower() in ("image", "images", "cutout", "data", "img")]
    if len(candidates) > 1 and not usual:
        raise Unreadable(f"has several image columns: {', '.join(candidates[:4])}; call the one wanted IMAGE")
    return (usual or candidates or [None])[0]  # type: ignore[list-item]


def _table(path: Path, hdu: fits.BinTableHDU, image: str) -> ImageSet:
    dtype, rows = hdu.columns.dtype.newbyteorder(">"), int(hdu.header["NAXIS2"])
    if dtype.itemsize != hdu.header["NAXIS1"]:
        raise Unreadable("its columns do not fill its rows")
    offset = hdu.fileinfo()["datLoc"]
    shape = dtype[image].shape
    refuse_claims(path.stat().st_size, rows, dtype.itemsize)
    scaling = {
        column.name: (column.bscale or 1, column.bzero or 0)
        for column in hdu.columns
        if (column.bscale or 1, column.bzero or 0) != (1, 0)
    }
    kinds: dict[str, pa.DataType] = {}
    left_out = []
    for column in hdu.columns:
        name = column.name
        kind = kind_of(dtype[name].base) if dtype[name].shape == () and "P" not in column.format.format else None
        if column.format.format == "L":
            kind = pa.bool_()
        if name == image:
            continue
        if kind is None or "Q" in column.format.format:
            left_out.append(name)
        else:
            kinds[name] = pa.float64() if name in scaling else kind
    columns = Columns(kinds)
    logical = {column.name for column in hdu.columns if column.format.format == "L"}
    bands = bands_of(hdu.header, shape) if len(shape) == 3 else ()
    block = max(1, BLOCK_BYTES // dtype.itemsize)

    def images() -> Iterator[Image | str]:
        with _open(path) as stream:

            def read(start: int, stop: int) -> list[Image | str]:
                stream.seek(offset + start * dtype.itemsize)
                data = stream.read((stop - start) * dtype.itemsize)
                whole = len(data) // dtype.itemsize
                table = np.frombuffer(data, dtype, whole)
                values: dict[str, Any] = {name: _scaled(table[name], scaling.get(name)) for name in columns.used}
                values |= {name: table[name].view("u1") == ord("T") for name in logical & values.keys()}
                pixels = _scaled(table[image], scaling.get(image))
                if len(shape) == 1:
                    pixels = pixels.reshape(whole, round(np.sqrt(shape[0])), -1)
                good = [make_image(pixels[row], bands, columns.of_row(values, row)) for row in range(whole)]
                return good + ["is cut short"] * (stop - start - whole)

            yield from in_blocks(rows, block, read)

    return ImageSet(rows, images, columns.properties, tuple(left_out))


def _scaled(array: np.ndarray, scaling: tuple[float, float] | None) -> np.ndarray:
    """TSCAL and TZERO undone; the usual way to write unsigned 16 bits gives uint16."""
    if scaling is None or array.dtype.kind not in "iuf":
        return array
    scale, zero = scaling
    if scale == 1 and zero == 2**15 and array.dtype.itemsize == 2:
        return (array.astype(np.int32) + 2**15).astype(np.uint16)
    return array * np.float64(scale) + zero


def _cube(path: Path, number: int, hdu: Any) -> ImageSet:
    shape = hdu.shape
    if len(shape) > 4:
        raise Unreadable(f"has {len(shape)} axes; a set of cutouts has 3, or 4 with the bands")
    row_bytes = int(np.prod(shape[1:], dtype=object)) * abs(hdu.header["BITPIX"]) // 8
    refuse_claims(path.stat().st_size, shape[0], row_bytes)
    bands = bands_of(hdu.header, shape[1:]) if len(shape) == 4 else ()

    def images() -> Iterator[Image | str]:
        with fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
            data = hdus[number].section

            def read(start: int, stop: int) -> list[Image | str]:
                return [make_image(plane, bands, {}) for plane in np.asarray(data[start:stop])]

            yield from in_blocks(shape[0], max(1, BLOCK_BYTES // row_bytes), read)

    return ImageSet(shape[0], images)


def _open(path: Path) -> BinaryIO:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]
