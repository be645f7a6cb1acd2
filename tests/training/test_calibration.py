import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from zwicky.training.calibration import TEMPERATURES, cross_entropy, fit_temperature


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
    assert best == pytest.approx(grid[np.argmin(losses)], rel=0.01)


def test_temperature_stays_bounded_on_separated_data():
    logits = np.array([[5.0, -5.0], [-5.0, 5.0]])
    assert TEMPERATURES[0] <= fit_temperature(logits, np.array([0, 1])) <= TEMPERATURES[1]
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(TEMPERATURES[1], rel=1e-3)
