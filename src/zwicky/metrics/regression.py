"""How close predicted numbers come to true ones. Arrays are [N] or [N, columns]; results are per column."""

from __future__ import annotations

import numpy as np

from zwicky.errors import UserError


def mae(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mean absolute error, in the unit of the target."""
    truth, predicted = check_numbers(truth, predicted)
    return np.mean(np.abs(predicted - truth), axis=0)


def r2(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """1 − Σ(y − ŷ)² / Σ(y − ȳ)²; NaN for a target that does not vary."""
    truth, predicted = check_numbers(truth, predicted)
    spread = np.sum((truth - truth.mean(axis=0)) ** 2, axis=0)
    missed = np.sum((truth - predicted) ** 2, axis=0)
    return 1 - np.divide(missed, spread, out=np.full_like(missed, np.nan), where=spread > 0)


def coverage(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Share of true values inside [low, high]; a calibrated 68 % interval gives .68."""
    truth, low = check_numbers(truth, low)
    _, high = check_numbers(truth, high)
    if (low > high).any():
        raise UserError(f"{(low > high).sum()} intervals end below their start; swap their bounds")
    return np.mean((low <= truth) & (truth <= high), axis=0)


def check_numbers(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in double precision, or UserError: shapes that differ, nothing to measure on, NaN."""
    truth, predicted = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if truth.shape != predicted.shape or not truth.size:
        raise UserError(
            f"true values {list(truth.shape)} and predictions {list(predicted.shape)} must match and not be empty"
        )
    if np.isnan(truth).any() or np.isnan(predicted).any():
        raise UserError(
            "a true or predicted value is NaN; leave out objects without a target, and find out why a prediction is NaN"
        )
    return truth, predicted
