"""A small network, and the same cutouts in every format that can be scored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from astropy.io import fits

from zwicky.data.cutouts import make_cutouts
from zwicky.data.store import write_store
from zwicky.training.network import save_network

BANDS, COUNT, SIDE = ("g", "r"), 45, 16


@pytest.fixture(scope="session")
def cutouts():
    rng = np.random.default_rng(0)
    images = rng.normal(1, 1, (COUNT, 2, SIDE, SIDE)).astype(np.float32)
    positions = {"ra": rng.uniform(0, 360, COUNT), "dec": rng.uniform(-60, 60, COUNT)}
    return make_cutouts(images, BANDS, [f"obj{n:03d}" for n in range(COUNT)], pixel_scale=[0.2] * COUNT, **positions)


@pytest.fixture
def make_run(cutouts, small_network, tmp_path_factory):
    """make_run(seed, head) → directory of a network whose head has other random weights for each seed."""

    def make(seed=0, head="classes"):
        network, folder = small_network(cutouts.images, head, depth=1), tmp_path_factory.mktemp("run")
        torch.manual_seed(seed)
        if head:
            torch.nn.init.normal_(next(network.head.parameters()))
        save_network(folder, network)
        return folder

    return make


def _rows(cutouts):
    return cutouts.table[["id", "ra", "dec"]].assign(pixel_scale=0.2)


def _write_store(cutouts, folder):
    write_store(cutouts.images, cutouts.table, folder / "store", bands=BANDS)
    return folder / "store"


def _write_fits(cutouts, folder):
    for row, image in enumerate(cutouts.images):
        facts = cutouts.table.iloc[row]
        cards = {"BAND0": "g", "BAND1": "r", "RA": facts.ra, "DEC": facts.dec, "PIXSCALE": 0.2}
        fits.PrimaryHDU(image, fits.Header(cards)).writeto(folder / f"{facts.id}.fits")
    return folder


def _write_npy(cutouts, folder):
    np.save(folder / "stack.npy", cutouts.images)
    return folder


def _write_hdf5(cutouts, folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "survey.hdf5", "w") as file:
        file["images"] = cutouts.images
        file["images"].attrs["bands"] = list(BANDS)
        for name, values in _rows(cutouts).items():
            file[name] = values.to_numpy(object if name == "id" else float)
    return folder / "survey.hdf5"


def _parquet(cutouts):
    columns = {name: pa.array(values) for name, values in _rows(cutouts).items()}
    for number, band in enumerate(BANDS):
        columns[f"image_{band}"] = pa.array(cutouts.images[:, number].tolist(), pa.list_(pa.list_(pa.float32())))
    return pa.table(columns)


def _write_parquet(cutouts, folder):
    pq.write_table(_parquet(cutouts), folder / "survey.parquet", row_group_size=7)
    return folder / "survey.parquet"


def _write_hats(cutouts, folder):
    table = _parquet(cutouts).append_column("_healpix_29", pa.array(np.arange(COUNT, dtype=np.int64)))
    for pixel, rows in enumerate(np.array_split(np.arange(COUNT), 2)):
        path = folder / "dataset" / "Norder=1" / "Dir=0" / f"Npix={pixel}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.take(rows), path, row_group_size=10)
    (folder / "hats.properties").write_text("hats_col_ra = ra\nhats_col_dec = dec\n")
    return folder


FORMATS = {
    "store": _write_store,
    "fits": _write_fits,
    "npy": _write_npy,
    "hdf5": _write_hdf5,
    "parquet": _write_parquet,
    "hats": _write_hats,
}


@pytest.fixture(params=FORMATS)
def survey(request, cutouts, tmp_path):
    """(name of the format, path of the cutouts in it)."""
    folder = tmp_path / "survey"
    folder.mkdir()
    return request.param, FORMATS[request.param](cutouts, folder)


@pytest.fixture
def write_survey():
    """write_survey(name of the format, cutouts, folder) → path of the cutouts in it."""
    return lambda name, cutouts, folder: FORMATS[name](cutouts, folder)


@pytest.fixture
def store(cutouts, tmp_path):
    return _write_store(cutouts, tmp_path)


@pytest.fixture(scope="session")
def read_csv():
    return lambda path: pd.read_csv(path, dtype={"id": str}, keep_default_na=False, na_values=[""])
