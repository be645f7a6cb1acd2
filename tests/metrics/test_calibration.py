import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, log_loss

from zwicky.errors import UserError
from zwicky.metrics import calibration as c


def drawn(count=4000, classes=3, seed=0):
    """Logits and classes drawn from their own softmax: calibrated by construction."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, classes))
    uniform = random.random((count, 1))
    return logits, (uniform > np.cumsum(softmax(logits, axis=1), axis=1)).sum(axis=1)


def test_nll_and_brier_match_sklearn():
    logits, truth = drawn(300)
    probabilities = softmax(logits, axis=1)
    assert c.nll(truth, probabilities) == pytest.approx(log_loss(truth, probabilities, labels=range(3)))
    pair = softmax(logits[:, :2], axis=1)
    assert c.brier(truth % 2, pair) == pytest.approx(2 * brier_score_loss(truth % 2, pair[:, 1]))
    assert c.nll(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(-np.log(1e-12))


@pytest.mark.parametrize("classes", [2, 3])
def test_ece_is_small_only_where_calibrated(classes):
    logits, truth = drawn(20000, classes)
    assert c.ece(truth, softmax(logits, axis=1)) < 0.02
    assert c.ece(truth, softmax(4 * logits, axis=1)) > 0.08


def test_reliability_by_hand():
    probability = np.array([0.1, 0.1, 0.2, 0.2, 0.7, 0.7, 0.9, 0.9])
    truth = np.array([0, 0, 0, 1, 1, 0, 1, 1])
    predicted, observed, counts = c.reliability(truth, np.stack([1 - probability, probability], 1), bins=4)
    np.testing.assert_allclose(predicted, [0.1, 0.2, 0.7, 0.9])
    np.testing.assert_allclose(observed, [0, 0.5, 0.5, 1])
    assert counts.tolist() == [2, 2, 2, 2]
    assert c.ece(truth, np.stack([1 - probability, probability], 1), bins=4) == pytest.approx(
        (0.1 + 0.3 + 0.2 + 0.1) / 4
    )


def test_reliability_does_not_depend_on_order_where_scores_tie():
    random = np.random.default_rng(1)
    truth, probability = random.integers(0, 2, 300), random.integers(0, 5, 300) / 5
    probabilities = np.stack([1 - probability, probability], 1)
    order = random.permutation(300)
    assert c.ece(truth[order], probabilities[order]) == pytest.approx(c.ece(truth, probabilities))
    assert c.reliability(truth, np.full((300, 2), 0.5))[2].tolist() == [300]


def test_prior_shift_is_bayes():
    """Two Gaussians of unit width at ±1: the posterior is known at any prior."""
    x = np.linspace(-3, 3, 50)

    def posterior(prior):
        density = np.stack([np.exp(-((x + 1) ** 2) / 2), np.exp(-((x - 1) ** 2) / 2)], 1) * prior
        return density / density.sum(axis=1, keepdims=True)

    half, rare = np.array([0.5, 0.5]), np.array([0.999, 0.001])
    np.testing.assert_allclose(c.prior_shift(posterior(half), half, rare), posterior(rare))
    np.testing.assert_allclose(c.prior_shift(c.prior_shift(posterior(half), half, rare), rare, half), posterior(half))
    with pytest.raises(UserError, match="positive shares"):
        c.prior_shift(posterior(half), half, np.array([1.0, 0.0]))
