"""A made-up benchmark directory: small, plausible, and with every file the page can read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from zwicky.data.contract import Cutouts, make_cutouts
from zwicky.data.tables import order_classes
from zwicky.evaluation.results import RESULT_COLUMNS, cell_key
from zwicky.io import write_csv, write_json, write_text

LABELS = (300, 1200, 5575)
# name, title, kind, backbone, protocol, strength at 300 labels, at 5575
ARMS = (
    ("dino-finetune", "DINO, fine-tuned", "ssl", "vit_small", "finetune", 2.9, 3.9),
    ("dino-linear", "DINO, linear probe", "ssl", "vit_small", "linear", 2.5, 2.9),
    ("dino-knn", "DINO, k nearest neighbours", "ssl", "vit_small", "knn", 2.2, 2.6),
    ("supervised-scratch", "ViT supervised", "supervised", "vit_small", "scratch", 2.0, 3.8),
    ("resnet18", "ResNet-18", "baseline", "resnet18", "scratch", 2.5, 3.9),
    ("pca-logistic", "PCA + logistic regression", "baseline", "", "baseline", 1.5, 1.9),
    ("radial-colour", "Radial profile and colour", "baseline", "", "baseline", 1.2, 1.4),
)


def objects_of(classes: tuple[str, ...], objects: int) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(1)
    truth = rng.integers(len(classes), size=objects)
    return [f"field/{position:05d}.png" for position in range(objects)], truth


def make_result(
    folder: Path, classes: tuple[str, ...] = ("nonlens", "lens"), draws: int = 3, objects: int = 240, **data: object
) -> Path:
    """Write the directory and return it."""
    classes = order_classes(set(classes))
    rng = np.random.default_rng(7)
    ids, truth = objects_of(classes, objects)
    difficulty = rng.normal(size=objects)
    rows, summary, comparisons = [], [], []
    for name, title, kind, backbone, protocol, weak, strong in ARMS:
        for position, labels in enumerate(LABELS):
            strength = weak + (strong - weak) * position / (len(LABELS) - 1)
            cells = []
            for draw in range(draws):
                logits = 1.1 * rng.normal(size=(objects, len(classes)))
                logits[np.arange(objects), truth] += strength - 0.8 * (difficulty < -1.2) * strength
                probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
                cell = folder / "cells" / cell_key(name, labels, draw)
                cell.mkdir(parents=True)
                columns = {"id": ids, "group": [""] * objects, "label": [classes[index] for index in truth]}
                columns |= {f"p_{label}": probabilities[:, index] for index, label in enumerate(classes)}
                pq.write_table(pa.table(columns), cell / "predictions.parquet")
                values = _values(truth, probabilities)
                cells.append(values)
                cost = {
                    "parameters": 21_600_000,
                    "steps": labels // 2,
                    "images_seen": 32 * labels,
                    "pflops": labels * 0.02,
                }
                rows.append(
                    {"arm": name, "title": title, "kind": kind, "backbone": backbone, "protocol": protocol}
                    | {
                        "labels": labels,
                        "draw": draw,
                        "pretrain_seed": 11 if kind == "ssl" else None,
                        "seed": 100 + draw,
                    }
                    | {"test_objects": objects, "temperature": 1.1, "seconds": 40.0 + labels / 20, **values, **cost}
                )
                if protocol in ("finetune", "scratch"):
                    epochs = np.arange(30)
                    loss = 0.65 * np.exp(-epochs / (12 - strength)) + 0.05 + 0.01 * rng.normal(size=30)
                    select = loss + 0.06 + epochs / 400
                    write_csv(
                        cell / "metrics.csv",
                        [
                            {
                                "step": 10 * e,
                                "epoch": e,
                                "loss": a,
                                "accuracy": 1 - a / 2,
                                "select_loss": b,
                                "select_accuracy": 1 - b / 2,
                            }
                            for e, a, b in zip(epochs, loss, select, strict=True)
                        ],
                    )
            counts = {"draws": draws, "pretrain_seeds": int(kind == "ssl"), "test_objects": objects}
            for metric in cells[0]:
                mean = float(np.mean([cell[metric] for cell in cells]))
                half = 0.012 if metric in ("auc", "accuracy") else 0.1 * abs(mean)
                top = min(1.0, mean + half) if metric != "nll" else mean + half
                summary.append(
                    {
                        "arm": name,
                        "labels": labels,
                        "metric": metric,
                        "value": mean,
                        "low": mean - half,
                        "high": top,
                        **counts,
                    }
                )
    value = {(row["arm"], row["labels"], row["metric"]): row["value"] for row in summary}
    for metric in ("auc", "accuracy"):
        for labels in LABELS:
            for reference in ("supervised-scratch", "resnet18", "pca-logistic"):
                difference = value["dino-finetune", labels, metric] - value[reference, labels, metric]
                comparisons.append(comparison(labels, metric, "dino-finetune", reference, difference))
    write_csv(folder / "results.csv", rows, RESULT_COLUMNS)
    write_csv(folder / "summary.csv", summary)
    write_csv(folder / "comparisons.csv", comparisons)
    _rest(folder, classes, ids, truth, draws, data)
    return folder


def comparison(
    labels: int, metric: str, arm: str, reference: str, difference: float, half: float = 0.03
) -> dict[str, object]:
    significant = abs(difference) > half
    p = 0.0004 if significant else 0.31
    return {
        "labels": labels,
        "metric": metric,
        "arm": arm,
        "reference": reference,
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "p": p,
        "p_holm": p * 2,
        "significant": significant,
    }


def _values(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    positive = truth == probabilities.shape[1] - 1
    score = probabilities[:, -1]
    negatives = np.sort(score[~positive])[::-1]
    return {
        "accuracy": float((probabilities.argmax(axis=1) == truth).mean()),
        "auc": float((score[positive][:, None] > score[~positive][None]).mean()),
        "tpr0": float((score[positive] > negatives[0]).mean()),
        "tpr10": float((score[positive] > negatives[10]).mean()),
        "ece": 0.03 + 0.02 * float(score.std()),
        "nll": float(-np.log(probabilities[np.arange(len(truth)), truth]).mean()),
    }


def _rest(
    folder: Path, classes: tuple[str, ...], ids: list[str], truth: np.ndarray, draws: int, data: dict[str, object]
) -> None:
    rng = np.random.default_rng(3)
    counts = {label: int((truth == index).sum()) for index, label in enumerate(classes)}
    write_json(
        folder / "data.json",
        {
            "store": "stores/bologna",
            "name": "bologna-desk",
            "objects": 9000,
            "bands": ["g", "r", "i"],
            "size": [44, 44],
            "pixel_scale": 0.2,
            "simulated": True,
            "survey": "KiDS-like",
            "classes": list(classes),
            "positive": classes[-1],
            "class_counts": counts,
            "unlabelled": 3000,
            "roles": {"train": counts, "validation": counts, "test": counts, "unlabelled": {"objects": 3000}},
            "design": "holdout",
            "folds": None,
            "repeats": None,
            "label_counts": list(LABELS),
            "balanced": True,
            "pretraining_images": 8575,
            "augmentation": "any-angle rotation, mirror, shift up to 2 px, noise",
            "size_note": None,
            **data,
        },
    )
    write_json(
        folder / "audit.json",
        {
            "warnings": ["total flux alone tells the classes apart with AUC 0.74 [0.71, 0.77]: above 0.70"],
            "shortcuts": {
                classes[-1]: {
                    "total_flux": {"auc": 0.74, "low": 0.71, "high": 0.77},
                    "mean_colour": {"auc": 0.61, "low": 0.58, "high": 0.65},
                    "border": {"auc": 0.52, "low": 0.50, "high": 0.55},
                }
            },
            "duplicates": {"pixels": 0, "position": 2},
            "objects": 9000,
        },
    )
    write_json(
        folder / "run.json",
        {
            "kind": "benchmark",
            "command": "zwicky benchmark desk --data stores/bologna --out runs/desk",
            "started": "2026-03-01T10:00:00Z",
            "finished": "2026-03-01T11:20:00Z",
            "seconds": 4800.0,
            "versions": {"zwicky": "0.1.0", "torch": "2.8.0", "numpy": "2.3.1"},
            "seed": 5,
            "schema_version": 1,
            "machine": {"processor": "x86_64", "cores": 2, "device": "cpu"},
        },
    )
    recipe = {"methods": ["dino"], "labels": list(LABELS), "draws": draws, "views": {"rotation": "any", "flip": True}}
    write_text(folder / "config.yaml", yaml.safe_dump(recipe))
    pq.write_table(
        pa.table({"draw": [0], "labels": [300], "use": ["fit"], "id": ["train/0"]}), folder / "draws.parquet"
    )
    progress = np.linspace(0, 1, 600)
    write_csv(
        folder / "pretrain" / "dino-s11" / "metrics.csv",
        [
            {
                "step": int(1200 * t),
                "images": int(1200 * t) * 64,
                "loss": 6.9 - 2.1 * t**0.5 + 0.05 * rng.normal(),
                "teacher_entropy": 5.0 - 1.5 * t,
                "teacher_kl": 1.9 - 0.6 * t**0.5,
                "embedding_std": 0.03 + 0.015 * t + 0.001 * rng.normal(),
                "rankme": 20 + 60 * t,
                "knn_accuracy": 0.7 + 0.2 * t,
                "seconds": 1500 * t,
            }
            for t in progress
        ],
    )
    _correspondence(folder, rng)


def _correspondence(folder: Path, rng: np.random.Generator) -> None:
    """One network on a grid of 4 × 4, right about every other region."""
    objects, side, size = 3, 4, 32
    partner = rng.integers(-1, side**2, size=(objects, side**2))
    match = np.where(rng.random(partner.shape) < 0.5, partner.clip(0), rng.integers(side**2, size=partner.shape))
    attention = rng.random((objects, 2, side, side)) ** 3
    arrays = {
        "ids": np.array([f"field/{position:05d}.png" for position in range(objects)]),
        "crops": rng.integers(0, 255, size=(objects, 2, 3, size, size), dtype=np.uint8),
        "match": match.astype(np.int32),
        "partner": partner.astype(np.int32),
        "informative": rng.random(partner.shape) < 0.5,
        "attention": (attention / attention.sum((2, 3), keepdims=True)).astype(np.float32),
    }
    np.savez_compressed(folder / "pretrain" / "dino-s11" / "correspondence.npz", allow_pickle=False, **arrays)
    rows = []
    for method, exact in (("dino", 0.31), ("esvit", 0.52)):
        row = {"network": "vit_small", "method": method, "run": f"{method}-s11", "split": "holdout", "seed": 11}
        row |= {"objects": 256, "regions": "4×4", "counted": 2900, "informative_counted": 1500}
        for kind in ("", "informative_"):
            for measure, value in (("exact", exact), ("near", exact + 0.2)):
                name = kind + measure
                row |= {name: value, f"{name}_low": value - 0.02, f"{name}_high": value + 0.02}
                row |= {f"{name}_untrained": 0.2, f"{name}_position": 0.08, f"{name}_chance": 0.0625}
        rows.append(row)
    write_csv(folder / "correspondence.csv", rows)
    names = {"network": "vit_small", "method": "dino", "other_network": "vit_small", "other_method": "esvit"}
    pair = {"difference": -0.21, "low": -0.235, "high": -0.185, "objects": 256}
    write_csv(folder / "correspondence_pairs.csv", [names | {"measure": name} | pair for name in ("exact", "near")])


def make_store(
    classes: tuple[str, ...] = ("nonlens", "lens"),
    objects: int = 240,
    bands: tuple[str, ...] = ("g", "r", "i"),
    kind: str = "float32",
) -> Cutouts:
    """Round galaxies, and rings around the last class."""
    classes = order_classes(set(classes))
    ids, truth = objects_of(classes, objects)
    rng = np.random.default_rng(2)
    y, x = np.mgrid[-1:1:44j, -1:1:44j]
    radius = np.hypot(x, y)
    images = rng.normal(0, 0.02, (objects, len(bands), 44, 44))
    for band in range(len(bands)):
        images[:, band] += (0.4 + 0.3 * band) * np.exp(-radius / 0.15)
        ring = np.exp(-(((radius - 0.5) / 0.08) ** 2)) * (1 + np.cos(2 * np.arctan2(y, x)))
        images[:, band] += (truth == len(classes) - 1)[:, None, None] * 0.2 * (len(bands) - band) * ring
    if kind == "uint8":
        return make_cutouts((255 * images.clip(0, 1)).astype(np.uint8), bands, ids)
    return make_cutouts(images.astype(np.float32), bands, ids)


@pytest.fixture
def result_maker(tmp_path: Path) -> Callable[..., Path]:
    """`make_result` into a fresh directory."""
    return lambda **options: make_result(tmp_path / "run", **options)


@pytest.fixture(scope="session")
def shared_result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete directory; read it, do not change it."""
    return make_result(tmp_path_factory.mktemp("shared") / "run")


@pytest.fixture(scope="session")
def store_maker() -> Callable[..., Cutouts]:
    return make_store
