"""Images a second that `ingest` reads of each format, on one core: `python benchmarks/ingest_rates.py [--n 2000]`.

Each set holds N images of 3 × 64 × 64 float32 noise (pictures: 8-bit colour) and is read with one thread, from files
that the system has in its memory; hashing, compression and writing the store are part of it. Seconds are those of
the processor (user and system), so that other work on the machine does not count. The faster of two.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from tables import write_csv

from zwicky.data.image_format import IngestConfig
from zwicky.data.ingest import ingest

RESULTS = Path(__file__).parent / "results" / "ingest_rates.csv"


def _pictures(folder: Path, images: np.ndarray) -> None:
    for row, image in enumerate((images * 30 + 100).clip(0, 255).astype(np.uint8)):
        PIL.Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{row}.png")


def _npy(folder: Path, images: np.ndarray) -> None:
    for row, image in enumerate(images):
        np.save(folder / f"{row}.npy", image)


def _axion(folder: Path, images: np.ndarray) -> None:
    for row, image in enumerate(images):
        pair = np.empty(2, object)
        pair[0], pair[1] = image, 1e-23
        np.save(folder / f"{row}.npy", pair, allow_pickle=True)


def _npz(folder: Path, images: np.ndarray) -> None:
    np.savez(folder / "a.npz", images=images, ra=np.arange(len(images)))


def _fits(folder: Path, images: np.ndarray) -> None:
    for row, image in enumerate(images):
        fits.PrimaryHDU(image).writeto(folder / f"{row}.fits")


def _fits_bands(folder: Path, images: np.ndarray) -> None:
    for row, image in enumerate(images):
        for band, plane in zip("gri", image, strict=True):
            fits.PrimaryHDU(plane).writeto(folder / f"{row}_{band}.fits")


def _fits_table(folder: Path, images: np.ndarray) -> None:
    size = images[0].size
    columns = [fits.Column("IMAGE", f"{size}E", dim="(64,64,3)", array=images)]
    columns.append(fits.Column("RA", "D", array=np.arange(len(images))))
    fits.BinTableHDU.from_columns(columns).writeto(folder / "a.fits")


def _hdf5(folder: Path, images: np.ndarray) -> None:
    with h5py.File(folder / "a.hdf5", "w") as file:
        file["images"], file["ra"] = images, np.arange(len(images))


def _hdf5_gzip(folder: Path, images: np.ndarray) -> None:
    with h5py.File(folder / "a.hdf5", "w") as file:
        file.create_dataset("images", data=images, chunks=(16, 3, 64, 64), compression="gzip", compression_opts=1)


def _parquet(folder: Path, images: np.ndarray) -> None:
    flat = pa.array(images.reshape(-1))
    rows = pa.ListArray.from_arrays(np.arange(0, images.size + 1, 64, dtype=np.int32), flat)
    planes = pa.ListArray.from_arrays(np.arange(0, len(rows) + 1, 64, dtype=np.int32), rows)
    places = np.arange(0, len(planes) + 1, 3, dtype=np.int32)
    bands = pa.ListArray.from_arrays(places, pa.array(["g", "r", "i"] * len(images)))
    record = pa.StructArray.from_arrays([bands, pa.ListArray.from_arrays(places, planes)], ["band", "flux"])
    pq.write_table(pa.table({"image": record}), folder / "a.parquet", row_group_size=500)


def _parquet_pictures(folder: Path, images: np.ndarray) -> None:
    cells = []
    for image in (images * 30 + 100).clip(0, 255).astype(np.uint8):
        stream = io.BytesIO()
        PIL.Image.fromarray(image.transpose(1, 2, 0)).save(stream, "PNG")
        cells.append(stream.getvalue())
    pq.write_table(pa.table({"image": cells}), folder / "a.parquet", row_group_size=500)


FORMATS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "PNG": _pictures,
    ".npy": _npy,
    ".npy [image, mass]": _axion,
    ".npz": _npz,
    "FITS cubes": _fits,
    "FITS, one a band": _fits_bands,
    "FITS table": _fits_table,
    "HDF5": _hdf5,
    "HDF5, gzip": _hdf5_gzip,
    "Parquet, lists a band": _parquet,
    "Parquet, PNG": _parquet_pictures,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2000, help="images of each format")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table to write")
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    images = np.random.default_rng(0).normal(size=(given.n, 3, 64, 64)).astype(np.float32)
    rows = []
    for name, write in FORMATS.items():
        with tempfile.TemporaryDirectory() as temporary:
            source, store = Path(temporary) / "in", Path(temporary) / "store"
            source.mkdir()
            write(source, images)
            seconds = []
            for _ in range(2):
                shutil.rmtree(store, ignore_errors=True)
                started = time.process_time()
                report = ingest(source, store, config=IngestConfig(workers=1))
                seconds.append(time.process_time() - started)
                assert report.read == given.n, report.text()
            size = sum(file.stat().st_size for file in source.iterdir())
        rate = given.n / min(seconds)
        rows.append({"format": name, "images_per_s": round(rate), "MB_per_s": round(rate * size / given.n / 1e6, 1)})
        print(f"{name:24} {rate:8.0f} images/s")
    notes = [f"{given.n} images of 3 x 64 x 64 float32 a format, one thread, processor seconds, the faster of two"]
    write_csv(given.out, rows, notes, ["pyarrow", "h5py", "astropy", "pillow"])


if __name__ == "__main__":
    main()
