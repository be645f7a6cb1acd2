"""Metrics with whole-number weights, many weightings at once: what a bootstrap computes over and over.

Weights are [R, N]: how often each of N objects counts in each of R replicates. Each metric sorts once and
returns [R]. NaN where a replicate does not define it (a class without weight).
"""

from __future__ import annotations

import numpy as np


def weighted_accuracy(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] weighted share of rows whose most probable class is true. truth [N] int, probabilities [N, classes]."""
    correct = (probabilities.argmax(axis=1) == truth).astype(np.float64)
    return _ratio(weights @ correct, weights.sum(axis=1))


def weighted_auc(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] AUC of the last of two classes, or the mean of one against the rest over more than two."""
    if probabilities.shape[1] == 2:
        return _auc(truth == 1, probabilities[:, 1], weights)
    columns = [_auc(truth == index, column, weights) for index, column in enumerate(probabilities.T)]
    return np.mean(columns, axis=0)


def _auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Σ_p w_p (weight of negatives below + ½ weight of negatives tied) / (W₊ W₋)."""
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(score[negatives], kind="stable")]
    below = _cumulative(weights[:, negatives])
    beaten = below[:, np.searchsorted(score[negatives], score[positive], side="left")]
    beaten = beaten + below[:, np.searchsorted(score[negatives], score[positive], side="right")]
    wins = np.einsum("rp,rp->r", weights[:, positive].astype(np.float64), beaten) / 2
    return _ratio(wins, weights[:, positive].sum(axis=1) * below[:, -1])


def weighted_recall(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """[R] recall of the last class strictly above the (k+1)-th highest negative, each counted as often as it weighs."""
    score = probabilities[:, -1]
    positive = truth == probabilities.shape[1] - 1
    found, others = np.flatnonzero(positive), np.flatnonzero(~positive)
    if not len(found) or not len(others):
        return np.full(len(weights), np.nan)
    found = found[np.argsort(-score[found], kind="stable")]
    others = others[np.argsort(-score[others], kind="stable")]
    false_positives = _cumulative(weights[:, others])[:, 1:]
    enough = false_positives > k
    threshold = enough.argmax(axis=1)  # [R] which negative sets the threshold
    above = np.searchsorted(-score[found], -score[others], side="left")  # [negatives] positives strictly above each
    recall = _ratio(
        _cumulative(weights[:, found])[np.arange(len(weights)), above[threshold]], weights[:, found].sum(axis=1)
    )
    return np.where(enough.any(axis=1), recall, np.nan)


def weighted_mae(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] weighted mean absolute error of predicted numbers [N]."""
    return _ratio(weights @ np.abs(predicted - truth), weights.sum(axis=1))


def weighted_r2(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] 1 − Σ w (y − ŷ)² / Σ w (y − ȳ)², where ȳ is the weighted mean; NaN where the true numbers do not vary."""
    scale = np.ptp(truth) or 1.0  # so that what rounding leaves of a spread of 0 can be told from one
    y, missed = (truth - truth.mean()) / scale, (predicted - truth) / scale
    mean = _ratio(weights @ y, weights.sum(axis=1))
    spread = weights @ y**2 - weights.sum(axis=1) * mean**2
    return 1 - _ratio(weights @ missed**2, np.where(spread > 1e-12, spread, 0.0))


def _cumulative(weights: np.ndarray) -> np.ndarray:
    """[R, N + 1] sums of the first 0, 1, … N weights."""
    total = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=total[:, 1:])
    return total


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    numerator = numerator.astype(np.float64)
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)
