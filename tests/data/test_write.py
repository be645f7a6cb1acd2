"""What is written out of a store comes back by `ingest` with every pixel, id, label and column."""

import h5py
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from zwicky.data.columns import as_text
from zwicky.data.cutouts import make_table
from zwicky.data.ingest import ingest
from zwicky.data.labels import Labels, read_labels
from zwicky.data.store import open_store, write_store
from zwicky.data.write import unique_names, write_folder
from zwicky.errors import UserError

IDS = ["lens/a.png", "lens_a.png", "LENS_a.png", "12", "J1000+02", "ü", "///"]


@pytest.fixture(params=[("float32", 2), ("uint8", 1), ("uint16", 3)])
def store(request, tmp_path):
    dtype, bands = request.param
    images = np.random.default_rng(0).integers(0, 200, (len(IDS), bands, 7, 8)).astype(dtype)
    if dtype == "float32":
        images[2, 1] = np.nan
    columns = {"ra": [1.5, None, *range(1, 6)], "dec": [-1.5, None, *range(5)], "mass": np.arange(7) / 10}
    columns |= {"survey": ["x"] * 7, "note": ["a", None, "b,c", "d", "e", "f", "g"], "pixel_scale": [0.2] * 7}
    labels = Labels(dict(zip(IDS[:5], ["lens", "lens", "non", "non", "lens"], strict=True)), "me")
    write_store(images, make_table(IDS, columns), tmp_path / "store", bands="gri"[:bands], labels=labels)
    return tmp_path / "store"


@pytest.mark.parametrize("form", ["deeplense", "fits", "hdf5"])
def test_round_trip(tmp_path, store, form):
    assert write_folder(store, tmp_path / "out", form) == len(IDS)
    report = ingest(tmp_path / "out", tmp_path / "back")
    assert (report.read, report.set_aside) == (len(IDS), ())
    before, after = open_store(store), open_store(tmp_path / "back")
    after = after.take(after.rows_of(before.ids))
    np.testing.assert_array_equal(after.images[:], before.images[:])
    assert after.images.dtype == before.images.dtype
    assert read_labels(tmp_path / "back").values == read_labels(store).values
    for name in ("ra", "dec", "mass"):
        np.testing.assert_allclose(after.column(name), before.column(name), rtol=1e-12)
    assert after.column("note").tolist() == before.column("note").tolist()
    if form != "deeplense":
        assert after.bands == before.bands
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_the_forms_are_what_others_read(tmp_path, store):
    cutouts = open_store(store)
    write_folder(store, tmp_path / "d", "deeplense")
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"lens", "non", "unlabelled", "catalog.csv"}
    first = np.load(tmp_path / "d" / "lens" / "lens_a_png.npy", allow_pickle=False)
    np.testing.assert_array_equal(first, cutouts.images[0] if len(cutouts.bands) > 1 else cutouts.images[0, 0])
    write_folder(store, tmp_path / "f", "fits")
    with fits.open(tmp_path / "f" / "J1000+02.fits") as hdus:
        np.testing.assert_array_equal(hdus[0].data, cutouts.images[4])
        assert [hdus[0].header["BAND0"], hdus[0].header["RA"], hdus[0].header["PIXSCALE"]] == ["g", 3, 0.2]
    write_folder(store, tmp_path / "h", "hdf5")
    with h5py.File(tmp_path / "h" / "cutouts.hdf5") as file:
        np.testing.assert_array_equal(file["images"][:], cutouts.images)
        assert list(file["images"].attrs["bands"]) == list(cutouts.bands)


@pytest.mark.parametrize("form", ["deeplense", "fits", "hdf5"])
def test_properties_named_as_what_is_written_half_floats_and_long_numbers_beside_null(tmp_path, form):
    """A table may hold a `label` or `file` of its own; FITS has no float16, and HDF5 no null among integers."""
    images, ids = np.arange(96, dtype=np.float16).reshape(3, 2, 4, 4), ["a", "b", "c"]
    own = {"label": ["x", "y", "x"], "file": ["1", "2", "3"], "images": [7, 8, 9]}
    table = make_table(ids, own | {"gaia": pd.array([2**60 + 1, None, 2**60 + 3], "Int64")})
    write_store(images, table, tmp_path / "s", bands=("g", "r"), labels=Labels({"a": "lens", "b": "non"}))
    write_folder(tmp_path / "s", tmp_path / "out", form)
    assert ingest(tmp_path / "out", tmp_path / "back").classes == {"non": 1, "lens": 1}
    back = open_store(tmp_path / "back")
    back = back.take(back.rows_of(ids))
    np.testing.assert_array_equal(back.images[:], images)
    assert back.column("catalog_label").tolist() == own["label"]
    assert back.numbers(["catalog_file", "catalog_images"]).tolist() == [[1, 7], [2, 8], [3, 9]]
    assert as_text(back.table["gaia"]).tolist() == [str(2**60 + 1), "", str(2**60 + 3)]


def test_names_of_files_differ():
    assert unique_names(["a_b", "a_b", "a_b_1", "A_B", "a_b_"]) == ["a_b", "a_b_", "a_b_1", "A_B__", "a_b___"]


def test_mistakes_are_one_line(tmp_path, store):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    mistakes = [("full", "fits", "not empty"), ("new", "png", "no format"), ("full/x/y", "fits", "cannot write")]
    for out, form, message in mistakes:
        with pytest.raises(UserError, match=message):
            write_folder(store, tmp_path / out, form)
    with pytest.raises(UserError, match="does not exist"):
        write_folder(tmp_path / "none", tmp_path / "new", "fits")
    assert not (tmp_path / "new").exists()
