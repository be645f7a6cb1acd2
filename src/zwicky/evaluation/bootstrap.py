"""The hierarchical bootstrap: intervals that include the scatter of pretrainings, label draws and test objects.

A *cell* is one trained network tested once: one pretraining seed, one draw of labels (or one fold), its test objects.
An *arm* is a way of training: many cells. The value of an arm is the plain mean over its cells of a statistic. A
replicate resamples

1. pretraining seeds,
2. units: the draws of labels, or the repeats of a cross-validation, each with all its folds,
3. test objects, by group (all that belongs to one sky object, or one source galaxy, stays together),

recomputes the statistic of each cell on the resampled objects, and averages over cells, weighted by how often their
unit was drawn. Units are drawn within the seeds drawn. Units and groups are drawn once for all arms, so a difference of
two arms is paired by draw and object.

Of n things n − 1 are drawn with replacement: that gives exactly the variance of the mean, s²/n, where drawing n gives
(n − 1)/n of it (Rao & Wu 1988), a third too little with three draws. A single one is always drawn: the interval is then
conditional on it. Where the scatter of few draws outweighs that of the test objects the interval is still too short, as
percentiles of three numbers must be: on synthetic data, 0.90 instead of 0.95 with three draws.
"""

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from zwicky.errors import UserError
from zwicky.evaluation.metrics import Statistic
from zwicky.rng import numpy_rng

LEVEL = 0.95
BLOCK = 2**21  # object weights in memory at once


@dataclass(frozen=True)
class Cell:
    """One trained network and its N test objects."""

    ids: np.ndarray  # [N]
    groups: np.ndarray  # [N]; objects of one group are resampled together
    truth: np.ndarray  # [N] int or [N, columns]; whatever the statistic takes
    predicted: np.ndarray  # [N, classes] probabilities or [N, columns]
    draw: Hashable = 0  # the name of the draw or fold; the same draw has the same test objects in every arm
    unit: Hashable = 0  # what is resampled as a whole, within one seed: the draw, or the repeat that a fold belongs to
    pretrain_seed: Hashable | None = None  # None where nothing was pretrained


@dataclass(frozen=True)
class Interval:
    """A mean over cells, its 95 % percentile interval, and for a difference the two-sided p of no difference.

    Floats, or arrays [points] for a curve; NaN where the statistic is not defined.
    """

    value: Any
    low: Any
    high: Any
    p: float | None = None


