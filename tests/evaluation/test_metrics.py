"""Metrics against scikit-learn, against loops, and weights against copies of objects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from zwicky.augment.views import Target
from zwicky.errors import UserError
from zwicky.evaluation import baselines
from zwicky.evaluation import metrics as m
from zwicky.evaluation.baselines import BASELINES, PROBES
from zwicky.training.task import Task


@st.composite
def weighted_case(draw, classes=2):
    """Truth, probabilities with many ties and weights [4, N]."""
    count = draw(st.integers(3, 25))
    truth = draw(hnp.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    scores = draw(hnp.arrays(np.int64, (count, classes), elements=st.integers(0, 5))).astype(float)
    probabilities = np.stack([5 - scores[:, 0], scores[:, 0]], 1) / 5 if classes == 2 else scores
    return truth, probabilities, draw(hnp.arrays(np.int64, (4, count), elements=st.integers(0, 3))).astype(float)


def literal_tpr(truth, probabilities, k):
    """The best recall of any threshold with at most k false positives."""
    positive, score = truth == probabilities.shape[1] - 1, probabilities[:, -1]
    if positive.all() or not positive.any() or np.sum(~positive) <= k:
        return np.nan
    return max(np.mean(score[positive] >= cut) for cut in [*score, np.inf] if np.sum(score[~positive] >= cut) <= k)


def literal_ece(truth, probabilities):
    """Ten bins of equal numbers of objects, by the probability of the positive class, or of the most probable one."""
    probability, event = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    if probabilities.shape[1] == 2:
        probability, event = probabilities[:, 1], truth == 1
    bins = np.array_split(np.argsort(probability), 10)
    return np.mean([abs(np.mean(event[rows]) - np.mean(probability[rows])) for rows in bins])


@settings(deadline=None, max_examples=50)
@given(weighted_case())
def test_weighted_metrics_equal_those_of_copied_objects(case):
    truth, probabilities, weights = case
    literal = {
        "accuracy": lambda t, p: oracle.accuracy_score(t, p.argmax(1)),
        "auc": lambda t, p: oracle.roc_auc_score(t, p[:, 1]) if len(set(t)) == 2 else np.nan,
        "tpr0": lambda t, p: literal_tpr(t, p, 0),
        "tpr10": lambda t, p: literal_tpr(t, p, 10),
    }
    for name, statistic in m.statistics().items():
        for row, value in zip(weights, statistic(truth, probabilities, weights), strict=True):
            copies = np.repeat(np.arange(len(truth)), row.astype(int))
            expected = literal[name](truth[copies], probabilities[copies]) if len(copies) else np.nan
            assert value == pytest.approx(expected, nan_ok=True), name


@settings(deadline=None, max_examples=50)
@given(weighted_case(), st.sampled_from([1e-23, 1.0, 1e9]))
def test_weighted_regression_metrics_equal_scikit_learn(case, unit):
    _, scores, weights = case
    truth, predicted = unit * (scores + 20)[:, [0]], unit * (scores**2 + 19)[:, [1]]
    statistics = m.statistics(("mass",))
    for row, mae, r2 in zip(weights, *(s(truth, predicted, weights) for s in statistics.values()), strict=True):
        if not row.any():
            assert np.isnan([mae, r2]).all()
            continue
        assert mae == pytest.approx(oracle.mean_absolute_error(truth, predicted, sample_weight=row), rel=1e-9, abs=0)
        if np.ptp(truth[row > 0]) == 0:
            assert np.isnan(r2)
        else:
            expected = oracle.r2_score(truth / unit, predicted / unit, sample_weight=row)
            assert r2 == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(weighted_case())
def test_roc_curve_equals_scikit_learn(case):
    truth, probabilities, weights = case
    fpr = np.linspace(0, 1, 11)
    for row, recall in zip(weights, m.roc_curve(fpr)(truth, probabilities, weights), strict=True):
        if len(set(truth[row > 0])) < 2:
            assert np.isnan(recall).all()
            continue
        x, y, _ = oracle.roc_curve(truth, probabilities[:, 1], sample_weight=row, drop_intermediate=False)
        np.testing.assert_allclose(recall, np.interp(fpr, x, y), atol=1e-9)
        assert recall[0] == pytest.approx(m.weighted_tpr(truth, probabilities, row[None], 0)[0])


@pytest.mark.parametrize("classes", [2, 3])
def test_classification_scores_equal_scikit_learn(classes):
    random = np.random.default_rng(0)
    truth, probabilities = random.integers(0, classes, 200), random.dirichlet(np.ones(classes), 200)
    scores = m.scores(truth, probabilities)
    columns = range(1, 2) if classes == 2 else range(classes)
    aucs = [oracle.roc_auc_score(truth == k, probabilities[:, k]) for k in columns]
    assert scores["accuracy"] == oracle.accuracy_score(truth, probabilities.argmax(1))
    assert scores["auc"] == pytest.approx(np.mean(aucs))
    assert scores["nll"] == pytest.approx(-np.log(probabilities[np.arange(200), truth]).mean())
    assert scores["ece"] == pytest.approx(literal_ece(truth, probabilities))
    assert scores["tpr0"] == literal_tpr(truth, probabilities, 0)
    assert scores["tpr10"] == literal_tpr(truth, probabilities, 10)
    assert tuple(scores) == m.CLASSIFICATION
    probabilities[1] = np.nan
    with pytest.raises(UserError, match="diverged"):
        m.scores(truth, probabilities)


def test_numbers_are_scored_in_each_column_and_by_r2_in_all():
    random = np.random.default_rng(0)
    truth = random.normal(size=(50, 2)) * [1, 10]
    predicted = truth + random.normal(size=(50, 2))
    scores = m.scores(truth, predicted, ("theta_E", "z"))
    assert list(scores) == ["r2", "mae_theta_E", "r2_theta_E", "mae_z", "r2_z"]  # units differ
    assert scores["r2"] == pytest.approx(oracle.r2_score(truth, predicted))
    assert scores["mae_z"] == pytest.approx(np.abs(predicted - truth)[:, 1].mean())


def test_reliability_by_hand_and_with_ties():
    probability = np.array([0.1, 0.1, 0.2, 0.2, 0.7, 0.7, 0.9, 0.9])
    truth = np.array([0, 0, 0, 1, 1, 0, 1, 1])
    probabilities = np.stack([1 - probability, probability], 1)
    predicted, observed, counts = m.reliability(truth, probabilities, n_bins=4)
    np.testing.assert_allclose(predicted, [0.1, 0.2, 0.7, 0.9])
    np.testing.assert_allclose(observed, [0, 0.5, 0.5, 1])
    assert counts.tolist() == [2, 2, 2, 2]
    assert m.ece(truth, probabilities, n_bins=4) == pytest.approx((0.1 + 0.3 + 0.2 + 0.1) / 4)
    order = np.random.default_rng(0).permutation(8)
    assert m.ece(truth[order], probabilities[order]) == pytest.approx(m.ece(truth, probabilities))
    assert m.reliability(truth, np.full((8, 2), 0.5))[2].tolist() == [8]
    few = np.array([0.2, 0.2, 0.2, 0.8])  # bins of three objects and of one
    assert m.ece(np.array([0, 0, 1, 0]), np.stack([1 - few, few], 1)) == pytest.approx((3 * (1 / 3 - 0.2) + 0.8) / 4)


def test_purity_of_known_cases():
    """At prevalence 1e-4 recall .46 at FPR 1e-3 is 4 % purity, .75 at 1e-4 is 43 %; at the sample's, precision."""
    np.testing.assert_allclose(m.purity(np.array([0.46, 0.75]), [1e-3, 1e-4], 1e-4), [0.044, 0.43], atol=2e-3)
    assert np.isnan(m.purity(0.0, 0.0, 1e-4))
    truth, called = np.array([1, 1, 0, 0, 0, 0]), np.array([1, 0, 1, 0, 0, 0])
    assert m.purity(0.5, 0.25, 1 / 3) == pytest.approx(oracle.precision_score(truth, called))
    with pytest.raises(UserError, match="prevalence"):
        m.purity(0.5, 0.1, 1.0)


