"""ROC curves with intervals, by bootstrap over objects and draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zwicky.report.material import Predictions
from zwicky.rng import numpy_rng


@dataclass(frozen=True)
class Scored:
    """One draw's test objects. positive: [N] bool; score: [N] float, high for positive; group: [N] of str."""

    positive: np.ndarray
    score: np.ndarray
    group: np.ndarray


@dataclass(frozen=True)
class Band:
    """Recall at given false-positive rates, [G] each: mean over draws and its 95 % interval."""

    fpr: np.ndarray
    recall: np.ndarray
    low: np.ndarray
    high: np.ndarray


def scored(prediction: Predictions, positive: int) -> Scored:
    """One class against the rest. An object without a group is its own; one without a finite score is left out."""
    score = prediction.probabilities[:, positive].astype(float)
    group = np.array(
        [group or identifier for group, identifier in zip(prediction.groups, prediction.ids, strict=True)], dtype=object
    )
    keep = np.isfinite(score)
    truth = prediction.labels == prediction.classes[positive]
    return Scored(truth[keep], score[keep], group[keep])


def band(draws: Sequence[Scored], fpr: np.ndarray, repeats: int = 200, seed: int = 0) -> Band:
    """Resample draws, then groups of objects (the same groups in each draw), and take percentiles.

    Raises:
        ValueError: no draw has both a positive and a negative object.
    """
    draws = [draw for draw in draws if draw.positive.any() and not draw.positive.all()]
    if not draws:
        raise ValueError("an ROC curve needs objects of both kinds")
    names, index = np.unique(np.concatenate([draw.group for draw in draws]).astype(str), return_inverse=True)
    indices = np.split(index, np.cumsum([len(draw.group) for draw in draws])[:-1])
    curves = [_Curve(draw, groups) for draw, groups in zip(draws, indices, strict=True)]
    recall = np.mean([curve.recall(np.ones(len(names)), fpr) for curve in curves], axis=0)
    rng = numpy_rng(seed)
    samples = np.empty((repeats, len(fpr)))
    for repeat in range(repeats):
        weights = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names)).astype(float)
        chosen, times = np.unique(rng.integers(len(curves), size=len(curves)), return_counts=True)
        samples[repeat] = np.average([curves[draw].recall(weights, fpr) for draw in chosen], axis=0, weights=times)
    low, high = np.nanpercentile(samples, [2.5, 97.5], axis=0)
    return Band(fpr, recall, low, high)


class _Curve:
    """Objects sorted by score once, so that a resampling is a cumulative sum."""

    def __init__(self, draw: Scored, groups: np.ndarray) -> None:
        order = np.argsort(-draw.score, kind="stable")
        score = draw.score[order]
        self.ends = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # tied scores are one step
        self.positive = draw.positive[order]
        self.groups = groups[order]

    def recall(self, weights: np.ndarray, fpr: np.ndarray) -> np.ndarray:
        weight = weights[self.groups]
        hits = np.cumsum(weight * self.positive)[self.ends]
        alarms = np.cumsum(weight * ~self.positive)[self.ends]
        if hits[-1] == 0 or alarms[-1] == 0:
            return np.full(len(fpr), np.nan)
        return np.interp(fpr, np.append(0, alarms / alarms[-1]), np.append(0, hits / hits[-1]))
