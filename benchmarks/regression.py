"""How well is a number regressed, pretrained or not? `python benchmarks/regression.py --axion STORE --lenses STORE`.

The stores: axion vortices alone (a population whose other kinds have share 0), for log10 of the axion's mass, and
`zwicky simulate lens-finding-cfht`, for the Einstein radius of its lenses. The same small ViT is fitted to n labels,
from random weights and from SimMIM on all images of the roles train and unlabelled; beside them a ridge regression on
the frozen features, and the mean of the n labels. Intervals resample draws of the labels and test objects.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tables import write_csv
from zwicky.metrics.bootstrap import NUMBER_METRICS, Bootstrap, Cell
from zwicky.metrics.regression import mae, r2

from zwicky.augment.config import ViewsConfig
from zwicky.backbones import BackboneConfig
from zwicky.methods import MethodConfig
from zwicky.simulate.stream import Data, open_data
from zwicky.training import provenance
from zwicky.training.config import FinetuneConfig, FitConfig, PretrainConfig, TrainConfig, augmentation_for_labels
from zwicky.training.finetune import finetune
from zwicky.training.pretrain import pretrain

RESULTS = Path(__file__).parent / "results" / "regression.csv"
VIT = BackboneConfig("vit_tiny", {"patch_size": 8, "depth": 6, "pool": "mean"})
LABELS, DRAWS, REPLICATES = (300, 3000), 3, 1000
CROP, SEEN = 44, 48  # pixels of a window that may stand at any angle in 64, and those the network sees
LEARNT = ("fit", "select")
LOOP = {"epochs": 1000, "batch_size": 64, "lr": 2e-3, "weight_decay": 0.05}


def answers(data: Data, target: str, runs: Path, pretrain_steps: int, steps: int) -> dict[int, dict[str, list[Cell]]]:
    """n labels → arm → what it says of the test objects, once a draw of the labels."""
    cutouts, split = data.cutouts, data.split("holdout")
    values = cutouts.column(target)
    test = cutouts.rows_of(split.ids("test"))
    test = test[np.isfinite(values[test])]
    free = cutouts.rows_of(split.ids("train", "unlabelled"))
    config = PretrainConfig(
        method=MethodConfig("simmim"),
        backbone=VIT,
        views=ViewsConfig(crop=CROP, image_size=SEEN, local_crops=0, blur=0.0, noise=0.0),
        train=TrainConfig(**LOOP, max_steps=pretrain_steps, evaluations=3),
    )
    start = runs / f"{target}-pretrained"
    pretrained = pretrain(config, cutouts, free, start)
    provenance.check_no_leakage(cutouts, test, provenance.read(start), "the test")
    features = pretrained.features(cutouts.images)
    views = replace(augmentation_for_labels(), crop=CROP, image_size=SEEN, brightness=0.0, contrast=0.0)
    loop = TrainConfig(**LOOP, max_steps=steps, weight_ema=0.98, evaluations=5)
    ids = cutouts.ids[test]
    groups = split.groups_of(ids)
    found: dict[int, dict[str, list[Cell]]] = {count: {} for count in LABELS}
    for count in LABELS:
        for draw in range(DRAWS):
            said = {}
            for arm, scratch in (("SimMIM, fine-tuned", False), ("from scratch", True)):
                how = {"layer_decay": 1.0, "head": "random"} if scratch else {"layer_decay": 0.75, "head": "probe"}
                fit = FitConfig(replace(loop, layer_decay=how["layer_decay"]), head=how["head"])
                settings = FinetuneConfig(views=views, fit=fit, labels=count, targets=[target], draw=draw, seed=draw)
                out = runs / f"{target}-{'scratch' if scratch else 'simmim'}-{count}-{draw}"
                network = finetune(settings, start, cutouts, data.labels, split, out, from_scratch=scratch)
                said[arm] = network.outputs(cutouts.images[test])[:, 0]
            used = provenance.read(out).table
            rows = cutouts.rows_of([i for i, use in zip(used["id"], used["use"], strict=True) if use in LEARNT])
            ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 13)))
            said["SimMIM, frozen, ridge"] = ridge.fit(features[rows], values[rows]).predict(features[test])
            said["mean of the labels"] = np.full(len(test), values[rows].mean())
            for arm, predicted in said.items():
                found[count].setdefault(arm, []).append(Cell(draw, draw, None, ids, groups, values[test], predicted))
                error, share = mae(values[test], predicted), r2(values[test], predicted)
                print(f"{target}, {count} labels, draw {draw}, {arm}: error {error:.4f}, R2 {share:.4f}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axion", help="store of axion vortices; left out, their mass is not regressed")
    parser.add_argument(
        "--lenses", help="store of lenses and look-alikes; left out, their Einstein radius is not regressed"
    )
    parser.add_argument("--pretrain_steps", type=int, default=1312, help="of pretraining, 64 images each")
    parser.add_argument("--steps", type=int, default=300, help="of each fit")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the networks")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table to write")
    given = parser.parse_args()

    table = []
    for target, store in (("log10_axion_mass", given.axion), ("theta_E", given.lenses)):
        if store is None:
            continue
        data = open_data(store)
        cells = answers(data, target, given.runs, given.pretrain_steps, given.steps)
        for count in LABELS:
            bootstrap = Bootstrap(cells[count], tuple(NUMBER_METRICS), REPLICATES)
            for arm, draws in cells[count].items():
                for metric in NUMBER_METRICS:
                    row = {"target": target, "arm": arm, "labels": count, "draws": DRAWS}
                    row |= {"test_objects": len(draws[0].ids), "metric": metric}
                    row |= vars(bootstrap.interval(arm, metric))
                    beside = bootstrap.difference(arm, "from scratch", metric)
                    row |= {"minus_scratch_low": beside.low, "minus_scratch_high": beside.high}
                    table.append({name: f"{one:.4g}" if isinstance(one, float) else one for name, one in row.items()})
    notes = ["simulated images; intervals of 95 % over test objects and draws, conditional on one pretraining"]
    write_csv(given.out, table, notes, ("zwicky", "torch", "timm"))


if __name__ == "__main__":
    main()
