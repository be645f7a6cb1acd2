"""How good is one network on the test objects of a store?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zwicky.data.contract import Cutouts
from zwicky.data.tables import Labels, Split
from zwicky.errors import UserError
from zwicky.evaluation.cells import scores
from zwicky.evaluation.probes import knn_probe, linear_probe
from zwicky.io import replacing, write_csv
from zwicky.metrics.bootstrap import METRICS, NUMBER_METRICS, Bootstrap, Cell
from zwicky.training import provenance
from zwicky.training.network import Network, load_network
from zwicky.training.task import columns_of


def evaluate(run: Path, cutouts: Cutouts, labels: Labels, split: Split, replicates: int = 1000) -> list[dict[str, Any]]:
    """Test the network of a run on the split's role test; write results.csv and predictions-NAME.parquet into the run.

    A fine-tuned network gives its probabilities (or regressed values). One without a head is looked at through a
    linear and a kNN probe on its frozen features, with the labels of the role train. Objects the network has seen
    are refused. Returns the rows of results.csv: metric, value, low, high and what they stand on.
    """
    network = load_network(run)
    network.check(cutouts)
    test = cutouts.rows_of(split.ids("test"))
    if not len(test):
        raise UserError(f"split {split.name!r} has no test objects; give a store with labels")
    provenance.check_no_leakage(cutouts, test, provenance.read(run), f"the test of split {split.name!r}")
    if network.targets:
        rows = _regression(network, cutouts, split, test, replicates)
    else:
        rows = []
        classes = network.classes or labels.classes
        _refuse_strangers(labels.of(cutouts.ids[test]), classes)
        for name, probabilities in _probabilities(network, cutouts, labels, split, test, classes).items():
            rows += _classification(name, probabilities, cutouts, labels, split, test, classes, replicates)
            _write_predictions(run / f"predictions-{name}.parquet", cutouts.ids[test], labels, classes, probabilities)
    write_csv(run / "results.csv", rows)
    return rows


def _refuse_strangers(labels: np.ndarray, classes: tuple[str, ...]) -> None:
    strange = [label for label in labels if label not in classes]
    if strange:
        name = "no label" if strange[0] is None else f"the label {strange[0]!r}"
        raise UserError(
            f"{len(strange)} test objects cannot be scored (first: {name}; the classes are {', '.join(classes)}); "
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
) -> list[dict[str, Any]]:
    ids = cutouts.ids[test]
    truth = np.array([classes.index(label) for label in labels.of(ids)])
    cell = Cell(0, 0, None, ids, split.groups_of(ids), truth, probabilities)
    bootstrap = Bootstrap({name: [cell]}, replicates=replicates)
    negatives = int((truth != len(classes) - 1).sum())
    common = {"test_objects": len(test), "negatives": negatives, "positive": classes[-1]}
    rows = []
    for metric in METRICS:
        rows.append({"of": name, "metric": metric, **vars(bootstrap.interval(name, metric)), **common})
    for metric in ("ece", "nll"):
        rows.append({"of": name, "metric": metric, "value": scores(truth, probabilities)[metric], **common})
    return rows


def _regression(
    network: Network, cutouts: Cutouts, split: Split, test: np.ndarray, replicates: int
) -> list[dict[str, Any]]:
    columns = columns_of(network.targets)
    truth = cutouts.numbers(columns)[test]
    some = np.isfinite(truth).all(1)
    if not some.any():
        raise UserError(f"no test object has a finite {', '.join(columns)}; give a store with these columns")
    predicted = network.outputs(cutouts.take(test[some]).images)
    ids = cutouts.ids[test[some]]
    groups = split.groups_of(ids)
    cells = {
        name: [Cell(0, 0, None, ids, groups, truth[some, position], predicted[:, position])]
        for position, name in enumerate(columns)
    }
    bootstrap = Bootstrap(cells, tuple(NUMBER_METRICS), replicates=replicates)
    return [
        {"of": name, "metric": metric, **vars(bootstrap.interval(name, metric)), "test_objects": int(some.sum())}
        for name in columns
        for metric in NUMBER_METRICS
    ]


def _write_predictions(
    path: Path, ids: np.ndarray, labels: Labels, classes: tuple[str, ...], probabilities: np.ndarray
) -> None:
    columns: dict[str, Any] = {"id": list(ids), "label": list(labels.of(ids))}
    columns |= {f"p_{name}": probabilities[:, position] for position, name in enumerate(classes)}
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
