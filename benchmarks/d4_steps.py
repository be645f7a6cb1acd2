"""What does exact equivariance cost a training step? D4 transformers against plain ones of equal width, turn by turn.

    python benchmarks/d4_steps.py --rounds 5 --out benchmarks/results/d4_steps.csv

A step is forward, backward, clipping and AdamW of `supervised`, on resident images, in bfloat16 and in float32.
The equivariant network takes its turn twice: as it is, and multiplying with whole matrices instead of by irreps, which
is what `by_irreps` in zwicky/backbones/d4/layers.py chooses between. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads, as zwicky itself does

import torch
from step_timing import Contestant, add_arguments, ratios, take_turns, write_table, zwicky_step

from zwicky import backbones, methods
from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.backbones.d4 import heads, layers
from zwicky.training.config import TrainConfig

# Name, plain network, equivariant network, options, those of the equivariant one, side of the images.
PAIRS = [
    ("ViT-S/8", "vit_small", "d4_vit", {"patch_size": 8, "width": 384, "depth": 12}, {"heads": 3}, 32),
    ("ViT-S/4", "vit_small", "d4_vit", {"patch_size": 4, "width": 384, "depth": 12}, {"heads": 3}, 32),
    (
        "Swin, width 96",
        "swin_tiny",
        "d4_swin",
        {"patch_size": 4, "window": 4, "width": 96, "depths": [2, 2, 6], "stages": 3},
        {"heads": [1, 2, 4]},
        64,
    ),
]
PLAIN_HEADS = {"vit_small": 6, "swin_tiny": [3, 6, 12]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser, [])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    contestants, parameters = [], {}
    for label, plain, equivariant, keywords, more, size in PAIRS:
        for precision in ("bf16", "float32"):
            for kind, extra in ((plain, {"heads": PLAIN_HEADS[plain]}), (equivariant, more)):
                name = f"{label}, {kind}, {precision}"
                net = backbones.create(kind, bands=3, image_size=size, **keywords, **extra)
                parameters[name] = sum(each.numel() for each in net.parameters() if each.requires_grad)
                contestants.append(Contestant(name, step_of(net, size, precision, options.batch)))
            dense = Contestant(f"{name}, whole matrices", contestants[-1].step)
            dense.before, dense.after = partial(choose, False), partial(choose, True)
            contestants.append(dense)
    ceilings = take_turns(contestants, options)
    rows: list[dict[str, Any]] = []
    for plain_one, ours, dense in zip(contestants[::3], contestants[1::3], contestants[2::3], strict=True):
        label, _, precision = ours.name.rsplit(", ", 2)
        speed = ratios(ours, plain_one)
        rows.append(
            {
                "network": label,
                "precision": precision,
                "plain_images_per_second": round(median(plain_one.rates), 1),
                "d4_images_per_second": round(median(ours.rates), 1),
                "d4_is_faster_by": speed["ratio"],
                "faster_min": speed["ratio_min"],
                "faster_max": speed["ratio_max"],
                "irreps_over_whole_matrices": ratios(ours, dense)["ratio"],
                "plain_gflop_per_image": round(plain_one.flops / options.batch / 1e9, 3),
                "d4_gflop_per_image": round(ours.flops / options.batch / 1e9, 3),
                "plain_parameters": parameters[plain_one.name],
                "d4_parameters": parameters[ours.name],
            }
        )
    write_table(rows, ceilings, options)


def choose(by_irreps: bool) -> None:
    """Which way the equivariant networks multiply from now on."""
    heads.by_irreps = layers.by_irreps if by_irreps else lambda *_: False


def step_of(backbone: Backbone, size: int, precision: Any, batch: int) -> Callable[[], None]:
    """A step of `supervised` with two classes on the same images each time."""
    torch.manual_seed(0)
    method = methods.create("supervised", backbone, classes=2)
    images = torch.randn(batch, 3, size, size)
    identity, valid = torch.eye(2, 3).expand(batch, 2, 3), torch.ones((), dtype=torch.bool)
    views = Views([images], [identity], [valid], torch.arange(batch), 1, [torch.arange(batch) % 2])
    step = zwicky_step(method, TrainConfig(batch_size=batch, precision=precision))
    return lambda: step(views)


if __name__ == "__main__":
    main()
