"""How well a ranking or a decision separates classes. Truth is [N] int; the positive class is 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from zwicky.errors import UserError


def accuracy(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of rows whose most probable class is the true one. truth [N] int, probabilities [N, classes].

    A tie goes to the lower class, so an undecided lens score of one half counts as "no lens".
    """
    truth, probabilities = check_probabilities(truth, probabilities)
    return float(np.mean(probabilities.argmax(axis=1) == truth))


def auc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties counting one half.

    scores [N]: of the positive class; truth holds 0 and 1. scores [N, 2]: the last column is used.
    scores [N, classes > 2]: the mean over classes of one against the rest.
    Mann & Whitney (1947): AUC = (R₊ − P(P+1)/2) / (P·Q), R₊ the rank sum of the P positives among Q negatives.
    """
    scores = np.asarray(scores)
    if scores.ndim == 2:
        truth, scores = check_probabilities(truth, scores)
        if scores.shape[1] > 2:
            return float(np.mean([auc(truth == index, column) for index, column in enumerate(scores.T)]))
        scores = scores[:, 1]
    truth, scores = check_binary(truth, scores)
    positives = int(truth.sum())
    negatives = len(truth) - positives
    rank_sum = rankdata(scores)[truth].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def roc(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(fpr, tpr, thresholds): an object is called positive where score ≥ threshold. From (0, 0) at +∞ to (1, 1)."""
    truth, score = check_binary(truth, score)
    thresholds, true_positives, false_positives = _counts(truth, score)
    return false_positives / false_positives[-1], true_positives / true_positives[-1], thresholds


def recall_at_false_positives(truth: np.ndarray, score: np.ndarray, k: int) -> float:
    """Recall with at most `k` false positives: TPR0 for k = 0, TPR10 for k = 10.

    Found is what scores strictly above the (k+1)-th highest negative, so a positive tied with it is missed.
    NaN where there are k negatives or fewer, since nothing then sets the threshold.
    """
    truth, score = check_binary(truth, score)
    negatives = np.sort(score[~truth])[::-1]
    if len(negatives) <= k:
        return float("nan")
    return float(np.mean(score[truth] > negatives[k]))


def recall_at_fpr(truth: np.ndarray, score: np.ndarray, fpr: float) -> float:
    """Recall at a false-positive rate of at most `fpr`; where fpr·negatives < 1, the recall at no false positive."""
    if not 0 <= fpr < 1:
        raise UserError(f"a false-positive rate of {fpr} makes no sense; give one in 0 ≤ rate < 1")
    truth, score = check_binary(truth, score)
    allowed = int(np.floor(fpr * np.sum(~truth) + 1e-9))  # 1e-9: 0.001 · 3000 is 3, whatever rounding says
    return recall_at_false_positives(truth, score, allowed)


@dataclass(frozen=True)
class PurityCurve:
    """Purity and completeness at each threshold [T], highest first, in a survey of another prevalence.

    false_positives [T] out of `negatives` say what the purity rests on: with none of them a purity of 1 only
    means that the false-positive rate is below about 3 / negatives (95 %).
    """

    purity: np.ndarray
    completeness: np.ndarray
    thresholds: np.ndarray
    false_positives: np.ndarray
    negatives: int


def purity_completeness(truth: np.ndarray, score: np.ndarray, prevalence: float) -> PurityCurve:
    """The purity–completeness curve reweighted to a survey where a share `prevalence` of objects is positive."""
    truth, score = check_binary(truth, score)
    thresholds, true_positives, false_positives = (values[1:] for values in _counts(truth, score))
    completeness = true_positives / true_positives[-1]
    purity = expected_purity(completeness, false_positives / false_positives[-1], prevalence)
    return PurityCurve(np.asarray(purity), completeness, thresholds, false_positives, int(false_positives[-1]))


