"""The ways a cell can learn from the labels of a draw: a pretrained network, one from scratch, a probe, a baseline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from zwicky.augment.normalise import Normalisation
from zwicky.backbones import BackboneConfig
from zwicky.data.cutouts import Cutouts
from zwicky.errors import UserError
from zwicky.evaluation.baselines import BASELINES
from zwicky.evaluation.config import BenchmarkConfig, SelfSupervision
from zwicky.evaluation.design import Draw
from zwicky.evaluation.probes import knn_probe, linear_probe
from zwicky.evaluation.results import cell_key
from zwicky.io import read_json, replacing
from zwicky.rng import seed_torch
from zwicky.training import provenance
from zwicky.training.config import FitConfig, PretrainConfig
from zwicky.training.finetune import fit_labels
from zwicky.training.network import Network
from zwicky.training.pretrain import cost, new_backbone, pretrain
from zwicky.training.task import Task

ONE_VIEW = "one_view.npy"  # probabilities of a cell's test objects without the mean over turns
PROBES = {"linear": linear_probe, "knn": knn_probe}
Learner = Callable[[Draw, int, Path], "Outcome"]  # draw, number of labels, folder of the cell


@dataclass(frozen=True)
class Bench:
    """What every cell needs. truth: [N] int64 index into classes, −1 without a label."""

    config: BenchmarkConfig
    cutouts: Cutouts
    classes: tuple[str, ...]
    truth: np.ndarray
    folder: Path
    quiet: bool = False


@dataclass
class Outcome:
    """Test probabilities [M, classes] of a cell and further columns of its result row."""

    probabilities: np.ndarray
    row: dict[str, Any] = field(default_factory=dict)


def finetuned(bench: Bench, network: str, method: str) -> Learner:
    def learn(draw: Draw, labels: int, folder: Path) -> Outcome:
        start = pretrained(bench, network, method, draw)
        return _fit(bench, start, bench.config.finetune, draw, labels, folder, pretrain_seed(bench, draw))

    return learn


def from_scratch(bench: Bench, backbone: BackboneConfig, fit: FitConfig) -> Learner:
    def learn(draw: Draw, labels: int, folder: Path) -> Outcome:
        seed_torch(bench.config.seed + draw.index)
        views = bench.config.label_views.resolved(bench.cutouts.size)
        rows = draw.pretrain_rows(bench.cutouts)  # pixel statistics, no labels; the same as the pretrained networks'
        images, bands = bench.cutouts.images, bench.cutouts.bands
        normalisation = Normalisation.fit(images, bands, bench.config.normalisation, rows=rows)
        new = Network(new_backbone(backbone, bench.cutouts, views), normalisation, views, bands)
        return _fit(bench, new, fit, draw, labels, folder, None)

    return learn


def probed(bench: Bench, network: str, method: str, probe: str) -> Learner:
    def learn(draw: Draw, labels: int, folder: Path) -> Outcome:
        features = frozen(bench, network, method, draw)
        rows = np.concatenate(draw.rows(bench.cutouts, labels))
        test = draw.test_rows(bench.cutouts)
        probabilities = PROBES[probe](features[rows], bench.truth[rows], features[test], len(bench.classes))
        return Outcome(probabilities, {"pretrain_seed": pretrain_seed(bench, draw)})

    return learn


def one_view(bench: Bench, arm: str) -> Learner:
    """What the fitted network of `arm` says of the upright images alone; its cell comes first and leaves it behind."""

    def learn(draw: Draw, labels: int, folder: Path) -> Outcome:
        cell = bench.folder / "cells" / cell_key(arm, labels, draw.index)
        row = read_json(cell / "result.json")
        shared = ("pretrain_seed", "used_probe", "steps", "images_seen", "pflops", "parameters", "temperature")
        return Outcome(np.load(cell / ONE_VIEW, allow_pickle=False), {name: row.get(name) for name in shared})

    return learn


def frozen(bench: Bench, network: str, method: str, draw: Draw) -> np.ndarray:
    """Features [N, D] of a draw's pretrained network, NaN for objects without a label; kept in its folder."""
    path = pretrained_folder(bench, network, method, draw) / "features.npy"
    known = np.flatnonzero(bench.truth >= 0)
    if not path.exists():
        features = pretrained(bench, network, method, draw).features(bench.cutouts.take(known).images)
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, features)
    try:
        features = np.load(path, allow_pickle=False)
        everyone = np.full((len(bench.truth), features.shape[1]), np.nan, np.float32)
        everyone[known] = features
    except (OSError, ValueError, EOFError, IndexError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); delete it and run the benchmark again") from error
    return everyone


