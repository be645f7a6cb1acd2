"""The store: round trips, what NumPy and pandas see, lazy rows, and what users get wrong."""

import io
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zwicky.data import store as store_module
from zwicky.data.cutouts import Cutouts, make_cutouts, make_table, pixel_hash
from zwicky.data.labels import Labels, read_labels, write_labels
from zwicky.data.store import StoreWriter, open_store, read_rows, write_store
from zwicky.errors import UserError

DTYPES = ["uint8", "uint16", "float16", "float32"]


def ramp(count: int = 7, shape: tuple[int, ...] = (2, 4, 5), dtype: str = "uint16") -> np.ndarray:
    return np.arange(count * int(np.prod(shape))).reshape(count, *shape).astype(dtype)


def write(path: Path, images: np.ndarray, step: int = 3, **columns: list) -> Path:
    count = len(images)
    table = make_table([f"id{row}" for row in range(count)], columns)
    bands = tuple(f"b{band}" for band in range(images.shape[1]))
    with StoreWriter(path, bands, images.shape[2:], images.dtype) as writer:
        for start in range(0, count, step):
            writer.append(images[start : start + step], table.iloc[start : start + step])
    return path


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_BYTES", 3 * 2 * 4 * 5 * 2)  # three images of `ramp` a shard


shapes = st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
images_of = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, shapes))


@settings(max_examples=40)
@given(images=images_of, step=st.integers(1, 4), shard_bytes=st.integers(1, 400))
def test_round_trip_keeps_every_bit(images, step, shard_bytes):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "SHARD_BYTES", shard_bytes)  # so that batches cross shards
        back = open_store(write(Path(folder) / "s", images, step))
        assert (back.images.dtype, back.images.shape) == (images.dtype, images.shape)
        assert back.images[:].tobytes() == images.tobytes()
    assert list(back.ids) == [f"id{row}" for row in range(len(images))]
    assert back.column("pixel_hash").tolist() == [pixel_hash(image) for image in images]


def test_some_rows_and_columns_of_the_table(tmp_path):
    path = write(tmp_path / "s", ramp(7), ra=list(range(7)))
    objects = path / "objects.parquet"
    for size in (7, 3, 1):  # rows of a group of Parquet
        pq.write_table(pq.read_table(objects), objects, row_group_size=size)
        for first, last in ((2, 5), (0, 7), (3, 6), (5, 6), (4, 4)):
            expected = {"id": [f"id{row}" for row in range(first, last)], "ra": list(range(first, last))}
            assert read_rows(path, first, last, ["id", "ra"]).to_dict("list") == expected
    empty = read_rows(write(tmp_path / "empty", ramp(0)), 0, 0, ["id", "ra"])
    assert (len(empty), list(empty), empty["ra"].dtype) == (0, ["id", "ra"], np.float64)


def test_columns_come_back_with_their_types(tmp_path):
    columns = {"origin": [None, "x", 'y,\n"z"'], "psf_fwhm": [[0.7, 0.8], None, [1.0, 2.0]]}
    columns |= {"simulated": [True, None, False]}
    # step 1, so that a column is null in one piece and text in the next
    back = open_store(write(tmp_path / "s", ramp(3), step=1, ra=[1.0, None, 3.0], n_images=[4, 2, 3], **columns))
    for name, values in (columns | {"bands_present": [["b0", "b1"]] * 3}).items():
        assert back.column(name).tolist() == values
    np.testing.assert_array_equal(back.column("ra"), [1.0, np.nan, 3.0])
    assert back.numbers(["ra", "n_images"])[2].tolist() == [3.0, 3.0]
    with pytest.raises(UserError, match="no numbers"):
        back.numbers(["origin"])
    table = pd.DataFrame({"id": range(4), "z": [-99.0, 0.5, -99.0, 0.7]})
    images = np.ma.masked_less(ramp(4).astype(">f8"), 3)
    write_store(images, table, tmp_path / "t", bands=("b0", "b1"))  # as astropy gives them
    other = open_store(tmp_path / "t")
    np.testing.assert_array_equal(other.images[:], images.filled(np.nan).astype(np.float32))
    with pytest.warns(UserWarning, match="2 × -99 in 'z' taken as unknown"):
        np.testing.assert_array_equal(other.numbers(["z"])[:, 0], [np.nan, 0.5, np.nan, 0.7])
    with pytest.raises(UserError, match="no column 'mass'"):
        back.column("mass")


