"""`zwicky score`: a survey scored part by part, by one run or an ensemble, on one machine or a cluster.

OUT/part-00000.parquet      id, file, ra, dec, score, spread, distance; one file a part, written once
OUT/features-00000.npy      [n, D] float16, on request, in the order of the part
OUT/set_aside/00000.csv     file, reason of what cannot be scored
OUT/selection/              what may be candidates, until all parts are scored
OUT/score.json              the settings
OUT/set_aside.csv, OUT/candidates/, OUT/summary.json    written when all parts are scored
"""

import hashlib
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from zwicky.data.store import store_digest
from zwicky.errors import UserError
from zwicky.io import (
    WEIGHTS,
    file_digest,
    read_json,
    read_set_aside,
    write_array,
    write_json,
    write_set_aside,
    write_table,
)
from zwicky.parallel import map_parts, part_of
from zwicky.progress import StepProgress
from zwicky.survey.candidates import Selection, save_selection, write_candidates
from zwicky.survey.config import ScoreConfig
from zwicky.survey.ensemble import Ensemble, Training, training_features
from zwicky.survey.parts import Part, SurveyData, display_names
from zwicky.training.distributed import device

TRAINING = "training_features.npy"


def score(
    runs: Sequence[Path],
    data: Path,
    out: Path,
    config: ScoreConfig | None = None,
    *,
    training: Path | None = None,
    part: str = "",
    workers: int = 0,
    ray: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Score all cutouts of a survey, with memory independent of their number; repeating the call resumes.

    Args:
        runs: directories of networks; several are an ensemble.
        data: a store, a folder of images in any format that ingest reads, or a file of many.
        out: directory of the score tables.
        config: what is written.
        training: the store the first run was trained on; gives each cutout its distance to the training set.
        part: k/n scores the k-th of n shares of the parts, as a task of a job array; a call without it, when all are
            done, writes the candidates.
        workers: local processes, of one thread each, so that results do not depend on their number; 0 takes one a
            core, or one with a GPU.
        ray: "auto" or the address of a Ray cluster that scores instead.
        quiet: show no progress.

    Returns:
        The number of parts that are left and, when all is written, of cutouts scored and listed, and of candidates.

    Raises:
        UserError: Networks and data do not fit, or `out` holds other scores.
    """
    config, runs = config or ScoreConfig(), tuple(Path(run).absolute() for run in runs)
    _start_worker.cache_clear()
    ensemble = Ensemble.load(runs, config.prevalence, config.views == 8)
    if config.prevalence is not None:
        for run in (run for run, share in zip(runs, ensemble.shares, strict=True) if np.isnan(share)):
            advice = "so its classes are taken as equally frequent in it; fine-tune again to record them"
            warnings.warn(f"{run} does not record how many labels of each class it learned, {advice}")
    if not (ensemble.columns or config.features or training):
        raise UserError(f"{runs[0]} has no head yet: fine-tune it, or take its features by --features true")
    survey = SurveyData.open(data, ensemble.networks[0], config.part_size)
    features = None
    if training is not None and not (out / TRAINING).exists():
        features = training_features(runs[0], ensemble.networks[0], training, ensemble.turns)
    _write_settings(out, runs, survey, training, config)
    if features is not None:
        _write_shared(out / TRAINING, write_array, features)
    score_part = partial(_score_part, runs, replace(survey, parts=(), listed=[]), out.absolute(), config)
    parts = part_of(survey.parts, part)
    missing = [one for one in parts if not _table_path(out, one.number).exists()]
    on_gpu = device().type == "cuda"
    workers = workers or on_gpu
    with StepProgress("score", len(parts), len(parts) - len(missing), 0, quiet, "part") as progress:
        for count in map_parts(score_part, missing, workers=workers, ray=ray, gpus=float(on_gpu)):
            progress.advance(count)
    left = sum(not _table_path(out, one.number).exists() for one in survey.parts)
    is_finished = (out / "summary.json").exists()
    if left or (part and not is_finished):  # of the last tasks of a job array several may see that nothing is left
        return {"left": left}
    if not is_finished:
        _finish(out, survey, config, bool(ensemble.networks[0].classes))
    return {"left": 0, **read_json(out / "summary.json")}


def _table_path(out: Path, number: int) -> Path:
    return out / f"part-{number:05d}.parquet"


def _write_settings(
    out: Path, runs: Sequence[Path], survey: SurveyData, training: Path | None, config: ScoreConfig
) -> None:
    """Write `score.json`, or check that the scores in `out` are those of the same networks, data and settings."""
    plan = repr([(sorted(part.units), part.first, part.last) for part in survey.parts])
    settings = {
        "schema_version": 1,
        "networks": [file_digest(run / WEIGHTS) for run in runs],
        "data": survey.digest(),
        "training": None if training is None else store_digest(training),
        "parts": len(survey.parts),
        "plan": hashlib.blake2b(plan.encode(), digest_size=16).hexdigest(),
        **asdict(config),
    }
    path = out / "score.json"
    is_other = out.exists() and (not out.is_dir() or any(out.glob("[!.]*")))  # before another task writes settings
    if path.exists():
        if different := [name for name, value in settings.items() if read_json(path).get(name) != value]:
            raise UserError(f"{out} holds scores with other {', '.join(different)}; choose another --out")
    elif is_other:
        raise UserError(f"{out} exists and holds no scores; choose another --out")
    else:
        _write_shared(path, write_json, settings)


def _write_shared(path: Path, write: Callable[[Path, Any], None], value: Any) -> None:
    """Write a file that all tasks of a job array write, and may at the same time."""
    own = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    write(own, value)
    os.replace(own, path)


@lru_cache(1)
def _start_worker(runs: tuple[Path, ...], config: ScoreConfig, out: Path) -> tuple[Ensemble, Selection]:
    """Load what a process needs once: the networks, and the best of its parts so far, to keep fewer pixels of later."""
    ensemble = Ensemble.load(runs, config.prevalence, config.views == 8)
    if (out / TRAINING).exists():
        ensemble = replace(ensemble, training=Training.of(np.load(out / TRAINING)))
    return ensemble, Selection(config.top, config.random, config.seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: sums do not depend on the number of cores, and processes do not compete for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _score_part(runs: tuple[Path, ...], survey: SurveyData, out: Path, config: ScoreConfig, part: Part) -> int:
    """Score a part, write its files, the table last, and return the number of cutouts."""
    with _one_thread():
        ensemble, selection = _start_worker(runs, config, out)
        selects = bool(ensemble.networks[0].classes) and config.top + config.random > 0
        tables, features, listed, count = [], [], [], 0
        for block in survey.blocks(part):
            scores, found = ensemble(block.images)
            table = pd.concat([block.table, scores], axis=1)
            good = np.isfinite(table[ensemble.columns]).all(axis=1).to_numpy()
            names = display_names(table)[~good]
            listed += block.listed + [(name, "the network gives no finite number") for name in names]
            table = table[good]
            if selects:
                selection.add(table, block.images[good], part.number, count)
            tables.append(table)
            features.append(found[good].astype(np.float16))
            count += len(table)
    if config.features:
        write_array(out / f"features-{part.number:05d}.npy", np.concatenate(features))
    if selects:
        save_selection(out / "selection" / f"{part.number:05d}.parquet", selection.pop_part(part.number))
    if listed:
        write_set_aside(out / "set_aside" / f"{part.number:05d}.csv", listed)
    scored = pd.concat(tables, ignore_index=True)
    write_table(_table_path(out, part.number), scored if part.units else scored.drop(columns="file"))
    return count


def _finish(out: Path, survey: SurveyData, config: ScoreConfig, selects: bool) -> None:
    """Write what needs all parts: `set_aside.csv`, the candidates and `summary.json`."""
    scored = sum(pq.read_metadata(_table_path(out, part.number)).num_rows for part in survey.parts)
    listed = [*survey.listed, *chain.from_iterable(map(read_set_aside, sorted((out / "set_aside").glob("*.csv"))))]
    write_set_aside(out / "set_aside.csv", listed)
    count = 0
    if selects and scored and config.top + config.random:
        shutil.rmtree(out / "candidates", ignore_errors=True)
        selection = Selection(config.top, config.random, config.seed)
        count = write_candidates(out / "selection", out / "candidates", selection, scored, survey.form.bands)
    summary = {"found": scored + len(listed), "scored": scored, "listed": len(listed), "candidates": count}
    write_json(out / "summary.json", summary)
    shutil.rmtree(out / "selection", ignore_errors=True)
