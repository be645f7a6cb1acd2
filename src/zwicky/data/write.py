"""Export a store in formats that other programs read: DeepLense's class folders, FITS files, HDF5."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from zwicky.data.cutouts import Cutouts, batches, is_numeric
from zwicky.data.labels import read_labels
from zwicky.data.store import check_writable, open_store
from zwicky.errors import UserError
from zwicky.io import replacing

Format = Literal["deeplense", "fits", "hdf5"]
NOT_EXPORTED = ("bands_present", "pixel_hash", "psf_fwhm", "noise")  # lists, and what the pixels tell
WRITTEN = ("label", "file", "images")  # columns and arrays that an export adds
BATCH = 1024  # images written to HDF5 at a time


def write_folder(store: Path | str, out: Path | str, format: Format) -> int:
    """Export every object of a store into a folder that appears when it is complete, and return their number.

    deeplense: `CLASS/NAME.npy`, [H, W] for one band, else [bands, H, W], in `unlabelled/` without a label. fits:
    `NAME.fits`, [bands, H, W] with BAND0, BAND1, …, RA, DEC, PIXSCALE and SURVEY. Both have a `catalog.csv` with file,
    id, label, position and properties, which `ingest` reads. hdf5: `cutouts.hdf5` with `images`, their attribute
    `bands`, and a dataset for each column. UserError if `out` exists or cannot be written, or the format is unknown.
    """
    if format not in get_args(Format):
        raise UserError(f"there is no format {format!r} to write; choose one of {', '.join(get_args(Format))}")
    check_writable(out)
    cutouts = open_store(store)
    lists = [name for name, cells in cutouts.table.items() if cells.map(np.ndim).any()]
    table = cutouts.table.drop(columns=[*lists, *NOT_EXPORTED])
    table = table.rename(columns={name: f"catalog_{name}" for name in WRITTEN})  # properties that are called alike
    table.insert(1, "label", [label or "" for label in read_labels(store).of(cutouts.ids)])
    with replacing(out, directory=True) as folder:
        _write_hdf5(cutouts, table, folder) if format == "hdf5" else _write_files(cutouts, table, folder, format)
    return len(cutouts)


def _write_files(cutouts: Cutouts, table: pd.DataFrame, folder: Path, format: Format) -> None:
    """Write a file an object, in class folders or as FITS, and `catalog.csv`."""
    names, suffix = [_safe(name) for name in cutouts.ids], ".fits"
    if format == "deeplense":
        names = [f"{_safe(label or 'unlabelled')}/{name}" for label, name in zip(table["label"], names, strict=True)]
        suffix = ".npy"
    files = [name + suffix for name in unique_names(names)]
    table.assign(file=files)[["file", *table]].to_csv(folder / "catalog.csv", index=False)
    facts = table[["ra", "dec", "pixel_scale", "survey"]].itertuples(index=False, name=None)
    for row, (file, values) in enumerate(zip(files, facts, strict=True)):
        image = cutouts.images[row]
        if format == "fits":
            write_cutout(folder / file, image, cutouts.bands, *values)
        else:
            (folder / file).parent.mkdir(exist_ok=True)
            np.save(folder / file, image[0] if len(image) == 1 else image)


def write_cutout(
    path: Path, image: np.ndarray, bands: Sequence[str], ra: float, dec: float, pixel_scale: float, survey: str
) -> None:
    """Write an image [bands, H, W] as FITS with BAND0, BAND1, …, RA, DEC, PIXSCALE and SURVEY, but those unknown.

    `ra` and `dec` are in degrees, `pixel_scale` in arcsec.
    """
    from astropy.io import fits

    cards: dict[str, Any] = {f"BAND{number}": band for number, band in enumerate(bands)}
    facts = {"RA": ra, "DEC": dec, "PIXSCALE": pixel_scale, "SURVEY": survey}
    cards |= {key: value for key, value in facts.items() if not pd.isna(value)}
    image = image.astype(np.float32) if image.dtype == np.float16 else image  # of which FITS has none
    fits.PrimaryHDU(image, fits.Header(cards)).writeto(path, overwrite=True)


def unique_names(names: Iterable[str]) -> list[str]:
    """Return names of files that differ, also where A and a are one name, by "_" after those that are taken."""
    taken: dict[str, str] = {}
    for name in names:
        while name.lower() in taken:
            name += "_"
        taken[name.lower()] = name
    return list(taken.values())


def _safe(text: str) -> str:
    """A name that every file system takes, without a suffix of its own."""
    name = re.sub(r"[^\w+-]+", "_", text)[:150]
    return name if name.strip("_") else f"_{name}"


def _write_hdf5(cutouts: Cutouts, table: pd.DataFrame, folder: Path) -> None:
    try:
        import h5py
    except ImportError as error:
        raise UserError("HDF5 needs h5py; install it by pip install 'zwicky[hdf5]'") from error
    images = cutouts.images
    chunks = (max(1, min(len(images), 2**20 * len(images) // max(1, images.nbytes))), *images.shape[1:])
    compression = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with h5py.File(folder / "cutouts.hdf5", "w") as file:
        pixels = file.create_dataset("images", images.shape, images.dtype, chunks=chunks, **compression)
        pixels.attrs["bands"] = list(cutouts.bands)
        for rows in batches(len(cutouts), BATCH):
            pixels[rows] = images[rows]
        for name, values in table.items():
            is_exact = values.dtype.kind == "f" or not values.isna().any()  # HDF5 has no null among integers
            if is_numeric(values) and is_exact:
                file[str(name)] = values.to_numpy()
            else:
                text = ["" if pd.isna(value) else str(value) for value in values]
                file.create_dataset(str(name), data=text, dtype=h5py.string_dtype())
