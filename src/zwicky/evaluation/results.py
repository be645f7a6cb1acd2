"""The result directory of a benchmark: what `zwicky benchmark` writes and `zwicky report` reads.

    config.yaml                     the resolved recipe
    run.json                        kind "benchmark", command, versions, seed, schema version, times
    data.json                       the data in words and numbers, see `evaluation.describe`
    audit.json                      the audit of the store, see `cutouts.audit`
    draws.parquet                   draw, labels, use ("fit" or "select"), id: every label subset
    splits/NAME.parquet             one split, or one a fold
    pretrain/NAME/                  a training run: metrics.csv (step, images, loss, gauges …)
    pretrain/NAME/correspondence.*  json: its row of correspondence.csv; npz: plain arrays, a few of them for pictures
    cells/KEY/result.json           one finished cell: a row of results.csv
    cells/KEY/predictions.parquet   id, group, label, one column p_CLASS a class: the test objects
    cells/KEY/metrics.csv           curves of the fine-tuning, where there are any: step, epoch, loss, accuracy,
                                    select_loss, select_accuracy
    results.csv                     one row a cell
    summary.csv                     arm, labels, metric, value, low, high, draws, pretrain_seeds, test_objects
    comparisons.csv                 labels, metric, arm, reference, difference, low, high, p, p_holm, significant
    correspondence.csv              how many regions each pretraining matches to the right place, where asked for
    correspondence_pairs.csv        paired differences of that between pretrained networks

A cell is (arm, labels, draw). KEY is `ARM-nLABELS-dDRAW`; LABELS is a number, all labels counted out.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zwicky.errors import UserError
from zwicky.io import read_json

RESULT_COLUMNS = (
    "arm",  # short name, unique: e.g. dino-finetune
    "title",  # the same for people: "DINO, fine-tuned"
    "kind",  # ssl | supervised | baseline
    "backbone",  # the short name of the network in the recipe
    "protocol",  # finetune | scratch | linear | knn | baseline
    "labels",
    "draw",
    "pretrain_seed",  # empty where nothing was pretrained
    "seed",
    "test_objects",
    "accuracy",
    "auc",  # lens (or the last class) against the rest; macro one-vs-rest with more than two classes
    "tpr0",  # recall at no false positive
    "tpr10",  # recall at ten false positives
    "ece",
    "nll",
    "probe_kept",  # whether fitting did not help, so that the network is the probe it began with; empty without a fit
    "temperature",
    "parameters",
    "steps",
    "images_seen",
    "pflops",  # 10^15 floating-point operations of training this cell, pretraining not included
    "seconds",
)


@dataclass(frozen=True)
class Predictions:
    """Test-set probabilities of one cell. labels and groups: [N] of str; probabilities: [N, classes]."""

    ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    probabilities: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        """[N] int: index into `classes`."""
        return np.array([self.classes.index(label) for label in self.labels])


@dataclass(frozen=True)
class BenchmarkResult:
    """A benchmark's directory, read on demand."""

    path: Path

    def __post_init__(self) -> None:
        if not (self.path / "results.csv").exists():
            raise UserError(f"{self.path} holds no results.csv; give the directory `zwicky benchmark` wrote with --out")

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """Rows of results.csv, numbers as numbers."""
        return read_table(self.path / "results.csv")

    @cached_property
    def summary(self) -> list[dict[str, Any]]:
        return read_table(self.path / "summary.csv")

    @cached_property
    def comparisons(self) -> list[dict[str, Any]]:
        return read_table(self.path / "comparisons.csv")

    @cached_property
    def run(self) -> dict[str, Any]:
        return read_json(self.path / "run.json")

    @cached_property
    def data(self) -> dict[str, Any]:
        return read_json(self.path / "data.json")

    @cached_property
    def audit(self) -> dict[str, Any]:
        return read_json(self.path / "audit.json")

    def cell(self, arm: str, labels: int, draw: int) -> Path:
        return self.path / "cells" / cell_key(arm, labels, draw)

    def predictions(self, arm: str, labels: int, draw: int) -> Predictions:
        """The test-set probabilities of one cell."""
        return read_predictions(self.cell(arm, labels, draw) / "predictions.parquet")

    def curves(self, arm: str, labels: int, draw: int) -> list[dict[str, Any]]:
        """Fine-tuning curves of one cell; empty where it has none."""
        path = self.cell(arm, labels, draw) / "metrics.csv"
        return read_table(path) if path.exists() else []

    def pretraining(self) -> dict[str, list[dict[str, Any]]]:
        """Curves of each pretraining run by its name."""
        return {path.parent.name: read_table(path) for path in sorted((self.path / "pretrain").glob("*/metrics.csv"))}


def cell_key(arm: str, labels: int, draw: int) -> str:
    """The name of a cell's folder."""
    return f"{arm}-n{labels}-d{draw}"


def read_predictions(path: Path) -> Predictions:
    """Read `predictions.parquet`."""
    try:
        table = pq.read_table(path)
        names = [name for name in table.column_names if name.startswith("p_")]
        ids, groups, labels = (np.array(table.column(name).to_pylist(), object) for name in ("id", "group", "label"))
        probabilities = np.stack([table.column(name).to_numpy() for name in names], axis=1)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise UserError(
            f"{path} is missing or damaged ({type(error).__name__}); delete {path.parent} and run the benchmark again"
        ) from error
    return Predictions(ids, groups, labels, tuple(name[2:] for name in names), probabilities)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV file; whatever reads as a number becomes one, an empty field None, True and False booleans."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(stream)]


def _value(text: str) -> Any:
    if text == "":
        return None
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
