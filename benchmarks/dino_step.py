"""How fast is a DINO step? zwicky against the usual ways, in one run, turn by turn.

    python benchmarks/dino_step.py --rounds 7 --out benchmarks/results/dino_step.csv

Each round gives every contestant a turn of a few steps; ratios are taken within a round, so that a machine whose speed
wanders shifts all of them. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads, as zwicky itself does

import numpy as np
import timm
import torch
from pil_views import PilLoader
from plain_dino import Head, PlainDino
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zwicky import backbones, methods
from zwicky.backbones.vit import SIZES
from zwicky.methods.contract import Method
from zwicky.training.config import TrainConfig
from zwicky.training.engine import compile_backbones, make_fabric, use_bf16
from zwicky.training.optim import make_optimizer, set_schedule
from zwicky.views.augment import Augment
from zwicky.views.config import ViewsConfig
from zwicky.views.contract import Views
from zwicky.views.normalise import Normalisation

BANDS = ("g", "r", "i")
CEILING_SIDE = 2048


@dataclass
class Contestant:
    """One way to do a step. `before` and `after` frame a turn and are not timed."""

    name: str
    step: Callable[[], None]
    augmentation: list[float]  # seconds, one a step
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    helpers: Callable[[], float] = lambda: 0.0  # processor seconds of other processes so far
    flops: float = 0.0  # of a step
    first_step: float = 0.0  # seconds, with any compilation
    rates: list[float] = field(default_factory=list)  # images/s, one a round
    shares: list[float] = field(default_factory=list)  # of the round's bf16 ceiling


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = partial(seconds_of, options)
    contestants = entries(options, clock)
    ceilings: list[float] = []
    print(f"{machine()}\n{options.threads} threads; first steps:", flush=True)
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
    report(contestants, ceilings, options)


def entries(options: argparse.Namespace, clock: Callable[[], float]) -> list[Contestant]:
    """The contestants; all share images, augmentation (but the PIL one), network size and precision."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (options.images, len(BANDS), options.source, options.source), dtype=np.uint8)
    views = ViewsConfig(
        crop=options.size, image_size=options.size, local_size=options.local_size, local_crops=options.local_crops
    )
    augment = Augment(views, Normalisation.fit(images, BANDS), (options.source, options.source), BANDS, 2, True)
    resident = torch.from_numpy(images)
    train = TrainConfig(batch_size=options.batch)
    order = torch.Generator().manual_seed(0)
    drawn = 0
    like = backbones.create(options.backbone, bands=len(BANDS), image_size=options.size, patch_size=options.patch_size)

    def crops(spent: list[float]) -> Views:
        nonlocal drawn
        begun = clock()
        rows = torch.randperm(len(resident), generator=order)[: options.batch]
        made = augment(resident[rows], rows, seed=0, step=drawn)
        drawn += 1
        spent.append(clock() - begun)
        return made

    def ours(compiled: bool) -> Callable[[Views], None]:
        torch.manual_seed(0)
        backbone = backbones.create(
            options.backbone, bands=len(BANDS), image_size=options.size, patch_size=options.patch_size
        )
        head = {"hidden": options.hidden, "bottleneck": options.bottleneck, "prototypes": options.prototypes}
        method = methods.create("dino", backbone, batch_norm=False, **head)  # as the original, and as plain_dino.py
        if compiled:
            compile_backbones(method)
        return zwicky_step(method, train)

    def plain(fused_attention: bool, compiled: bool) -> PlainDino:
        width, depth, heads = SIZES[options.backbone]
        torch.manual_seed(0)
        net = VisionTransformer(
            img_size=options.size,
            patch_size=options.patch_size,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            dynamic_img_size=True,
        )
        head = Head(width, options.hidden, options.bottleneck, options.prototypes)
        return PlainDino(
            net, head, autocast=use_bf16(train.precision, like), fused_attention=fused_attention, compiled=compiled
        )

    def resident_fed(name: str, step: Callable[[Views], None]) -> Contestant:
        spent: list[float] = []
        return Contestant(name, lambda: step(crops(spent)), spent)

    made = [resident_fed("zwicky", ours(False))]
    if not options.no_compile:
        made.append(resident_fed("zwicky, compiled", ours(True)))
    if not options.no_pil:
        loader, fed, waited = PilLoader(images, views, options.batch), ours(False), []

        def pil_step() -> None:
            begun = clock()
            batch = next(loader.batches)
            waited.append(clock() - begun)
            fed(Views(batch, [], [], torch.arange(options.batch), 2))

        turn = (loader.resume, loader.pause, loader.cpu_seconds)
        made.append(Contestant("zwicky fed by PIL, 2 workers", pil_step, waited, *turn))
    choices = [("plain timm", True, False), ("plain timm, unfused attention", False, False)]
    if not options.no_compile:
        choices.append(("plain timm, unfused attention, compiled", False, True))
    for name, fused_attention, compiled in choices:
        contestant = plain(fused_attention, compiled)
        made.append(resident_fed(name, lambda views, step=contestant.step: step(views.crops)))
    return made


