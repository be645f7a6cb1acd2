"""The state of a fit: everything a kill must not lose, saved together."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zwicky.errors import UserError
from zwicky.io import write_csv
from zwicky.methods.base import Method
from zwicky.training import checkpoint
from zwicky.training.processes import run_on_rank_zero

SECONDS_BETWEEN_CHECKPOINTS = 30.0


@dataclass
class FitResult:
    """What a fit did. rows: metrics.csv; flops: of all steps, counted on the first.

    used_probe: whether the linear probe was better on the selection labels than the fitted network.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    images_seen: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    used_probe: bool = False


class State:
    """Method, optimiser, averaged weights, the best weights so far, and what has been done.

    average: the averaged copy of the method, or None. `folder` gets `metrics.csv` and `checkpoint/last.pt`.
    """

    def __init__(self, folder: Path, method: Method, optimizer: torch.optim.Optimizer, average: Method | None) -> None:
        self.folder, self.method, self.optimizer, self.average = folder, method, optimizer, average
        self.done = FitResult()
        self._best: dict[str, Any] | None = None
        self._best_value = math.inf
        self._path = folder / "checkpoint" / "last.pt"
        self._begun = self._saved = time.monotonic()
        self._seconds_before = 0.0

    @property
    def shown(self) -> Method:
        """The network that is evaluated: the averaged one where there is one."""
        return self.average or self.method

    @property
    def kept(self) -> dict[str, Any]:
        """The weights a fit ends with: the best, where they were watched, else the last."""
        return self.shown.state_dict() if self._best is None else self._best

    def keep_lowest(self, value: float) -> None:
        """Remember the weights as they are if `value` is the lowest so far."""
        if value < self._best_value:
            self._best_value, self._best = value, copy.deepcopy(self.shown.state_dict())

    def restore(self) -> FitResult:
        """Go on from the last checkpoint, if there is one."""
        saved = run_on_rank_zero(lambda: checkpoint.load(self._path))
        if saved is None:
            return self.done
        try:
            self.method.load_state_dict(saved["method"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(saved["average"])
            self._best, self._best_value = saved["best"], saved["best_value"]
            self.done = FitResult(**{name: saved[name] for name in vars(self.done)})
            self._seconds_before = self.done.seconds = float(self.done.seconds)
            if not all(isinstance(value, type(getattr(FitResult(), name))) for name, value in vars(self.done).items()):
                raise TypeError("other types")
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{self._path} is damaged or of another network ({type(error).__name__}); delete it to start again"
            ) from error
        return self.done

    def save(self, now: bool = False) -> None:
        """Write a checkpoint if it is time for one, or at once."""
        if not now and time.monotonic() - self._saved <= SECONDS_BETWEEN_CHECKPOINTS:
            return
        self.done.seconds = self._seconds_before + time.monotonic() - self._begun
        # The table first: a kill in between leaves rows that the resumed fit writes again, never one too few.
        write_csv(self.folder / "metrics.csv", self.done.rows)
        checkpoint.save(
            self._path,
            {
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "best": self._best,
                "best_value": self._best_value,
                **vars(self.done),
            },
        )
        self._saved = time.monotonic()
