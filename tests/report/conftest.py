"""A small benchmark directory with every file the page reads; intervals come from `evaluation`."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import zwicky
from zwicky.evaluation.metrics import scores
from zwicky.evaluation.results import BenchmarkResult, cell_key, summarise
from zwicky.io import write_json

ARMS = (  # name, title, kind, backbone, protocol, signal at 100 labels
    ("dino-vit-finetune", "DINO, fine-tuned", "ssl", "vit", "finetune", 2.4),
    ("vit-supervised", "ViT from scratch", "supervised", "vit", "scratch", 0.8),
    ("resnet18-supervised", "ResNet-18 from scratch", "baseline", "resnet18", "scratch", 1.8),
    ("pca-logistic", "PCA + logistic regression", "baseline", "", "baseline", 0.6),
)
PAIRS = [("dino-vit-finetune", name) for name in ("vit-supervised", "resnet18-supervised", "pca-logistic")]
LABELS = (100, 400)


def make_run(folder: Path, classes=("nonlens", "lens"), columns=(), draws=2, objects=80, finished=True, **card) -> Path:
    """Write a benchmark of the classes, or of the regressed columns."""
    rng, rows = np.random.default_rng(0), []
    ids = [f"field/{k:03d}.png" for k in range(objects)]
    truth = rng.normal(size=(objects, len(columns))) if columns else rng.integers(len(classes), size=objects)
    for (name, title, kind, backbone, protocol, signal), labels, draw in product(ARMS, LABELS, range(draws)):
        strength, noise = signal * (1 + (labels == 400) / 2), rng.normal(size=(objects, len(columns or classes)))
        table = pd.DataFrame({"id": ids, "group": ids})
        if columns:
            predicted = truth + noise / strength
            table[[f"true_{c}" for c in columns]], table[[f"predicted_{c}" for c in columns]] = truth, predicted
        else:
            logits = noise + strength * np.eye(len(classes))[truth]
            predicted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            table["label"] = np.array(classes, object)[truth]
            table[[f"p_{c}" for c in classes]] = predicted
        cell = folder / "cells" / cell_key(name, labels, draw)
        cell.mkdir(parents=True)
        table.to_parquet(cell / "predictions.parquet")
        if protocol != "baseline":
            loss = np.exp(-np.arange(9) / 3)
            log = {"epoch": range(9), "loss": loss, "select_loss": loss + 0.1}
            pd.DataFrame(log).to_csv(cell / "metrics.csv", index=False)
        row = {"arm": name, "title": title, "kind": kind, "backbone": backbone, "protocol": protocol, "tta": True}
        row |= {"labels": labels, "draw": draw, "unit": f"draw {draw}", "seed": draw, "test_objects": objects}
        row |= {"pretrain_seed": 0 if kind == "ssl" else None, "used_probe": kind == "ssl" and draw == 1}
        row |= {"parameters": 5e6, "steps": 90, "images_seen": 2880, "pflops": 0.01, "seconds": 75.0}
        rows.append(row | scores(truth, predicted, columns))
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    config = {"seed": 0, "replicates": 600, "correspondence": 0 if columns else 3, "views": {"rotation": "any"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    description = {"classes": () if columns else classes, "columns": columns}
    write_json(folder / "data.json", description)  # which `summarise` reads; the rest follows
    for table, name in zip(summarise(BenchmarkResult(folder), PAIRS, 600), ("summary", "comparisons"), strict=True):
        table.to_csv(folder / f"{name}.csv", index=False)
    counts = {name: int((truth == k).sum()) for k, name in enumerate(() if columns else classes)}
    description |= {"title": "A benchmark", "store": "stores/demo", "name": "demo", "objects": 900, "simulated": True}
    description |= {"bands": ["g", "r", "i"], "size": [44, 44], "pixel_scale": 0.2, "survey": "KiDS-like"}
    description |= {"class_counts": counts, "positive": None if columns else classes[-1], "pretrain_seeds": 1}
    description |= {"roles": {"train": counts, "test": counts}, "design": "holdout", "folds": None, "repeats": None}
    description |= {"balanced": True, "pretraining_images": 700, "augmentation": "rotation any", "compare_with": None}
    write_json(folder / "data.json", description | {"size_note": None} | card)
    flux = {"total_flux": {"auc": 0.74, "low": 0.71, "high": 0.77}}
    write_json(folder / "audit.json", {"warnings": ["total flux has AUC 0.74"], "shortcuts": {"lens": flux}})
    run = {"command": "zwicky benchmark desk --data stores/demo --out runs/desk", "started": "2026-03-01T10:00:00Z"}
    run |= {"finished": "2026-03-01T11:00:00Z" if finished else None, "seconds": 3600.0, "seed": 0, "schema_version": 1}
    write_json(folder / "run.json", run | {"versions": {"torch": "2.8.0"}, "machine": {"processor": "x86_64"}})
    pretraining = folder / "pretrain" / "dino-vit-s0"
    pretraining.mkdir(parents=True)
    rankme = np.where(np.arange(30) % 10, np.nan, 20 + 2 * np.arange(30))
    log = {"step": range(1, 31), "images": range(64, 1921 + 63, 64), "loss": np.linspace(5, 3, 30), "rankme": rankme}
    pd.DataFrame(log).to_csv(pretraining / "metrics.csv", index=False)
    write_json(pretraining / "run.json", {"warnings": ["the loss stopped falling"], "steps": 30, "parameters": 5e6})
    if not columns:
        _correspondence(folder, ids, rng)
    return folder


def _correspondence(folder: Path, ids: list[str], rng: np.random.Generator) -> None:
    """One network on a grid of 4 × 4 regions, and its difference from another."""
    partner, match = rng.integers(-1, 16, size=(3, 16)), rng.integers(16, size=(3, 16))
    match[:, ::2] = partner[:, ::2].clip(0)
    np.savez(
        folder / "pretrain" / "dino-vit-s0" / "correspondence.npz",
        ids=np.array(ids[:3]),
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
    pd.DataFrame([row]).to_csv(folder / "correspondence.csv", index=False)
    pair = {"network": "vit", "method": "dino", "other_network": "vit", "other_method": "esvit", "measure": "exact"}
    pair |= {"difference": -0.21, "low": -0.235, "high": -0.185, "objects": 256}
    pd.DataFrame([pair]).to_csv(folder / "correspondence_pairs.csv", index=False)


def make_cutouts(objects=80, bands=("g", "r", "i")) -> zwicky.Cutouts:
    """Noisy galaxies with the ids of `make_run`."""
    radius = np.hypot(*np.mgrid[-1:1:44j, -1:1:44j])
    images = np.random.default_rng(1).normal(0, 0.02, (objects, len(bands), 44, 44)) + np.exp(-radius / 0.15)
    return zwicky.make_cutouts(images.astype(np.float32), bands, [f"field/{k:03d}.png" for k in range(objects)])


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished benchmark; read it, do not change it."""
    return make_run(tmp_path_factory.mktemp("report") / "run")
