"""A benchmark's directory as the page needs it: whatever is missing or damaged is empty, never an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow as pa

from zwicky.errors import UserError
from zwicky.evaluation.results import BenchmarkResult, arrays, read_table
from zwicky.io import read_json

T = TypeVar("T")
U = TypeVar("U")
KINDS = ("ssl", "supervised", "baseline")


class Missing(Exception):
    """A part of the page cannot be made; the message is the line that stands in its place."""


@dataclass(frozen=True)
class Predictions:
    """Test-set probabilities of one cell. labels and groups: [N] of str; probabilities: [N, classes]."""

    ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    truth: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame) -> Predictions:
        """From the table of a cell."""
        truth, probabilities, classes = arrays(table)
        ids, groups, labels = (table[name].to_numpy(object) for name in ("id", "group", "label"))
        return cls(ids, groups, labels, classes, truth, probabilities)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table with None for missing values."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


@dataclass(frozen=True)
class Arm:
    """One contestant: a method with a protocol."""

    name: str
    title: str
    kind: str
    backbone: str
    protocol: str


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """A paired difference, arm minus reference, with what Holm's correction left of it."""

    labels: int
    metric: str
    arm: str
    reference: str
    difference: float
    low: float
    high: float
    p_holm: float | None
    significant: bool

    def flipped(self) -> Difference:
        """The same comparison seen from the other arm."""
        return Difference(
            self.labels,
            self.metric,
            self.reference,
            self.arm,
            -self.difference,
            -self.high,
            -self.low,
            self.p_holm,
            self.significant,
        )


