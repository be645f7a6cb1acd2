"""One file a format; each reader is a function path → `Image` that raises `Unreadable` with a short reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zwicky.cutouts.readers.record import Image, Unreadable

__all__ = ["SUFFIXES", "Image", "Unreadable", "is_image_name", "read_image"]

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


def is_image_name(name: str) -> bool:
    """Whether a reader exists for files of this name."""
    return name.lower().endswith(tuple(SUFFIXES))


def read_image(path: Path) -> Image:
    """Read one file by the reader of its suffix. Whatever is wrong with it becomes `Unreadable`."""
    try:
        if path.stat().st_size == 0:
            raise Unreadable("is empty")
        return _reader(path.name)(path)
    except Unreadable:
        raise
    except MemoryError as error:
        raise Unreadable("is larger than the memory") from error
    except Exception as error:  # decoders raise anything on a corrupt file; none of it may end an ingest
        reason = " ".join(str(error).replace(str(path), "the file").split()) or type(error).__name__
        raise Unreadable(f"cannot be read: {reason[:200]}") from error


def _reader(name: str) -> Callable[[Path], Image]:
    """The reader of this file name, imported when first used: astropy takes a while."""
    kind = next((SUFFIXES[suffix] for suffix in SUFFIXES if name.lower().endswith(suffix)), None)
    if kind == "picture":
        from zwicky.cutouts.readers.images import read_picture

        return read_picture
    if kind == "npy":
        from zwicky.cutouts.readers.npy import read_npy

        return read_npy
    if kind == "fits":
        from zwicky.cutouts.readers.fits import read_fits

        return read_fits
    raise Unreadable("is not an image")
