"""The Parquet store: round trips, what other readers see, and every way it can be broken."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zwicky.data import store as store_module
from zwicky.data.contract import make_table, pixel_hash
from zwicky.data.store import StoreWriter, open_store, read_metadata
from zwicky.data.tables import read_labels
from zwicky.errors import UserError

FIXTURE = Path(__file__).parent / "fixtures" / "schema_version_1"


def write(path: Path, images: np.ndarray, step: int = 3, **columns: list) -> Path:
    count = len(images)
    table = make_table([f"id{row}" for row in range(count)], columns)
    bands = tuple(f"b{band}" for band in range(images.shape[1]))
    with StoreWriter(path, bands, images.shape[2:], images.dtype) as writer:
        for start in range(0, count, step):
            writer.append(images[start : start + step], table.slice(start, step))
    return path


def ramp(count: int = 7, shape: tuple[int, ...] = (2, 4, 5), dtype: str = "uint16") -> np.ndarray:
    return np.arange(count * int(np.prod(shape))).reshape(count, *shape).astype(dtype)


images_of = st.sampled_from(["uint8", "uint16", "float32"]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
    )
)


@settings(max_examples=40, deadline=None)
@given(images=images_of, step=st.integers(1, 4), group_bytes=st.integers(1, 400))
def test_round_trip_keeps_every_bit(images, step, group_bytes):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "ROW_GROUP_BYTES", group_bytes)  # so that rows cross groups and parts
        patch.setattr(store_module, "PART_ROW_GROUPS", 2)
        back = open_store(write(Path(folder) / "s", images, step))
    assert back.images.dtype == images.dtype
    assert back.images.shape == images.shape
    assert back.images.tobytes() == images.tobytes()
    assert list(back.ids) == [f"id{row}" for row in range(len(images))]
    assert back.column("pixel_hash").tolist() == [pixel_hash(image) for image in images]


def test_columns_come_back_with_their_types(tmp_path):
    images = ramp(3)
    path = write(
        tmp_path / "s", images, ra=[1.0, None, 3.0], origin=["x", None, "y"], psf_fwhm=[[0.7, 0.8], None, [1.0, 2.0]]
    )
    back = open_store(path)
    assert back.column("ra")[0] == 1.0
    assert np.isnan(back.column("ra")[1])
    assert back.column("origin").tolist() == ["x", None, "y"]
    assert back.column("psf_fwhm").tolist() == [[0.7, 0.8], None, [1.0, 2.0]]
    assert back.column("bands_present").tolist() == [["b0", "b1"]] * 3


def test_pyarrow_dataset_reads_the_shape_and_skips_the_tables(tmp_path):
    images = ramp(5, dtype="float32")
    path = write(tmp_path / "s", images)
    (path / "_labels.parquet").write_bytes((FIXTURE / "_labels.parquet").read_bytes())
    dataset = pyarrow.dataset.dataset(path, format="parquet")
    kind = dataset.schema.field("image").type
    assert list(kind.shape) == [2, 4, 5]
    table = dataset.to_table()
    np.testing.assert_array_equal(table.column("image").combine_chunks().to_numpy_ndarray(), images)


def test_any_parquet_reader_sees_a_flat_list(tmp_path):
    """What a reader without Arrow's extension types and schema sees: the Parquet list column itself."""
    images = ramp(4, dtype="uint8")
    (part,) = write(tmp_path / "s", images).glob("*.parquet")
    plain = pq.read_table(part, columns=["image"]).column("image").combine_chunks().storage
    assert plain.to_pylist()[2] == images[2].ravel().tolist()
    column = next(c for c in map(pq.ParquetFile(part).schema.column, range(100)) if c.path == "image.list.element")
    assert column.logical_type.type == "INT"


def test_only_parquet_or_underscore_names(tmp_path):
    path = write(tmp_path / "s", ramp())
    assert all(entry.suffix == ".parquet" or entry.name.startswith("_") for entry in path.iterdir())
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]  # nothing hidden left beside it


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_row_groups_hold_8_to_32_megabytes(tmp_path, dtype):
    """But the last; of noisy pixels, which no encoding shrinks much."""
    rng = np.random.default_rng(0)
    pixels = (
        rng.normal(30_000, 5000, (20, 1, 1000, 1000))
        if dtype != "uint8"
        else rng.integers(0, 256, (20, 1, 1000, 1000), np.uint8)
    )
    path = write(tmp_path / "s", pixels.astype(dtype), step=8)
    sizes = [
        file.metadata.row_group(group).total_byte_size / 2**20
        for file in map(pq.ParquetFile, sorted(path.glob("*.parquet")))
        for group in range(file.metadata.num_row_groups)
    ]
    assert len(sizes) > 1
    assert all(8 <= size <= 32 for size in sizes[:-1])


def test_metadata(tmp_path):
    with StoreWriter(tmp_path / "s", ("g",), (4, 5), "float32", truth=("theta_E",)) as writer:
        writer.append(ramp(2, (1, 4, 5), "float32"), make_table(["a", "b"], {"theta_E": [1.0, 2.0]}))
    said = {"schema_version": 1, "bands": ["g"], "size": [4, 5], "dtype": "float32", "truth": ["theta_E"]}
    assert read_metadata(tmp_path / "s") == {**said, "rows": 2}
    assert open_store(tmp_path / "s").truth == ("theta_E",)
    (part,) = (tmp_path / "s").glob("part-*")
    assert json.loads(pq.read_schema(part).metadata[b"zwicky"]) == said


