"""Pixels left in their store: the same as in memory, each row group read once, few of them held."""

from __future__ import annotations

import tempfile
import threading
import weakref
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zwicky.data import store as store_module
from zwicky.data.audit import audit
from zwicky.data.contract import make_table
from zwicky.data.parts import Parts
from zwicky.data.store import StoreWriter, open_store
from zwicky.data.stored_images import AHEAD, StoredImages, in_batches
from zwicky.data.tables import Labels
from zwicky.errors import UserError

SHAPE = (2, 3, 4)


@pytest.fixture
def make_store(tmp_path, monkeypatch):
    """make_store(rows, rows a group) → path of a store whose row r holds the numbers from 100 r on."""

    def make(rows=23, group=4, dtype="float32", name="s"):
        monkeypatch.setattr(store_module, "ROW_GROUP_BYTES", group * np.dtype(dtype).itemsize * int(np.prod(SHAPE)))
        monkeypatch.setattr(store_module, "PART_ROW_GROUPS", 2)
        write(tmp_path / name, rows, dtype)
        return tmp_path / name

    return make


def write(path, rows, dtype):
    images = (100 * np.arange(rows)[:, None] + np.arange(int(np.prod(SHAPE)))).reshape(rows, *SHAPE).astype(dtype)
    with StoreWriter(path, ("g", "r"), SHAPE[1:], dtype) as writer:
        writer.append(images, make_table([f"id{row}" for row in range(rows)], {"pixel_scale": [0.2] * rows}))
    return images


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_rows_are_read_as_from_an_array(make_store, dtype):
    path = make_store(dtype=dtype)
    held, stored = open_store(path), open_store(path, memory_gb=0)
    assert isinstance(held.images, np.ndarray)
    assert isinstance(stored.images, StoredImages)
    assert held.table.equals(stored.table)
    assert (stored.size, stored.pixel_scale, len(stored)) == (held.size, held.pixel_scale, len(held))
    a, b = held.images, stored.images
    assert (a.shape, a.dtype, a.ndim, a.nbytes, len(a)) == (b.shape, b.dtype, b.ndim, b.nbytes, len(b))
    mask = np.arange(23) % 3 == 1
    for rows in (0, 22, -1, np.int64(7), slice(3, 11), slice(None), slice(0), slice(None, None, -2), [5, 1, 5], mask):
        assert np.array_equal(a[rows], b[rows])
        assert a[rows].dtype == b[rows].dtype
    with pytest.raises(IndexError):
        b[[23]]


def test_a_selection_is_not_read_until_asked_for(make_store, monkeypatch):
    path = make_store()
    held, stored = open_store(path), open_store(path, memory_gb=0)
    monkeypatch.setattr(Parts, "read", None)  # would fail
    some = stored.take([20, 3, 3, 7]).take([3, 0, 1])
    assert list(some.ids) == ["id7", "id20", "id3"]
    monkeypatch.undo()
    assert np.array_equal(some.images[:], held.images[[7, 20, 3]])


@settings(max_examples=20)
@given(rows=st.integers(1, 40), group=st.integers(1, 9), size=st.integers(1, 15), data=st.data())
def test_any_order_gives_the_pixels_of_that_order(rows, group, size, data):
    chosen = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=50)), dtype=np.int64)
    order = np.array(data.draw(st.lists(st.integers(0, max(len(chosen) - 1, 0)), max_size=80)), dtype=np.int64)
    order = order[: len(order) * bool(len(chosen))]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "ROW_GROUP_BYTES", group * 4 * int(np.prod(SHAPE)))
        images = write(Path(folder) / "s", rows, "float32")
        lazy = open_store(Path(folder) / "s", memory_gb=0).take(chosen).images
        for given_order in (order, None):
            batches = list(in_batches(lazy, size, given_order))
            assert all(len(places) == size for places, _ in batches[:-1])
            assert all(np.array_equal(pixels, images[chosen[places]]) for places, pixels in batches)
            passed = np.concatenate([np.zeros(0, np.int64), *(places for places, _ in batches)])
            if given_order is None:
                assert sorted(passed.tolist()) == list(range(len(chosen)))
                assert (np.diff(chosen[passed]) >= 0).all()
            else:
                assert np.array_equal(passed, order)


