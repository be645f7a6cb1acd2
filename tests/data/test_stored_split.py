"""The split a store keeps."""

import numpy as np
import pytest

from zwicky.data.contract import make_cutouts
from zwicky.data.stored_split import stored_split
from zwicky.data.tables import Labels
from zwicky.errors import UserError


def cutouts(count=40):
    images = np.random.default_rng(0).normal(size=(count, 1, 4, 4)).astype(np.float32)
    theta = np.where(np.arange(count) < 30, np.linspace(0.5, 3, count), np.nan)
    return make_cutouts(images, ("g",), theta_E=theta)


def test_drawn_once_and_read_back(tmp_path):
    data = cutouts()
    labels = Labels({identifier: "lens" if row % 2 else "nonlens" for row, identifier in enumerate(data.ids)})
    first = stored_split(tmp_path, "holdout", data, labels)
    assert (tmp_path / "_splits" / "holdout.parquet").exists()
    assert stored_split(tmp_path, "holdout", data, Labels({})).roles == first.roles
    with pytest.raises(UserError, match="no split 'mine'"):
        stored_split(tmp_path, "mine", data, labels)


def test_without_labels_nothing_is_written(tmp_path):
    split = stored_split(tmp_path, "holdout", cutouts(), Labels({}))
    assert set(split.roles.values()) == {"unlabelled"}
    assert not list(tmp_path.iterdir())


def test_columns_to_regress_stand_in_for_labels(tmp_path):
    data = cutouts()
    split = stored_split(tmp_path, "holdout", data, Labels({}), ["theta_E"])
    measured = set(data.ids[:30])
    assert set(split.ids("train", "validation", "test")) == measured
    assert len(split.ids("test")) == 6
    assert set(split.ids("unlabelled")) == set(data.ids) - measured