def zwicky_step(method: Method, config: TrainConfig) -> Callable[[Views], None]:
    """A step as `zwicky.training.loop.fit` does it."""
    fabric = make_fabric(config, method.backbone)
    wrapped, optimizer = fabric.setup(method, make_optimizer(method, config))
    method.train()
    method.progress.fill_(0.5)

    def step(views: Views) -> None:
        set_schedule(optimizer, config, config.batch_size, 0.5)
        gauges: dict[str, Tensor] = wrapped(views)
        fabric.backward(gauges["loss"])
        fabric.clip_gradients(wrapped, optimizer, max_norm=config.clip, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(0.5)

    return step


def seconds_of(options: argparse.Namespace) -> float:
    """A clock: on the wall, or what this process has used of its processors, shared out over the threads."""
    return time.perf_counter() if options.clock == "wall" else time.process_time() / options.threads


def matmul_flops(clock: Callable[[], float]) -> float:
    """FLOP/s of a large bf16 matrix product, the best of several."""
    a = torch.randn(CEILING_SIDE, CEILING_SIDE, dtype=torch.bfloat16)
    seconds = []
    for _ in range(12):
        begun = clock()
        a @ a
        seconds.append(clock() - begun)
    return 2 * CEILING_SIDE**3 / min(seconds)


def report(contestants: list[Contestant], ceilings: list[float], options: argparse.Namespace) -> None:
    """Print the table and write it as CSV, with the machine and the command in comment lines."""
    names = [each.name for each in contestants]
    rows = []
    for each in contestants:
        # Compiled contestants are compared with ours compiled.
        mine = contestants[names.index("zwicky, compiled" if each.name.endswith("compiled") else "zwicky")]
        ratios = [ours / theirs for ours, theirs in zip(mine.rates, each.rates, strict=True)]
        seconds = [options.batch / rate for rate in each.rates]
        rows.append(
            {
                "who": each.name,
                "images_per_second": round(median(each.rates), 1),
                "slowest": round(min(each.rates), 1),
                "fastest": round(max(each.rates), 1),
                "zwicky_is_faster_by": round(median(ratios), 2),
                "ratio_min": round(min(ratios), 2),
                "ratio_max": round(max(ratios), 2),
                "gflop_per_image": round(each.flops / options.batch / 1e9, 2),
                "share_of_bf16_ceiling": round(median(each.shares), 3),
                "share_in_augmentation": round(sum(each.augmentation) / (options.steps * sum(seconds)), 3),
                "first_step_seconds": round(each.first_step, 1),
            }
        )
    lines = [[str(value) for value in row] for row in ([*rows[0]], *(row.values() for row in rows))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(value.rjust(width) for value, width in zip(line, widths, strict=True)))
    if options.out is None:
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        file.write(f"# {machine()}\n")
        file.write(f"# {options.threads} threads, {options.clock} clock, {options.rounds} rounds of {options.steps}\n")
        file.write(f"# load average {os.getloadavg()[0]:.1f} at the end (an idle machine shows {options.threads})\n")
        file.write(f"# bf16 matrix product {median(ceilings) / 1e9:.0f} GFLOP/s (median of the rounds)\n")
        file.write(f"# python {shlex.join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]])}\n")
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def machine() -> str:
    """Processor, its number, and the versions that matter."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
        flags = next((line for line in lines if line.startswith("flags")), "").split()
        name += "".join(f", {flag}" for flag in ("avx512_bf16", "amx_bf16") if flag in flags)
    versions = f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}"
    return f"{os.cpu_count()} x {name}; {versions}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    number = [
        ("batch", 128, "images a step"),
        ("rounds", 7, "turns of each contestant"),
        ("steps", 2, "optimiser steps a turn"),
        ("threads", 2, "threads of torch"),
        ("images", 1024, "images in memory"),
        ("source", 46, "side of the images, pixels"),
        ("size", 32, "side of the two global crops, pixels"),
        ("local_size", 16, "side of the local crops, pixels"),
        ("local_crops", 6, "local crops an image"),
        ("patch_size", 8, "side of a patch, pixels"),
        ("hidden", 2048, "width of the head"),
        ("bottleneck", 256, "bottleneck of the head"),
        ("prototypes", 4096, "prototypes K"),
    ]
    for name, default, words in number:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"{words} ({default})")
    parser.add_argument("--backbone", choices=sorted(SIZES), default="vit_small", help="network (vit_small)")
    words = "wall, or cpu: processor seconds over threads, for a machine that others use too (wall)"
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help=words)
    parser.add_argument("--no-compile", action="store_true", help="leave out what needs a compiler and minutes")
    parser.add_argument("--no-pil", action="store_true", help="leave out the PIL pipeline")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
