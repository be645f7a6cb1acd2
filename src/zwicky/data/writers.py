"""A store written out again in the forms others read: DeepLense's class folders, FITS files, HDF5."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from zwicky.data.contract import Cutouts
from zwicky.data.row_groups import iterate_store
from zwicky.data.store import check_writable
from zwicky.data.tables import Labels, read_labels
from zwicky.errors import UserError
from zwicky.io import beside, clear, write_csv

Format = Literal["deeplense", "fits", "hdf5"]
_PER_BAND = ("psf_fwhm", "noise")
_KEPT_APART = ("id", "bands_present", "pixel_hash", *_PER_BAND)  # not columns of `catalog.csv`


def write_folder(store: Path | str, out: Path | str, format: Format) -> int:
    """Write every object of `store` into the new folder `out`, row group by row group; returns how many.

    deeplense: `CLASS/NAME.npy`, [H, W] for one band, else [bands, H, W]; without labels, or for objects without one,
    the class is `unlabelled`. fits: `NAME.fits`, an image [bands, H, W] with BAND0, BAND1, …, RA, DEC and PIXSCALE.
    Both have a `catalog.csv` with file, id, label, position and properties, which `ingest` takes up.
    hdf5: one `cutouts.hdf5` with `images`, the attribute `bands`, and a dataset for each column.
    Nothing appears at `out` before all of it is there. Raises UserError if `out` exists or cannot be written.
    """
    writers: dict[str, Callable[[Iterator[Cutouts], Labels, Path], int]] = {
        "deeplense": _write_deeplense,
        "fits": _write_fits,
        "hdf5": _write_hdf5,
    }
    if format not in writers:
        raise UserError(f"there is no format {format!r} to write; choose one of {', '.join(writers)}")
    out = Path(out).absolute()
    check_writable(out)
    groups, labels = iterate_store(store), read_labels(store)
    folder = beside(out)
    try:
        clear(out)
        folder.mkdir(parents=True)
        count = writers[format](groups, labels, folder)
        if out.exists():  # an empty directory
            out.rmdir()
        folder.rename(out)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror or error}; choose a place with room that you may write to"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return count


def _write_deeplense(groups: Iterator[Cutouts], labels: Labels, folder: Path) -> int:
    def save(place: Path, cutouts: Cutouts, row: int) -> None:
        image = cutouts.images[row]
        np.save(place.with_name(place.name + ".npy"), image[0] if len(image) == 1 else image)

    return _write_files(groups, labels, folder, ".npy", save, by_class=True)


def _write_fits(groups: Iterator[Cutouts], labels: Labels, folder: Path) -> int:
    from astropy.io import fits

    def save(place: Path, cutouts: Cutouts, row: int) -> None:
        header = fits.Header({f"BAND{number}": band for number, band in enumerate(cutouts.bands)})
        for key, column in (("RA", "ra"), ("DEC", "dec"), ("PIXSCALE", "pixel_scale"), ("SURVEY", "survey")):
            value = cutouts.table.column(column)[row].as_py()
            if value is not None:
                header[key] = value
        fits.PrimaryHDU(cutouts.images[row], header).writeto(place.with_name(place.name + ".fits"))

    return _write_files(groups, labels, folder, ".fits", save, by_class=False)


def _write_files(
    groups: Iterator[Cutouts],
    labels: Labels,
    folder: Path,
    suffix: str,
    save: Callable[[Path, Cutouts, int], None],
    by_class: bool,
) -> int:
    """One file an object, and the catalogue of them."""
    rows: list[dict[str, Any]] = []
    taken: set[str] = set()
    for cutouts in groups:
        table = cutouts.table.drop_columns([name for name in _KEPT_APART if name in cutouts.table.column_names])
        for row, (identifier, told) in enumerate(zip(cutouts.ids, table.to_pylist(), strict=True)):
            label = labels.values.get(identifier)
            place = _file_name(label or "unlabelled") + "/" if by_class else ""
            name = place + _file_name(identifier)
            while name.lower() in taken:  # some file systems take A and a for one name
                name += "_"
            taken.add(name.lower())
            (folder / name).parent.mkdir(exist_ok=True)
            save(folder / name, cutouts, row)
            rows.append({"file": name + suffix, "id": identifier, "label": label or "", **told})
    write_csv(folder / "catalog.csv", rows, None if rows else ("file", "id", "label"))
    return len(rows)


def _file_name(text: str) -> str:
    """A name that every file system takes, and that ends with no suffix of its own."""
    name = re.sub(r"[^\w+-]+", "_", text)[:150]
    return name if name.strip("_") else f"_{name}"


def _write_hdf5(groups: Iterator[Cutouts], labels: Labels, folder: Path) -> int:
    try:
        import h5py
    except ImportError as error:
        raise UserError("HDF5 needs h5py; install it by pip install 'zwicky[hdf5]'") from error
    count = 0
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(h5py.File(folder / "cutouts.hdf5", "w"))
        for cutouts in groups:
            columns = _columns(cutouts, labels)
            if not count and "images" not in file:
                shape = cutouts.images.shape[1:]
                chunk = max(1, 2**20 // max(1, cutouts.images[:1].nbytes or int(np.prod(shape)) * 4))
                data = file.create_dataset(
                    "images",
                    (0, *shape),
                    cutouts.images.dtype,
                    maxshape=(None, *shape),
                    chunks=(chunk, *shape),
                    compression="gzip",
                    compression_opts=1,
                    shuffle=True,
                )
                data.attrs["bands"] = list(cutouts.bands)
                for name, values in columns.items():
                    kind = h5py.string_dtype() if values.dtype == object else values.dtype
                    file.create_dataset(name, (0,), kind, maxshape=(None,))
            stop = count + len(cutouts)
            pixels: dict[str, Any] = {"images": cutouts.images}
            for name, values in (pixels | columns).items():
                file[name].resize(stop, axis=0)
                file[name][count:stop] = values
            count = stop
    return count


def _columns(cutouts: Cutouts, labels: Labels) -> dict[str, np.ndarray]:
    """Columns as HDF5 can hold them: numbers with NaN for null, text with "" for null."""
    columns: dict[str, np.ndarray] = {"label": np.array([label or "" for label in labels.of(cutouts.ids)], object)}
    for name in cutouts.table.column_names:
        kind = cutouts.table.column(name).type
        if pa.types.is_list(kind) or name == "pixel_hash":
            continue
        if pa.types.is_integer(kind) and not cutouts.table.column(name).null_count:
            columns[name] = cutouts.table.column(name).to_numpy()
        elif pa.types.is_floating(kind) or pa.types.is_integer(kind):
            columns[name] = cutouts.column(name)
        else:
            columns[name] = np.array(["" if v is None else str(v) for v in cutouts.column(name)], object)
    return columns
