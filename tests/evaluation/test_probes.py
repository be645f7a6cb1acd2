import numpy as np
import pytest

from zwicky.errors import UserError
from zwicky.evaluation import probes
from zwicky.evaluation.metrics import classification_scores


def auc(truth, probabilities):
    return classification_scores(truth, probabilities)["auc"]


def blobs(count, classes=2, width=10, shift=1.5, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    features = random.normal(size=(count, width))
    features[:, :classes] += shift * np.eye(classes)[labels]
    return features.astype(np.float32), labels


@pytest.mark.parametrize("probe", [probes.knn_probe, probes.linear_probe])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_probe_finds_what_is_there_and_nothing_else(probe, classes):
    (train_x, train_y), (test_x, test_y) = blobs(200, classes), blobs(400, classes, seed=1)
    found = probe(train_x, train_y, test_x, classes)
    assert found.shape == (400, classes)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert auc(test_y, found) > 0.8
    shuffled = probe(train_x, np.random.default_rng(3).permutation(train_y), test_x, classes)
    assert 0.3 < auc(test_y, shuffled) < 0.7


def test_rows_keep_their_order():
    (train_x, train_y), (test_x, _) = blobs(100), blobs(30, seed=1)
    order = np.random.default_rng(0).permutation(30)
    for probe in (probes.knn_probe, probes.linear_probe):
        straight = probe(train_x, train_y, test_x, 2)
        np.testing.assert_allclose(probe(train_x, train_y, test_x[order], 2), straight[order], atol=1e-6)


def test_noise_is_regularised_away():
    """Pure noise in more dimensions than labels: the chosen C must leave probabilities near one half."""
    random = np.random.default_rng(0)
    found = probes.linear_probe(random.normal(size=(60, 200)), np.arange(60) % 2, random.normal(size=(50, 200)), 2)
    assert np.abs(found - 0.5).max() < 0.1


def test_features_of_any_scale_give_the_same_probabilities():
    (train_x, train_y), (test_x, _) = blobs(100), blobs(30, seed=1)
    scale = np.geomspace(1e-3, 1e3, 10)
    np.testing.assert_allclose(
        probes.linear_probe(train_x * scale + 5, train_y, test_x * scale + 5, 2),
        probes.linear_probe(train_x, train_y, test_x, 2),
        atol=1e-2,
    )


def test_a_class_without_labels_gets_nothing_and_two_objects_a_class_suffice():
    (train_x, _), (test_x, _) = blobs(4), blobs(10, seed=1)
    for labels in ([0, 0, 2, 2], [0, 2, 2, 2]):
        for probe in (probes.knn_probe, probes.linear_probe):
            found = probe(train_x, np.array(labels), test_x, 4)
            assert found.shape == (10, 4)
            assert (found[:, [1, 3]] == 0).all()
            np.testing.assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize("probe", [probes.knn_probe, probes.linear_probe])
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1] * 6, "1 class"),
        ([0, 1, 2, 0, 1, 2], "outside"),
        ([0, 1], "one label each"),
        ([-1, 0, 1, 0, 1, 0], "outside"),
    ],
)
def test_bad_labels_are_refused(probe, labels, words):
    with pytest.raises(UserError, match=words):
        probe(np.eye(6), np.array(labels), np.eye(6), 2)


@pytest.mark.parametrize("probe", [probes.knn_probe, probes.linear_probe])
def test_nan_features_are_refused(probe):
    bad = np.eye(6)
    bad[2, 3] = np.nan
    for train, test in ((bad, np.eye(6)), (np.eye(6), bad)):
        with pytest.raises(UserError, match="NaN"):
            probe(train, np.arange(6) % 2, test, 2)


def test_accuracy_of_the_knn_probe_by_hand():
    train = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    found = probes.knn_probe(train, np.array([0, 0, 1, 1]), np.array([[2.0, 0.0], [0.0, 3.0]]), 2)
    assert found.argmax(1).tolist() == [0, 1]
