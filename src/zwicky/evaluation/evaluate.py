"""`zwicky evaluate`: metrics of one network on the test objects of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import Split
from zwicky.errors import UserError
from zwicky.evaluation.bootstrap import Bootstrap, Cell
from zwicky.evaluation.metrics import classification_scores, statistics
from zwicky.evaluation.probes import knn_probe, linear_probe
from zwicky.io import replacing
from zwicky.training import provenance
from zwicky.training.network import Network, load_network
from zwicky.training.task import columns_of

UNDEFINED = {"tpr10": " (needs more than 10 negatives)"}


def evaluate(run: Path, cutouts: Cutouts, labels: Labels, split: Split, replicates: int = 1000) -> pd.DataFrame:
    """Test the network of a run on the split's role test; write results.csv and predictions-NAME.parquet into the run.

    A fine-tuned network is tested on its probabilities or regressed values. One without a head is tested with a linear
    and a kNN probe on its frozen features, fitted to the labels of the role train.

    Returns:
        One row per metric: of (network, probe or regressed column), metric, value, low, high, test_objects and, for
        classes, negatives and the name of the positive class. NaN where the test objects do not define a metric.

    Raises:
        UserError: if there are no test objects, one has no known class, or the network was trained on one.
    """
    network = load_network(run)
    network.check(cutouts)
    test = cutouts.rows_of(split.ids("test"))
    if not len(test):
        raise UserError(f"split {split.name!r} has no test objects; give a store with labels")
    provenance.check_no_leakage(cutouts, test, provenance.read(run), f"the test of split {split.name!r}")
    if network.targets:
        table = _regression(network, cutouts, split, test, replicates)
    else:
        classes = network.classes or labels.classes
        _check_labels(labels.of(cutouts.ids[test]), classes)
        parts = []
        for name, probabilities in _probabilities(network, cutouts, labels, split, test, classes).items():
            parts.append(_classification(name, probabilities, cutouts, labels, split, test, classes, replicates))
            columns = {"id": cutouts.ids[test], "label": labels.of(cutouts.ids[test])}
            columns |= {f"p_{c}": p for c, p in zip(classes, probabilities.T, strict=True)}
            with replacing(run / f"predictions-{name}.parquet") as temporary:
                pd.DataFrame(columns).to_parquet(temporary, index=False)
        table = pd.concat(parts, ignore_index=True)
    with replacing(run / "results.csv") as temporary:
        table.to_csv(temporary, index=False)
    return table


def evaluation_text(table: pd.DataFrame) -> str:
    """Format the table that `evaluate` returns for the terminal."""
    lines = []
    for row in table.to_dict("records"):
        number = f"{row['value']:#.4g}" if np.isfinite(row["value"]) else f"n/a{UNDEFINED.get(row['metric'], '')}"
        interval = f"  [{row['low']:#.4g}, {row['high']:#.4g}]" if np.isfinite(row["low"]) else ""
        lines.append(f"{row['of']:10s} {row['metric']:10s} {number}{interval}")
    count = table["test_objects"].iloc[0]
    lines.append(f"on {count} test objects; 95 % intervals over objects, conditional on this one network")
    return "\n".join(lines)


def _check_labels(labels: np.ndarray, classes: tuple[str, ...]) -> None:
    unknown = [label for label in labels if label not in classes]
    if unknown:
        name = "no label" if unknown[0] is None else f"the label {unknown[0]!r}"
        raise UserError(
            f"{len(unknown)} test objects cannot be scored (first: {name}; the classes are {', '.join(classes)}); "
            "correct their labels, or take a split that tests others"
        )


def _probabilities(
    network: Network, cutouts: Cutouts, labels: Labels, split: Split, test: np.ndarray, classes: tuple[str, ...]
) -> dict[str, np.ndarray]:
    if network.head is not None:
        return {"network": network.probabilities(cutouts.take(test).images)}
    train = np.array([identifier for identifier in split.ids("train") if identifier in labels.values], dtype=object)
    if len(classes) < 2 or not len(train):
        raise UserError("the store has no labels to probe the features with; ingest it with labels")
    rows = cutouts.rows_of(train)
    known = np.array([classes.index(label) for label in labels.of(train)])
    x, query = (network.features(cutouts.take(some).images) for some in (rows, test))
    return {"linear": linear_probe(x, known, query, len(classes)), "knn": knn_probe(x, known, query, len(classes))}


def _classification(
    name: str,
    probabilities: np.ndarray,
    cutouts: Cutouts,
    labels: Labels,
    split: Split,
    test: np.ndarray,
    classes: tuple[str, ...],
    replicates: int,
) -> pd.DataFrame:
    ids = cutouts.ids[test]
    truth = np.array([classes.index(label) for label in labels.of(ids)])
    bootstrap = Bootstrap({name: [Cell(0, 0, None, ids, split.groups_of(ids), truth, probabilities)]}, replicates)
    rows: list[dict[str, Any]] = []
    for metric, value in classification_scores(truth, probabilities).items():
        rows.append({"of": name, "metric": metric, "value": value, "low": np.nan, "high": np.nan})
        if metric in statistics():
            interval = bootstrap.apply(statistics()[metric]).interval(name)
            rows[-1] |= {"low": interval.low, "high": interval.high}
    negatives = int((truth != len(classes) - 1).sum())
    return pd.DataFrame(rows).assign(test_objects=len(test), negatives=negatives, positive=classes[-1])


def _regression(network: Network, cutouts: Cutouts, split: Split, test: np.ndarray, replicates: int) -> pd.DataFrame:
    columns = columns_of(network.targets)
    truth = cutouts.numbers(columns)[test]
    measured = np.isfinite(truth).all(1)
    if not measured.any():
        raise UserError(f"no test object has a finite {', '.join(columns)}; give a store with these columns")
    predicted = network.outputs(cutouts.take(test[measured]).images)
    ids = cutouts.ids[test[measured]]
    cells = {
        name: [Cell(0, 0, None, ids, split.groups_of(ids), truth[measured, i, None], predicted[:, i, None])]
        for i, name in enumerate(columns)
    }
    bootstrap = Bootstrap(cells, replicates)
    rows = [
        {"of": name, "metric": metric, "value": interval.value, "low": interval.low, "high": interval.high}
        for metric, statistic in statistics(("one",)).items()
        for name in columns
        for interval in [bootstrap.apply(statistic).interval(name)]
    ]
    return (
        pd.DataFrame(rows)
        .sort_values("of", key=lambda names: names.map(columns.index), kind="stable")
        .reset_index(drop=True)
        .assign(test_objects=int(measured.sum()))
    )
