"""The linear probe against scikit-learn's own predictions, and its choice of the penalty."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zwicky.augment.views import Target
from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels
from zwicky.errors import UserError
from zwicky.training.linear_probe import TEMPERATURES, LinearProbe, cross_entropy, fit_logistic, fit_temperature
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


def test_bad_labels_and_features_are_refused():
    bad, labels = np.eye(6), np.arange(6) % 2
    bad[2, 3] = np.nan
    for x, y, message in ((np.eye(6), np.ones(6), "1 class"), (bad, labels, "training features hold NaN")):
        with pytest.raises(UserError, match=message):
            LinearProbe.fit(x, y, classification())
    with pytest.raises(UserError, match="test features hold NaN"):
        LinearProbe.fit(np.eye(6), labels, classification()).predict(bad)


def calibrated_logits(count, classes=3, seed=0):
    """Logits, and classes drawn from their softmax."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, classes))
    return logits, (random.random((count, 1)) > np.cumsum(softmax(logits, axis=1), axis=1)).sum(axis=1)


def test_cross_entropy_is_scikit_learns_log_loss():
    logits, truth = calibrated_logits(300)
    assert cross_entropy(logits, truth) == pytest.approx(log_loss(truth, softmax(logits, axis=1)))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_temperature_is_recovered(temperature):
    logits, truth = calibrated_logits(20000)
    assert fit_temperature(logits * temperature, truth) == pytest.approx(temperature, rel=0.05)
    grid = np.geomspace(0.05, 20, 2000)
    losses = [cross_entropy(logits[:500] * temperature / t, truth[:500]) for t in grid]
    best = fit_temperature(logits[:500] * temperature, truth[:500])
    assert best == pytest.approx(grid[np.argmin(losses)], rel=0.03)  # one more label of each class than these


def test_three_right_labels_prove_no_certainty():
    assert fit_temperature(np.array([[0, 0.3], [0.3, 0], [0.2, 0]]), np.array([1, 0, 0])) > 0.1


def test_temperature_stays_bounded_on_separated_data():
    logits = np.array([[5.0, -5.0], [-5.0, 5.0]])
    assert TEMPERATURES[0] <= fit_temperature(logits, np.array([0, 1])) <= TEMPERATURES[1]
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(TEMPERATURES[1], rel=1e-3)


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
