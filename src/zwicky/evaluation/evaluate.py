"""`zwicky evaluate`: metrics of one network on the test objects of a store."""

from pathlib import Path

import numpy as np
import pandas as pd

from zwicky import provenance
from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import Split
from zwicky.errors import UserError
from zwicky.evaluation.baselines import PROBES
from zwicky.evaluation.bootstrap import Bootstrap, Cell
from zwicky.evaluation.metrics import scores, statistics
from zwicky.evaluation.results import prediction_table
from zwicky.io import write_table
from zwicky.training.network import Network, load_network
from zwicky.training.task import Task

UNDEFINED = {"tpr10": " (needs more than 10 negatives)"}


def evaluate(
    run: Path, cutouts: Cutouts, labels: Labels, split: Split, replicates: int = 1000, out: Path | None = None
) -> pd.DataFrame:
    """Test the network of a run on the split's role test.

    Writes results.csv and predictions-NAME.parquet into `out`, by default the run.

    A fine-tuned network is tested on its probabilities or regressed values. One without a head is tested with a linear
    and a kNN probe on its frozen features, fitted to the labels of the role train.

    Returns one row per metric: of (network, probe or regressed column), metric, value, low, high, test_objects; for
    classes negatives and the name of the positive class; `history` where leakage cannot be excluded. NaN where the test
    objects do not define a metric. UserError if there are no test objects, one has no known class, or the network was
    trained on one.
    """
    network = load_network(run)
    network.check(cutouts)
    test = cutouts.rows_of(split.ids("test"))
    if not len(test):
        raise UserError(f"split {split.name!r} has no test objects; give a store with labels")
    history = network.history
    provenance.check_no_leakage(cutouts, test, history, f"the test of split {split.name!r}")
    task = _task(network, cutouts, labels)
    if task.is_regression:
        test = test[task.known[test]]
        if not len(test):
            raise UserError(f"no test object has a finite {', '.join(task.columns)}; give a store with these columns")
    elif unknown := [label for label in labels.of(cutouts.ids[test]) if label not in task.classes]:
        name = "no label" if unknown[0] is None else f"the label {unknown[0]!r}"
        raise UserError(
            f"{len(unknown)} test objects cannot be scored (first: {name}; the classes are {', '.join(task.classes)}); "
            "correct their labels, or take a split that tests others"
        )
    ids, truth = cutouts.ids[test], task.truth[test]
    groups = split.groups_of(ids)
    parts = []
    for name, predicted in _predictions(network, cutouts, split, task, test).items():
        write_table((out or run) / f"predictions-{name}.parquet", prediction_table(ids, groups, truth, predicted, task))
        if task.is_regression:
            for number, column in enumerate(task.columns):
                cell = Cell(ids, groups, truth[:, [number]], predicted[:, [number]])
                parts.append(_measure(column, cell, (column,), replicates))
        else:
            parts.append(_measure(name, Cell(ids, groups, truth, predicted), (), replicates))
    table = pd.concat(parts, ignore_index=True).assign(test_objects=len(test))
    table = table.assign(history=history.warning) if history.warning else table
    if task.classes:
        table = table.assign(negatives=int((truth != len(task.classes) - 1).sum()), positive=task.classes[-1])
    write_table((out or run) / "results.csv", table)
    return table


def evaluation_text(table: pd.DataFrame) -> str:
    """Format the table that `evaluate` returns for the terminal."""
    lines = []
    for row in table.to_dict("records"):
        number = f"{row['value']:#.4g}" if np.isfinite(row["value"]) else f"n/a{UNDEFINED.get(row['metric'], '')}"
        interval = f"  [{row['low']:#.4g}, {row['high']:#.4g}]" if np.isfinite(row["low"]) else ""
        lines.append(f"{row['of']:10s} {row['metric']:10s} {number}{interval}")
    first = table.iloc[0]
    positive = f", positive class {first['positive']}" if "positive" in table else ""
    count = f"{first['test_objects']} test objects{positive}"
    lines.append(f"on {count}; 95 % intervals over objects, conditional on this one network")
    lines += [f"warning: {first['history']}"] if "history" in table else []
    return "\n".join(lines)


def _task(network: Network, cutouts: Cutouts, labels: Labels) -> Task:
    """The task of the network or, before fine-tuning, that of telling the labels apart."""
    if network.classes:
        return Task(pd.Index(network.classes).get_indexer(labels.of(cutouts.ids)), classes=network.classes)
    return Task.of(cutouts, labels, network.targets)


def _predictions(
    network: Network, cutouts: Cutouts, split: Split, task: Task, test: np.ndarray
) -> dict[str, np.ndarray]:
    """Predictions of the test objects by the name of what makes them."""
    images = cutouts.take(test).images
    if network.head is not None:
        return {"network": network.predict(images)}
    train = cutouts.rows_of(split.ids("train"))
    train = train[task.known[train]]
    if not len(train):
        raise UserError("the store has no labels to probe the features with; ingest it with labels")
    features, query = network.features(cutouts.take(train).images), network.features(images)
    probes = {name: PROBES[name] for name in ("linear", "knn")}  # "blocks" reads other features
    return {name: probe(features, task.truth[train], query, task) for name, probe in probes.items()}


def _measure(name: str, cell: Cell, columns: tuple[str, ...], replicates: int) -> pd.DataFrame:
    """All metrics of one set of predictions, with intervals over test objects."""
    values, bootstrap = scores(cell.truth, cell.predicted, columns), Bootstrap({name: [cell]}, replicates)
    intervals = {metric: bootstrap.apply(s).interval(name) for metric, s in statistics(columns).items()}
    bounds = {metric: (interval.low, interval.high) for metric, interval in intervals.items()}
    if not columns and np.bincount(cell.truth, minlength=cell.predicted.shape[1]).min() < 2:
        bounds = {"accuracy": bounds["accuracy"]}  # a class of one object has no scatter to resample
    rows = [(name, metric, value, *bounds.get(metric, (np.nan, np.nan))) for metric, value in values.items()]
    return pd.DataFrame(rows, columns=["of", "metric", "value", "low", "high"])
