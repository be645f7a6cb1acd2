import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score

from zwicky.errors import UserError
from zwicky.metrics import regression as r


def test_mae_and_r2_match_sklearn_by_column():
    random = np.random.default_rng(0)
    truth = random.normal(size=(40, 3))
    predicted = truth + random.normal(0, [0.1, 1, 5], size=(40, 3))
    np.testing.assert_allclose(r.mae(truth, predicted), mean_absolute_error(truth, predicted, multioutput="raw_values"))
    np.testing.assert_allclose(r.r2(truth, predicted), r2_score(truth, predicted, multioutput="raw_values"))
    assert r.r2(truth[:, 0], predicted[:, 0]) == pytest.approx(r2_score(truth[:, 0], predicted[:, 0]))


def test_r2_of_a_constant_target_is_undefined():
    assert np.isnan(r.r2(np.ones(5), np.arange(5.0)))


def test_coverage_of_a_gaussian_interval():
    random = np.random.default_rng(0)
    mean = random.normal(size=20000)
    truth = mean + random.normal(size=20000)
    assert r.coverage(truth, mean - 1, mean + 1) == pytest.approx(0.683, abs=0.01)
    with pytest.raises(UserError, match="swap"):
        r.coverage(truth, mean + 1, mean - 1)


@pytest.mark.parametrize("metric", [r.mae, r.r2])
def test_bad_numbers_are_refused(metric):
    with pytest.raises(UserError, match="NaN"):
        metric(np.array([1.0, np.nan]), np.zeros(2))
    with pytest.raises(UserError, match="match"):
        metric(np.zeros(3), np.zeros(2))
    with pytest.raises(UserError, match="not be empty"):
        metric(np.zeros(0), np.zeros(0))
