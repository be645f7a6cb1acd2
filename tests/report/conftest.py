"""A small benchmark directory with every file the page reads; intervals come from `evaluation`."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

import zwicky
from zwicky.augment.views import Target
from zwicky.data.labels import Labels
from zwicky.data.splits import Split
from zwicky.evaluation.arms import Arm
from zwicky.evaluation.benchmark import dataset_card
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.evaluation.label_draws import LabelDraw
from zwicky.evaluation.metrics import scores
from zwicky.evaluation.results import BenchmarkResult, cell_key, prediction_table, summarise
from zwicky.io import write_json, write_table
from zwicky.training.run import to_plain
from zwicky.training.task import Task

ARMS = {  # signal at 100 labels
    Arm("dino", "vit", "finetune", "ssl", "DINO, fine-tuned"): 2.4,
    Arm("", "vit", "scratch", "supervised", "ViT from scratch"): 0.8,
    Arm("", "resnet18", "scratch", "baseline", "ResNet-18 from scratch"): 1.8,
    Arm("pca_linear", "", "baseline", "baseline", "PCA + logistic regression"): 0.6,
}
PAIRS = [("dino-vit-finetune", name) for name in ("vit-supervised", "resnet18-supervised", "pca-linear")]
LABELS = (100, 400)


def make_run(
    folder: Path, classes=("nonlens", "lens"), columns=(), draws=2, objects=80, finished=True, survey="KiDS", **settings
) -> Path:
    """Write a benchmark of the classes, or of the regressed columns, with these settings."""
    rng, rows, cutouts = np.random.default_rng(0), [], make_cutouts(objects, survey=survey)
    ids, labels = cutouts.ids, Labels({})
    if columns:
        task = Task(rng.normal(size=(objects, len(columns))), targets=tuple(Target((name,)) for name in columns))
    else:
        task = Task(rng.integers(len(classes), size=objects), tuple(classes))
        labels = Labels(dict(zip(ids, np.array(classes, object)[task.truth], strict=True)))
    for arm, count, draw in product(ARMS, LABELS, range(draws)):
        strength, noise = ARMS[arm] * (1 + (count == 400) / 2), rng.normal(size=(objects, task.n_outputs))
        if columns:
            predicted = task.truth + noise / strength
        else:
            predicted = softmax(noise + strength * np.eye(len(classes))[task.truth], axis=1)
        cell = folder / "cells" / cell_key(arm.name, count, draw)
        write_table(cell / "predictions.parquet", prediction_table(ids, ids, task.truth, predicted, task))
        if arm.protocol != "baseline":
            log = pd.DataFrame({"epoch": range(9), "loss": np.exp(-np.arange(9) / 3)})
            write_table(cell / "metrics.csv", log.assign(select_loss=log["loss"] + 0.1))
        row = {"arm": arm.name, **vars(arm), "labels": count, "draw": draw, "unit": f"draw {draw}", "seed": draw}
        row |= {"pretrain_seed": 0 if arm.kind == "ssl" else None, "used_probe": arm.kind == "ssl" and draw == 1}
        row |= {"parameters": 5e6, "steps": 90, "images_seen": 2880, "pflops": 0.01, "seconds": 75.0}
        rows.append(row | {"test_objects": objects} | scores(task.truth, predicted, columns))
    write_table(folder / "results.csv", pd.DataFrame(rows))
    config = BenchmarkConfig(replicates=600, correspondence=0 if columns else 3, **settings)
    write_json(folder / "config.yaml", to_plain(config))
    split = Split("holdout", dict.fromkeys(ids[::2], "train") | dict.fromkeys(ids[1::2], "test"))
    drawn = LabelDraw(0, "draw 0", split, {100: (ids[:80:2], ids[80::2])}, (100,))
    write_json(folder / "data.json", dataset_card(Path("stores/demo"), config, cutouts, labels, task, [drawn]))
    for table, name in zip(summarise(BenchmarkResult(folder), PAIRS, 600), ("summary", "comparisons"), strict=True):
        write_table(folder / f"{name}.csv", table)
    flux = {"total_flux": {"auc": 0.74, "low": 0.71, "high": 0.77}}
    write_json(folder / "audit.json", {"warnings": ["total flux has AUC 0.74"], "shortcuts": {"lens": flux}})
    run = {"command": "zwicky benchmark desk --data stores/demo --out runs/desk", "started": "2026-03-01T10:00:00Z"}
    run |= {"finished": "2026-03-01T11:00:00Z" if finished else None, "seconds": 3600.0, "seed": 0, "schema_version": 1}
    write_json(folder / "run.json", run | {"versions": {"torch": "2.8.0"}, "machine": {"processor": "x86_64"}})
    pretraining = folder / "pretrain" / "dino-vit-s0"
    rankme = np.where(np.arange(30) % 10, np.nan, 20 + 2 * np.arange(30))
    log = {"step": range(1, 31), "images": range(64, 1921 + 63, 64), "loss": np.linspace(5, 3, 30), "rankme": rankme}
    write_table(pretraining / "metrics.csv", pd.DataFrame(log))
    write_json(pretraining / "run.json", {"warnings": ["the loss stopped falling"], "steps": 30, "parameters": 5e6})
    if not columns:
        _correspondence(folder, ids, rng)
    return folder


def _correspondence(folder: Path, ids: np.ndarray, rng: np.random.Generator) -> None:
    """One network on a grid of 4 × 4 regions, and its difference from another."""
    partner, match = rng.integers(-1, 16, size=(3, 16)), rng.integers(16, size=(3, 16))
    match[:, ::2] = partner[:, ::2].clip(0)
    np.savez(
        folder / "pretrain" / "dino-vit-s0" / "correspondence.npz",
        ids=ids[:3].astype(str),
        crops=rng.integers(0, 255, size=(3, 2, 3, 32, 32), dtype=np.uint8),
        match=match,
        partner=partner,
        informative=rng.random((3, 16)) < 0.5,
        attention=rng.random((3, 2, 4, 4)),
    )
    row = {"network": "vit", "method": "dino", "run": "dino-vit-s0", "objects": 256, "regions": "4×4"}
    for name in ("exact", "near", "informative_exact", "informative_near"):
        row |= {name: 0.31, f"{name}_low": 0.29, f"{name}_high": 0.33}
        row |= {f"{name}_untrained": 0.2, f"{name}_position": 0.08, f"{name}_chance": 0.0625}
    write_table(folder / "correspondence.csv", pd.DataFrame([row]))
    pair = {"network": "vit", "method": "dino", "other_network": "vit", "other_method": "esvit", "measure": "exact"}
    pair |= {"difference": -0.21, "low": -0.235, "high": -0.185, "objects": 256}
    write_table(folder / "correspondence_pairs.csv", pd.DataFrame([pair]))


def make_cutouts(objects=80, bands=("g", "r", "i"), survey="KiDS") -> zwicky.Cutouts:
    """Noisy galaxies with the ids of `make_run`."""
    radius = np.hypot(*np.mgrid[-1:1:44j, -1:1:44j])
    images = np.random.default_rng(1).normal(0, 0.02, (objects, len(bands), 44, 44)) + np.exp(-radius / 0.15)
    columns = {"survey": [survey] * objects, "simulated": [True] * objects, "pixel_scale": [0.2] * objects}
    ids = [f"field/{k:03d}.png" for k in range(objects)]
    return zwicky.make_cutouts(images.astype(np.float32), bands, ids, **columns)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished benchmark; read it, do not change it."""
    return make_run(tmp_path_factory.mktemp("report") / "run")
