"""Temperature scaling: probabilities that mean what they say (arXiv:1706.04599)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

TEMPERATURES = (0.02, 50.0)  # the range searched


def cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean of −ln softmax(logits)[truth] in nats. logits [N, classes], truth [N] int."""
    log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return -float(log_probabilities[np.arange(len(truth)), truth].mean())


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the temperature T that minimises the cross-entropy of softmax(logits / T), between 0.02 and 50.

    The cross-entropy is convex in 1/T, so a bounded search finds its one minimum; for perfectly separated data it
    would be at T = 0.

    Args:
        logits: [N, classes].
        truth: [N] int.
    """
    low, high = np.log(TEMPERATURES)
    best = minimize_scalar(
        lambda log_t: cross_entropy(logits / np.exp(log_t), truth),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-5},
    )
    return float(np.exp(best.x))
