"""One cell of a benchmark: learn from the labels of one draw in one way, and predict the test objects."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zwicky.evaluation.arms import Arm
from zwicky.evaluation.design import Draw
from zwicky.evaluation.learners import Bench
from zwicky.evaluation.metrics import classification_scores
from zwicky.evaluation.results import RESULT_COLUMNS
from zwicky.io import replacing, write_json


def run_cell(bench: Bench, arm: Arm, draw: Draw, labels: int, folder: Path) -> dict[str, Any]:
    """Run one cell, write its predictions and its result, and return the result row."""
    began = time.monotonic()
    outcome = arm.learn(draw, labels, folder)
    test = draw.test_rows(bench.cutouts)
    truth = bench.truth[test]
    ids = bench.cutouts.ids[test]
    columns: dict[str, Any] = {
        "id": list(ids),
        "group": list(draw.split.groups_of(ids)),
        "label": [bench.classes[index] for index in truth],
    }
    columns |= {f"p_{name}": outcome.probabilities[:, position] for position, name in enumerate(bench.classes)}
    with replacing(folder / "predictions.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary)
    row = {
        "arm": arm.name,
        "title": arm.title,
        "kind": arm.kind,
        "backbone": arm.backbone,
        "protocol": arm.protocol,
        "labels": labels,
        "draw": draw.index,
        "unit": draw.unit,
        "seed": bench.config.seed + draw.index,
        "test_objects": len(test),
        **classification_scores(truth, outcome.probabilities),
        "seconds": time.monotonic() - began,
        **outcome.row,
    }
    row["seconds"] = round(row["seconds"], 2)
    write_json(folder / "result.json", {name: row.get(name) for name in RESULT_COLUMNS})
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # the cell is done; its record stays
    return row
