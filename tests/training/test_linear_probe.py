"""The linear probe against scikit-learn's own predictions, and its choice of the penalty."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zwicky.augment.views import Target
from zwicky.errors import UserError
from zwicky.training.linear_probe import LinearProbe, fit_logistic
from zwicky.training.task import Task


def classification(n_classes=2):
    return Task(np.empty(0, np.int64), tuple("abcd"[:n_classes]))


def regression(columns=2):
    return Task(np.empty((0, columns), np.float32), targets=tuple(Target((name,)) for name in "xyz"[:columns]))


def class_features(n_classes, count=200, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, n_classes, count)
    features = random.normal(size=(count, 8))
    features[:, :n_classes] += 1.5 * np.eye(n_classes)[labels]
    return features * np.geomspace(0.01, 100, 8) + 3, labels


def regression_features(count=200, seed=0):
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 8)) * np.geomspace(0.01, 100, 8) + 3
    return features, np.stack([features[:, 7] / 100, features[:, 0] * 100], 1) + random.normal(0, 0.3, (count, 2))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_equal_those_of_scikit_learn(n_classes):
    x, y = class_features(n_classes)
    probe = LinearProbe.fit(x, y, classification(n_classes))
    model = LogisticRegression(C=probe.models[0].C, tol=1e-3, max_iter=300)
    expected = make_pipeline(StandardScaler(), model).fit(x, y).predict_proba(x)
    weight, bias = probe.to_linear()
    np.testing.assert_allclose(probe.predict(x), expected, atol=1e-9)
    np.testing.assert_allclose(softmax(x @ weight.T + bias, axis=1), expected, atol=1e-6)


def test_numbers_equal_those_of_scikit_learn():
    x, y = regression_features()
    probe = LinearProbe.fit(x, y, regression())
    models = [make_pipeline(StandardScaler(), Ridge(model.alpha)).fit(x, y) for model in probe.models]
    expected = np.stack([model.predict(x)[:, column] for column, model in enumerate(models)], 1)
    weight, bias = probe.to_linear()
    for predicted in (probe.predict(x), x @ weight.T + bias):
        np.testing.assert_allclose(predicted, expected, atol=1e-9)


def test_noise_is_regularised_away():
    """Pure noise in more dimensions than labels: probabilities near one half, and a constant value."""
    random = np.random.default_rng(0)
    x, query = random.normal(size=(60, 200)), random.normal(size=(50, 200))
    assert np.abs(LinearProbe.fit(x, np.arange(60) % 2, classification()).predict(query) - 0.5).max() < 0.1
    x, y = regression_features(300)
    y[:, 1] = random.normal(size=300)
    predicted = LinearProbe.fit(x[:200], y[:200], regression()).predict(x[200:])
    assert r2_score(y[200:, 0], predicted[:, 0]) > 0.85
    assert r2_score(y[200:, 1], predicted[:, 1]) > -0.1


def test_rows_of_one_group_stay_in_one_fold():
    """Eight copies of a row add no information: without groups a fold would contain its own answers."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 30)), random.integers(0, 2, 40)  # nothing to learn
    objects = np.tile(np.arange(40), 8)
    alone, leaked = fit_logistic(x, y, 0)[1], fit_logistic(x[objects], y[objects], 0)[1]
    grouped = fit_logistic(x[objects], y[objects], 0, groups=objects)[1]
    assert leaked < 0.2
    assert min(alone, grouped) > 0.65
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 60)), random.normal(size=(40, 1))
    leaked, grouped = (
        LinearProbe.fit(x[objects], y[objects], regression(1), groups=groups).predict(x) for groups in (None, objects)
    )
    assert leaked.std() > 0.8 * y.std()
    assert grouped.std() < 0.2 * y.std()


def test_a_class_without_a_label_is_unlikely():
    x, y = class_features(2)
    probe = LinearProbe.fit(x, y * 2, classification(3))
    weight, bias = probe.to_linear()
    probabilities = softmax(x @ weight.T + bias, axis=1)
    assert probabilities[:, 1].max() < 0.02
    assert (probabilities[:, 2] > 0.5).mean() == pytest.approx(0.5, abs=0.1)
    assert (probe.predict(x)[:, 1] == 0).all()
    for labels in ([0, 0, 2, 2], [0, 2, 2, 2]):  # too few for five folds, or for any
        few = LinearProbe.fit(x[:4], np.array(labels), classification(4)).predict(x)
        assert (few[:, [1, 3]] == 0).all()
        np.testing.assert_allclose(few.sum(1), 1)


def test_one_object_is_predicted_as_its_value():
    probe = LinearProbe.fit(np.ones((3, 4)), np.full((3, 1), 2.5), regression(1), groups=np.zeros(3))
    weight, bias = probe.to_linear()
    assert not weight.any()
    assert bias == 2.5


def test_bad_labels_and_features_are_refused():
    bad, labels = np.eye(6), np.arange(6) % 2
    bad[2, 3] = np.nan
    for x, y, message in (
        (np.eye(6), [1] * 6, "1 class"),
        (np.eye(6), [0, 1, 2, 0, 1, 2], "outside"),
        (np.eye(6), [-1, 0, 1, 0, 1, 0], "outside"),
        (np.eye(6), [0, 1], "give one"),
        (bad, labels, "training features hold NaN"),
    ):
        with pytest.raises(UserError, match=message):
            LinearProbe.fit(x, np.array(y), classification())
    with pytest.raises(UserError, match="test features hold NaN"):
        LinearProbe.fit(np.eye(6), labels, classification()).predict(bad)