def baseline(bench: Bench, name: str) -> Learner:
    def learn(draw: Draw, labels: int, folder: Path) -> Outcome:
        rows = np.concatenate(draw.rows(bench.cutouts, labels))
        images, test = bench.cutouts.images, draw.test_rows(bench.cutouts)
        seed = bench.config.seed + draw.index
        return Outcome(BASELINES[name](images[rows], bench.truth[rows], images[test], len(bench.classes), seed))

    return learn


def pretrain_seed(bench: Bench, draw: Draw) -> int:
    """Draws of a holdout share its pretrainings; each fold needs its own, since its test objects differ."""
    config = bench.config
    return config.seed + (draw.index % config.pretrain_seeds if config.design.kind == "holdout" else 0)


def pretrained_folder(bench: Bench, network: str, method: str, draw: Draw) -> Path:
    return bench.folder / "pretrain" / f"{method}-{network}-{draw.split.name}-s{pretrain_seed(bench, draw)}"


def pretrained(bench: Bench, network: str, method: str, draw: Draw) -> Network:
    """The pretrained network of a draw: trained now, or resumed, or read back."""
    arm: SelfSupervision = bench.config.methods[method]
    config = PretrainConfig(
        method=arm.method,
        backbone=bench.config.backbones[network],
        views=arm.views,
        normalisation=bench.config.normalisation,
        train=arm.train,
        split=draw.split.name,
        seed=pretrain_seed(bench, draw),
    )
    rows = draw.pretrain_rows(bench.cutouts)
    names = np.array([*bench.classes, None], dtype=object)[bench.truth[rows]]
    folder = pretrained_folder(bench, network, method, draw)
    result = pretrain(config, bench.cutouts, rows, folder, labels=names, title=folder.name, quiet=bench.quiet)
    provenance.check_no_leakage(bench.cutouts, draw.test_rows(bench.cutouts), provenance.read(folder), "the test")
    return result


def _fit(
    bench: Bench, start: Network, fit: FitConfig, draw: Draw, labels: int, folder: Path, pretrain_seed: int | None
) -> Outcome:
    began = time.monotonic()
    fit_rows, select_rows = draw.rows(bench.cutouts, labels)
    views = replace(bench.config.label_views, crop=start.views.crop, image_size=start.views.image_size)
    network, fitted = fit_labels(
        start,
        bench.cutouts,
        Task(bench.truth, bench.classes),
        fit_rows,
        select_rows,
        views,
        fit,
        seed=bench.config.seed + draw.index,
        folder=folder,
        title=folder.name,
        quiet=bench.quiet,
    )
    test = bench.cutouts.take(draw.test_rows(bench.cutouts)).images
    probabilities = network.probabilities(test)
    if bench.config.one_view:
        with replacing(folder / ONE_VIEW) as temporary, temporary.open("wb") as stream:
            np.save(stream, network.probabilities(test, turns=False))
    row = {
        "pretrain_seed": pretrain_seed,
        "used_probe": fitted.used_probe,
        "temperature": network.temperature,
        **cost(fitted, network.backbone),
        "seconds": time.monotonic() - began,  # the pretraining is shared by many cells and counted by itself
    }
    return Outcome(probabilities, row)