def task_of(truth, classes=2):
    return Task(truth, tuple(map(str, range(classes))))


def regression(truth):
    return Task(truth, targets=(Target(("flux",)),))


def auc(truth, probabilities):
    return m.scores(truth, probabilities)["auc"]


def clouds(count, classes=2, width=10, shift=1.5, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    features = random.normal(size=(count, width))
    features[:, :classes] += shift * np.eye(classes)[labels]
    return features.astype(np.float32), labels


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_probe_separates_classes_and_does_not_overfit(name, classes):
    (x, y), (query, truth) = clouds(200, classes), clouds(400, classes, seed=1)
    task = task_of(y, classes)
    probabilities = PROBES[name](x, y, query, task)
    assert probabilities.shape == (400, classes)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert auc(truth, probabilities) > 0.8
    assert 0.3 < auc(truth, PROBES[name](x, np.random.default_rng(3).permutation(y), query, task)) < 0.7
    order = np.random.default_rng(0).permutation(400)
    np.testing.assert_allclose(PROBES[name](x, y, query[order], task), probabilities[order], atol=1e-6)


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_predicts_numbers(name):
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 4))
    y = (x[:, :1] / np.linalg.norm(x, axis=1, keepdims=True)) * 1e-23
    predicted = PROBES[name](x[:200], y[:200], x[200:], regression(y))
    assert predicted.shape == (100, 1)
    assert oracle.r2_score(y[200:] * 1e23, predicted * 1e23) > 0.7