def expected_purity(recall: np.ndarray | float, fpr: np.ndarray | float, prevalence: float) -> np.ndarray | float:
    """π·TPR / (π·TPR + (1 − π)·FPR) at prevalence π; NaN where nothing is called positive."""
    if not 0 < prevalence < 1:
        raise UserError(f"a prevalence of {prevalence} makes no sense; give one between 0 and 1, such as 1e-4")
    true_share = prevalence * np.asarray(recall, dtype=np.float64)
    called = true_share + (1 - prevalence) * np.asarray(fpr, dtype=np.float64)
    purity = np.divide(true_share, called, out=np.full(called.shape, np.nan), where=called > 0)
    return purity if purity.ndim else float(purity)


def found_per_inspected(truth: np.ndarray, score: np.ndarray, inspected: np.ndarray) -> np.ndarray:
    """Expected number of positives among the `inspected` [M] highest-scored objects, tied objects in random order."""
    truth, score = check_binary(truth, score)
    _, true_positives, false_positives = _counts(truth, score)
    # Within a run of ties the expected number found grows linearly, which is what interpolation does.
    return np.interp(np.asarray(inspected, dtype=np.float64), true_positives + false_positives, true_positives)


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """[classes, classes] int: how many of true class (row) were called which class (column)."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if len(truth) != len(predicted):
        raise UserError(f"{len(truth)} true classes but {len(predicted)} predicted ones; give one of each an object")
    both = np.concatenate([truth, predicted])
    if len(both) and (both.min() < 0 or both.max() >= classes):
        raise UserError(
            f"classes must lie in 0 … {classes - 1}, found {both.min()} … {both.max()}; pass the number of classes"
        )
    pairs = truth.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def check_binary(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(truth [N] bool, score [N] float64), or UserError: lengths, NaN, other labels than 0 and 1, one class."""
    truth, score = np.asarray(truth), np.asarray(score, dtype=np.float64)
    if truth.ndim != 1 or score.shape != truth.shape:
        raise UserError(
            f"truth {list(truth.shape)} and scores {list(score.shape)} must both be [N]; give one of each an object"
        )
    if np.isnan(score).any():
        raise UserError(f"{np.isnan(score).sum()} of {len(score)} scores are NaN; find out why before measuring")
    if not np.isin(truth, (0, 1)).all():
        raise UserError(
            "truth must be 0 (negative) or 1 (positive) here; compare the class of interest with the rest first"
        )
    truth = truth.astype(bool)
    if truth.all() or not truth.any():
        raise UserError(f"all {len(truth)} objects are of one class; a ranking needs both a positive and a negative")
    return truth, score


def check_probabilities(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(truth [N] int64, probabilities [N, classes] float64), or UserError: shapes, NaN, an unknown class."""
    truth, probabilities = np.asarray(truth), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or truth.shape != probabilities.shape[:1] or probabilities.shape[1] < 2:
        raise UserError(
            f"truth {list(truth.shape)} must be [N] and probabilities {list(probabilities.shape)} [N, classes] with "
            "two classes or more; give one row of each an object"
        )
    if not len(truth):
        raise UserError("there is no object to measure on; check that the split has a test part with labels")
    if np.isnan(probabilities).any():
        rows = int(np.isnan(probabilities).any(axis=1).sum())
        raise UserError(f"{rows} of {len(truth)} rows of probabilities hold NaN; find out why before measuring")
    if truth.min() < 0 or truth.max() >= probabilities.shape[1]:
        raise UserError(
            f"a true class lies outside 0 … {probabilities.shape[1] - 1}; give one column of probabilities a class"
        )
    return truth.astype(np.int64), probabilities


def _counts(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores from the top, after +∞, with the true and false positives at or above each."""
    order = np.argsort(-score, kind="stable")
    ordered, hits = score[order], truth[order]
    last = np.append(
        np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1
    )  # the last object of each run of ties
    true_positives = np.cumsum(hits)[last]
    return (
        np.concatenate([[np.inf], ordered[last]]),
        np.concatenate([[0], true_positives]),
        np.concatenate([[0], last + 1 - true_positives]),
    )