def test_numpy_and_pandas_open_it_without_zwicky(tmp_path, small_shards):
    images = ramp(7)
    path = tmp_path / "lenses"
    table = pd.DataFrame({"id": [f"id{row}" for row in range(7)], "theta_E": np.arange(7.0)})
    labels = Labels({"id1": "lens", "id2": "no, none"}, "me", "2026-01-01")
    write_store(images, table, path, bands=["g", "r"], truth=["theta_E"], labels=labels, metadata={"release": 1})
    shards = sorted(path.glob("images-*.npy"))
    assert [shard.name for shard in shards] == [f"images-0000{k}.npy" for k in range(3)]
    np.testing.assert_array_equal(np.concatenate([np.load(shard, mmap_mode="r") for shard in shards]), images)
    assert pd.read_parquet(path / "objects.parquet")["theta_E"].tolist() == list(range(7))
    rows = [["id1", "lens", "me", "2026-01-01"], ["id2", "no, none", "me", "2026-01-01"]]
    assert pd.read_csv(path / "labels.csv")[["id", "label", "source", "time"]].to_numpy().tolist() == rows
    description = json.loads((path / "store.json").read_text())
    assert (description["bands"], description["size"], description["objects"]) == (["g", "r"], [4, 5], 7)
    assert {entry.name for entry in tmp_path.iterdir()} == {"lenses"}  # nothing hidden beside it
    back = open_store(path)
    assert (back.bands, back.truth, back.metadata) == (("g", "r"), ("theta_E",), {"release": 1})
    assert read_labels(path) == labels


def test_labels_may_have_any_name(tmp_path):
    values = {"a,b": "NA", 'q"': "nan", "line\nbreak": "1", "ü": "None", "x": " lens"}
    write_labels(tmp_path, Labels(values, "source", "now"))
    assert read_labels(tmp_path) == Labels(values, "source", "now")
    assert read_labels(tmp_path / "none") == Labels({})
    (tmp_path / "labels.csv").write_text("name,label\n1,lens\n")
    with pytest.raises(UserError, match="lacks the column 'id'"):
        read_labels(tmp_path)
    (tmp_path / "labels.csv").write_text("id,label\n1,lens\n2,\n1,lens\n")
    assert read_labels(tmp_path).values == {"1": "lens"}
    (tmp_path / "labels.csv").write_text("id,label\n1,lens\n1,non\n")
    with pytest.raises(UserError, match="two rows for '1' that differ"):
        read_labels(tmp_path)


@pytest.mark.parametrize("images", [5.0, np.zeros(16), [np.zeros((4, 4)), np.zeros((5, 5))], ["a.fits"]])
def test_what_is_no_stack_of_images_is_named(images):
    with pytest.raises(UserError, match="the images are"):
        make_cutouts(images, ("g",))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_read_as_from_an_array(tmp_path, small_shards, dtype):
    images = ramp(23, dtype=dtype)
    lazy = open_store(write(tmp_path / "s", images)).images
    for name in ("shape", "dtype", "ndim", "nbytes"):
        assert getattr(lazy, name) == getattr(images, name)
    mask = np.arange(23) % 3 == 1
    for rows in (0, 22, -1, np.int64(7), slice(3, 11), slice(None), slice(0), slice(None, None, -2), [5, 1, 5], mask):
        part = lazy[rows]
        assert type(part) is np.ndarray
        np.testing.assert_array_equal(part, images[rows])
        part[...] = 0  # an array of its own
    np.testing.assert_array_equal(lazy, images)
    np.testing.assert_array_equal(lazy[mask, 1, :2], images[mask, 1, :2])
    np.testing.assert_array_equal(lazy[5, 0], images[5, 0])
    with pytest.raises(IndexError):
        lazy[[23]]


def test_take_reads_nothing_until_indexed(tmp_path, small_shards, monkeypatch):
    images = ramp(23)
    cutouts = open_store(write(tmp_path / "s", images))
    monkeypatch.setattr(store_module.ShardedImages, "_load", None)  # would fail
    part = cutouts.take([20, 3, 3, 7]).take([3, 0, 1])
    assert list(part.ids) == ["id7", "id20", "id3"]
    assert list(part.table.index) == [0, 1, 2]
    monkeypatch.undo()
    np.testing.assert_array_equal(part.images, images[[7, 20, 3]])


@pytest.mark.parametrize("rows", [[False, True] * 2, np.arange(4) % 2 == 1, slice(1, None, 2), (1, 3), [-3, -1]])
def test_take_of_a_mask_a_slice_and_numbers(tmp_path, rows):
    for cutouts in (make_cutouts(ramp(4), "gr", ids=list("abcd")), open_store(write(tmp_path / "s", ramp(4)))):
        part = cutouts.take(rows)
        assert part.ids.tolist() == cutouts.ids[[1, 3]].tolist()
        np.testing.assert_array_equal(part.images, ramp(4)[[1, 3]])
    assert len(cutouts.take([])) == len(cutouts.take(np.array([]))) == 0
    with pytest.raises(IndexError):
        cutouts.take([True, False])


