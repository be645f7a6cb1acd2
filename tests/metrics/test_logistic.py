"""Weights and bias against scikit-learn's own probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zwicky.metrics.logistic import fit_logistic, fold_count, linear_classifier


def made(classes, count=200, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    features = random.normal(size=(count, 8))
    features[:, :classes] += 1.5 * np.eye(classes)[labels]
    return features * np.geomspace(0.01, 100, 8) + 3, labels


def softmax(logits):
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_logits_are_those_of_scikit_learn(classes, monkeypatch):
    monkeypatch.setattr("zwicky.metrics.logistic.STRENGTHS", np.array([0.1]))
    x, y = made(classes)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-3, max_iter=300)).fit(x, y)
    weight, bias = linear_classifier(x, y, classes, seed=0)
    assert weight.shape == (classes, 8)
    np.testing.assert_allclose(softmax(x @ weight.T + bias), oracle.predict_proba(x), atol=1e-6)


def test_rows_of_one_object_are_in_one_fold():
    """Eight rows that differ by nothing tell nothing new: without groups a fold would know its own answers."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 30)), random.integers(0, 2, 40)  # nothing to learn
    objects = np.tile(np.arange(40), 8)
    alone, known = fit_logistic(x, y, 0)[1], fit_logistic(x[objects], y[objects], 0)[1]
    grouped = fit_logistic(x[objects], y[objects], 0, groups=objects)[1]
    assert known < 0.2
    assert min(alone, grouped) > 0.65


def test_a_class_without_a_label_is_unlikely():
    x, y = made(2)
    weight, bias = linear_classifier(x, y * 2, 3, seed=0)
    found = softmax(x @ weight.T + bias)
    assert found[:, 1].max() < 0.02
    assert (found[:, 2] > 0.5).mean() == pytest.approx(0.5, abs=0.1)


def test_folds_follow_the_rarest_class():
    assert fold_count(np.repeat([0, 1], [50, 3])) == 3
    assert fold_count(np.repeat([0, 1], [50, 30])) == 5
