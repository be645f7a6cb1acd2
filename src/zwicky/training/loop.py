"""The training loop, for every method: one screen, nothing hidden."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zwicky.augment.augment import Augment
from zwicky.augment.views import Views
from zwicky.errors import UserError
from zwicky.methods.base import Method
from zwicky.methods.ema import ema_update
from zwicky.progress import StepProgress
from zwicky.rng import seed_torch
from zwicky.training.config import TrainConfig
from zwicky.training.engine import compile_backbones, make_fabric, uncompiled
from zwicky.training.loader import BatchLoader, TrainingSet
from zwicky.training.optim import make_optimizer, set_schedule
from zwicky.training.processes import run_on_rank_zero, together
from zwicky.training.state import FitResult, State

ROWS_OF_METRICS = 100
GRACE = 0.2  # share of training before gauges are judged


def fit(
    method: Method,
    data: TrainingSet,
    augment: Augment,
    config: TrainConfig,
    *,
    seed: int,
    folder: Path,
    title: str,
    evaluate: Callable[[Method], dict[str, float]] | None = None,
    keep_lowest: str | None = None,
    quiet: bool = False,
) -> FitResult:
    """Train `method` in place; write `folder/metrics.csv` and `folder/checkpoint/last.pt`, or go on from there.

    evaluate: gauges to add to metrics.csv, `config.evaluations` times. keep_lowest: the name of one; the weights with
    its lowest value are kept at the end. Every step is a function of (seed, step), so a resumed fit ends with the
    same numbers as an uninterrupted one.
    """
    fabric = make_fabric(config, method.backbone)
    loader = BatchLoader(data, augment, config.batch_size, seed, fabric.device, fabric.global_rank, fabric.world_size)
    if loader.batch_size % fabric.world_size:
        share = max(loader.batch_size // fabric.world_size, 1)
        raise UserError(
            f"{title}: {loader.batch_size} images a step do not divide among {fabric.world_size} processes; "
            f"set train.batch_size to {share * fabric.world_size} or start another number of them"
        )

    step_flops = 0.0
    if config.pflops:
        step_flops = fabric.world_size * _flops(copy.deepcopy(method).to(fabric.device), loader.views(0))
    steps = config.steps(len(data.rows), step_flops)
    log_every, evaluate_every = math.ceil(steps / ROWS_OF_METRICS), math.ceil(steps / max(config.evaluations, 1))
    average = copy.deepcopy(method).to(fabric.device) if config.weight_ema else None
    if config.compile:
        compile_backbones(method)
    wrapped, optimizer = fabric.setup(method, make_optimizer(method, config))
    state = State(folder, method, optimizer, average)
    done = state.restore()
    if done.steps > steps:
        raise UserError(f"{folder / 'checkpoint'} has done {done.steps} steps of {steps}; delete it to start again")
    means, counter = Means(), FlopCounterMode(display=False)
    method.train()
    quiet = quiet or not fabric.is_global_zero
    with together(), StepProgress(title, steps, done.steps, loader.batch_size, quiet) as progress:
        for step in range(done.steps, steps):
            views = loader.views(step)
            lr = set_schedule(optimizer, config, loader.batch_size, step / steps)
            seed_torch(seed, step, fabric.global_rank)  # drop path
            with counter if step == 0 else nullcontext():
                gauges = wrapped(views)
                fabric.backward(gauges["loss"])
            method.before_step()
            if config.clip:
                fabric.clip_gradients(wrapped, optimizer, max_norm=config.clip, error_if_nonfinite=False)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            method.after_step((step + 1) / steps)
            if average is not None:
                ema_update(average, method, min(config.weight_ema, (1 + step) / (10 + step)), buffers=True)

            means.add(gauges)
            done.steps, done.images_seen = step + 1, done.images_seen + loader.batch_size
            if step == 0:
                done.flops = float(counter.get_total_flops() * fabric.world_size)
            last = done.steps == steps
            if done.steps % log_every == 0 or last:
                epoch = done.steps / loader.steps_per_epoch
                row = {"step": done.steps, "images": done.images_seen, "epoch": epoch, "lr": lr}
                row |= means.take(fabric)
                _refuse_infinite(row, title)
                due = done.steps // evaluate_every > (done.steps - log_every) // evaluate_every
                if evaluate is not None and (due or last):
                    with uncompiled(config):
                        row |= run_on_rank_zero(partial(evaluate, state.shown))
                    method.train()
                    if keep_lowest is not None:
                        state.keep_lowest(row[keep_lowest])
                done.rows.append(row)
                progress.gauges(row)
                warning = method.diagnose(row) if done.steps > steps * GRACE else None
                if warning is not None and _kind(warning) not in map(_kind, done.warnings):
                    done.warnings.append(warning)
                    if fabric.is_global_zero:
                        progress.say(f"warning: {title}: {warning}")
                if fabric.is_global_zero:
                    state.save(now=last)
            progress.advance()
    method.load_state_dict(state.kept)
    done.flops *= done.steps
    return done


def _kind(warning: str) -> str:
    """What a warning is about, without its numbers; each kind is said once."""
    return warning.split(":")[0]


def _flops(method: Method, views: Views) -> float:
    """Floating-point operations of a forward and backward pass; spoils the method it is given."""
    with FlopCounterMode(display=False) as counter:
        method.train()(views)["loss"].backward()
    return float(counter.get_total_flops())


class Means:
    """Means of the gauges since they were last taken; they stay on the device until then."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, gauges: dict[str, Tensor]) -> None:
        self._count += 1
        for name, value in gauges.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()

    def take(self, fabric: Fabric) -> dict[str, float]:
        """The means, over the processes as well."""
        sums = fabric.all_reduce(torch.stack([total.double() for total in self._sums.values()]), reduce_op="mean")
        means = {name: float(total) / self._count for name, total in zip(self._sums, sums, strict=True)}
        self._sums, self._count = {}, 0
        return means


def _refuse_infinite(row: dict[str, float], title: str) -> None:
    if not math.isfinite(row["loss"]):
        raise UserError(
            f"{title}: the loss is not finite at step {row['step']}; "
            "lower train.lr or look for extreme pixels with zwicky audit"
        )
