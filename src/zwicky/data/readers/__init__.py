"""One file a format: `read_image` gives the one image of a file, `open_set` opens a file of many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from zwicky.data.readers.record import Image, ImageSet, Unreadable, said

T = TypeVar("T")

__all__ = ["SET_SUFFIXES", "SUFFIXES", "Image", "ImageSet", "Unreadable", "is_image_name", "open_set", "read_image"]

SUFFIXES: dict[str, str] = {
    ".png": "picture",
    ".jpg": "picture",
    ".jpeg": "picture",
    ".tif": "picture",
    ".tiff": "picture",
    ".npy": "npy",
    ".fits": "fits",
    ".fit": "fits",
    ".fts": "fits",
    ".fits.gz": "fits",
    ".fits.fz": "fits",
}
SET_SUFFIXES: dict[str, str] = {
    ".hdf5": "hdf5",
    ".h5": "hdf5",
    ".npz": "npz",
    ".parquet": "parquet",
}


def is_image_name(name: str) -> bool:
    """Whether a reader exists for files of this name."""
    return name.lower().endswith((*SUFFIXES, *SET_SUFFIXES))


def format_of(name: str) -> str:
    """The format that the file name speaks of, "" if none."""
    known = SUFFIXES | SET_SUFFIXES
    return next((known[suffix] for suffix in known if name.lower().endswith(suffix)), "")


def read_image(path: Path) -> Image:
    """Read one file by the reader of its suffix. Whatever is wrong with it becomes `Unreadable`."""
    return _guarded(path, _reader)


def open_set(path: Path) -> ImageSet | None:
    """Open a file of many images, None where the file holds one. Whatever is wrong with it becomes `Unreadable`."""
    return _guarded(path, _opener)


def _guarded(path: Path, choose: Callable[[str], Callable[[Path], T]]) -> T:
    try:
        if path.stat().st_size == 0:
            raise Unreadable("is empty")
        return choose(path.name)(path)
    except Exception as error:  # decoders raise anything on a corrupt file; none of it may end an ingest
        raise Unreadable(said(error, path)) from error


def _reader(name: str) -> Callable[[Path], Image]:
    """The reader of this file name, imported when first used: astropy takes a while."""
    kind = format_of(name)
    if kind == "picture":
        from zwicky.data.readers.images import read_picture

        return read_picture
    if kind == "npy":
        from zwicky.data.readers.npy import read_npy

        return read_npy
    if kind == "fits":
        from zwicky.data.readers.fits import read_fits

        return read_fits
    raise Unreadable("is not an image")


def _opener(name: str) -> Callable[[Path], ImageSet | None]:
    kind = format_of(name)
    if kind == "hdf5":
        from zwicky.data.readers.hdf5 import open_hdf5

        return open_hdf5
    if kind == "npz":
        from zwicky.data.readers.npz import open_npz

        return open_npz
    if kind == "parquet":
        from zwicky.data.readers.parquet import open_parquet

        return open_parquet
    if kind == "fits":
        from zwicky.data.readers.fits_sets import may_hold_many, open_fits_set

        return lambda path: open_fits_set(path) if may_hold_many(path) else None
    return lambda path: None