def test_rows_of_ids_and_one_pixel_scale_or_none():
    cutouts = make_cutouts(ramp(4), "gr", ids=list("abcd"))
    assert cutouts.rows_of(["c", "a"]).tolist() == [2, 0]
    with pytest.raises(UserError, match=r"1 ids are not in the store .*'x'"):
        cutouts.rows_of(["c", "x"])
    for scales, expected in (([0.2] * 3, 0.2), ([0.2, 0.2, 0.3], None), ([0.2, None, 0.2], None), ([None] * 3, None)):
        assert make_cutouts(ramp(3), "gr", pixel_scale=scales).pixel_scale == expected


def test_equal_values_have_equal_hashes():
    image = ramp(1, dtype="uint8")[0]
    assert len({pixel_hash(image.astype(dtype)) for dtype in DTYPES}) == 1
    nan = np.full((1, 2, 2), np.nan, np.float32)
    other = nan.copy()
    other.view(np.uint32)[...] |= 1  # other bits of NaN
    assert pixel_hash(nan) == pixel_hash(other)
    assert pixel_hash(image) != pixel_hash(image.reshape(2, 5, 4))
    assert pixel_hash(np.zeros((1, 2, 2))) == pixel_hash(-np.zeros((1, 2, 2)))


@pytest.mark.parametrize(
    ("images", "ids"),
    [
        (ramp(2, (1, 4, 5)), ["a", "b"]),  # bands
        (ramp(2, dtype="uint8"), ["a", "b"]),  # pixel type
        (ramp(2), ["a"]),  # rows
        (ramp(2), ["a", "a"]),  # ids
        (ramp(1), ["there"]),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, images, ids):
    with StoreWriter(tmp_path / "s", ("b0", "b1"), (4, 5), "uint16") as writer:
        writer.append(ramp(1), make_table(["there"]))
        with pytest.raises(ValueError, match=r"store|rows|unique"):
            writer.append(images, make_table(ids))
    with pytest.raises(ValueError, match="lacks the columns"):
        Cutouts(ramp(1), pd.DataFrame({"id": ["a"]}), ("g", "r"))


def test_existing_data_are_kept(tmp_path):
    path = write(tmp_path / "s", ramp())
    (tmp_path / "file").write_text("x")
    for name, message in (("s", "exists already"), ("file", "is a file"), ("file/s", "cannot write")):
        with pytest.raises(UserError, match=message), StoreWriter(tmp_path / name, ("g",), (4, 5), "uint8"):
            pass
    assert len(open_store(path)) == 7


def test_an_error_leaves_nothing_and_a_kill_no_store(tmp_path):
    with pytest.raises(ValueError, match="unique"), StoreWriter(tmp_path / "s", ("b",), (4, 5), "uint16") as writer:
        writer.append(ramp(2, (1, 4, 5)), make_table(["a", "a"]))
    assert list(tmp_path.iterdir()) == []
    script = (
        "import os, signal, sys, numpy as np; from zwicky.data.store import *; from zwicky.data.cutouts import *\n"
        "with StoreWriter(sys.argv[1], ('b0', 'b1'), (4, 5), 'uint16') as writer:\n"
        "    writer.append(np.zeros((5, 2, 4, 5), 'uint16'), make_table(list('abcde')))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "s")], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="does not exist"):
        open_store(tmp_path / "s")
    assert len(open_store(write(tmp_path / "s", ramp()))) == 7
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def _without(content: bytes, column: str) -> bytes:
    stream = io.BytesIO()
    pd.read_parquet(io.BytesIO(content)).drop(columns=column).to_parquet(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("store.json", None, "is no store"),
        ("store.json", lambda content: b"{]", "cannot read"),
        ("store.json", lambda content: content.replace(b'version": 1', b'version": 9'), "schema version 9"),
        ("store.json", lambda content: content.replace(b'"truth"', b'"truths"'), "incomplete .*'truth'"),
        ("objects.parquet", None, "incomplete"),
        ("objects.parquet", lambda content: _without(content, "survey"), "incomplete .*survey"),
        ("images-00001.npy", lambda content: b"", "incomplete"),
        ("images-00001.npy", None, "incomplete"),
        ("images-00002.npy", lambda content: content[:-9], "incomplete"),
    ],
)
def test_an_incomplete_copy_is_refused_in_one_line(tmp_path, small_shards, name, change, message):
    file = write(tmp_path / "s", ramp()) / name
    file.write_bytes(change(file.read_bytes())) if change else file.unlink()
    with pytest.raises(UserError, match=message):
        open_store(tmp_path / "s")
