"""Metrics of predictions, each defined once for values and for the bootstrap of their intervals.

A statistic takes truth, predictions and weights [R, N], which say how often each of N objects counts in each of R
replicates; it sorts once and returns [R], or [R, points] for a curve. NaN where a replicate does not define it.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from sklearn.metrics import log_loss

from zwicky.errors import UserError

Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
CLASSIFICATION = ("accuracy", "auc", "tpr0", "tpr10", "ece", "nll")


def scores(truth: np.ndarray, predicted: np.ndarray, columns: Sequence[str] = ()) -> dict[str, float]:
    """Score predicted numbers [N, columns] or, without `columns`, class probabilities [N, classes] of true classes [N].

    Of numbers: mae and r2; of several columns, whose units differ, r2, their mean, and both of each. Of classes, the
    last one positive: accuracy; auc, macro one-vs-rest for more than two; tpr0 and tpr10, the recall at 0 and 10 false
    positives; ece; nll in nats. NaN where the objects do not define a metric. UserError if a prediction is not finite.
    """
    if not np.isfinite(predicted).all():
        raise UserError("a prediction is NaN or infinite; look for a diverged training or bad pixels")
    once = np.ones((1, len(truth)))
    values = {name: float(statistic(truth, predicted, once)[0]) for name, statistic in statistics(columns).items()}
    if columns:
        return values
    shares = predicted / predicted.sum(axis=1, keepdims=True)  # float32 sums are not exactly 1
    nll = float(log_loss(truth, shares, labels=range(predicted.shape[1])))
    return values | {"ece": ece(truth, predicted), "nll": nll}


def statistics(columns: Sequence[str] = ()) -> dict[str, Statistic]:
    """Return the weighted metrics that get intervals: those of classes, or those of regressed columns."""
    if not columns:
        recall = {f"tpr{k}": partial(weighted_tpr, k=k) for k in (0, 10)}
        return {"accuracy": weighted_accuracy, "auc": weighted_auc, **recall}
    selections: dict[str, list[int]] = {"": [*range(len(columns))]}
    if len(columns) > 1:
        selections |= {f"_{name}": [number] for number, name in enumerate(columns)}
    return {
        f"{metric}{suffix}": partial(_of_columns, function=function, selected=selected)
        for suffix, selected in selections.items()
        for metric, function in (("mae", weighted_mae), ("r2", weighted_r2))
        if metric == "r2" or len(selected) == 1
    }


def reliability(
    truth: np.ndarray, probabilities: np.ndarray, n_bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute a reliability diagram with bins of equal mass.

    The event is "positive class" for two classes, "the most probable class is right" for more. Equal probabilities
    share a bin, so there may be fewer bins than asked for. Returns mean probability, observed frequency and number of
    objects of each bin.
    """
    if probabilities.shape[1] == 2:
        probability, event = probabilities[:, 1], truth == 1
    else:
        probability, event = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, n_bins + 1)[1:-1]))
    index = np.searchsorted(edges, probability, side="right")
    counts, predicted, observed = (
        np.bincount(index, weights, len(edges) + 1) for weights in (None, probability, event)
    )
    used = counts > 0
    return predicted[used] / counts[used], observed[used] / counts[used], counts[used]


def ece(truth: np.ndarray, probabilities: np.ndarray, n_bins: int = 10) -> float:
    """Expected calibration error: Σ_bins (count / N)·|observed − predicted| over the bins of `reliability`."""
    predicted, observed, counts = reliability(truth, probabilities, n_bins)
    return float(np.sum(counts * np.abs(observed - predicted)) / counts.sum())


def purity(recall: np.ndarray | float, fpr: np.ndarray | float, prevalence: float) -> np.ndarray:
    """Purity π·TPR / (π·TPR + (1 − π)·FPR) in a survey of prevalence π; NaN where nothing is called positive."""
    if not 0 < prevalence < 1:
        raise UserError(f"a prevalence of {prevalence} makes no sense; give one between 0 and 1, such as 1e-4")
    true_positives = prevalence * np.asarray(recall, dtype=np.float64)
    return _ratio(true_positives, true_positives + (1 - prevalence) * np.asarray(fpr, dtype=np.float64))