@dataclass(frozen=True)
class Material:
    """Everything the page is made of."""

    result: BenchmarkResult

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        needed = ("arm", "labels", "draw")
        rows = _forgive(lambda: records(self.result.results), [])
        return [row for row in rows if all(row.get(key) is not None for key in needed) and is_number(row["labels"])]

    @cached_property
    def summary(self) -> dict[tuple[str, int, str], dict[str, Any]]:
        """Rows of summary.csv by (arm, labels, metric)."""
        rows = _forgive(lambda: records(self.result.summary), [])
        return {
            (str(row.get("arm")), row.get("labels", 0), str(row.get("metric"))): row
            for row in rows
            if is_number(row.get("value"))
        }

    @cached_property
    def differences(self) -> list[Difference]:
        rows = _forgive(lambda: records(self.result.comparisons), [])
        numbers = ("labels", "difference", "low", "high")
        return [
            Difference(
                labels=row["labels"],
                metric=str(row.get("metric")),
                arm=str(row.get("arm")),
                reference=str(row.get("reference")),
                difference=row["difference"],
                low=row["low"],
                high=row["high"],
                p_holm=row["p_holm"] if is_number(row.get("p_holm")) else None,
                significant=row.get("significant") is True,
            )
            for row in rows
            if all(is_number(row.get(key)) for key in numbers)
        ]

    @cached_property
    def data(self) -> dict[str, Any]:
        return _mapping(lambda: self.result.data)

    @cached_property
    def audit(self) -> dict[str, Any]:
        return _mapping(lambda: self.result.audit)

    @cached_property
    def run(self) -> dict[str, Any]:
        return _mapping(lambda: self.result.run)

    @cached_property
    def config(self) -> str:
        """The text of config.yaml."""
        return _forgive(lambda: (self.result.path / "config.yaml").read_text(encoding="utf-8"), "")

    @cached_property
    def pretraining(self) -> dict[str, list[dict[str, Any]]]:
        return {name: records(rows) for name, rows in _forgive(self.result.pretraining, {}).items() if len(rows)}

    def pretraining_run(self, name: str) -> dict[str, Any]:
        """run.json of one pretraining, where there is one."""
        return _mapping(lambda: read_json(self.result.path / "pretrain" / name / "run.json"))

    @cached_property
    def correspondence(self) -> list[dict[str, Any]]:
        """Rows of correspondence.csv, one a pretraining."""
        return _forgive(lambda: records(read_table(self.result.path / "correspondence.csv")), [])

    @cached_property
    def correspondence_pairs(self) -> list[dict[str, Any]]:
        return _forgive(lambda: records(read_table(self.result.path / "correspondence_pairs.csv")), [])

    def regions(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of correspondence.npz of one pretraining."""

        def read() -> dict[str, np.ndarray]:
            with np.load(self.result.path / "pretrain" / name / "correspondence.npz", allow_pickle=False) as found:
                return dict(found)

        return _forgive(read, {})

    @cached_property
    def arms(self) -> list[Arm]:
        """In the order of KINDS, and within a kind as the benchmark ran them."""
        rows = {str(row["arm"]): row for row in reversed(self.results)}
        arms = [
            Arm(
                name,
                str(row.get("title") or name),
                *(str(row.get(key) or "") for key in ("kind", "backbone", "protocol")),
            )
            for name, row in reversed(rows.items())
        ]
        return sorted(arms, key=lambda arm: KINDS.index(arm.kind) if arm.kind in KINDS else len(KINDS))

    def arm(self, name: str) -> Arm:
        return next((arm for arm in self.arms if arm.name == name), Arm(name, name, "", "", ""))

    @cached_property
    def labels(self) -> list[int]:
        return sorted({int(row["labels"]) for row in self.results})

    def draws(self, arm: str, labels: int) -> list[int]:
        return sorted({row["draw"] for row in self.results if row["arm"] == arm and row["labels"] == labels})

    @cached_property
    def draw_count(self) -> int:
        return len({row["draw"] for row in self.results})

    @cached_property
    def folds(self) -> tuple[int, int] | None:
        """(repeats, folds) of a cross-validation, None for a holdout."""
        repeats, folds = self.data.get("repeats"), self.data.get("folds")
        return (repeats, folds) if isinstance(repeats, int) and isinstance(folds, int) else None

    @cached_property
    def trials(self) -> str:
        """What is averaged over, in words."""
        if self.folds is None:
            return f"{self.draw_count} draw{'s' if self.draw_count > 1 else ''} of the labels"
        repeats, folds = self.folds
        return f"{repeats} repeat{'s' if repeats > 1 else ''} of {folds} folds"

    @cached_property
    def conditional(self) -> str:
        """On what one pretraining seed makes everything conditional, in words."""
        return "one pretraining" if self.folds is None else "one pretraining seed, each fold with its own pretraining"

    @cached_property
    def pretrain_seeds(self) -> int:
        """How many pretrainings stand behind the best-served arm."""
        counts: dict[str, set[Any]] = {}
        for row in self.results:
            if row.get("pretrain_seed") is not None:
                counts.setdefault(row["arm"], set()).add(row["pretrain_seed"])
        return max(map(len, counts.values()), default=0)

    @cached_property
    def test_objects(self) -> int | None:
        rows = [*self.summary.values(), *self.results]  # with folds the summary counts those of all draws together
        counts = [int(row["test_objects"]) for row in rows if is_number(row.get("test_objects"))]
        return max(counts, default=None)

    @cached_property
    def primary(self) -> Arm | None:
        """The arm the page is about: the first self-supervised one, fine-tuned where there is such a one."""
        ours = [arm for arm in self.arms if arm.kind == "ssl"]
        return next((arm for arm in ours if arm.protocol == "finetune"), ours[0] if ours else None)

    @cached_property
    def reference(self) -> Arm | None:
        """What the primary arm is measured against."""
        return None if self.primary is None else self.reference_of(self.primary)

    def reference_of(self, arm: Arm) -> Arm | None:
        """The same network trained from scratch; failing that, the first one trained from scratch."""
        scratch = [other for other in self.arms if other.kind == "supervised" and other.protocol == "scratch"]
        return next((other for other in scratch if other.backbone == arm.backbone), scratch[0] if scratch else None)

    @cached_property
    def rivals(self) -> list[Arm]:
        """The baselines the headline has to face: what is neither self-supervised nor the reference of such an arm."""
        references = [self.reference_of(arm) for arm in self.arms if arm.kind == "ssl"]
        return [arm for arm in self.arms if arm.kind != "ssl" and arm not in references]

    @cached_property
    def focus(self) -> list[Arm]:
        """At most four arms for crowded figures: primary, reference, then the best networks and simple baselines."""
        leading = [arm for arm in (self.primary, self.reference) if arm is not None]
        networks = [arm for arm in self.rivals if arm.protocol == "scratch"]
        simple = [arm for arm in self.rivals if arm.protocol != "scratch"]
        ranked = [max(group, key=self._headline_auc) for group in (networks, simple) if group]
        rest = [arm for arm in self.arms if arm not in leading and arm not in ranked]
        return [*leading, *ranked, *rest][:4]

    def _headline_auc(self, arm: Arm) -> float:
        estimate = self.estimate(arm.name, self.labels[0], "auc")
        return estimate.value if estimate else 0.0

    def estimate(self, arm: str, labels: int, metric: str) -> Estimate | None:
        """From summary.csv; without it the mean over the draws, with no interval."""
        row = self.summary.get((arm, labels, metric))
        if row is not None:
            low, high = row.get("low"), row.get("high")
            bounded = is_number(low) and is_number(high)
            return Estimate(row["value"], low if bounded else None, high if bounded else None)
        values = [
            row[metric]
            for row in self.results
            if row["arm"] == arm and row["labels"] == labels and is_number(row.get(metric))
        ]
        return Estimate(sum(values) / len(values)) if values else None

    def difference(self, arm: str, reference: str, labels: int, metric: str) -> Difference | None:
        """The comparison of these two arms, whichever way round it was written."""
        for row in self.differences:
            if row.labels == labels and row.metric == metric:
                if (row.arm, row.reference) == (arm, reference):
                    return row
                if (row.arm, row.reference) == (reference, arm):
                    return row.flipped()
        return None

    def predictions(self, arm: str, labels: int) -> list[Predictions]:
        """Test-set probabilities, one entry a draw that has them."""
        found = [_forgive(partial(self._predictions, arm, labels, draw), None) for draw in self.draws(arm, labels)]
        return [prediction for prediction in found if prediction is not None and len(prediction.labels)]

    def curves(self, arm: str, labels: int) -> list[list[dict[str, Any]]]:
        """Fine-tuning curves, one entry a draw that has them."""
        found = [_forgive(partial(self._curves, arm, labels, draw), []) for draw in self.draws(arm, labels)]
        return [rows for rows in found if rows]

    def _predictions(self, arm: str, labels: int, draw: int) -> Predictions:
        return Predictions.of(self.result.predictions(arm, labels, draw))

    def _curves(self, arm: str, labels: int, draw: int) -> list[dict[str, Any]]:
        return records(self.result.curves(arm, labels, draw))

    def positive(self, classes: tuple[str, ...]) -> int:
        """Index of the positive class."""
        name = self.data.get("positive")
        return classes.index(name) if name in classes else len(classes) - 1


def gather(run: Path) -> Material:
    """The material of one directory.

    Raises:
        UserError: the directory holds no benchmark, or one without a single finished cell.
    """
    material = Material(BenchmarkResult(run))
    if not material.results:
        raise UserError(
            f"{run / 'results.csv'} holds no finished cell; let `zwicky benchmark` finish one, then report again"
        )
    return material


def is_number(value: Any) -> bool:
    """Whether it is a finite number (a bool is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0


def _forgive(read: Callable[[], T], instead: U) -> T | U:
    try:
        return read()
    except (OSError, ValueError, KeyError, IndexError, UserError, pa.ArrowException, EOFError, BadZipFile):
        return instead


def _mapping(read: Callable[[], Any]) -> dict[str, Any]:
    value = _forgive(read, None)
    return value if isinstance(value, dict) else {}
