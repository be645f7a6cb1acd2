"""From the cells of a benchmark to what its tables say: intervals, paired comparisons, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from zwicky.errors import UserError
from zwicky.evaluation.results import BenchmarkResult, Predictions
from zwicky.metrics.bootstrap import METRICS, Bootstrap, Cell, holm

ALPHA = 0.05
# A bootstrap p is never below 2 / (R + 1). With m comparisons Holm multiplies the smallest by m, so R must be well
# above 2 m / ALPHA = 40 m or nothing could ever be significant.
REPLICATES_PER_COMPARISON = 100


def summarise(
    result: BenchmarkResult,
    pairs: Sequence[tuple[str, str]],
    replicates: int = 1000,
    seed: int = 0,
    units: dict[int, str] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows of summary.csv, rows of comparisons.csv) from results.csv and the cells' predictions.

    pairs: (arm, reference) to compare, at each number of labels where both ran. Holm's correction is over all
        comparisons of one metric.
    replicates: at least this many, more where the number of comparisons asks for it.
    units: draw → what is resampled with it; for repeated cross-validation the repeat its fold belongs to. By
        default each draw is its own unit.
    """
    _refuse_incomplete(result)
    arms = list(dict.fromkeys(row["arm"] for row in result.results))
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        if name not in arms:
            raise UserError(
                f"{result.path / 'results.csv'} has no arm {name!r} to compare; it has {', '.join(map(str, arms))}"
            )
    pairs = list(dict.fromkeys(pairs))
    by_labels = _cells(result, units or {})
    comparable = [
        (labels, *pair)
        for labels, cells in by_labels.items()
        for pair in pairs
        if pair[0] in cells and pair[1] in cells
    ]
    replicates = max(replicates, REPLICATES_PER_COMPARISON * len(comparable))
    summary: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    for labels, cells in by_labels.items():
        bootstrap = Bootstrap(cells, replicates=replicates, seed=seed)
        for arm, own in cells.items():
            counts = {
                "draws": len({cell.draw for cell in own}),
                "pretrain_seeds": len({cell.pretrain_seed for cell in own} - {None}),
                "test_objects": len({identifier for cell in own for identifier in cell.ids}),
            }
            for metric in METRICS:
                interval = bootstrap.interval(arm, metric)
                summary.append(
                    {
                        "arm": arm,
                        "labels": labels,
                        "metric": metric,
                        "value": interval.value,
                        "low": interval.low,
                        "high": interval.high,
                        **counts,
                    }
                )
        for metric in METRICS:
            for _, arm, reference in (row for row in comparable if row[0] == labels):
                found = bootstrap.difference(arm, reference, metric)
                comparisons.append(
                    {
                        "labels": labels,
                        "metric": metric,
                        "arm": arm,
                        "reference": reference,
                        "difference": found.value,
                        "low": found.low,
                        "high": found.high,
                        "p": found.p,
                    }
                )
    for metric in METRICS:
        family = [row for row in comparisons if row["metric"] == metric]
        for row, corrected in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = float(corrected)
            row["significant"] = bool(corrected < ALPHA and (row["low"] > 0 or row["high"] < 0))
    return summary, comparisons


def _refuse_incomplete(result: BenchmarkResult) -> None:
    for line, row in enumerate(result.results, start=2):
        wrong = [name for name in ("arm", "labels", "draw") if row.get(name) is None]
        wrong += [name for name in ("labels", "draw") if name not in wrong and not isinstance(row[name], int)]
        if wrong:
            raise UserError(
                f"{result.path / 'results.csv'}, line {line}: no usable {wrong[0]!r}; run the benchmark again"
            )


def _cells(result: BenchmarkResult, units: dict[int, str]) -> dict[int, dict[str, list[Cell]]]:
    """labels → arm → cells, numbers of labels ascending, arms in the order of results.csv."""
    cells: dict[int, dict[str, list[Cell]]] = {}
    seen: set[tuple[str, int, int]] = set()
    classes: tuple[str, ...] | None = None
    for row in sorted(result.results, key=lambda row: row["labels"]):
        key = (str(row["arm"]), int(row["labels"]), int(row["draw"]))
        if key in seen:
            raise UserError(
                f"{result.path / 'results.csv'} lists {key[0]}, {key[1]} labels, draw {key[2]} twice; remove one row"
            )
        seen.add(key)
        predictions, truth = _read(result, *key)
        classes = predictions.classes if classes is None else classes
        if predictions.classes != classes:
            raise UserError(
                f"{result.cell(*key)} has classes {predictions.classes}, others {classes}; run all with one label table"
            )
        groups = np.where(_blank(predictions.groups), predictions.ids, predictions.groups)
        draw = key[2]
        cell = Cell(
            draw,
            units.get(draw, f"draw {draw}"),
            row.get("pretrain_seed"),
            predictions.ids,
            groups,
            truth,
            predictions.probabilities,
        )
        cells.setdefault(key[1], {}).setdefault(key[0], []).append(cell)
    return cells


def _read(result: BenchmarkResult, arm: str, labels: int, draw: int) -> tuple[Predictions, np.ndarray]:
    path = result.cell(arm, labels, draw) / "predictions.parquet"
    predictions = result.predictions(arm, labels, draw)
    try:
        truth = predictions.truth
    except ValueError as error:  # a label that is no class
        raise UserError(
            f"cannot use {path}: {error}; delete the folder of this cell and run the benchmark again"
        ) from error
    if not np.isfinite(predictions.probabilities).all():
        raise UserError(f"{path} holds NaN or infinite probabilities; delete the folder of this cell and run again")
    return predictions, truth


def _blank(groups: np.ndarray) -> np.ndarray:
    """[N] bool: objects without a group, which then are one each."""
    return np.array(
        [group is None or group == "" or (isinstance(group, float) and math.isnan(group)) for group in groups],
        dtype=bool,
    )