def rings(count, bands=3, size=33, seed=0):
    """Noise with a galaxy in the middle; the positives have a ring about it, brighter in the first band."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(x, y)
    images = random.normal(size=(count, bands, size, size)) + 5 * np.exp(-((radius / 3) ** 2))
    images[:, 0] += labels[:, None, None] * 1.5 * np.exp(-(((radius - 9) / 2) ** 2))
    return images.astype(np.float32), labels


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_finds_rings_of_any_pixel_type_and_with_invalid_pixels(name):
    (train, y), (test, truth) = rings(80), rings(60, seed=1)
    task = task_of(y)
    found = BASELINES[name](train, y, test, task, 0)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert auc(truth, found) > 0.9
    np.testing.assert_array_equal(BASELINES[name](train, y, test, task, 0), found)
    assert 0.15 < auc(truth, BASELINES[name](train, np.random.default_rng(2).permutation(y), test, task, 0)) < 0.85
    wild = np.concatenate([test[:5], 50 + 100 * test[5:, :, ::-1]])  # nothing is learned from the images of the test
    np.testing.assert_allclose(BASELINES[name](train, y, wild, task, 0)[:5], found[:5], rtol=1e-5)
    units = np.array([1e-12, 1.0, 1e6], dtype=np.float32)[:, None, None]
    np.testing.assert_allclose(BASELINES[name](train * units, y, test * units, task, 0), found, atol=0.02)
    counts = [np.clip(images * 10 + 50, 0, 255).astype(np.uint8) for images in (train, test)]
    assert auc(truth, BASELINES[name](counts[0], y, counts[1], task, 0)) > 0.85
    random = np.random.default_rng(0)
    for images in (train, test):
        images[random.random(images.shape) < 0.02] = np.nan
        images[:5, 1] = np.nan  # a band that some objects lack
        images[:, 2] = np.nan  # and one that all lack
    assert auc(truth, BASELINES[name](train, y, test, task, 0)) > 0.75


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_predicts_numbers(name):
    images, _ = rings(140)
    flux = np.random.default_rng(0).uniform(0, 2, (140, 1))
    y, x = np.mgrid[:33, :33] - 16
    images[:, 1] += flux[:, :, None] * 3 * np.exp(-((np.hypot(x, y) / 6) ** 2))
    predicted = BASELINES[name](images[:100], flux[:100], images[100:], regression(flux), 0)
    assert predicted.shape == (40, 1)
    assert oracle.r2_score(flux[100:], predicted) > 0.6


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_with_few_labels_or_blank_images(name, monkeypatch):
    (train, _), blank = rings(12), np.zeros((6, 1, 16, 16), dtype=np.uint8)
    half = BASELINES[name](blank, np.arange(6) % 2, blank, task_of(None), 0)
    np.testing.assert_allclose(half, 0.5, atol=1e-6)
    found = BASELINES[name](train, 2 * (np.arange(12) % 2), train, task_of(None, 3), 0)
    assert (found[:, 1] == 0).all()
    monkeypatch.setattr(baselines, "BLOCK", 5 * train[0].size)  # several blocks, the last one short
    blocks = BASELINES[name](train, 2 * (np.arange(12) % 2), train, task_of(None, 3), 0)
    np.testing.assert_allclose(blocks, found, atol=1e-3)
