"""The training loop, for every method, with its optimiser and schedules."""

import copy
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zwicky.augment.views import Augment
from zwicky.errors import UserError
from zwicky.methods.base import Method
from zwicky.methods.ema import cosine, early_momentum, ema_update
from zwicky.progress import StepProgress
from zwicky.rng import seed_torch
from zwicky.training.checkpoint import FitResult, TrainerState
from zwicky.training.config import TrainConfig
from zwicky.training.distributed import (
    autocast,
    compile_backbones,
    make_fabric,
    run_on_rank_zero,
    synchronise_batch_norm,
)
from zwicky.training.loader import BatchLoader, TrainingSet

METRICS_ROWS = 100
DIAGNOSE_AFTER = 0.2  # share of training before the metrics are judged


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
    """Train `method` in place, or resume from the checkpoint in `folder`.

    Every step is a function of (seed, step), so a resumed fit ends with the same numbers as an uninterrupted one.

    `evaluate` gives metrics to add to metrics.csv, `config.evaluations` times; the fit ends with the weights of the
    lowest value of the one named `keep_lowest`. UserError if the loss becomes infinite, or the batch does not divide
    among the processes.
    """
    fabric = make_fabric()
    loader = BatchLoader(data, augment, config.batch_size, seed, fabric.device, fabric.global_rank, fabric.world_size)
    if loader.batch_size % fabric.world_size:
        raise UserError(
            f"{title}: {loader.batch_size} images per step do not divide among {fabric.world_size} processes; set "
            f"train.batch_size to {max(loader.batch_size // fabric.world_size, 1) * fabric.world_size} "
            "or start another number of them"
        )
    step_flops = fabric.world_size * _count_flops(method, loader, config)
    n_steps = config.steps(len(data.rows), step_flops)
    synchronise_batch_norm(method, fabric)
    ema = copy.deepcopy(method).to(fabric.device) if config.weight_ema else None
    if config.compile:
        compile_backbones(method)
    model, optimizer = fabric.setup(method, make_optimizer(method, config))
    state = TrainerState(folder, method, optimizer, ema, config.checkpoint_seconds)
    progress = state.restore()
    if progress.steps > n_steps:
        raise UserError(f"{state.path} has {progress.steps} steps, more than {n_steps}; delete it to start again")
    log = MetricsLog(n_steps, config.evaluations)
    method.train()
    quiet = quiet or not fabric.is_global_zero
    first_step, first_end, evaluating = progress.steps, 0.0, 0.0
    with StepProgress(title, n_steps, progress.steps, loader.batch_size, quiet) as bar:
        for step in range(first_step, n_steps):
            views = loader.views(step)  # a function of (seed, step) only
            lr = set_schedules(optimizer, config, loader.batch_size, step / n_steps)
            seed_torch(seed, step, fabric.global_rank)  # drop path
            with autocast(method.backbone, config.precision):
                metrics = model(views)
            fabric.backward(metrics["loss"])
            method.before_step()
            if config.clip:
                fabric.clip_gradients(model, optimizer, max_norm=config.clip, error_if_nonfinite=False)
            optimizer.step()
            optimizer.zero_grad()
            method.after_step((step + 1) / n_steps)
            if ema is not None:
                ema_update(ema, method, early_momentum(config.weight_ema, step), buffers=True)

            log.add(metrics)
            progress.steps, progress.images_seen = step + 1, progress.images_seen + loader.batch_size
            if log.is_due(step + 1):
                row = {"step": step + 1, "images": progress.images_seen, "epoch": (step + 1) / loader.steps_per_epoch}
                row |= {"lr": lr} | log.means(fabric)
                if not math.isfinite(row["loss"]):
                    raise UserError(
                        f"{title}: the loss is not finite at step {step + 1}; "
                        "lower train.lr or look for extreme pixels with zwicky audit"
                    )
                if evaluate is not None and log.evaluation_is_due(step + 1):
                    began = time.monotonic()
                    # Compiled backbones run eagerly: the shapes of an evaluation would be compiled anew.
                    with torch.compiler.set_stance("force_eager" if config.compile else "default"):
                        row |= run_on_rank_zero(partial(evaluate, state.evaluated))
                    method.train()
                    if keep_lowest is not None:
                        state.keep_lowest(row[keep_lowest])
                    evaluating += time.monotonic() - began
                progress.rows.append(row)
                bar.metrics(row)
                if step + 1 > n_steps * DIAGNOSE_AFTER:
                    progress.warn(title, method.diagnose(row))
                if fabric.is_global_zero:
                    state.save(now=step + 1 == n_steps)
            bar.advance()
            if step == first_step:
                first_end, evaluating = time.monotonic(), 0.0
    if n_steps > first_step + 1:
        progress.step_seconds = (time.monotonic() - first_end - evaluating) / (n_steps - first_step - 1)
    fabric.barrier()
    method.load_state_dict(state.best or state.evaluated.state_dict())
    progress.flops = step_flops * progress.steps
    return progress


