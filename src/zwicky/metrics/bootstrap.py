"""Intervals that know where the scatter comes from: pretraining, the draw of labels, the test objects.

A *cell* is one trained network tested once: one pretraining seed, one draw of labels (or one fold), its test
objects. An *arm* is a way of training, many cells. The value of an arm is the plain mean over its cells of the
metric. A replicate of the hierarchical bootstrap resamples

1. pretraining seeds,
2. units: the draws of labels, or the repeats of a cross-validation, each with its whole set of folds,
3. test objects, by group (all that belongs to one sky object, or one source galaxy, comes and goes together),

recomputes the metric of each cell on the resampled objects, and takes the mean over cells weighted by how often
their seed and unit were drawn. Units and groups are drawn once for all arms, so a difference of two arms is paired
by draw and object. Where units are shared by the seeds (crossed), the weight of a cell is the product of both
counts; where each unit has its own seed (nested), units are drawn within the seeds drawn.

Of n things n − 1 are drawn: with replacement that gives exactly the variance of the mean, s²/n, where drawing n
gives (n − 1)/n of it (Rao & Wu 1988), which is a third too little with three draws. A single one is drawn always:
the interval is then conditional on it. Where the scatter of few draws outweighs that of the test objects the interval
is still too short, as percentiles of three numbers must be: on synthetic data, 0.90 instead of 0.95 with three draws.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from zwicky.errors import UserError
from zwicky.metrics.classification import check_probabilities
from zwicky.metrics.regression import check_numbers
from zwicky.metrics.weighted import weighted_accuracy, weighted_auc, weighted_mae, weighted_r2, weighted_recall
from zwicky.rng import numpy_rng

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # truth, predicted, weights [R, N] → [R]
METRICS: dict[str, Metric] = {
    "accuracy": weighted_accuracy,
    "auc": weighted_auc,
    "tpr0": partial(weighted_recall, k=0),
    "tpr10": partial(weighted_recall, k=10),
}
NUMBER_METRICS: dict[str, Metric] = {"mae": weighted_mae, "r2": weighted_r2}
LEVEL = 0.95
BLOCK = 2**21  # object weights held at once


@dataclass(frozen=True)
class Cell:
    """One trained network on its N test objects.

    draw: names the draw (or fold); the same draw has the same test objects in every arm.
    unit: what is resampled as a whole: the draw itself, or the repeat that a fold belongs to.
    pretrain_seed: None where nothing was pretrained.
    ids, groups: [N]. truth: [N] int with predicted probabilities [N, classes], or [N] numbers with predicted ones [N].
    """

    draw: Hashable
    unit: Hashable
    pretrain_seed: Hashable | None
    ids: np.ndarray
    groups: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A plain mean over cells and its 95 % percentile interval; NaN where nothing defines it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """value = arm − reference, and the two-sided bootstrap p of no difference."""

    p: float


class Bootstrap:
    """Replicates of every cell of every arm; `interval` and `difference` read them.

    arms: cells by arm name. metrics: of METRICS, or where numbers are predicted of NUMBER_METRICS. The same seed gives
    the same numbers, whatever the order of arms, cells or objects.
    """

    def __init__(
        self,
        arms: Mapping[str, Sequence[Cell]],
        metrics: Sequence[str] = tuple(METRICS),
        replicates: int = 1000,
        seed: int = 0,
    ):
        known = METRICS | NUMBER_METRICS
        unknown = [name for name in metrics if name not in known]
        if unknown:
            raise UserError(f"no metric is called {unknown[0]!r}; there are {', '.join(known)}")
        if replicates < 2:
            raise UserError(f"{replicates} bootstrap replicates give no interval; ask for 1000")
        self.arms = {arm: list(cells) for arm, cells in arms.items()}
        for arm, cells in self.arms.items():
            if not cells:
                raise UserError(f"the arm {arm!r} has no cell; leave it out, or run it")
        self.replicates, self.seed = replicates, seed
        # values [cells] and samples [cells, R] by (arm, metric)
        self._values: dict[tuple[str, str], np.ndarray] = {}
        self._samples: dict[tuple[str, str], np.ndarray] = {}
        self._resample_objects({name: known[name] for name in metrics})

    def interval(self, arm: str, metric: str) -> Interval:
        """Mean of the metric over the cells of an arm, with its interval."""
        cells = self.arms[arm]
        weights = _cell_weights(
            cells, _unit_weights(_clusters(cells), self.replicates, self.seed), self.replicates, self.seed
        )
        return Interval(_mean(self._values[arm, metric]), *_limits(_weighted_mean(self._samples[arm, metric], weights)))

    def difference(self, arm: str, reference: str, metric: str) -> Difference:
        """The paired difference of two arms over the draws that both have."""
        shared = {cell.draw for cell in self.arms[arm]} & {cell.draw for cell in self.arms[reference]}
        if not shared:
            raise UserError(
                f"{arm} and {reference} share no draw, so they cannot be paired; run both on the same draws"
            )
        rows = {
            name: [row for row, cell in enumerate(self.arms[name]) if cell.draw in shared] for name in (arm, reference)
        }
        cells = {name: [self.arms[name][row] for row in rows[name]] for name in rows}
        _refuse_other_objects(arm, reference, cells)
        # Where the units of one arm are nested in its seeds, the other arm's units go along with them.
        clusters = max(
            (_clusters(cells[name]) for name in (arm, reference)), key=lambda units: len(set(units.values()))
        )
        units = _unit_weights(clusters, self.replicates, self.seed)
        value, samples = 0.0, np.zeros(self.replicates)
        for name, sign in ((arm, 1), (reference, -1)):
            weights = _cell_weights(cells[name], units, self.replicates, self.seed)
            value += sign * _mean(self._values[name, metric][rows[name]])
            samples += sign * _weighted_mean(self._samples[name, metric][rows[name]], weights)
        return Difference(value, *_limits(samples), _two_sided(samples))

    def _resample_objects(self, metrics: dict[str, Metric]) -> None:
        """Fill in the metric of each cell, as it is and on each replicate's objects."""
        groups = sorted({group for cells in self.arms.values() for cell in cells for group in cell.groups}, key=str)
        number = {group: position for position, group in enumerate(groups)}
        jobs = []
        for arm, cells in self.arms.items():
            for row, cell in enumerate(cells):
                check = check_numbers if np.ndim(cell.predicted) == 1 else check_probabilities
                truth, predicted = check(cell.truth, cell.predicted)
                if not len(cell.ids) == len(cell.groups) == len(truth):
                    raise UserError(
                        f"{arm}, draw {cell.draw}: {len(truth)} objects but {len(cell.ids)} ids and {len(cell.groups)} "
                        "groups; give one of each an object"
                    )
                jobs.append((arm, row, np.array([number[group] for group in cell.groups]), truth, predicted))
            for name in metrics:
                self._values[arm, name] = np.empty(len(cells))
                self._samples[arm, name] = np.empty((len(cells), self.replicates))
        for arm, row, _, truth, predicted in jobs:
            for name, metric in metrics.items():
                once = np.ones((1, len(truth)))
                self._values[arm, name][row] = metric(truth, predicted, once)[0]
        random = numpy_rng(self.seed, 2)
        largest = max([len(groups), *(len(truth) for _, _, _, truth, _ in jobs)])
        step = max(1, BLOCK // largest)
        for start in range(0, self.replicates, step):
            stop = min(start + step, self.replicates)
            counts = _draw(random, len(groups), stop - start)
            for arm, row, group, truth, predicted in jobs:
                weights = counts[:, group]
                for name, metric in metrics.items():
                    self._samples[arm, name][row, start:stop] = metric(truth, predicted, weights)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down correction: the family-wise p of each test. A NaN stays NaN and is no test."""
    p_values = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(len(p_values), np.nan)
    order = np.argsort(p_values, kind="stable")[: int(np.sum(~np.isnan(p_values)))]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return corrected


def _draw(random: np.random.Generator, count: int, replicates: int) -> np.ndarray:
    """[R, count]: how often each of `count` things is drawn in count − 1 draws with replacement."""
    draws = max(1, count - 1)
    picked = random.integers(0, count, size=(replicates, draws)) + count * np.arange(replicates)[:, None]
    return np.bincount(picked.ravel(), minlength=replicates * count).reshape(replicates, count).astype(np.float64)


def _clusters(cells: Sequence[Cell]) -> dict[Hashable, Hashable | None]:
    """unit → its pretraining seed where each unit has one of its own seed (nested), else unit → None."""
    seeds: dict[Hashable, set[Hashable]] = {}
    for cell in cells:
        seeds.setdefault(cell.unit, set()).add(cell.pretrain_seed)
    nested = all(len(own) == 1 for own in seeds.values()) and len(set().union(*seeds.values())) > 1
    return {unit: (next(iter(own)) if nested else None) for unit, own in seeds.items()}


def _unit_weights(clusters: dict[Hashable, Hashable | None], replicates: int, seed: int) -> dict[Hashable, np.ndarray]:
    """unit → [R] weights; where units are nested in seeds, drawn within the seeds drawn."""
    random = numpy_rng(seed, 1)
    members: dict[Hashable, list[Hashable]] = {}
    for unit in sorted(clusters, key=str):
        members.setdefault(clusters[unit], []).append(unit)
    copies = _draw(random, len(members), replicates)
    weights = {}
    for column, units in enumerate(members.values()):
        draws = max(1, len(units) - 1)
        counts = random.multinomial((copies[:, column] * draws).astype(np.int64), np.full(len(units), 1 / len(units)))
        for unit, count in zip(units, counts.T, strict=True):
            weights[unit] = count * len(units) / draws  # a seed weighs as much as it has units
    return weights


def _cell_weights(cells: Sequence[Cell], units: dict[Hashable, np.ndarray], replicates: int, seed: int) -> np.ndarray:
    """[cells, R]: the weight of the unit, times the count of the seed where seeds and units are crossed."""
    weights = np.stack([units[cell.unit] for cell in cells])
    if any(cluster is not None for cluster in _clusters(cells).values()):
        return weights  # nested: the seeds are in the units' weights
    seeds = sorted({cell.pretrain_seed for cell in cells}, key=str)
    counts = _draw(numpy_rng(seed, 0), len(seeds), replicates)
    return weights * counts[:, [seeds.index(cell.pretrain_seed) for cell in cells]].T


def _refuse_other_objects(arm: str, reference: str, cells: dict[str, list[Cell]]) -> None:
    tested = {cell.draw: set(zip(cell.ids, cell.truth, strict=True)) for cell in cells[reference]}
    for cell in cells[arm]:
        if set(zip(cell.ids, cell.truth, strict=True)) != tested[cell.draw]:
            raise UserError(
                f"{arm} and {reference} were tested on different objects or labels in draw {cell.draw}; "
                "evaluate both on the same test split"
            )


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _weighted_mean(samples: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] mean over cells of samples [cells, R]; a cell whose metric a replicate does not define is left out of it."""
    known = ~np.isnan(samples)
    weights = np.where(known, weights, 0.0)
    total = weights.sum(axis=0)
    sums = np.sum(np.where(known, samples, 0.0) * weights, axis=0)
    return np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)


def _limits(samples: np.ndarray) -> tuple[float, float]:
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _two_sided(samples: np.ndarray) -> float:
    """Twice the smaller tail beyond 0, counting the data themselves as one replicate, so never below 2 / (R + 1)."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return float("nan")
    tail = min(np.sum(samples <= 0), np.sum(samples >= 0))
    return float(min(1.0, 2 * (tail + 1) / (len(samples) + 1)))
