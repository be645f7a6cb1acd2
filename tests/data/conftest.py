"""Files of images in the formats of their names, and the ingest of a folder of them."""

import shutil
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from zwicky.data.cutouts import Cutouts
from zwicky.data.image_format import IngestConfig
from zwicky.data.ingest import IngestReport, ingest
from zwicky.data.labels import Labels, read_labels
from zwicky.data.splits import read_split
from zwicky.data.store import open_store

RNG = np.random.default_rng(0)
SIZE = (8, 9)


def noise(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def plane(value: float = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return (np.arange(size[0] * size[1]).reshape(size) + 1000 * value).astype(np.float32)


def write(path: Path, content, **cards) -> Path:
    """Write an image, or arrays by name (FITS extensions), in the format of the suffix; text and bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".npy":
        np.save(path, content, allow_pickle=True)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **content)
    elif path.suffix in (".h5", ".hdf5"):
        with h5py.File(path, "w") as file:
            for name, values in content.items():
                file[name] = values
    elif path.suffix == ".parquet":
        pq.write_table(pa.table(content), path)
    elif ".fits" in path.name:
        named = content if isinstance(content, dict) else {}
        primary = fits.PrimaryHDU(None if named else content, fits.Header(cards))
        fits.HDUList([primary, *(fits.ImageHDU(array, name=name) for name, array in named.items())]).writeto(path)
    else:
        PIL.Image.fromarray(content).save(path)
    return path


def write_noise(pattern: Path | str, count: int = 1, *shape: int) -> None:
    """Write images of noise, `count` of them where the path has a `{}`."""
    for number in range(count):
        path, image = Path(str(pattern).format(number)), noise(*(shape or (8, 8)))
        write(path, (image * 50 + 120).clip(0, 255).astype(np.uint8) if path.suffix == ".png" else image)


def write_planes(folder: Path, names: str | int) -> None:
    """Write different planes under these names, or as so many img000.npy, img001.npy, …"""
    files = [f"img{n:03d}.npy" for n in range(names)] if isinstance(names, int) else names.split()
    for number, name in enumerate(files):
        write(folder / name, plane(number))


class Ingested(NamedTuple):
    cutouts: Cutouts
    report: IngestReport
    labels: Labels
    splits: dict[str, dict[str, str]]  # name → role by id


def listed(store: Path) -> list[tuple[str, str]]:
    return list(map(tuple, pd.read_csv(store / "set_aside.csv", dtype=str, keep_default_na=False).to_numpy()))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "in"


@pytest.fixture
def read(tmp_path):
    """A function that ingests `tmp_path/in`, or what `source` names, into `tmp_path/s`, and gives back all of it."""
    store = tmp_path / "s"

    def run(catalog: Path | None = None, source: str = "in", **options) -> Ingested:
        shutil.rmtree(store, ignore_errors=True)
        report = ingest(tmp_path / source, store, catalog, IngestConfig(**options))
        assert report.read + len(report.set_aside) == report.found
        assert report.text().count("\n") < 10
        assert listed(store) == list(report.set_aside)
        splits = {name: read_split(store / "splits" / f"{name}.csv").roles for name in report.splits}
        return Ingested(open_store(store), report, read_labels(store), splits)

    return run
