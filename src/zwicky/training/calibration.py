"""Temperature scaling: calibrated probabilities (arXiv:1706.04599)."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

TEMPERATURES = (0.02, 50.0)  # the range searched


def cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean of −ln softmax(logits)[truth] in nats. logits [N, classes], truth [N] int."""
    log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return -float(log_probabilities[np.arange(len(truth)), truth].mean())


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the T in TEMPERATURES that minimises the cross-entropy of softmax(logits / T), which is convex in 1/T."""

    def loss(log_t: float) -> float:
        return cross_entropy(logits / np.exp(log_t), truth)

    best = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-5})
    return float(np.exp(best.x))