def test_each_group_is_read_once_shortly_before_its_first_row_and_let_go_after_its_last(make_store, monkeypatch):
    group, rows = 5, 200
    lazy = open_store(make_store(rows, group), memory_gb=0).images
    order = (np.arange(rows) + 20 * np.random.default_rng(0).random(rows)).argsort()  # rows go back by up to 20 places
    loaded, alive = [], {}
    load = Parts.read

    def spy(store, number, wanted):
        pixels = load(store, number, wanted)
        loaded.append(number)
        weakref.finalize(pixels, alive.pop, loaded[-1])
        alive[loaded[-1]] = True
        return pixels

    monkeypatch.setattr(Parts, "read", spy)
    most = 0
    for number, _ in enumerate(in_batches(lazy, 10, order)):
        done, left = set(order[: 10 * (number + 1)] // group), set(order[10 * (number + 1) :] // group)
        held = set(dict(alive))
        assert held >= done & left  # what was begun and is not finished
        assert not held & (done - left)  # nothing that is finished
        assert max(loaded) <= max(done) + AHEAD
        most = max(most, len(held))
    assert sorted(loaded) == list(range(rows // group))
    assert most <= 20 // group + 2 + AHEAD


def test_of_a_group_only_what_is_needed_is_held(make_store, monkeypatch):
    lazy = open_store(make_store(40, 10), memory_gb=0).images
    sizes = []
    load = Parts.read
    monkeypatch.setattr(Parts, "read", lambda *given: sizes.append(load(*given)) or sizes[-1])
    assert np.array_equal(lazy[[33, 31, 5, 33]][:, 0, 0, 0], [3300, 3100, 500, 3300])
    assert sorted(map(len, sizes)) == [1, 2]
    assert all(pixels.base is None for pixels in sizes)  # no view that keeps the rest


def test_a_damaged_group_is_one_line_and_the_reader_ends(make_store):
    path = make_store(40, 4)
    part = sorted(path.glob("*.parquet"))[3]
    columns = pq.ParquetFile(part).metadata.row_group(0)
    pixels = next(c for c in map(columns.column, range(columns.num_columns)) if c.path_in_schema.startswith("image"))
    content = bytearray(part.read_bytes())
    content[pixels.data_page_offset + 60 : pixels.data_page_offset + 80] = bytes(20)
    part.write_bytes(bytes(content))
    before = threading.active_count()
    passage = in_batches(open_store(path, memory_gb=0).images, 4)
    assert len(next(passage)[1]) == 4
    with pytest.raises(UserError, match="part-00003") as caught:
        list(passage)
    assert "\n" not in str(caught.value)
    assert threading.active_count() == before


def test_a_pass_that_is_given_up_leaves_no_thread(make_store):
    before = threading.active_count()
    passage = in_batches(open_store(make_store(40, 4), memory_gb=0).images, 4)
    next(passage)
    assert threading.active_count() == before + 1
    passage.close()
    assert threading.active_count() == before


def test_what_fits_is_loaded(make_store):
    path = make_store(10)
    exact = 10 * 4 * int(np.prod(SHAPE)) / 1e9
    assert isinstance(open_store(path, memory_gb=exact).images, np.ndarray)
    assert isinstance(open_store(path, memory_gb=exact * 0.99).images, StoredImages)
    for wrong in (-1.0, float("nan")):
        with pytest.raises(UserError, match="memory_gb"):
            open_store(path, memory_gb=wrong)


def test_the_audit_of_a_stored_set_is_that_of_a_loaded_one(make_store):
    path = make_store(60, 7)
    held, stored = open_store(path), open_store(path, memory_gb=0)
    labels = Labels({f"id{row}": "lens" if row % 2 else "non" for row in range(60)})
    assert audit(held, labels) == audit(stored, labels)
