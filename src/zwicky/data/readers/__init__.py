"""Readers: one module a format, each a generator from a path to records of one image each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from zwicky.data.readers.record import ReadOptions, Record, Unreadable

__all__ = ["ReadOptions", "Record", "Unreadable", "format_of", "is_image_name", "read", "read_image"]

_READERS: dict[tuple[str, ...], str] = {
    (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"): "pictures:read_picture",
    (".npy",): "numpy:read_npy",
    (".npz",): "numpy:read_npz",
    (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fits.fz", ".fz"): "fits:read_fits",
    (".hdf5", ".h5", ".hdf"): "hdf5:read_hdf5",
    (".parquet", ".pq"): "parquet:read_parquet",
    ("store.json",): "stores:read_store",
}


def format_of(name: str) -> str:
    """Return the reader of files of this name, "" if there is none."""
    return next((reader for suffixes, reader in _READERS.items() if name.lower().endswith(suffixes)), "")


def is_image_name(name: str) -> bool:
    """Return whether a reader exists for files of this name."""
    return bool(format_of(name))


def read(path: Path, options: ReadOptions | None = None) -> Iterator[Record | Unreadable]:
    """Read the images of one file, large files in pieces.

    Args:
        path: the file; its suffix chooses the reader.
        options: what the user states about the files.

    Yields:
        A record for each image, or the reason why there is none.

    Raises:
        Unreadable: Whatever is wrong with the file as a whole, or from this image on.
    """
    try:
        if path.stat().st_size == 0:
            raise Unreadable("is empty")
        module, _, name = ("numpy:read_folder" if path.is_dir() else format_of(path.name)).partition(":")
        if not module:
            raise Unreadable("is not an image")
        reader: Callable[[Path, ReadOptions], Iterator[Record | Unreadable]]
        reader = getattr(import_module(f"zwicky.data.readers.{module}"), name)
        yield from reader(path, options or ReadOptions())
    except Unreadable:
        raise
    except MemoryError as error:
        raise Unreadable("is larger than the memory") from error
    except Exception as error:  # decoders raise anything on a damaged file; none of it may end an ingest
        message = " ".join(str(error).replace(str(path), "the file").split()) or type(error).__name__
        raise Unreadable(f"cannot be read: {message[:200]}") from error


def read_image(path: Path, options: ReadOptions | None = None) -> Record:
    """Read the one image of a file.

    Raises:
        Unreadable: The file cannot be read or holds several images.
    """
    items = list(read(path, options))
    if len(items) != 1:
        raise Unreadable(f"holds {len(items)} images, not one")
    if isinstance(items[0], Unreadable):
        raise items[0]
    return items[0]
