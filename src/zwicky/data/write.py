"""Export a store in formats that other programs read: DeepLense's class folders, FITS files, HDF5."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from zwicky.data.cutouts import Cutouts, batches, is_numeric
from zwicky.data.labels import Labels, read_labels
from zwicky.data.store import check_writable, open_store
from zwicky.errors import UserError

Format = Literal["deeplense", "fits", "hdf5"]
NOT_EXPORTED = ("bands_present", "pixel_hash", "psf_fwhm", "noise")  # lists, and what the pixels tell
BATCH = 1024  # images written to HDF5 at a time


def write_folder(store: Path | str, out: Path | str, format: Format) -> int:
    """Export every object of a store into a new folder.

    Args:
        store: the store to read.
        out: the folder to write; it appears only when it is complete.
        format: "deeplense": `CLASS/NAME.npy`, [H, W] for one band, else [bands, H, W], in `unlabelled/` without a
            label; "fits": `NAME.fits`, [bands, H, W] with BAND0, BAND1, …, RA, DEC, PIXSCALE and SURVEY. Both have a
            `catalog.csv` with file, id, label, position and properties, which `ingest` reads. "hdf5": `cutouts.hdf5`
            with `images`, their attribute `bands`, and a dataset for each column.

    Returns:
        The number of objects.

    Raises:
        UserError: `out` exists or cannot be written, or the format is unknown.
    """
    writers: dict[str, Callable[[Cutouts, Labels, Path], None]] = {
        "deeplense": _write_deeplense,
        "fits": _write_fits,
        "hdf5": _write_hdf5,
    }
    if format not in writers:
        raise UserError(f"there is no format {format!r} to write; choose one of {', '.join(writers)}")
    out = Path(out).absolute()
    check_writable(out)
    cutouts, labels = open_store(store), read_labels(store)
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        writers[format](cutouts, labels, folder)
        if out.exists():  # an empty directory
            out.rmdir()
        folder.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; check permissions and free space") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return len(cutouts)


def _write_deeplense(cutouts: Cutouts, labels: Labels, folder: Path) -> None:
    classes = [label or "unlabelled" for label in labels.of(cutouts.ids)]
    files = _file_names(cutouts, ".npy", [f"{_safe(name)}/" for name in classes])
    for row, file in enumerate(files):
        image = cutouts.images[row]
        (folder / file).parent.mkdir(exist_ok=True)
        np.save(folder / file, image[0] if len(image) == 1 else image)
    _write_catalog(cutouts, labels, files, folder)


def _write_fits(cutouts: Cutouts, labels: Labels, folder: Path) -> None:
    from astropy.io import fits

    files = _file_names(cutouts, ".fits", [""] * len(cutouts))
    keywords = {"RA": "ra", "DEC": "dec", "PIXSCALE": "pixel_scale", "SURVEY": "survey"}
    bands = {f"BAND{number}": band for number, band in enumerate(cutouts.bands)}
    for row, file in enumerate(files):
        values = {key: cutouts.table[name].iat[row] for key, name in keywords.items()}
        cards = {key: value for key, value in values.items() if not pd.isna(value)}
        fits.PrimaryHDU(cutouts.images[row], fits.Header(bands | cards)).writeto(folder / file)
    _write_catalog(cutouts, labels, files, folder)


def _file_names(cutouts: Cutouts, suffix: str, folders: list[str]) -> list[str]:
    """Unique file names, also where A and a are one name."""
    names: list[str] = []
    taken: set[str] = set()
    for folder, identifier in zip(folders, cutouts.ids, strict=True):
        name = folder + _safe(identifier)
        while name.lower() in taken:
            name += "_"
        taken.add(name.lower())
        names.append(name + suffix)
    return names


def _safe(text: str) -> str:
    """A name that every file system takes, without a suffix of its own."""
    name = re.sub(r"[^\w+-]+", "_", text)[:150]
    return name if name.strip("_") else f"_{name}"


def _exported(cutouts: Cutouts, labels: Labels) -> pd.DataFrame:
    """The table with labels, without the columns that hold lists."""
    table = cutouts.table.drop(columns=list(NOT_EXPORTED))
    lists = [name for name in table if table[name].map(lambda value: isinstance(value, list | np.ndarray)).any()]
    table = table.drop(columns=lists)
    table.insert(1, "label", [label or "" for label in labels.of(cutouts.ids)])
    return table


def _write_catalog(cutouts: Cutouts, labels: Labels, files: list[str], folder: Path) -> None:
    table = _exported(cutouts, labels)
    table.insert(0, "file", files)
    table.to_csv(folder / "catalog.csv", index=False)


def _write_hdf5(cutouts: Cutouts, labels: Labels, folder: Path) -> None:
    try:
        import h5py
    except ImportError as error:
        raise UserError("HDF5 needs h5py; install it by pip install 'zwicky[hdf5]'") from error
    images = cutouts.images
    image_bytes = int(np.prod(images.shape[1:])) * images.dtype.itemsize
    chunks = (max(1, min(len(cutouts), 2**20 // image_bytes)), *images.shape[1:])
    compression = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with h5py.File(folder / "cutouts.hdf5", "w") as file:
        pixels = file.create_dataset("images", images.shape, images.dtype, chunks=chunks, **compression)
        pixels.attrs["bands"] = list(cutouts.bands)
        for rows in batches(len(cutouts), BATCH):
            pixels[rows] = images[rows]
        for name, values in _exported(cutouts, labels).items():
            if is_numeric(values):
                file[str(name)] = values.to_numpy()
            else:
                text = ["" if pd.isna(value) else str(value) for value in values]
                file.create_dataset(str(name), data=text, dtype=h5py.string_dtype())
