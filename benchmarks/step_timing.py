"""What the step benchmarks share: contestants that take turns, a clock, the ceiling, a table with its origin."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tables import machine, write_csv
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zwicky.augment.views import Views
from zwicky.methods.base import Method
from zwicky.training.config import TrainConfig
from zwicky.training.distributed import make_fabric
from zwicky.training.loop import make_optimizer, set_schedules

PACKAGES = ["torch", "timm"]  # whose versions matter
CEILING_SIDE = 2048


@dataclass
class Contestant:
    """One way to do a step. `before` and `after` frame a turn and are not timed."""

    name: str
    step: Callable[[], None]
    augmentation: list[float] = field(default_factory=list)  # seconds, one a step
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    helpers: Callable[[], float] = lambda: 0.0  # processor seconds of other processes so far
    flops: float = 0.0  # of a step
    first_step: float = 0.0  # seconds, with any compilation
    rates: list[float] = field(default_factory=list)  # images/s, one a round
    shares: list[float] = field(default_factory=list)  # of the round's bf16 ceiling


def take_turns(contestants: list[Contestant], options: argparse.Namespace) -> list[float]:
    """Time every contestant in each round; returns the bf16 ceilings of the rounds in FLOP/s.

    options: batch (images a step), rounds, steps (a turn), clock and threads.
    """
    clock = clock_of(options)
    ceilings: list[float] = []
    print(f"{machine(PACKAGES)}\n{options.threads} threads; first steps:", flush=True)
    for each in contestants:
        each.before()
        if "compile" not in each.name:
            with FlopCounterMode(display=False) as counter:
                each.step()
            each.flops = counter.get_total_flops()
        begun = time.perf_counter()
        each.step()
        each.first_step = time.perf_counter() - begun
        each.step()
        each.after()
        each.augmentation.clear()
        print(f"  {each.name}: {each.first_step:.1f} s", flush=True)
    known = {each.name: each.flops for each in contestants}
    for each in contestants:
        each.flops = each.flops or known[each.name.removesuffix(", compiled")]
    for number in range(options.rounds):
        ceilings.append(matmul_flops(clock))
        for each in contestants:
            each.before()
            begun, helped = clock(), each.helpers()
            for _ in range(options.steps):
                each.step()
            seconds = clock() - begun
            if options.clock == "cpu":
                seconds += (each.helpers() - helped) / options.threads
            seconds /= options.steps
            each.after()
            each.rates.append(options.batch / seconds)
            each.shares.append(each.flops / seconds / ceilings[-1])
        rates = ", ".join(f"{each.rates[-1]:.1f}" for each in contestants)
        print(f"round {number + 1}: {rates} images/s; bf16 ceiling {ceilings[-1] / 1e9:.0f} GFLOP/s", flush=True)
    return ceilings


def zwicky_step(method: Method, config: TrainConfig) -> Callable[[Views], None]:
    """A step as `zwicky.training.loop.fit` does it."""
    fabric = make_fabric()
    wrapped, optimizer = fabric.setup(method, make_optimizer(method, config))
    method.train()
    method.progress.fill_(0.5)

    def step(views: Views) -> None:
        set_schedules(optimizer, config, config.batch_size, 0.5)
        metrics: dict[str, Tensor] = wrapped(views)
        fabric.backward(metrics["loss"])
        fabric.clip_gradients(wrapped, optimizer, max_norm=config.clip, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(0.5)

    return step


def clock_of(options: argparse.Namespace) -> Callable[[], float]:
    """A clock: on the wall, or what this process has used of its processors, shared out over the threads."""
    return partial(_seconds, options.clock, options.threads)


def _seconds(clock: str, threads: int) -> float:
    return time.perf_counter() if clock == "wall" else time.process_time() / threads


def matmul_flops(clock: Callable[[], float]) -> float:
    """FLOP/s of a large bf16 matrix product, the best of several."""
    a = torch.randn(CEILING_SIDE, CEILING_SIDE, dtype=torch.bfloat16)
    seconds = []
    for _ in range(12):
        begun = clock()
        a @ a
        seconds.append(clock() - begun)
    return 2 * CEILING_SIDE**3 / min(seconds)


def ratios(first: Contestant, second: Contestant) -> dict[str, float]:
    """How many times the rate of `second` the first has, round by round: median, least and largest."""
    found = [a / b for a, b in zip(first.rates, second.rates, strict=True)]
    return {"ratio": round(median(found), 2), "ratio_min": round(min(found), 2), "ratio_max": round(max(found), 2)}


def write_table(rows: list[dict[str, Any]], ceilings: list[float], options: argparse.Namespace) -> None:
    """Print the table and write it to `options.out` as CSV, with the machine and the command in comment lines."""
    lines = [[str(value) for value in row] for row in ([*rows[0]], *(row.values() for row in rows))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(value.rjust(width) for value, width in zip(line, widths, strict=True)))
    if options.out is None:
        return
    notes = [
        f"{options.threads} threads, {options.clock} clock, {options.rounds} rounds of {options.steps}",
        f"bf16 matrix product {median(ceilings) / 1e9:.0f} GFLOP/s (median of the rounds)",
    ]
    write_csv(options.out, rows, notes, PACKAGES)


def add_arguments(parser: argparse.ArgumentParser, numbers: list[tuple[str, int, str]]) -> None:
    """The options every step benchmark has, and whole numbers of its own: (name, default, words)."""
    common = [
        ("batch", 128, "images a step"),
        ("rounds", 7, "turns of each contestant"),
        ("steps", 2, "optimiser steps a turn"),
        ("threads", 2, "threads of torch"),
    ]
    for name, default, words in common + numbers:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"{words} ({default})")
    words = "wall, or cpu: processor seconds over threads, for a machine that others use too (wall)"
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help=words)
    parser.add_argument("--out", type=Path, help="CSV file to write")
