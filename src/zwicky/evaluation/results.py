"""The result directory of a benchmark: what `zwicky benchmark` writes and `zwicky report` reads.

    config.yaml                     the resolved recipe
    run.json                        kind "benchmark", command, versions, seed, schema version, times
    data.json                       the data set card, see `evaluation.benchmark.dataset_card`
    audit.json                      the audit of the store, see `data.audit`
    draws.parquet                   draw, labels, use ("fit" or "select"), id: every label subset
    splits/                         one split, or one per fold
    pretrain/NAME/                  a training run: metrics.csv (step, images, loss, diagnostics …)
    pretrain/NAME/correspondence.*  json: its row of correspondence.csv; npz: plain arrays, a few of them for pictures
    cells/KEY/result.json           one finished cell: a row of results.csv
    cells/KEY/predictions.parquet   the test objects: id, group, label and p_CLASS per class; or id, group and
                                    true_COLUMN, predicted_COLUMN per regressed column
    cells/KEY/metrics.csv           curves of the fine-tuning, where there are any: step, epoch, loss, accuracy,
                                    select_loss, select_accuracy
    results.csv                     one row per cell
    summary.csv                     arm, labels, metric, value, low, high, draws, pretrain_seeds, test_objects
    comparisons.csv                 labels, metric, arm, reference, difference, low, high, p, p_holm, significant
    correspondence.csv              region correspondence of each pretraining, where asked for
    correspondence_pairs.csv        paired differences of that between pretrained networks

A cell is (arm, labels, draw). KEY is `ARM-nLABELS-dDRAW`; LABELS is a number, "all" written out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from zwicky.errors import UserError
from zwicky.evaluation.bootstrap import Bootstrap, Cell, holm
from zwicky.evaluation.metrics import statistics
from zwicky.io import read_json, read_settings
from zwicky.training.task import Task

T = TypeVar("T")

# Columns of results.csv, see docs/report.md; between these two stand the metrics of `evaluation.metrics.scores`.
ARM_COLUMNS = "arm title kind method backbone protocol tta labels draw unit pretrain_seed seed test_objects".split()
COST_COLUMNS = "used_probe temperature parameters steps images_seen pflops seconds".split()
SUMMARY_COLUMNS = "arm labels metric value low high draws pretrain_seeds test_objects".split()
COMPARISON_COLUMNS = "labels metric arm reference difference low high p".split()  # then p_holm and significant
ALPHA = 0.05
# A bootstrap p is never below 2 / (R + 1). With m comparisons Holm multiplies the smallest by m, so R must be well
# above 2 m / ALPHA = 40 m or nothing could ever be significant.
REPLICATES_PER_COMPARISON = 100


def read_table(path: Path, text: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file, columns `text` as text; only empty fields and nan are missing values."""
    try:
        return pd.read_csv(path, keep_default_na=False, na_values=["", "nan"], dtype=dict.fromkeys(text, str))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({type(error).__name__}); run the benchmark again") from error


def _file(name: str, read: Callable[[Path], T]) -> cached_property[T]:
    """An attribute of `BenchmarkResult`: a file, read when it is first used."""
    return cached_property(lambda result: read(result.path / name))


