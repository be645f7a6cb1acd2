"""Calibration: whether probabilities mean what they say."""

from __future__ import annotations

import numpy as np

from zwicky.errors import UserError
from zwicky.metrics.classification import check_probabilities


def nll(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of −ln p(true class). truth [N] int, probabilities [N, classes]; p is floored at 1e-12 to stay finite."""
    truth, probabilities = check_probabilities(truth, probabilities)
    return float(-np.mean(np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12))))


def brier(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of Σ_c (p_c − [c is true])²; from 0 to 2, twice the one-column definition for two classes (Brier 1950)."""
    truth, probabilities = check_probabilities(truth, probabilities)
    wanted = np.eye(probabilities.shape[1])[truth]
    return float(np.mean(np.sum((probabilities - wanted) ** 2, axis=1)))


def reliability(
    truth: np.ndarray, probabilities: np.ndarray, bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(predicted, observed, counts), each [≤ bins]: mean probability and frequency of an event, in bins of equal mass.

    With two classes the event is "the last class" and its probability. With more it is "the most probable class
    is right" and that class's probability. Equal probabilities share a bin, so there may be fewer bins than asked.
    """
    truth, probabilities = check_probabilities(truth, probabilities)
    if probabilities.shape[1] == 2:
        probability, event = probabilities[:, 1], truth == 1
    else:
        probability, event = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, probability, side="right")
    counts = np.bincount(place, minlength=len(edges) + 1)
    used = counts > 0
    predicted = np.bincount(place, probability, len(edges) + 1)[used] / counts[used]
    observed = np.bincount(place, event, len(edges) + 1)[used] / counts[used]
    return predicted, observed, counts[used]


def ece(truth: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: Σ_bins (count / N)·|observed − predicted| over the bins of `reliability`."""
    predicted, observed, counts = reliability(truth, probabilities, bins)
    return float(np.sum(counts * np.abs(observed - predicted)) / counts.sum())


def prior_shift(probabilities: np.ndarray, from_prior: np.ndarray, to_prior: np.ndarray) -> np.ndarray:
    """Probabilities [N, classes] of a classifier trained at one class prior [classes], moved to another.

    p'_c ∝ p_c · to_c / from_c (Saerens, Latinne & Decaestecker 2002): right where only the class shares differ.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    before, after = np.asarray(from_prior, dtype=np.float64), np.asarray(to_prior, dtype=np.float64)
    for prior in (before, after):
        if prior.shape != probabilities.shape[1:] or not (prior > 0).all():
            raise UserError(
                f"a prior must be {probabilities.shape[1]} positive shares, one a class, not {prior.tolist()}"
            )
    shifted = probabilities * (after / before)
    return shifted / shifted.sum(axis=1, keepdims=True)
