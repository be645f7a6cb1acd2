"""Applying a network to new cutouts: every format, every part size, and nothing lost."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from zwicky.data.readers import spans
from zwicky.errors import UserError
from zwicky.survey.parts import SurveyData
from zwicky.survey.predict import predict
from zwicky.training.network import load_network


def test_every_format_gives_the_networks_probabilities(cutouts, survey, make_run, tmp_path, read_csv):
    name, path = survey
    run, out = make_run(), tmp_path / "p.csv"
    listed = name == "hats"  # its properties
    assert predict(run, path, out, tmp_path / "f.npy", quiet=True) == (len(cutouts), listed)
    table, network = read_csv(out), load_network(run)
    if name == "npy":
        assert table["file"].tolist() == [f"stack.npy#{row}" for row in range(len(cutouts))]
    else:
        assert table["id"].str.removesuffix(".fits").tolist() == cutouts.ids.tolist()
        np.testing.assert_allclose(table[["ra", "dec"]], cutouts.table[["ra", "dec"]], rtol=1e-9)
    assert ("file" in table) == (name != "store")
    np.testing.assert_allclose(table[["p_nonlens", "p_lens"]], network.probabilities(cutouts.images), atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), network.features(cutouts.images), atol=1e-5)
    assert (tmp_path / "p_set_aside.csv").exists() == (name == "hats")


def test_without_turns_each_cutout_is_seen_once(cutouts, store, make_run, tmp_path, read_csv):
    run, out = make_run(), tmp_path / "p.csv"
    predict(run, store, out, tmp_path / "f.npy", turns=False, quiet=True)
    network = load_network(run)
    np.testing.assert_allclose(read_csv(out)["p_lens"], network.probabilities(cutouts.images, False)[:, 1], atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), network.features(cutouts.images, False), atol=1e-5)


@pytest.mark.parametrize("size", [1, 20, 44, 1000])
def test_parts_hold_each_cutout_once(cutouts, survey, make_run, size):
    name, path = survey
    data = SurveyData.open(path, load_network(make_run()), size)
    assert [part.number for part in data.parts] == list(range(len(data.parts)))
    parts = [[block.table for block in data.blocks(part)] for part in data.parts]
    found = pd.concat([table for tables in parts for table in tables])
    assert [int(re.findall(r"\d+", key)[-1]) for key in found["id"]] == list(range(len(cutouts)))
    longest = max(sum(map(len, tables)) for tables in parts)
    if name != "npy":  # a file below 64 MB
        assert longest <= size + {"parquet": 7, "hats": 10}.get(name, 0)  # whole row groups
    if name == "hats":
        assert found["healpix"].tolist() == list(range(len(cutouts)))


def write_parquet(cutouts, path, columns):
    """Write some of the cutouts in two bands, with further columns."""
    images = cutouts.images[: len(next(iter(columns.values())))]
    kind = pa.list_(pa.list_(pa.float32()))
    bands = {f"image_{band}": pa.array(images[:, n].tolist(), kind) for n, band in enumerate(cutouts.bands)}
    pq.write_table(pa.table(columns | bands), path)
    return path


def read_survey(path, run):
    data = SurveyData.open(path, load_network(run))
    blocks = [block for part in data.parts for block in data.blocks(part)]
    return pd.concat([block.table for block in blocks], ignore_index=True), [row for b in blocks for row in b.listed]


def test_long_ids_are_exact_beside_missing_ones(cutouts, make_run, tmp_path):
    long = 1234567890123456789
    columns = {"object_id": pa.array([long, None, long + 2]), "ra": [10.0, 20.0, None], "dec": [1.0, 2.0, None]}
    columns["_healpix_29"] = pa.array([long, long + 1, long + 2])
    table, _ = read_survey(write_parquet(cutouts, tmp_path / "s.parquet", columns), make_run())
    assert table["id"].tolist() == [str(long), "s.parquet#1", str(long + 2)]
    assert table["ra"].tolist()[:2] == [10, 20]
    assert table["healpix"].tolist() == columns["_healpix_29"].to_pylist()
    assert table["healpix"].dtype == "Int64"
    assert table[["ra", "dec"]].dtypes.tolist() == [np.float64] * 2


@pytest.mark.parametrize("column", ["source", "objname"])
def test_what_need_not_be_an_id_is_none(column, cutouts, make_run, tmp_path):
    table, _ = read_survey(write_parquet(cutouts, tmp_path / "s.parquet", {column: ["HSC", "HSC"]}), make_run())
    expected = ["HSC", "HSC"] if column == "objname" else ["s.parquet#0", "s.parquet#1"]
    assert table["id"].tolist() == expected


def test_a_pixel_scale_per_band_is_checked(cutouts, make_run, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file["images"] = cutouts.images[:3]
        file["images"].attrs["bands"] = list(cutouts.bands)
        file["image_scale"] = np.repeat([[0.2], [0.3], [0.2]], 2, axis=1)
    table, listed = read_survey(tmp_path / "s.hdf5", make_run())
    assert len(table) == 2
    assert listed == [("s.hdf5#1", 'has 0.3" a pixel, and the network was made for 0.2"')]


def test_what_cannot_be_scored_is_listed(cutouts, make_run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    header = fits.Header({"BAND0": "g", "BAND1": "r"})
    half, band = cutouts.images[:2].copy()
    half[..., :9], band[0] = np.nan, np.nan
    images = {"nan": np.full((2, 16, 16), np.nan), "size": np.ones((2, 12, 12)), "half": half, "band": band}
    for name, image in (images | dict(zip(cutouts.ids[:31], cutouts.images, strict=False))).items():
        fits.PrimaryHDU(image.astype(np.float32), header).writeto(folder / f"{name}.fits")
    (folder / "broken.fits").write_bytes(b"SIMPLE")
    (folder / "notes.txt").write_text("clear night")
    scored, listed = predict(make_run(), folder, tmp_path / "p.csv", quiet=True)
    reasons = pd.read_csv(tmp_path / "p_set_aside.csv").set_index("file")["reason"]
    assert scored + listed == len(list(folder.iterdir()))
    assert scored == 31
    assert len(reasons) == listed
    expected = {"size": "12×12", "half": "56% of its pixels", "band": "lacks the bands g", "nan": "valid"}
    for file, text in expected.items():
        assert text in reasons[f"{file}.fits"]
    assert reasons["notes.txt"] == "not an image"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "does not exist"),
        ("one.txt", "no file of images"),
        ("gray", "does not fit"),
        ("far", '2 of 3 because: has 0.3" a pixel'),
    ],
)
def test_mistakes_are_one_line(data, message, make_run, tmp_path):
    (tmp_path / "one.txt").write_text("x")
    (tmp_path / "gray").mkdir()
    np.save(tmp_path / "gray" / "a.npy", np.ones((20, 20)))
    (tmp_path / "far").mkdir()
    far = fits.PrimaryHDU(np.ones((2, 16, 16)), fits.Header({"BAND0": "g", "BAND1": "r", "PIXSCALE": 0.3}))
    for name in "bc":
        far.writeto(tmp_path / f"far/{name}.fits")
    (tmp_path / "far" / "a.txt").write_text("x")
    with pytest.raises(UserError, match=message):
        predict(make_run(), tmp_path / data, tmp_path / "p.csv", quiet=True)
    assert not (tmp_path / "p.csv").exists()


def test_a_network_without_a_head_gives_features_alone(cutouts, store, make_run, tmp_path, read_csv):
    run = make_run(head="")
    with pytest.raises(UserError, match="finetune"):
        predict(run, store, tmp_path / "p.csv", quiet=True)
    predict(run, store, tmp_path / "p.csv", tmp_path / "f.npy", quiet=True)
    assert read_csv(tmp_path / "p.csv").columns.tolist() == ["id", "ra", "dec"]
    assert np.load(tmp_path / "f.npy").shape == (len(cutouts), 32)


def test_a_damaged_file_is_one_part(tmp_path):
    for name in ("a.parquet", "a.hdf5", "a.npy"):
        (tmp_path / name).write_bytes(b"damaged")
        assert spans(tmp_path / name, 10) == [(0, None)]
