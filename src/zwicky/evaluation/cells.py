"""The cells of a benchmark: train one arm on the labels of one draw and predict the test objects."""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zwicky import provenance
from zwicky.backbones import BackboneConfig
from zwicky.data.cutouts import Cutouts
from zwicky.evaluation.arms import CONVNET, Arm
from zwicky.evaluation.baselines import BASELINES, PROBES
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.evaluation.label_draws import LabelDraw
from zwicky.evaluation.metrics import scores
from zwicky.evaluation.results import ARM_COLUMNS, COST_COLUMNS, cell_key, prediction_table
from zwicky.io import WEIGHTS, read_json, write_array, write_json, write_table
from zwicky.training.config import FitConfig, PretrainConfig
from zwicky.training.fit_labels import LabelFit, fit_labels
from zwicky.training.network import Network, load_network, save_network
from zwicky.training.pretrain import cost, new_network, pretrain
from zwicky.training.self_training import self_train
from zwicky.training.task import Task

NO_TTA = "no_tta.npy"  # predictions of a cell without test-time augmentation
TEACHER = "teacher"  # folder of the network of a cell, until the self-trained cell has learned from it


@dataclass(frozen=True)
class CellRunner:
    """Runs the cells of one benchmark in its directory; what is finished there is read back."""

    config: BenchmarkConfig
    cutouts: Cutouts
    task: Task
    folder: Path
    quiet: bool = False

    def run(self, arm: Arm, draw: LabelDraw, labels: int) -> dict[str, Any]:
        """Run a cell, write its predictions and result, and return its row of results.csv."""
        folder = self._cell(arm, draw, labels)
        if not (folder / "result.json").exists():
            start = time.monotonic()
            test = draw.test_rows(self.cutouts)
            predicted, costs = self._predict(arm, draw, labels, folder)
            ids, truth = self.cutouts.ids[test], self.task.truth[test]
            table = prediction_table(ids, draw.split.groups_of(ids), truth, predicted, self.task)
            write_table(folder / "predictions.parquet", table)
            row = {"arm": arm.name, **vars(arm), "labels": labels, "draw": draw.index, "unit": draw.unit}
            row |= {"seed": self._seed(draw), "test_objects": len(test)}
            row |= {"seconds": time.monotonic() - start, **costs}
            metrics = scores(truth, predicted, self.task.columns)
            row = {n: row.get(n) for n in ARM_COLUMNS} | metrics | {n: row.get(n) for n in COST_COLUMNS}
            row["seconds"] = round(row["seconds"], 2)
            row |= {"history": warning} if (warning := self._history(arm, draw).warning) else {}
            write_json(folder / "result.json", row)
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        if arm.protocol == "self_training":
            shutil.rmtree(self._cell(arm.teacher, draw, labels) / TEACHER, ignore_errors=True)
        return read_json(folder / "result.json")

    def pretrain_seed(self, draw: LabelDraw) -> int:
        """Return the seed of a draw: draws of a holdout share pretrainings; each fold has its own."""
        is_holdout = self.config.design.kind == "holdout"
        return self.config.seed + (draw.index % self.config.pretrain_seeds if is_holdout else 0)

    def pretrain_folder(self, arm: Arm, draw: LabelDraw) -> Path:
        """Return the run directory of the pretraining of an arm."""
        return self.folder / "pretrain" / f"{arm.method}-{arm.backbone}-{draw.split.name}-s{self.pretrain_seed(draw)}"

    def pretrained(self, arm: Arm, draw: LabelDraw) -> Network:
        """Pretrain the network of an arm, resume it or read it back; UserError if it was trained on a test object."""
        options, backbone = self.config.methods[arm.method], self.config.backbones[arm.backbone]
        rows, folder, seed = draw.pretrain_rows(self.cutouts), self.pretrain_folder(arm, draw), self.pretrain_seed(draw)
        if options.weights is None:
            settings = (options.method, backbone, options.views, self.config.normalisation, options.train)
            config = PretrainConfig(*settings, split=draw.split.name, seed=seed)
            names = np.array([*self.task.classes, None], dtype=object)
            labels = names[self.task.truth[rows]] if self.task.classes else None
            network = pretrain(config, self.cutouts, rows, folder, labels=labels, title=folder.name, quiet=self.quiet)
        else:
            if not (folder / WEIGHTS).exists():
                backbone = replace(backbone, pretrained=options.weights)
                network = new_network(backbone, self.config.normalisation, self.cutouts, rows, options.views, seed)
                network.history = provenance.record(self.cutouts, {"normalise": rows}, network.history)
                save_network(folder, network)
            network = load_network(folder)
        provenance.check_no_leakage(self.cutouts, draw.test_rows(self.cutouts), network.history, "the test")
        return network

    def features(self, arm: Arm, draw: LabelDraw) -> np.ndarray:
        """Return frozen features [N, D] of the objects whose truth is known, NaN elsewhere; cached in the run."""
        path = self.pretrain_folder(arm, draw) / f"{arm.features}.npy"
        known = np.flatnonzero(self.task.known)
        if not path.exists():
            write_array(path, getattr(self.pretrained(arm, draw), arm.features)(self.cutouts.take(known).images))
        stored = np.load(path, allow_pickle=False)
        features = np.full((len(self.cutouts), stored.shape[1]), np.nan, np.float32)
        features[known] = stored
        return features

    def _history(self, arm: Arm, draw: LabelDraw) -> provenance.TrainingObjects:
        """The training objects of the weights that an arm starts from."""
        if arm.kind == "ssl":
            return provenance.read(self.pretrain_folder(arm, draw))
        return provenance.read(None if arm.kind == "baseline" else self.config.backbones[arm.backbone].source)

    def _seed(self, draw: LabelDraw) -> int:
        """The seed of all that is fitted to the labels of a draw."""
        return self.config.seed + draw.index

    def _cell(self, arm: Arm, draw: LabelDraw, labels: int) -> Path:
        return self.folder / "cells" / cell_key(arm.name, labels, draw.index)

    def _predict(self, arm: Arm, draw: LabelDraw, labels: int, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Predictions of the test objects, [M, classes] or [M, columns], and further columns of the row."""
        costs = {"pretrain_seed": self.pretrain_seed(draw) if arm.kind == "ssl" else None}
        if not arm.tta:  # the cell of the same network with TTA comes first
            with_tta = self._cell(replace(arm, tta=True), draw, labels)
            row = read_json(with_tta / "result.json")
            same = {name: row[name] for name in ("pretrain_seed", *COST_COLUMNS) if name != "seconds"}
            return np.load(with_tta / NO_TTA, allow_pickle=False), same
        if arm.trains_network:
            fits = {"ssl": self.config.finetune, "baseline": self.config.convnet}
            fit = fits.get(arm.kind, self.config.scratch)
            assert fit is not None, "there is no such arm without its fit"
            predicted, fit_costs = self.fit(arm, fit, draw, labels, folder)
            return predicted, costs | fit_costs
        rows, test = np.concatenate(draw.rows(self.cutouts, labels)), draw.test_rows(self.cutouts)
        return self.apply(arm, draw, labels, rows, test), costs

    def apply(self, arm: Arm, draw: LabelDraw, labels: int, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Predictions of the rows `query` by an arm: the network kept in its cell, or a model fitted to `rows`."""
        truth = self.task.truth[rows]
        images: Any = self.cutouts.take(query).images  # all read them in blocks
        if arm.trains_network:
            return load_network(self._cell(arm, draw, labels)).probabilities(images)
        if arm.protocol == "baseline":
            train: Any = self.cutouts.take(rows).images
            return BASELINES[arm.method](train, truth, images, self.task, self._seed(draw))
        features = self.features(arm, draw)
        if np.isnan(features[query]).any():
            features[query] = getattr(self.pretrained(arm, draw), arm.features)(images)
        return PROBES[arm.protocol](features[rows], truth, features[query], self.task)

    def _new_network(self, arm: Arm, draw: LabelDraw) -> Network:
        """Random weights, normalised by the images that the pretrained networks were normalised by."""
        backbone = BackboneConfig(CONVNET) if arm.kind == "baseline" else self.config.backbones[arm.backbone]
        views, rows = self.config.label_views, draw.pretrain_rows(self.cutouts)
        return new_network(backbone, self.config.normalisation, self.cutouts, rows, views, self._seed(draw))

    def fit(
        self, arm: Arm, fit: FitConfig, draw: LabelDraw, labels: int, folder: Path
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Train the network of an arm in `folder`; return its predictions of the test objects and its costs."""
        start = self.pretrained(arm, draw) if arm.kind == "ssl" else self._new_network(arm, draw)
        provenance.check_no_leakage(self.cutouts, draw.test_rows(self.cutouts), start.history, "the test")
        began = time.monotonic()  # pretraining is shared by many cells and counted by itself
        (fit_rows, select_rows), pool = draw.rows(self.cutouts, labels), draw.pretrain_rows(self.cutouts)
        uses = {"fit": fit_rows, "select": select_rows, "normalise": pool}

        what = (self.cutouts, self.task, fit_rows, select_rows, self.config.label_views, fit)
        job = LabelFit(*what, self._seed(draw), folder, folder.name, self.quiet)
        if arm.protocol == "self_training":
            uses["pseudo_label"] = np.setdiff1d(pool, select_rows)
            teacher = load_network(self._cell(arm.teacher, draw, labels) / TEACHER)
            network, result = self_train(teacher, pool, start, job)
        else:
            network, result = fit_labels(start, job)
            if arm.backbone in self.config.self_training:
                save_network(folder / TEACHER, network)
        if self.config.keep_networks:
            network.history = provenance.record(self.cutouts, uses, start.history)
            save_network(folder, network)
        test = self.cutouts.take(draw.test_rows(self.cutouts)).images
        predicted = network.predict(test)
        if self.config.without_tta:
            write_array(folder / NO_TTA, network.predict(test, turns=False))
        costs = {"used_probe": result.used_probe, "temperature": network.temperature}
        costs |= cost(result, network.backbone)
        costs["seconds"] = max(costs["seconds"], time.monotonic() - began)
        return predicted, costs
