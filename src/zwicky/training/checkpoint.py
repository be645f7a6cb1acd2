"""Checkpoints: everything a fit needs to resume to the same numbers, saved together and atomically."""

import copy
import math
import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from zwicky.errors import UserError
from zwicky.io import replacing, write_table
from zwicky.methods.base import Method
from zwicky.training.distributed import run_on_rank_zero
from zwicky.training.processes import rank

COSTS = ("steps", "images_seen", "flops", "seconds")  # of a fit, which add up


@dataclass
class FitResult:
    """What a fit did: rows of metrics.csv, its cost over all resumptions, and messages to the user."""

    rows: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    images_seen: int = 0
    flops: float = 0.0  # floating-point operations of all steps, forward and backward
    seconds: float = 0.0
    step_seconds: float = 0.0  # mean time of a step of this process, its first left out, without evaluations
    warnings: list[str] = field(default_factory=list)
    used_probe: bool = False  # whether the linear probe was better on the selection labels than the fine-tuned network

    def warn(self, title: str, *messages: str | None) -> None:
        """Give messages as Python warnings after `title`, and record them; one of a kind, the text before its colon."""
        for message in filter(None, messages):
            if message.split(":")[0] not in {warning.split(":")[0] for warning in self.warnings}:
                self.warnings.append(message)
                if rank() == 0:
                    warnings.warn(f"{title}: {message}")

    def after(self, earlier: "FitResult") -> "FitResult":
        """Return this fit, or the earlier one if this had nothing to do, with the costs and the warnings of both."""
        if not self.steps:
            return replace(earlier, warnings=[*earlier.warnings, *self.warnings])
        total = {name: getattr(earlier, name) + getattr(self, name) for name in COSTS}
        return replace(self, **total, warnings=list(dict.fromkeys([*earlier.warnings, *self.warnings])))


class TrainerState:
    """Method, optimiser, averaged weights `ema`, the best weights so far, and the progress.

    `folder` receives `metrics.csv` and, every so many `seconds`, `checkpoint/last.pt`.
    """

    def __init__(
        self, folder: Path, method: Method, optimizer: torch.optim.Optimizer, ema: Method | None, seconds: float = 30.0
    ) -> None:
        self.folder, self.path = folder, folder / "checkpoint" / "last.pt"
        modules: dict[str, Any] = {"method": method, "optimizer": optimizer, "ema": ema}
        self.modules = {name: module for name, module in modules.items() if module is not None}
        self.evaluated = ema or method
        self.progress = FitResult()
        self._interval = seconds
        self.best: dict[str, Any] | None = None  # the weights of the lowest loss passed to `keep_lowest`
        self._lowest = math.inf
        self._started = self._saved = time.monotonic()

    def keep_lowest(self, loss: float) -> None:
        """Remember the current weights if `loss` is the lowest so far."""
        if loss < self._lowest:
            self._lowest, self.best = loss, copy.deepcopy(self.evaluated.state_dict())

    def restore(self) -> FitResult:
        """Load the last checkpoint if there is one; return the progress, or raise UserError if it does not fit."""
        saved = run_on_rank_zero(lambda: load(self.path))
        if saved is None:
            return self.progress
        try:
            for name, module in self.modules.items():
                module.load_state_dict(saved[name])
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(f"{self.path} belongs to another network; delete it to start again") from error
        self.best, self._lowest = saved["best"], saved["lowest"]
        self.progress = FitResult(**saved["progress"])
        self._started -= self.progress.seconds
        return self.progress

    def save(self, now: bool = False) -> None:
        """Write `metrics.csv` and a checkpoint if the last one is old enough, or `now`."""
        if not now and time.monotonic() - self._saved < self._interval:
            return
        self.progress.seconds = time.monotonic() - self._started
        # The table first: after a kill in between, the resumed fit writes the same rows again.
        write_table(self.folder / "metrics.csv", pd.DataFrame(self.progress.rows))
        state = {name: module.state_dict() for name, module in self.modules.items()}
        state |= {"best": self.best, "lowest": self._lowest, "progress": vars(self.progress)}
        with replacing(self.path) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # torch reports a full disk as "unexpected pos"
                raise OSError("not all of it could be written; the disk may be full") from error
        self._saved = time.monotonic()


def load(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint onto the CPU; None if there is no such file, UserError if it is incomplete."""
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated archives and foreign pickles raise various types
        raise UserError(f"{path} is not a complete checkpoint; delete it to start again") from error


def save_weights(path: Path, state: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name as safetensors, readable by the umask's users (its own writer makes the file private)."""
    path.write_bytes(tensors_to_bytes({name: value.contiguous() for name, value in state.items()}, metadata))
