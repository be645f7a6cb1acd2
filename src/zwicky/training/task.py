"""What is learned from labels: classes, or numbers with the way they transform under rotations and reflections."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from zwicky.augment.views import Target
from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import Labels
from zwicky.errors import UserError

TARGET_COLUMNS = {"scalar": 1, "vector": 2, "spin2": 2}


@dataclass(frozen=True)
class Task:
    """Classification or regression of N cutouts; give `classes` or `targets`."""

    truth: np.ndarray  # [N] int64 index into `classes`, −1 where unknown; or [N, columns] float32, NaN where unknown
    classes: tuple[str, ...] = ()  # names in the order of the outputs; the last one is the positive class
    targets: tuple[Target, ...] = ()  # what is regressed
    soft: np.ndarray | None = None  # [N, classes] float32 probabilities to learn instead of `truth`, if graders differ

    @classmethod
    def classification(cls, cutouts: Cutouts, labels: Labels) -> Self:
        """Return the task of telling the classes of `labels` apart; UserError if there are fewer than two."""
        count = len(labels.classes)
        if count < 2:
            raise UserError(f"the labels hold {count} class; give at least two, or name columns with --targets")
        truth = pd.Index(labels.classes).get_indexer(labels.of(cutouts.ids)).astype(np.int64)
        if not labels.soft:
            return cls(truth, labels.classes)
        soft = np.eye(count, dtype=np.float32)[truth]
        for row in np.flatnonzero([name in labels.soft for name in cutouts.ids]):
            soft[row] = 0
            soft[row, [0, -1]] = 1 - labels.soft[cutouts.ids[row]], labels.soft[cutouts.ids[row]]
        return cls(truth, labels.classes, soft=soft)

    @classmethod
    def regression(cls, cutouts: Cutouts, targets: Sequence[str | Target]) -> Self:
        """Return the task of regressing columns of the table, e.g. `["theta_E", "spin2:e1/e2"]`."""
        parsed = parse_targets(targets)
        return cls(cutouts.numbers(columns_of(parsed)).astype(np.float32), targets=parsed)

    @classmethod
    def of(cls, cutouts: Cutouts, labels: Labels, targets: Sequence[str | Target]) -> Self:
        """Return the regression of `targets` or, without any, the task of telling the classes of `labels` apart."""
        return cls.regression(cutouts, targets) if targets else cls.classification(cutouts, labels)

    def strata(self, cutouts: Cutouts, labels: Labels) -> Labels:
        """Return the labels to draw from: for a regression one class of all objects whose values are known."""
        if not self.is_regression:
            return labels
        return Labels(dict.fromkeys(cutouts.ids[self.known], "known"), source=labels.source)

    @property
    def learned(self) -> np.ndarray:
        """What the loss compares with: `soft` where given, else `truth`."""
        return self.truth if self.soft is None else self.soft

    @property
    def is_regression(self) -> bool:
        """Whether numbers are learned, not classes."""
        return bool(self.targets)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the regressed columns; () for classes."""
        return columns_of(self.targets)

    @property
    def n_outputs(self) -> int:
        """Number of classes or of regressed columns."""
        return len(self.classes) or len(self.columns)

    @property
    def known(self) -> np.ndarray:
        """[N] bool: which objects have a class, or finite values in all columns."""
        return np.isfinite(self.truth).all(1) if self.is_regression else self.truth >= 0


def parse_targets(targets: Sequence[str | Target]) -> tuple[Target, ...]:
    """Parse `theta_E`, `vector:dx/dy`, `spin2:gamma1/gamma2` into targets."""
    parsed = []
    for target in targets:
        if isinstance(target, str):
            kind, _, columns = target.rpartition(":")
            names = tuple(columns.split("/"))
            if TARGET_COLUMNS.get(kind or "scalar") != len(names):
                raise UserError(f"target {target!r}: write a column name, vector:X/Y or spin2:FIRST/SECOND")
            target = Target(names, kind or "scalar")  # type: ignore[arg-type]
        parsed.append(target)
    return tuple(parsed)


def columns_of(targets: Sequence[Target]) -> tuple[str, ...]:
    """Return the names of the table's columns that these targets consist of."""
    return tuple(name for target in targets for name in target.columns)
