import numpy as np
import pytest

from zwicky.augment.views import Target
from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels
from zwicky.training.task import Task


@pytest.fixture
def cutouts():
    columns = {"theta_E": [1.0, np.nan, 2.0], "e1": [0.1, 0.2, 0.3], "e2": [0.0, 0.1, 0.2]}
    return make_cutouts(np.zeros((3, 1, 4, 4), np.float32), ["g"], ids=["a", "b", "c"], **columns)


def test_classes_are_indices_and_unlabelled_objects_are_not_known(cutouts):
    task = Task.classification(cutouts, Labels({"a": "lens", "c": "galaxy"}))
    assert not task.is_regression
    assert (task.n_outputs, task.columns) == (2, ())
    assert [task.classes[k] for k in task.truth[[0, 2]]] == ["lens", "galaxy"]
    assert task.known.tolist() == [True, False, True]


def test_numbers_are_columns_of_the_table(cutouts):
    task = Task.regression(cutouts, ["theta_E", "spin2:e1/e2"])
    assert task.is_regression
    assert task.targets == (Target(("theta_E",), "scalar"), Target(("e1", "e2"), "spin2"))
    assert (task.n_outputs, task.columns) == (3, ("theta_E", "e1", "e2"))
    assert task.truth.dtype == np.float32
    assert task.known.tolist() == [True, False, True]
