"""The label-efficiency benchmark: every arm × number of labels × draw, resumable cell by cell."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from zwicky.data.audit import audit
from zwicky.data.labels import Labels
from zwicky.errors import UserError
from zwicky.evaluation.arms import Arm, arms, pairs
from zwicky.evaluation.cells import run_cell
from zwicky.evaluation.choose import best
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.evaluation.describe import describe
from zwicky.evaluation.design import Draw, make_draws, write_draws
from zwicky.evaluation.learners import Bench
from zwicky.evaluation.regions import write_correspondence
from zwicky.evaluation.results import RESULT_COLUMNS, BenchmarkResult, cell_key, summarise
from zwicky.io import read_object, write_csv, write_json
from zwicky.simulate.stream import open_data
from zwicky.training.run import Run, fingerprint


def benchmark(config: BenchmarkConfig, store: Path, out: Path, *, quiet: bool = False) -> BenchmarkResult:
    """Run the benchmark into `out`, or go on where it stopped; see `evaluation.results` for what it writes."""
    data = open_data(store)
    cutouts, labels = data.cutouts, data.labels
    if len(labels.classes) < 2:
        raise UserError(f"{store} has labels of {len(labels.classes)} classes; a benchmark needs at least two")
    known = labels.of(cutouts.ids)
    run = Run(out, "benchmark", config, config.seed, fingerprint(cutouts, np.arange(len(cutouts)), known))
    draws = make_draws(config, cutouts, labels)
    index = {name: position for position, name in enumerate(labels.classes)}
    truth = np.array([index.get(label, -1) for label in known], dtype=np.int64)
    bench = Bench(config, cutouts, labels.classes, truth, out, quiet)
    everyone = arms(bench)
    starts = dict.fromkeys((arm.backbone, arm.method) for arm in everyone if arm.method)
    if run.finished and (out / "summary.csv").exists():
        return BenchmarkResult(out)
    write_draws(out, draws)
    write_json(out / "data.json", describe(store, config, cutouts, labels, draws))
    if not (out / "audit.json").exists():
        write_json(out / "audit.json", audit(cutouts, _used(labels, draws)))

    everyone = best(bench, everyone, draws)
    todo = [
        (arm, draw, count)
        for draw in draws
        for count in sorted(draw.subsets)
        for arm in everyone
        if not arm.fitted or count in draw.fit_counts
    ]
    for position, (arm, draw, count) in enumerate(todo, start=1):
        _run_once(bench, arm, draw, count, f"{position}/{len(todo)}")
        _write_results(out, everyone, draws)
    if config.correspondence:
        write_correspondence(bench, draws, starts)
    result = BenchmarkResult(out)
    summary, comparisons = summarise(result, pairs(everyone, config.compare_with), config.replicates, config.seed)
    write_csv(out / "comparisons.csv", comparisons.to_dict("records"), list(comparisons))
    write_csv(out / "summary.csv", summary.to_dict("records"), list(summary))
    if not run.finished:
        run.finish(cells=len(todo))
    return BenchmarkResult(out)


def _used(labels: Labels, draws: list[Draw]) -> Labels:
    """The labels that teach or test; a shortcut among the others, which only pretrain, does no harm."""
    roles = draws[0].split.roles
    return replace(labels, values={i: name for i, name in labels.values.items() if roles.get(i) != "unlabelled"})


def _run_once(bench: Bench, arm: Arm, draw: Draw, count: int, place: str) -> None:
    path = _result(bench.folder, arm, draw, count)
    if path.exists():
        shutil.rmtree(path.parent / "checkpoint", ignore_errors=True)  # of a cell killed between the two
        return
    row = run_cell(bench, arm, draw, count, path.parent)
    if not bench.quiet:
        found = f"accuracy {row['accuracy']:.4f}, AUC {row['auc']:.4f}, {row['seconds']:.0f} s"
        print(f"[{place}] {arm.title}, {count} labels, draw {draw.index}: {found}", file=sys.stderr, flush=True)


def _result(out: Path, arm: Arm, draw: Draw, count: int) -> Path:
    return out / "cells" / cell_key(arm.name, count, draw.index) / "result.json"


def _write_results(out: Path, everyone: list[Arm], draws: list[Draw]) -> None:
    rows = []
    for arm in everyone:
        for draw in draws:
            for count in sorted(draw.subsets):
                path = _result(out, arm, draw, count)
                if path.exists():
                    rows.append(read_object(path))
    write_csv(out / "results.csv", rows, RESULT_COLUMNS)
