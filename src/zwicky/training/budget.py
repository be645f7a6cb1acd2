"""Time budgets: a few steps are timed on this machine, and the number of steps follows."""

import contextlib
import io
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from zwicky.errors import UserError
from zwicky.io import read_json, read_settings
from zwicky.training.config import FitConfig, TrainConfig
from zwicky.training.processes import world_size
from zwicky.training.run import flat, to_plain

TRIAL_STEPS = 6
LEAST_STEPS = 10
RESERVE = 0.2  # share of the budget that is not spent on steps


@dataclass
class Fits:
    """Fits that share a `TrainConfig`.

    A trial is the number of such fits, and a function that trains one in a folder and returns the seconds per step.
    """

    train: TrainConfig  # their settings, of which the steps are set
    images: int  # number of images they train on
    trials: Sequence[tuple[int, Callable[[Path], float]]]


def fits_of(
    fit: FitConfig, images: int, unlabelled: int, trials: Sequence[tuple[int, int, Callable[[Path], float]]]
) -> list[Fits]:
    """Return fits to `images` labels and their students, which learn from `unlabelled` images too.

    A trial is the number of such fits, the rounds of self-training after each, and a function as in `Fits`.
    """
    if fit.student is None:
        return [Fits(fit.train, images, [(count * (1 + rounds), trial) for count, rounds, trial in trials])]
    taught = [(count * rounds, trial) for count, rounds, trial in trials if rounds]
    own = Fits(fit.train, images, [(count, trial) for count, _, trial in trials])
    return [own, Fits(fit.student, unlabelled, taught)] if taught else [own]


def spend(
    minutes: float,
    config: Any,
    out: Path,
    fits: Callable[[Path], list[Fits]],
    other: float = 0.0,
    images: int = 0,
    longest: float = math.inf,
) -> None:
    """Set the steps of `config` so that its fits take `minutes`, and its `budget_minutes`.

    All numbers of steps are multiplied by one factor. A run in `out` with the same budget keeps its steps, so that it
    resumes, whatever the machine.

    Args:
        minutes: the budget, the time that the trials take included.
        config: settings of pretraining, fine-tuning or a benchmark; changed in place.
        out: the run directory.
        fits: given a folder for their trials, what will be trained with the `TrainConfig`s of `config`.
        other: seconds needed for other work.
        images: number of images to predict besides; a prediction costs a third of a step.
        longest: the largest factor that the steps are multiplied by.
    """
    if world_size() > 1:
        raise UserError("--minutes times one process; with several give train.min_steps and train.max_steps")
    if not minutes > 0:
        raise UserError(f"minutes is {minutes}; choose a number above 0")
    if _restore(minutes, config, out):
        return
    began, overhead, cost, wanted = time.monotonic(), other, 0.0, {}
    with tempfile.TemporaryDirectory() as folder:
        for fit in (used := fits(Path(folder))):
            fit.train.pflops = 0.0
            wanted[id(fit)] = fit.train.steps(fit.images)
            fit.train.min_steps = fit.train.max_steps = TRIAL_STEPS
        for fit in used:  # all are short now: the trial of a teacher trains its students
            for number, (count, trial) in enumerate(fit.trials):
                start = time.monotonic()
                # A few steps learn nothing, which is no warning.
                with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
                    seconds = trial(Path(folder) / f"trial-{id(fit)}-{number}")
                overhead += count * (time.monotonic() - start - TRIAL_STEPS * seconds)
                cost += count * wanted[id(fit)] * seconds
            overhead += images * seconds / (3 * min(fit.train.batch_size, fit.images)) if fit is used[-1] else 0.0
    left = 60 * minutes * (1 - RESERVE) - (time.monotonic() - began) - overhead
    for fit in used:
        steps = max(round(wanted[id(fit)] * min(left / cost, longest)), LEAST_STEPS)
        fit.train.min_steps = fit.train.max_steps = steps
    config.budget_minutes = minutes
    warning = f"; {minutes:g} min are too few, expect more" if left < 0 else ""
    print(f"{budget_text(to_plain(config))}{warning}", file=sys.stderr, flush=True)


def timed(train: Callable[[Path], Any]) -> Callable[[Path], float]:
    """Return a trial of a function that trains a run in a folder."""

    def trial(folder: Path) -> float:
        train(folder)
        return read_json(folder / "run.json")["step_seconds"]

    return trial


def budget_text(settings: Mapping[str, Any]) -> str:
    """Say how many steps the budget of a resolved configuration (`config.yaml`) bought; "" without one."""
    if not settings.get("budget_minutes"):
        return ""
    bought = {name: steps for name, steps in flat(dict(settings)).items() if name.endswith(".max_steps") and steps}
    text = ", ".join(f"{name.removesuffix('.max_steps')} {steps}" for name, steps in bought.items())
    return f"steps within {settings['budget_minutes']:g} min: {text}"


def _restore(minutes: float, config: Any, out: Path) -> bool:
    """Take over the steps of a run with the same budget in `out`; return whether there is one."""
    path = Path(out) / "config.yaml"
    settings = read_settings(path) if path.exists() else {}
    if settings.get("budget_minutes") != minutes:
        return False
    recorded = flat(settings)
    for name, train in _loops(config):
        for option in ("min_steps", "max_steps", "pflops"):
            setattr(train, option, recorded.get(f"{name}{option}", getattr(train, option)))
    config.budget_minutes = minutes
    return True


def _loops(config: Any, prefix: str = "") -> Iterator[tuple[str, TrainConfig]]:
    """Yield every `TrainConfig` in a configuration with the prefix of its settings' dotted names."""
    if isinstance(config, TrainConfig):
        yield prefix, config
    elif isinstance(config, Mapping) or is_dataclass(config):
        for key, value in (config if isinstance(config, Mapping) else vars(config)).items():
            yield from _loops(value, f"{prefix}{key}.")
