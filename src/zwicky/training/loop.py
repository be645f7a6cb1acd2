"""The training loop, for every method: one screen, nothing hidden."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_module
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zwicky.backbones.contract import Backbone
from zwicky.errors import UserError
from zwicky.files import write_csv
from zwicky.methods.contract import Method
from zwicky.methods.teacher import follow
from zwicky.training import checkpoint
from zwicky.training.batches import Batches
from zwicky.training.config import TrainConfig
from zwicky.training.optim import make_optimizer, set_schedule
from zwicky.training.progress import TrainingProgress
from zwicky.views.augment import Augment

rank_zero_module.log.setLevel("WARNING")
SECONDS_BETWEEN_CHECKPOINTS = 30.0
ROWS_OF_METRICS = 100
GRACE = 0.2  # share of training before gauges are judged


@dataclass
class Source:
    """What to learn from. images: [N, bands, H, W], resident; rows: the [n] rows used; targets: [N] or [N, columns]."""

    images: Tensor
    rows: Tensor
    targets: Tensor | None = None


@dataclass
class Fitted:
    """What a fit did. rows: metrics.csv; flops: of all steps, counted on the first."""

    rows: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    images_seen: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


def fit(
    method: Method,
    source: Source,
    augment: Augment,
    config: TrainConfig,
    *,
    seed: int,
    folder: Path,
    title: str,
    evaluate: Callable[[Method], dict[str, float]] | None = None,
    keep_lowest: str | None = None,
    quiet: bool = False,
) -> Fitted:
    """Train `method` in place; write `folder/metrics.csv` and `folder/checkpoint/last.pt`, or go on from there.

    evaluate: gauges to add to metrics.csv, `config.evaluations` times. keep_lowest: the name of one; the weights with
    its lowest value are kept at the end. Every step is a function of (seed, step), so a resumed fit ends with the
    same numbers as an uninterrupted one.
    """
    fabric = make_fabric(config, method.backbone)
    batches = Batches(source.rows, config.batch_size, seed)
    steps = config.steps(len(source.rows))
    log_every, evaluate_every = math.ceil(steps / ROWS_OF_METRICS), math.ceil(steps / max(config.evaluations, 1))
    targets = None if source.targets is None else source.targets.to(fabric.device)
    images = source.images.to(fabric.device)

    average = copy.deepcopy(method).to(fabric.device) if config.weight_ema else None
    if config.compile:
        compile_backbones(method)
    wrapped, optimizer = fabric.setup(method, make_optimizer(method, config))
    shown = average or method  # what is evaluated and kept

    done, best, best_value, begun = Fitted(), None, math.inf, time.monotonic()
    path = folder / "checkpoint" / "last.pt"
    saved = checkpoint.load(path)
    if saved is not None:
        method.load_state_dict(saved["method"])
        optimizer.load_state_dict(saved["optimizer"])
        if average is not None:
            average.load_state_dict(saved["average"])
        best, best_value = saved["best"], saved["best_value"]
        done = Fitted(**{name: saved[name] for name in vars(done)})
    seconds_before, saved_at = done.seconds, time.monotonic()

    share = batches.size // fabric.world_size
    part = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
    sums: dict[str, Tensor] = {}
    counter = FlopCounterMode(display=False)
    method.train()
    with TrainingProgress(title, steps, done.steps, batches.size, quiet or not fabric.is_global_zero) as progress:
        for step in range(done.steps, steps):
            rows = batches(step)[part].to(fabric.device)
            views = augment(
                images[rows],
                rows,
                seed=seed,
                step=step,
                part=part,
                global_batch=batches.size,
                targets=None if targets is None else targets[rows],
            )
            lr = set_schedule(optimizer, config, batches.size, step / steps)
            torch.manual_seed(hash((seed, step, fabric.global_rank)) % 2**63)  # drop path
            if step == 0:
                with counter:
                    gauges = wrapped(views)
                    fabric.backward(gauges["loss"])
                done.flops = float(counter.get_total_flops() * fabric.world_size)
            else:
                gauges = wrapped(views)
                fabric.backward(gauges["loss"])
            if config.clip:
                fabric.clip_gradients(wrapped, optimizer, max_norm=config.clip, error_if_nonfinite=False)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            method.after_step((step + 1) / steps)
            if average is not None:
                follow(average, method, min(config.weight_ema, (1 + step) / (10 + step)))

            done.steps, done.images_seen = step + 1, done.images_seen + batches.size
            for name, value in gauges.items():
                sums[name] = sums.get(name, 0) + value.detach()
            last = done.steps == steps
            if done.steps % log_every == 0 or last:
                since = (done.steps - 1) % log_every + 1
                row = {
                    "step": done.steps,
                    "images": done.images_seen,
                    "epoch": done.steps / batches.per_epoch,
                    "lr": lr,
                }
                row |= {name: float(total) / since for name, total in sums.items()}
                sums = {}
                if not math.isfinite(row["loss"]):
                    raise UserError(
                        f"{title}: the loss is not finite at step {done.steps}; "
                        "lower train.lr or look for extreme pixels with zwicky audit"
                    )
                if evaluate is not None and (
                    done.steps // evaluate_every > (done.steps - log_every) // evaluate_every or last
                ):
                    with uncompiled(config):
                        row |= evaluate(shown)
                    method.train()
                    if keep_lowest is not None and row[keep_lowest] < best_value:
                        best_value, best = row[keep_lowest], copy.deepcopy(shown.state_dict())
                done.rows.append(row)
                progress.gauges(row)
                warning = method.diagnose(row) if done.steps > steps * GRACE else None
                if warning is not None and warning not in done.warnings:
                    done.warnings.append(warning)
                    progress.say(f"warning: {title}: {warning}")
                if last or time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS:
                    done.seconds = seconds_before + time.monotonic() - begun
                    saved_at = time.monotonic()
                    if fabric.is_global_zero:
                        checkpoint.save(
                            path,
                            {
                                "method": method.state_dict(),
                                "optimizer": optimizer.state_dict(),
                                "average": average.state_dict() if average is not None else None,
                                "best": best,
                                "best_value": best_value,
                                **vars(done),
                            },
                        )
                        write_csv(folder / "metrics.csv", done.rows)
            progress.advance()
    kept = best if best is not None else shown.state_dict()
    method.load_state_dict(kept)
    done.flops *= done.steps
    return done


def compile_backbones(method: Method) -> None:
    """Compile student and teacher, one graph a crop size: left to itself, torch makes slower code after the first."""
    for module in method.modules():
        if isinstance(module, Backbone):
            module.compile(dynamic=False)


def uncompiled(config: TrainConfig) -> AbstractContextManager[object]:
    """While it lasts, compiled backbones run as written: the odd shapes of an evaluation would be compiled anew."""
    return torch.compiler.set_stance("force_eager") if config.compile else nullcontext()


def make_fabric(config: TrainConfig, backbone: Backbone) -> Fabric:
    """The engine: device, precision, and the processes torchrun or SLURM started, if any."""
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fabric = Fabric(
        accelerator=device().type,
        devices=local,
        num_nodes=max(world // local, 1),
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if use_bf16(config.precision, backbone) else "32-true",
    )
    fabric.launch()
    return fabric


def device() -> torch.device:
    """Where networks run: a CUDA or ROCm device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(precision: str, backbone: Backbone) -> bool:
    """Whether to compute in bfloat16: where asked for, or where the hardware multiplies it faster than float32."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return backbone.bf16_on_cpu and any(getattr(torch.cpu, name, lambda: False)() for name in names)
