"""One cell of a benchmark: learn from the labels of one draw in one way, and predict the test objects."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from zwicky.backbones.config import BackboneConfig
from zwicky.cutouts.contract import Cutouts
from zwicky.errors import UserError
from zwicky.evaluation.baselines import BASELINES
from zwicky.evaluation.config import BenchmarkConfig, SelfSupervision
from zwicky.evaluation.design import Draw
from zwicky.evaluation.probes import knn_probe, linear_probe
from zwicky.evaluation.results import RESULT_COLUMNS
from zwicky.files import replacing, write_json
from zwicky.metrics import calibration, classification
from zwicky.training import seen
from zwicky.training.config import FitConfig, PretrainConfig
from zwicky.training.finetune import Task, fit_labels
from zwicky.training.network import Network
from zwicky.training.pretrain import cost, new_backbone, pretrain, resolve_views
from zwicky.views.config import ViewsConfig
from zwicky.views.normalise import Normalisation

BASELINE_TITLES = {
    "pca_logistic": "PCA + logistic regression",
    "pca_boosting": "PCA + boosted trees",
    "radial_colour": "radial colours + logistic regression",
}
PROBES = {"linear": linear_probe, "knn": knn_probe}


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


@dataclass(frozen=True)
class Arm:
    """One line of the figure. learn: (draw, labels, folder of the cell) → Outcome; title: for people."""

    name: str
    title: str
    kind: str
    backbone: str
    protocol: str
    learn: Callable[[Draw, int, Path], Outcome]


def arms(bench: Bench) -> list[Arm]:
    """All arms of a benchmark, self-supervised ones first."""
    config, found = bench.config, []
    window = _window(config.label_views, bench)
    for method, options in config.methods.items():
        if _window(options.views, bench) != window:
            raise UserError(
                f"methods.{method}.views shows the networks {_window(options.views, bench)} (crop, image_size) but "
                f"label_views {window}; give both the same, or networks from scratch would see other images"
            )
    for network, backbone in config.backbones.items():
        kind = backbone.name.replace("_", "-")
        for method in config.methods:
            start = f"{method.upper()} pretraining, {network}"
            found.append(
                Arm(
                    f"{method}-{network}-finetune",
                    f"{start}, fine-tuned",
                    "ssl",
                    kind,
                    "finetune",
                    finetuned(bench, network, method),
                )
            )
            for probe in config.probes:
                found.append(
                    Arm(
                        f"{method}-{network}-{probe}",
                        f"{start}, frozen, {probe} probe",
                        "ssl",
                        kind,
                        probe,
                        probed(bench, network, method, probe),
                    )
                )
        found.append(
            Arm(
                f"{network}-supervised",
                f"{network} from scratch",
                "supervised",
                kind,
                "scratch",
                from_scratch(bench, backbone, config.scratch),
            )
        )
    if config.convnet is not None:
        convnet = BackboneConfig("resnet18")
        found.append(
            Arm(
                "resnet18-supervised",
                "ResNet-18 from scratch",
                "baseline",
                "resnet18",
                "scratch",
                from_scratch(bench, convnet, config.convnet),
            )
        )
    for name in config.baselines:
        if name not in BASELINES:
            raise UserError(f"baselines: no baseline is named {name!r}; choose of {', '.join(BASELINES)}")
        found.append(
            Arm(
                name.replace("_", "-"),
                BASELINE_TITLES.get(name, name),
                "baseline",
                "",
                "baseline",
                baseline(bench, name),
            )
        )
    return found


def _window(views: ViewsConfig, bench: Bench) -> tuple[int | None, int | None]:
    resolved = resolve_views(views, bench.cutouts.size)
    return resolved.crop, resolved.image_size


def pairs(config: BenchmarkConfig, names: Sequence[str]) -> list[tuple[str, str]]:
    """Which arms are compared: pretrained with the same network from scratch, and networks with each baseline."""
    found = []
    for network in config.backbones:
        tuned = [f"{method}-{network}-finetune" for method in config.methods]
        found += [(arm, f"{network}-supervised") for arm in tuned]
        references = [
            name for name in names if name == "resnet18-supervised" or name.replace("-", "_") in config.baselines
        ]
        found += [(arm, reference) for arm in tuned for reference in references]
    return [pair for pair in found if set(pair) <= set(names)]


def finetuned(bench: Bench, network: str, method: str) -> Callable[[Draw, int, Path], Outcome]:
    def learn(draw: Draw, labels: int, folder: Path) -> Outcome:
        start = pretrained(bench, network, method, draw)
        return _fit(bench, start, bench.config.finetune, draw, labels, folder, pretrain_seed(bench, draw))

    return learn


def from_scratch(bench: Bench, backbone: BackboneConfig, fit: FitConfig) -> Callable[[Draw, int, Path], Outcome]:
    def learn(draw: Draw, labels: int, folder: Path) -> Outcome:
        torch.manual_seed(bench.config.seed + draw.index)
        views = resolve_views(bench.config.label_views, bench.cutouts.size)
        rows = draw.pretrain_rows(bench.cutouts)  # pixel statistics, no labels; the same as the pretrained networks'
        normalisation = Normalisation.fit(bench.cutouts.images[rows], bench.cutouts.bands, bench.config.normalisation)
        new = Network(new_backbone(backbone, bench.cutouts, views), normalisation, views, bench.cutouts.bands)
        return _fit(bench, new, fit, draw, labels, folder, None)

    return learn


def probed(bench: Bench, network: str, method: str, probe: str) -> Callable[[Draw, int, Path], Outcome]:
    def learn(draw: Draw, labels: int, folder: Path) -> Outcome:
        path = pretrained_folder(bench, network, method, draw)
        known = np.flatnonzero(bench.truth >= 0)
        if not (path / "features.npy").exists():
            features = pretrained(bench, network, method, draw).features(bench.cutouts.images[known])
            with replacing(path / "features.npy") as temporary, temporary.open("wb") as stream:
                np.save(stream, features)
        features = np.load(path / "features.npy", allow_pickle=False)
        place = np.full(len(bench.truth), -1)
        place[known] = np.arange(len(known))
        rows = np.concatenate(draw.rows(bench.cutouts, labels))
        test = draw.test_rows(bench.cutouts)
        probabilities = PROBES[probe](
            features[place[rows]], bench.truth[rows], features[place[test]], len(bench.classes)
        )
        return Outcome(probabilities, {"pretrain_seed": pretrain_seed(bench, draw)})

    return learn


def baseline(bench: Bench, name: str) -> Callable[[Draw, int, Path], Outcome]:
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
    seen.refuse_overlap(bench.cutouts, draw.test_rows(bench.cutouts), seen.read(folder), "the test")
    return result


def _fit(
    bench: Bench, start: Network, fit: FitConfig, draw: Draw, labels: int, folder: Path, pretrain_seed: int | None
) -> Outcome:
    fit_rows, select_rows = draw.rows(bench.cutouts, labels)
    views = replace(bench.config.label_views, crop=start.views.crop, image_size=start.views.image_size)
    network, fitted = fit_labels(
        start.backbone,
        start.normalisation,
        views,
        bench.cutouts,
        Task(fit_rows, select_rows, bench.truth, bench.classes),
        fit,
        seed=bench.config.seed + draw.index,
        folder=folder,
        title=folder.name,
        quiet=bench.quiet,
    )
    probabilities = network.probabilities(bench.cutouts.images[draw.test_rows(bench.cutouts)])
    row = {"pretrain_seed": pretrain_seed, "temperature": network.temperature, **cost(fitted, network.backbone)}
    return Outcome(probabilities, row)


def run_cell(bench: Bench, arm: Arm, draw: Draw, labels: int, folder: Path) -> dict[str, Any]:
    """Run one cell, write its predictions and its result, and return the result row."""
    began = time.monotonic()
    outcome = arm.learn(draw, labels, folder)
    test = draw.test_rows(bench.cutouts)
    truth = bench.truth[test]
    ids = bench.cutouts.ids[test]
    columns: dict[str, Any] = {
        "id": list(ids),
        "group": [draw.split.groups.get(identifier, identifier) for identifier in ids],
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
        "seed": bench.config.seed + draw.index,
        "test_objects": len(test),
        **scores(truth, outcome.probabilities),
        **outcome.row,
        "seconds": round(time.monotonic() - began, 2),
    }
    write_json(folder / "result.json", {name: row.get(name) for name in RESULT_COLUMNS})
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # the cell is done; its record stays
    return row


def scores(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The metrics of a result row. TPR0 and TPR10 are of the last class against the rest."""
    positive, score = truth == probabilities.shape[1] - 1, probabilities[:, -1]
    return {
        "accuracy": classification.accuracy(truth, probabilities),
        "auc": classification.auc(truth, probabilities),
        "tpr0": classification.recall_at_false_positives(positive.astype(int), score, 0),
        "tpr10": classification.recall_at_false_positives(positive.astype(int), score, 10),
        "ece": calibration.ece(truth, probabilities),
        "nll": calibration.nll(truth, probabilities),
    }