class Bootstrap:
    """Replicates of the cells of each arm; the same seed gives the same numbers, whatever the order of arms."""

    def __init__(self, arms: Mapping[str, Sequence[Cell]], replicates: int = 1000, seed: int = 0) -> None:
        if replicates < 2:
            raise UserError(f"{replicates} bootstrap replicates give no interval; ask for 1000")
        self.arms = {arm: list(cells) for arm, cells in arms.items()}
        self.replicates, self.seed = replicates, seed
        cells = [cell for own in self.arms.values() for cell in own]
        self._names = pd.Index(np.unique(np.concatenate([cell.groups.astype(str) for cell in cells])))

    def apply(self, statistic: Statistic) -> "Replicates":
        """Compute a statistic of every cell, on all its objects and on those of each replicate."""
        groups = {arm: [self._names.get_indexer(c.groups.astype(str)) for c in self.arms[arm]] for arm in self.arms}

        def compute(counts: np.ndarray) -> dict[str, np.ndarray]:
            """[cells, R, ...] by arm, from how often each group was drawn [R, groups]."""
            return {
                arm: np.stack(
                    [statistic(c.truth, c.predicted, counts[:, g]) for c, g in zip(cells, groups[arm], strict=True)]
                )
                for arm, cells in self.arms.items()
            }

        count, random = len(self._names), numpy_rng(self.seed, 2)
        largest = max([count, *(len(g) for own in groups.values() for g in own)])
        step = max(1, BLOCK // largest)
        starts = range(0, self.replicates, step)
        blocks = [compute(resample(random, count, min(step, self.replicates - start))) for start in starts]
        values = {arm: value[:, 0] for arm, value in compute(np.ones((1, count))).items()}
        return Replicates(self, values, {arm: np.concatenate([b[arm] for b in blocks], axis=1) for arm in self.arms})


@dataclass(frozen=True)
class Replicates:
    """A statistic of every cell of a bootstrap: values [cells, ...] and samples [cells, R, ...] by arm."""

    bootstrap: Bootstrap
    values: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]

    def interval(self, arm: str) -> Interval:
        """Return the mean over the cells of an arm, with its interval."""
        cells = self.bootstrap.arms[arm]
        samples = self._mean_samples(arm, range(len(cells)), self._unit_weights(cells))
        return _interval(_mean(self.values[arm]), samples)

    def difference(self, arm: str, reference: str) -> Interval:
        """Return the paired difference arm − reference over the draws that both have; UserError if there is none."""
        arms = self.bootstrap.arms
        shared = {cell.draw for cell in arms[arm]} & {cell.draw for cell in arms[reference]}
        if not shared:
            raise UserError(
                f"{arm} and {reference} share no draw, so they cannot be paired; run both on the same draws"
            )
        rows = {name: [r for r, cell in enumerate(arms[name]) if cell.draw in shared] for name in (arm, reference)}
        cells = {name: [arms[name][row] for row in rows[name]] for name in rows}
        # An arm without pretraining has no seeds: its units are drawn with those of the other.
        units = self._unit_weights(max(cells.values(), key=lambda c: len({cell.pretrain_seed for cell in c})))
        (value, samples), (other_value, other_samples) = (
            (_mean(self.values[name][rows[name]]), self._mean_samples(name, rows[name], units)) for name in rows
        )
        return _interval(value - other_value, samples - other_samples, paired=True)

    def _mean_samples(self, arm: str, rows: Sequence[int], units: dict[Hashable, np.ndarray]) -> np.ndarray:
        """[R, ...] weighted mean over cells; a cell is left out of a replicate that does not define its statistic."""
        samples = self.samples[arm][list(rows)]
        weights = np.stack([units[self.bootstrap.arms[arm][row].unit] for row in rows])
        weights = weights.reshape(*weights.shape, *[1] * (samples.ndim - 2))
        defined = ~np.isnan(samples)
        total = np.sum(weights * defined, axis=0)
        sums = np.sum(np.where(defined, samples, 0.0) * weights, axis=0)
        return np.divide(sums, total, out=np.full(sums.shape, np.nan), where=total > 0)

    def _unit_weights(self, cells: Sequence[Cell]) -> dict[Hashable, np.ndarray]:
        """Unit → [R] how much it counts: seeds are drawn, and within each its units."""
        random, replicates = numpy_rng(self.bootstrap.seed, 1), self.bootstrap.replicates
        seed_of = {cell.unit: cell.pretrain_seed for cell in cells}
        members: dict[Hashable, list[Hashable]] = {}
        for unit in sorted(seed_of, key=str):
            members.setdefault(seed_of[unit], []).append(unit)
        copies = resample(random, len(members), replicates)
        weights = {}
        for seed, units in enumerate(members.values()):
            draws = max(1, len(units) - 1)
            drawn = random.multinomial((copies[:, seed] * draws).astype(np.int64), [1 / len(units)] * len(units))
            for unit, count in zip(units, drawn.T, strict=True):
                weights[unit] = count * len(units) / draws  # a seed counts as much as it has units
        return weights


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Apply Holm's (1979) step-down correction: the family-wise p of each test. NaN stays NaN and is no test."""
    p_values = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(len(p_values), np.nan)
    order = np.argsort(p_values, kind="stable")[: int(np.sum(~np.isnan(p_values)))]
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)), 1.0)
    return corrected


def resample(random: np.random.Generator, count: int, replicates: int) -> np.ndarray:
    """[R, count]: how often each of `count` things is drawn in count − 1 draws with replacement."""
    draws = max(1, count - 1)
    picked = random.integers(0, count, size=(replicates, draws)) + count * np.arange(replicates)[:, None]
    return np.bincount(picked.ravel(), minlength=replicates * count).reshape(replicates, count).astype(np.float64)


def _mean(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # no cell defines it: NaN
        return np.nanmean(values, axis=0)


def _interval(value: np.ndarray, samples: np.ndarray, paired: bool = False) -> Interval:
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # no replicate defines it: NaN
        low, high = np.nanquantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    low, high = (np.where(np.isnan(value), np.nan, limit) for limit in (low, high))
    if value.ndim:
        return Interval(value, low, high)
    return Interval(float(value), float(low), float(high), _two_sided(samples) if paired else None)


def _two_sided(samples: np.ndarray) -> float:
    """Twice the smaller tail beyond 0, counting the data themselves as one replicate, so never below 2 / (R + 1)."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return float("nan")
    tail = min(np.sum(samples <= 0), np.sum(samples >= 0))
    return float(min(1.0, 2 * (tail + 1) / (len(samples) + 1)))
