"""What was seen is recognised by id, pixels or position, in the same store and in others."""

from __future__ import annotations

import numpy as np
import pytest

from zwicky.data.cutouts import make_cutouts
from zwicky.errors import UserError
from zwicky.training import provenance


def store(ids, seed, ra=None, dec=None, images=None):
    if images is None:
        images = np.random.default_rng(seed).normal(size=(len(ids), 1, 4, 4)).astype(np.float32)
    columns = {} if ra is None else {"ra": ra, "dec": dec}
    return make_cutouts(images, ("g",), ids=ids, **columns)


def test_found_by_id_by_pixels_and_by_position(tmp_path):
    first = store(["a", "b", "c", "d"], 0, ra=[10.0, 20.0, 359.9999, None], dec=[0.0, 60.0, -5.0, None])
    provenance.write(tmp_path, provenance.record(first, {"pretrain": np.array([0, 1]), "fit": np.array([2])}))
    table = provenance.read(tmp_path)
    assert table.column("use").to_pylist() == ["pretrain", "pretrain", "fit"]
    images = np.random.default_rng(1).normal(size=(6, 1, 4, 4)).astype(np.float32)
    images[1] = first.images[1]
    other = store(
        ["a", "x1", "x2", "x3", "x4", "d"],
        1,
        # x2: 0.9″ from a; x3: 1.2″ from b (a small step in ra at dec 60°); x4: 0.7″ from c, across 0°
        ra=[None, None, 10.0, 20.0 + 2.4 / 3600, 0.0001 - 0.00005, None],
        dec=[None, None, 0.9 / 3600, 60.0, -5.0, None],
        images=images,
    )
    found = provenance.find_leaked(other, np.arange(6), table)
    assert found.tolist() == [True, True, True, False, True, False]
    with pytest.raises(UserError, match="leak: 4 objects for the test") as caught:
        provenance.check_no_leakage(other, np.arange(6), table, "the test")
    assert "\n" not in str(caught.value)
    provenance.check_no_leakage(other, np.array([3, 5]), table, "the test")
    provenance.check_no_leakage(other, np.array([], dtype=int), table, "the test")
    provenance.check_no_leakage(other, np.arange(6), None, "the test")


def test_the_record_carries_on_the_chain():
    first, second = store(["a", "b"], 0), store(["c", "d"], 1)
    before = provenance.record(first, {"pretrain": np.arange(2)})
    table = provenance.record(second, {"fit": np.array([0]), "select": np.array([1])}, before)
    assert table.column("id").to_pylist() == ["a", "b", "c", "d"]
    assert table.column("use").to_pylist() == ["pretrain", "pretrain", "fit", "select"]


def test_unknown_hashes_match_nothing():
    first, second = store(["a"], 0), store(["b"], 1)
    blank = make_cutouts(first.images, ("g",), ids=["a"], pixel_hash=[None])
    other = make_cutouts(second.images, ("g",), ids=["b"], pixel_hash=[None])
    assert not provenance.find_leaked(other, np.arange(1), provenance.record(blank, {"pretrain": np.arange(1)})).any()


def test_no_record_is_none(tmp_path):
    assert provenance.read(tmp_path) is None