@dataclass(frozen=True)
class BenchmarkResult:
    """A benchmark's directory, read on demand; UserError if there is no results.csv."""

    path: Path

    results = _file("results.csv", partial(read_table, text=("method", "backbone")))  # one row per cell
    summary = _file("summary.csv", read_table)  # one row per arm, number of labels and metric
    comparisons = _file("comparisons.csv", read_table)  # one row per pair of arms, number of labels and metric
    config = _file("config.yaml", read_settings)  # the resolved recipe
    run = _file("run.json", read_json)
    data = _file("data.json", read_json)
    audit = _file("audit.json", read_json)

    def __post_init__(self) -> None:
        if not (self.path / "results.csv").exists():
            raise UserError(f"{self.path} holds no results.csv; give the directory `zwicky benchmark` wrote with --out")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names, the positive one last; () for a regression."""
        return tuple(self.data["classes"])

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the regressed columns; () for a classification."""
        return tuple(self.data["columns"])

    def cell(self, arm: str, labels: int, draw: int) -> Path:
        """Return the folder of a cell."""
        return self.path / "cells" / cell_key(arm, labels, draw)

    def predictions(self, arm: str, labels: int, draw: int) -> pd.DataFrame:
        """Read the predictions of a cell on its test objects; see the top of this module for the columns."""
        path = self.cell(arm, labels, draw) / "predictions.parquet"
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(f"{path} is missing or damaged; delete {path.parent} and run again") from error
        return table.assign(group=table["group"].where(table["group"].notna() & (table["group"] != ""), table["id"]))

    def curves(self, arm: str, labels: int, draw: int) -> pd.DataFrame:
        """Read the fine-tuning curves of a cell; empty where it has none."""
        path = self.cell(arm, labels, draw) / "metrics.csv"
        return read_table(path) if path.exists() else pd.DataFrame()

    def pretraining(self) -> dict[str, pd.DataFrame]:
        """Read the curves of each pretraining run by its name."""
        return {path.parent.name: read_table(path) for path in sorted((self.path / "pretrain").glob("*/metrics.csv"))}

    def cells(self, labels: int, arms: Sequence[str] | None = None) -> dict[str, list[Cell]]:
        """Read the cells at one number of labels by arm, of all arms unless given."""
        cells: dict[str, list[Cell]] = {}
        for row in self.results[self.results["labels"] == labels].to_dict("records"):
            if arms is None or row["arm"] in arms:
                table, seed = self.predictions(row["arm"], labels, row["draw"]), row["pretrain_seed"]
                identity = (row["draw"], row["unit"], None if pd.isna(seed) else int(seed))
                ids, groups = (table[name].to_numpy(object) for name in ("id", "group"))
                cells.setdefault(row["arm"], []).append(Cell(ids, groups, *self._arrays(table), *identity))
        return cells

    def _arrays(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Truth [N] int and probabilities [N, classes], or true and predicted numbers [N, columns], of predictions."""
        names, prefix = self.columns or self.classes, "predicted" if self.columns else "p"
        predicted = table[[f"{prefix}_{name}" for name in names]].to_numpy(np.float64)
        if self.columns:
            return table[[f"true_{name}" for name in names]].to_numpy(np.float64), predicted
        return pd.Index(names).get_indexer(table["label"]), predicted


def prediction_table(
    ids: np.ndarray, groups: np.ndarray, truth: np.ndarray, predicted: np.ndarray, task: Task
) -> pd.DataFrame:
    """Build the table of the predictions of a cell."""
    table = {"id": ids, "group": groups}
    if task.is_regression:
        table |= {f"true_{name}": truth[:, column] for column, name in enumerate(task.columns)}
        table |= {f"predicted_{name}": predicted[:, column] for column, name in enumerate(task.columns)}
    else:
        table["label"] = np.array(task.classes, dtype=object)[truth]
        table |= {f"p_{name}": predicted[:, column] for column, name in enumerate(task.classes)}
    return pd.DataFrame(table)


def summarise(
    result: BenchmarkResult, pairs: Sequence[tuple[str, str]], replicates: int = 1000, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute summary.csv and comparisons.csv from results.csv and the predictions of the cells.

    `pairs` of (arm, reference) are compared at each number of labels where both ran. Holm's correction is over all
    comparisons of one metric; there are more `replicates` where the number of comparisons asks for it.
    """
    ran = {labels: set(rows["arm"]) for labels, rows in result.results.groupby("labels")}
    compared = {
        labels: [pair for pair in dict.fromkeys(pairs) if ran[labels].issuperset(pair)] for labels in sorted(ran)
    }
    replicates = max(replicates, REPLICATES_PER_COMPARISON * sum(map(len, compared.values())))
    summary, comparisons = [], []
    for labels, arms in compared.items():
        bootstrap = Bootstrap(result.cells(labels), replicates, seed)
        estimates = {metric: bootstrap.apply(statistic) for metric, statistic in statistics(result.columns).items()}
        for arm, cells in bootstrap.arms.items():
            draws, seeds = {cell.draw for cell in cells}, {cell.pretrain_seed for cell in cells} - {None}
            counts = len(draws), len(seeds), len({identifier for cell in cells for identifier in cell.ids})
            for metric, estimate in estimates.items():
                value = estimate.interval(arm)
                summary.append((arm, labels, metric, value.value, value.low, value.high, *counts))
        for metric, estimate in estimates.items():
            for arm, reference in arms:
                gap = estimate.difference(arm, reference)
                comparisons.append((labels, metric, arm, reference, gap.value, gap.low, gap.high, gap.p))
    table = pd.DataFrame(comparisons, columns=COMPARISON_COLUMNS)
    table["p_holm"] = table.groupby("metric")["p"].transform(holm)
    table["significant"] = (table["p_holm"] < ALPHA) & ((table["low"] > 0) | (table["high"] < 0))
    return pd.DataFrame(summary, columns=SUMMARY_COLUMNS), table


def cell_key(arm: str, labels: int, draw: int) -> str:
    """Return the name of a cell's folder."""
    return f"{arm}-n{labels}-d{draw}"