def weighted_accuracy(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] share of objects whose most probable class is the true one."""
    return _ratio(weights @ (probabilities.argmax(axis=1) == truth), weights.sum(axis=1))


def weighted_auc(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] area under the ROC curve; the mean over classes of one against the rest for more than two.

    Mann & Whitney (1947): Σ_p w_p (weight of negatives below + ½ weight of negatives tied) / (W₊ W₋).
    """
    if probabilities.shape[1] == 2:
        return _binary_auc(truth == 1, probabilities[:, 1], weights)
    return np.mean([_binary_auc(truth == k, column, weights) for k, column in enumerate(probabilities.T)], axis=0)


def _binary_auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(score[negatives], kind="stable")]
    below = _cumulative(weights[:, negatives])
    ranks = [np.searchsorted(score[negatives], score[positive], side=side) for side in ("left", "right")]
    wins = np.einsum("rp,rp->r", weights[:, positive].astype(np.float64), below[:, ranks[0]] + below[:, ranks[1]]) / 2
    return _ratio(wins, weights[:, positive].sum(axis=1) * below[:, -1])


def weighted_tpr(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """[R] recall of the last class with at most `k` false positives (TPR0, TPR10; arXiv:1802.03609).

    Recovered is what scores strictly above the (k+1)-th highest negative. NaN with k negatives or fewer.
    """
    score, positive = probabilities[:, -1], truth == probabilities.shape[1] - 1
    order = np.argsort(-score, kind="stable")
    positives, negatives = order[positive[order]], order[~positive[order]]
    if not len(positives) or not len(negatives):
        return np.full(len(weights), np.nan)
    too_many = _cumulative(weights[:, negatives])[:, 1:] > k
    threshold = too_many.argmax(axis=1)  # [R] the negative that sets the threshold
    above = np.searchsorted(-score[positives], -score[negatives], side="left")  # [negatives] positives above each
    recovered = _cumulative(weights[:, positives])[np.arange(len(weights)), above[threshold]]
    return np.where(too_many.any(axis=1), _ratio(recovered, weights[:, positives].sum(axis=1)), np.nan)


def roc_curve(fpr: np.ndarray) -> Statistic:
    """Return the statistic [R, len(fpr)]: recall of the last class at these false-positive rates."""

    def recall(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
        score = probabilities[:, -1]
        order = np.argsort(-score, kind="stable")
        steps = [0, *np.flatnonzero(np.diff(score[order])) + 1, len(order)]  # tied scores are one step
        is_positive = truth[order] == probabilities.shape[1] - 1
        hits, alarms = (_cumulative(weights[:, order] * side)[:, steps] for side in (is_positive, ~is_positive))
        curves = zip(_ratio(hits, hits[:, -1:]), _ratio(alarms, alarms[:, -1:]), strict=True)
        return np.stack([np.interp(fpr, x, y) if np.isfinite(x + y).all() else fpr * np.nan for y, x in curves])

    return recall


def weighted_mae(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R, columns] mean absolute error of predicted numbers [N, columns]."""
    return _ratio(weights @ np.abs(predicted - truth), weights.sum(axis=1, keepdims=True))


def weighted_r2(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R, columns] 1 − Σ w (y − ŷ)² / Σ w (y − ȳ)² with the weighted mean ȳ; NaN where the truth does not vary."""
    scale = np.ptp(truth, axis=0)
    scale = np.where(scale > 0, scale, 1.0)  # so that rounding is distinguished from a real spread
    y, residual = (truth - truth.mean(axis=0)) / scale, (predicted - truth) / scale
    total = weights.sum(axis=1, keepdims=True)
    spread = weights @ y**2 - _ratio(weights @ y, np.sqrt(total)) ** 2
    return 1 - _ratio(weights @ residual**2, np.where(spread > 1e-12, spread, 0.0))


def weighted_share(counted: np.ndarray, hits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] Σ hits / Σ counted over objects."""
    return _ratio(weights @ hits, weights @ counted)


def _of_columns(
    truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray, function: Statistic, selected: list[int]
) -> np.ndarray:
    # In double precision: the square of an axion's mass, 1e-23 eV, is 0 in single.
    y, prediction = (values[:, selected].astype(np.float64) for values in (truth, predicted))
    return function(y, prediction, weights).mean(axis=1)


def _cumulative(weights: np.ndarray) -> np.ndarray:
    """[R, N + 1] sums of the first 0, 1, … N weights."""
    return np.pad(np.cumsum(weights, axis=1, dtype=np.float64), ((0, 0), (1, 0)))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, dtype=np.float64), denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
