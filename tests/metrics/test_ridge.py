"""Weights and bias against scikit-learn's own predictions, and the choice of the penalty against what is known."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zwicky.metrics import ridge
from zwicky.metrics.ridge import linear_regressor


def made(count=200, seed=0):
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 8)) * np.geomspace(0.01, 100, 8) + 3
    return features, np.stack([features[:, 7] / 100, features[:, 0] * 100], 1) + random.normal(0, 0.3, (count, 2))


def test_the_predictions_are_those_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(ridge, "STRENGTHS", np.array([30.0]))
    x, y = made()
    weight, bias = linear_regressor(x, y, seed=0)
    oracle = make_pipeline(StandardScaler(), Ridge(30.0)).fit(x, y)
    np.testing.assert_allclose(x @ weight.T + bias, oracle.predict(x), atol=1e-9)


def test_what_can_be_learnt_is_and_noise_is_not():
    x, y = made(300)
    y[:, 1] = np.random.default_rng(1).normal(size=300)
    weight, bias = linear_regressor(x[:200], y[:200], seed=0)
    found = x[200:] @ weight.T + bias
    assert r2_score(y[200:, 0], found[:, 0]) > 0.85
    assert r2_score(y[200:, 1], found[:, 1]) > -0.1


def test_rows_of_one_object_are_in_one_fold():
    """Rows that differ by nothing tell nothing new: without groups a fold would know its own answers."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 60)), random.normal(size=(40, 1))  # nothing to learn
    objects = np.tile(np.arange(40), 8)
    known = x @ linear_regressor(x[objects], y[objects], 0)[0].T
    grouped = x @ linear_regressor(x[objects], y[objects], 0, groups=objects)[0].T
    assert known.std() > 0.8 * y.std()
    assert grouped.std() < 0.2 * y.std()


def test_one_object_gives_its_value():
    weight, bias = linear_regressor(np.ones((3, 4)), np.full((3, 1), 2.5), 0, groups=np.zeros(3))
    assert not weight.any()
    assert bias == 2.5