def test_schema_version_1_stays_readable():
    cutouts = open_store(FIXTURE)
    expected = ramp(3, dtype="float32")
    expected[1, 0, 0, 0] = np.nan
    np.testing.assert_array_equal(cutouts.images, expected)
    assert (cutouts.bands, cutouts.truth, cutouts.pixel_scale) == (("g", "r"), ("theta_E",), 0.2)
    assert cutouts.column("origin").tolist() == ["x", None, "y"]
    assert cutouts.column("pixel_hash").tolist() == [pixel_hash(image) for image in expected]
    assert read_labels(FIXTURE).values == {"a": "lens", "b": "nonlens"}


def test_existing_store_is_refused_and_kept(tmp_path):
    path = write(tmp_path / "s", ramp())
    with pytest.raises(UserError, match="exists already"), StoreWriter(path, ("g",), (4, 5), "uint8"):
        pass
    assert len(open_store(path)) == 7
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"), StoreWriter(tmp_path / "file", ("g",), (4, 5), "uint8"):
        pass


def test_an_error_leaves_nothing(tmp_path):
    def interrupted() -> None:
        with StoreWriter(tmp_path / "s", ("b0", "b1"), (4, 5), "uint16") as writer:
            writer.append(ramp(), make_table([str(row) for row in range(7)]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "s").mkdir()  # an empty directory is no obstacle
    assert len(open_store(write(tmp_path / "s", ramp()))) == 7


def test_a_kill_leaves_no_store(tmp_path):
    """A process that is killed while writing, its first part on disk."""
    script = """
import os, signal, sys
import numpy as np
from zwicky.data import store
from zwicky.data.contract import make_table
store.ROW_GROUP_BYTES = 100
with store.StoreWriter(sys.argv[1], ("b0", "b1"), (4, 5), "uint16") as writer:
    writer.append(np.zeros((5, 2, 4, 5), "uint16"), make_table(list("abcde")))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "s")])
    assert done.returncode == -signal.SIGKILL
    assert [entry.name[:3] for entry in tmp_path.iterdir()] == [".s."]
    with pytest.raises(UserError, match="does not exist"):
        open_store(tmp_path / "s")
    assert len(open_store(write(tmp_path / "s", ramp()))) == 7
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_memory_stays_flat_while_writing(tmp_path, monkeypatch):
    """Arrow never holds more than a few row groups, however many are written."""
    monkeypatch.setattr(store_module, "ROW_GROUP_BYTES", 2**20)
    images = np.random.default_rng(0).normal(size=(16, 1, 64, 64)).astype(np.float32)  # a quarter of a group
    before, most = pa.total_allocated_bytes(), 0
    with StoreWriter(tmp_path / "s", ("g",), (64, 64), "float32") as writer:
        for start in range(0, 16 * 100, 16):
            writer.append(images, make_table([str(start + row) for row in range(16)]))
            most = max(most, pa.total_allocated_bytes() - before)
    assert len(open_store(tmp_path / "s")) == 1600
    assert most < 6 * 2**20


@pytest.mark.parametrize(
    ("images", "ids"),
    [
        (ramp(2, (1, 4, 5)), ["a", "b"]),  # bands
        (ramp(2, dtype="uint8"), ["a", "b"]),  # type
        (ramp(2), ["a"]),  # rows
        (ramp(2), ["a", "a"]),  # ids
        (ramp(1), ["known"]),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, images, ids):
    with StoreWriter(tmp_path / "s", ("b0", "b1"), (4, 5), "uint16") as writer:
        writer.append(ramp(1), make_table(["known"]))
        with pytest.raises(ValueError, match=r"store|rows|unique"):
            writer.append(images, make_table(ids))


def rewrite(path: Path, metadata: dict | None) -> None:
    (part,) = path.glob("part-*")
    table = pq.read_table(part)
    pq.write_table(table.replace_schema_metadata(metadata), part)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: shutil.rmtree(path), "does not exist"),
        (lambda path: [part.unlink() for part in path.iterdir()], "no Parquet files"),
        (lambda path: rewrite(path, None), "did not write"),
        (lambda path: rewrite(path, {"zwicky": "{]"}), "nothing readable"),
        (lambda path: rewrite(path, {"zwicky": json.dumps({"schema_version": 2})}), "schema version 2"),
        (lambda path: rewrite(path, {"zwicky": json.dumps({"schema_version": "x"})}), "schema version 'x'"),
        (lambda path: rewrite(path, {"zwicky": json.dumps({"schema_version": 1})}), "lacks bands"),
        (lambda path: next(path.iterdir()).rename(path / "part-00000-of-00002.parquet"), "1 of 2"),
    ],
)
def test_a_broken_store_is_refused_in_one_line(tmp_path, damage, message):
    path = write(tmp_path / "s", ramp())
    damage(path)
    with pytest.raises(UserError, match=message) as raised:
        open_store(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_part_is_refused(tmp_path, share):
    path = write(tmp_path / "s", ramp(50, (1, 20, 20)))
    (part,) = path.iterdir()
    whole = part.read_bytes()
    part.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="damaged or cut short"):
        open_store(path)


def test_flipped_pixels_are_noticed(tmp_path):
    path = write(
        tmp_path / "s", np.random.default_rng(0).integers(0, 60_000, (50, 1, 20, 20)).astype("uint16"), step=50
    )
    (part,) = path.iterdir()
    damaged = bytearray(part.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    part.write_bytes(bytes(damaged))
    with pytest.raises(UserError, match="damaged"):
        open_store(path)


def test_foreign_parquet_is_refused(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="did not write"):
        read_metadata(tmp_path)
