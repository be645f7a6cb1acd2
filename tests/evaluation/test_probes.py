"""Probes of frozen features and baselines on pixels."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from zwicky.augment.views import Target
from zwicky.evaluation import baselines
from zwicky.evaluation.baselines import BASELINES
from zwicky.evaluation.metrics import classification_scores
from zwicky.evaluation.probes import PROBES
from zwicky.training.task import Task


def task_of(truth, classes=2):
    return Task(truth, tuple(map(str, range(classes))))


def regression(truth):
    return Task(truth, targets=(Target(("flux",)),))


def auc(truth, probabilities):
    return classification_scores(truth, probabilities)["auc"]


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
    assert r2_score(y[200:] * 1e23, predicted * 1e23) > 0.7


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
    assert r2_score(flux[100:], predicted) > 0.6


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