class MetricsLog:
    """Which of `n_steps` are logged and evaluated, and the mean of the metrics between two rows of metrics.csv."""

    def __init__(self, n_steps: int, evaluations: int) -> None:
        self.n_steps = n_steps
        self.every = math.ceil(n_steps / METRICS_ROWS)
        self.evaluate_every = math.ceil(n_steps / max(evaluations, 1))
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def is_due(self, steps: int) -> bool:
        """Return whether a row is written after this many steps."""
        return steps % self.every == 0 or steps == self.n_steps

    def evaluation_is_due(self, steps: int) -> bool:
        """Return whether that row includes an evaluation."""
        return steps // self.evaluate_every > (steps - self.every) // self.evaluate_every or steps == self.n_steps

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add the metrics of a step; they stay on their device."""
        self._count += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()

    def means(self, fabric: Fabric) -> dict[str, float]:
        """Return the means over steps and processes since the last call."""
        sums = fabric.all_reduce(torch.stack([total.double() for total in self._sums.values()]), reduce_op="mean")
        means = {name: float(total) / self._count for name, total in zip(self._sums, sums, strict=True)}
        self._sums, self._count = {}, 0
        return means


def _count_flops(method: Method, loader: BatchLoader, config: TrainConfig) -> float:
    """Floating-point operations of a forward and a backward pass of this process, counted on a copy."""
    probe = copy.deepcopy(method).to(loader.device).train()
    views = loader.views(0)
    with FlopCounterMode(display=False) as counter:
        with autocast(probe.backbone, config.precision):
            loss = probe(views)["loss"]
        loss.backward()
    return float(counter.get_total_flops())


def make_optimizer(method: Method, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters.

    Biases, norms (one-dimensional parameters) and those of `method.no_weight_decay()` are not decayed. With
    layer_decay < 1 the head has the full learning rate and each layer below it that factor of the one above
    (arXiv:2106.08254). Parameters of `method.constant_lr()` keep the peak rate.
    """
    no_decay, constant = method.no_weight_decay(), method.constant_lr()
    layers = method.layer_groups()
    layer_of = {name: depth for depth, names in enumerate(layers) for name in names}
    groups: dict[tuple[int, bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and name not in no_decay
            groups.setdefault((layer_of.get(name, len(layers)), decayed, name in constant), []).append(parameter)
    options = {"lr": 0.0, "weight_decay": 0.0}  # until `set_schedules`
    return torch.optim.AdamW(
        [
            options
            | {"params": parameters, "decayed": decayed, "constant": is_constant}
            | {"lr_scale": config.layer_decay ** (len(layers) - layer)}
            for (layer, decayed, is_constant), parameters in groups.items()
        ],
        betas=(0.9, config.beta2),
        fused=True,
    )


def set_schedules(optimizer: torch.optim.Optimizer, config: TrainConfig, batch_size: int, progress: float) -> float:
    """Set learning rate and weight decay of the step at `progress` in [0, 1); return the head's learning rate."""
    peak = config.lr * batch_size / 256
    if progress < config.warmup:  # linear from 0, then a cosine
        lr = peak * progress / config.warmup
    else:
        lr = cosine(peak, config.min_lr, (progress - config.warmup) / max(1.0 - config.warmup, 1e-12))
    end = config.weight_decay if config.weight_decay_end is None else config.weight_decay_end
    weight_decay = cosine(config.weight_decay, end, progress)
    for group in optimizer.param_groups:
        group["lr"] = (peak if group["constant"] else lr) * group["lr_scale"]
        group["weight_decay"] = weight_decay if group["decayed"] else 0.0
    return lr
