"""How fast is a step of each method? On ViT-S/8 and on Swin-T, in one run, turn by turn.

    python benchmarks/method_steps.py --rounds 5 --out benchmarks/results/method_steps.csv

A method's cost is given beside DINO's on the same network in the same round. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads, as zwicky itself does

import numpy as np
import torch
from step_timing import Contestant, add_arguments, ratios, take_turns, write_table, zwicky_step

from zwicky import backbones, methods
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Augment
from zwicky.training.config import TrainConfig

BANDS = ("g", "r", "i")
NETWORKS = {  # options, side of the global crops, side of the local crops
    "ViT-S/8": ("vit_small", {"patch_size": 8}, 32, 16),
    "Swin-T": ("swin_tiny", {"patch_size": 4, "window": 4}, 64, 32),
}
DISTILLED = ("dino", "ibot", "esvit")
HEAD = {"hidden": 2048, "bottleneck": 256, "prototypes": 4096, "batch_norm": False}
METHODS = [
    ("ViT-S/8", ["dino", "ibot", "esvit", "simsiam", "byol", "lejepa", "simmim", "beit", "mae"]),
    ("Swin-T", ["dino", "ibot", "esvit", "simsiam", "simmim"]),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser, [("local_crops", 6, "local crops an image, where a method takes them")])
    parser.add_argument("--only", default="", help="methods to time beside DINO, separated by commas; default: all")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    wanted = {"dino", *options.only.split(",")} if options.only else None
    contestants = [
        Contestant(f"{method}, {network}", step_of(method, network, options))
        for network, names in METHODS
        for method in names
        if wanted is None or method in wanted
    ]
    ceilings = take_turns(contestants, options)
    by_name = {each.name: each for each in contestants}
    rows: list[dict[str, Any]] = []
    for each in contestants:
        method, network = each.name.split(", ")
        cost = ratios(by_name[f"dino, {network}"], each)
        rows.append(
            {
                "method": method,
                "network": network,
                "images_per_second": round(median(each.rates), 1),
                "times_dinos_cost": cost["ratio"],
                "cost_min": cost["ratio_min"],
                "cost_max": cost["ratio_max"],
                "gflop_per_image": round(each.flops / options.batch / 1e9, 2),
                "share_of_bf16_ceiling": round(median(each.shares), 3),
            }
        )
    write_table(rows, ceilings, options)


def step_of(name: str, network: str, options: argparse.Namespace) -> Callable[[], None]:
    """A step of the method with its augmentation, on images that are resident."""
    kind, keywords, size, local = NETWORKS[network]
    torch.manual_seed(0)
    backbone = backbones.create(kind, bands=len(BANDS), image_size=size, **keywords)
    method = methods.create(name, backbone, **(HEAD if name in DISTILLED else {}))
    source = 3 * size // 2
    images = np.random.default_rng(0).integers(0, 256, (512, len(BANDS), source, source), dtype=np.uint8)
    views = ViewsConfig(crop=size, image_size=size, local_size=local, local_crops=options.local_crops)
    needs, normalisation = method.needs, Normalisation.fit(images, BANDS)
    augment = Augment(views, normalisation, (source, source), BANDS, needs)
    resident, order = torch.from_numpy(images), torch.Generator().manual_seed(0)
    method.prepare(augment(resident, torch.arange(len(resident)), seed=0, step=0))
    step, drawn = zwicky_step(method, TrainConfig(batch_size=options.batch)), 0

    def run() -> None:
        nonlocal drawn
        rows = torch.randperm(len(resident), generator=order)[: options.batch]
        drawn += 1
        step(augment(resident[rows], rows, seed=0, step=drawn))

    return run


if __name__ == "__main__":
    main()
