"""How fast is a DINO step? zwicky against the usual ways, in one run, turn by turn.

    python benchmarks/dino_step.py --rounds 7 --out benchmarks/results/dino_step.csv

Each round gives every contestant a turn of a few steps; ratios are taken within a round, so that a machine whose speed
wanders shifts all of them. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads, as zwicky itself does

import numpy as np
import torch
from pil_views import PilLoader
from plain_dino import Head, PlainDino
from step_timing import Contestant, add_arguments, clock_of, ratios, take_turns, write_table, zwicky_step
from timm.models.vision_transformer import VisionTransformer

from zwicky import backbones, methods
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Augment, Views, ViewsNeeded
from zwicky.backbones import BACKBONES
from zwicky.training.config import TrainConfig
from zwicky.training.distributed import compile_backbones, use_bf16

VITS = ["vit_base", "vit_small", "vit_tiny"]
BANDS = ("g", "r", "i")


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    contestants = entries(options, clock_of(options))
    report(contestants, take_turns(contestants, options), options)


def entries(options: argparse.Namespace, clock: Callable[[], float]) -> list[Contestant]:
    """The contestants; all share images, augmentation (but the PIL one), network size and precision."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (options.images, len(BANDS), options.source, options.source), dtype=np.uint8)
    views = ViewsConfig(
        crop=options.size, image_size=options.size, local_size=options.local_size, local_crops=options.local_crops
    )
    source, normalisation = (options.source, options.source), Normalisation.fit(images, BANDS)
    augment = Augment(views, normalisation, source, BANDS, ViewsNeeded(2, local_crops=True))
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
        size = BACKBONES[options.backbone][1]
        torch.manual_seed(0)
        net = VisionTransformer(
            img_size=options.size,
            patch_size=options.patch_size,
            embed_dim=size["width"],
            depth=size["depth"],
            num_heads=size["heads"],
            num_classes=0,
            dynamic_img_size=True,
        )
        head = Head(size["width"], options.hidden, options.bottleneck, options.prototypes)
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


def report(contestants: list[Contestant], ceilings: list[float], options: argparse.Namespace) -> None:
    names = [each.name for each in contestants]
    rows = []
    for each in contestants:
        # Compiled contestants are compared with ours compiled.
        mine = contestants[names.index("zwicky, compiled" if each.name.endswith("compiled") else "zwicky")]
        seconds = [options.batch / rate for rate in each.rates]
        faster = ratios(mine, each)
        rows.append(
            {
                "who": each.name,
                "images_per_second": round(median(each.rates), 1),
                "slowest": round(min(each.rates), 1),
                "fastest": round(max(each.rates), 1),
                "zwicky_is_faster_by": faster["ratio"],
                "ratio_min": faster["ratio_min"],
                "ratio_max": faster["ratio_max"],
                "gflop_per_image": round(each.flops / options.batch / 1e9, 2),
                "share_of_bf16_ceiling": round(median(each.shares), 3),
                "share_in_augmentation": round(sum(each.augmentation) / (options.steps * sum(seconds)), 3),
                "first_step_seconds": round(each.first_step, 1),
            }
        )
    write_table(rows, ceilings, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    numbers = [
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
    add_arguments(parser, numbers)
    parser.add_argument("--backbone", choices=VITS, default="vit_small", help="network (vit_small)")
    parser.add_argument("--no-compile", action="store_true", help="leave out what needs a compiler and minutes")
    parser.add_argument("--no-pil", action="store_true", help="leave out the PIL pipeline")
    return parser.parse_args()


if __name__ == "__main__":
    main()
