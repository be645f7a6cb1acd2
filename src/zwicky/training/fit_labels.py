"""Supervised training of a backbone, pretrained or new, and a new head on n labels.

With `head: probe` this is LP-FT (Kumar et al. 2022, arXiv:2202.10054): linear probing, then fine-tuning from it.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from zwicky.augment.config import ViewsConfig
from zwicky.augment.views import Augment
from zwicky.backbones.base import Backbone
from zwicky.backbones.heads import LinearHead
from zwicky.data.cutouts import Cutouts, Images, batches
from zwicky.data.labels import Labels
from zwicky.data.splits import Split, fit_select
from zwicky.errors import UserError
from zwicky.methods.base import Method
from zwicky.methods.consistency import Consistency
from zwicky.methods.supervised import Supervised, TargetScaler
from zwicky.rng import seed_torch
from zwicky.training.checkpoint import FitResult
from zwicky.training.config import FitConfig
from zwicky.training.distributed import autocast, run_on_rank_zero
from zwicky.training.linear_probe import LinearProbe, cross_entropy, fit_temperature
from zwicky.training.loader import TrainingSet
from zwicky.training.loop import fit
from zwicky.training.network import Network, eval_mode
from zwicky.training.task import Task

PROBE_VIEWS = 8  # augmented views of each image that the probe is fitted to, as long as …
PROBE_ROWS = 4096  # … there are no more than this many in all


@dataclass(frozen=True)
class LabelFit:
    """A fit of a network to labels: of which objects, how, and where."""

    cutouts: Cutouts
    task: Task
    fit_rows: np.ndarray  # rows of the cutouts to train on
    select_rows: np.ndarray  # those that select the weights and the temperature; with none, the last weights are kept
    views: ViewsConfig  # augmentation; image size, and crop where it is null, are those of the network to start from
    config: FitConfig
    seed: int  # of the head, order and augmentation
    folder: Path  # receives `metrics.csv` and `checkpoint/`; a fit interrupted there resumes
    title: str  # for the progress bar and messages
    quiet: bool = False  # show no progress


def fit_labels(
    start: Network, job: LabelFit, test: tuple[Images, np.ndarray] | None = None, consistency: float = 0.0
) -> tuple[Network, FitResult]:
    """Fit the backbone of `start` (in place) and a new head to labels.

    Loss and accuracy on the images and truth of `test` are recorded in `metrics.csv`, and select nothing; `consistency`
    weighs the loss between two views of every image, for students of self-training. Returns the fitted network, or its
    linear probe where that is better on the rows that select or nothing else is asked for, and the result.
    """
    cutouts, task, config, seed, title = job.cutouts, job.task, job.config, job.seed, job.title
    fit_rows, select_rows = job.fit_rows, job.select_rows
    seed_torch(seed)
    start.backbone.set_trainable()  # a teacher's has no gradients
    method = _supervised(start.backbone, task, task.truth[fit_rows], config.label_smoothing, consistency)
    views = replace(job.views, crop=job.views.crop or start.views.crop, image_size=start.views.image_size)
    augment = Augment(views, start.normalisation, cutouts.size, cutouts.bands, method.needs, task.targets)
    start = replace(start, views=views, bands=cutouts.bands, pixel_scale=cutouts.pixel_scale)
    selects = len(select_rows) > 0

    if config.head == "frozen":
        return _linear_probe(method, start, job)
    probe: Network | None = None
    if config.head == "probe" and isinstance(method.head, LinearHead) and _can_probe(task, fit_rows):
        images = cutouts.take(fit_rows).images
        if selects:
            init_from_probe(method, start.features(images)[None], fit_rows, task, seed)
            probe = _network(copy.deepcopy(method), start, task)
        x = augmented_features(start.backbone, augment, images, fit_rows, seed, config.train.precision)
        init_from_probe(method, x, fit_rows, task, seed)

    held_out = {"select": (cutouts.images[select_rows], task.truth[select_rows])} if selects else {}
    held_out |= {"test": test} if test else {}

    def evaluate(learner: Method) -> dict[str, float]:
        metrics: dict[str, float] = {}
        network = _network(learner, start, task)
        for name, (images, truth) in held_out.items():
            outputs = network.outputs(images, turns=False)
            metrics[f"{name}_loss"] = _loss(network, outputs, truth)
            if not task.is_regression:
                metrics[f"{name}_accuracy"] = float((outputs.argmax(1) == truth).mean())
        return metrics

    result = fit(
        method,
        TrainingSet(cutouts.images, fit_rows, torch.from_numpy(task.learned)),
        augment,
        config.train,
        seed=seed,
        folder=job.folder,
        title=title,
        evaluate=evaluate if held_out else None,
        keep_lowest="select_loss" if selects else None,
        quiet=job.quiet,
    )
    network = _network(method, start, task)
    if not selects:
        return network, result
    loss = calibrate(network, *held_out["select"])
    probe_loss = calibrate(probe, *held_out["select"]) if probe else np.inf
    if probe is None or loss <= probe_loss:
        return network, result
    result.used_probe = True
    losses = f"validation loss {loss:z.3f} vs {probe_loss:z.3f}"
    result.warn(title, f"fine-tuning did not improve on the linear probe ({losses}); keeping the probe")
    return probe, result


def _linear_probe(method: Supervised, start: Network, job: LabelFit) -> tuple[Network, FitResult]:
    """`start` as it is, with the linear probe of the features of all labels for a head, as a benchmark measures it."""
    began, task, rows = time.monotonic(), job.task, np.concatenate([job.fit_rows, job.select_rows])
    if any(target.kind != "scalar" for target in task.targets):
        raise UserError("fit.head: vectors and spin-2 targets have no linear probe; take random")
    features = start.features(job.cutouts.take(rows).images)
    set_head(method, LinearProbe.fit(features, _scaled_truth(method, task, rows), task), features)
    return _network(method, start, task), FitResult(seconds=time.monotonic() - began, used_probe=True)


def calibrate(network: Network, images: np.ndarray, truth: np.ndarray) -> float:
    """Set the temperature of a classifier from held-out labels; return the loss on them at that temperature."""

    def measure() -> tuple[float, float]:
        outputs = network.outputs(images)
        temperature = 1.0 if network.targets else fit_temperature(outputs, truth)
        return temperature, _loss(network, outputs / temperature, truth)

    network.temperature, loss = run_on_rank_zero(measure)
    return loss


def _loss(network: Network, outputs: np.ndarray, truth: np.ndarray) -> float:
    """Cross-entropy of logits or, of values, their mean absolute error in standard deviations of the training ones."""
    if network.targets:
        return float(np.abs((outputs - truth) / network.scaler.std).mean())
    return cross_entropy(outputs, truth)


def _supervised(
    backbone: Backbone, task: Task, truth: np.ndarray, label_smoothing: float, consistency: float
) -> Supervised:
    """The method that learns `task`; the scale of regressed columns is that of `truth`."""
    if not task.is_regression:
        create = partial(Consistency, weight=consistency) if consistency else Supervised
        return create(backbone, classes=task.n_outputs, label_smoothing=label_smoothing)
    scaler = TargetScaler.fit(truth, task.targets, backbone.target_head is not None)
    return Supervised(backbone, targets=task.targets, scaler=scaler)


def _network(method: Method, start: Network, task: Task) -> Network:
    """`start` with the backbone and the head of a fit."""
    assert isinstance(method, Supervised)
    return replace(
        start,
        backbone=method.backbone,
        head=method.head,
        classes=task.classes,
        targets=task.targets,
        scaler=method.scaler if task.is_regression else TargetScaler(),
        temperature=1.0,
    )


def _can_probe(task: Task, rows: np.ndarray) -> bool:
    """Whether a linear model can be fitted: vectors and spins have none, a single class neither."""
    if task.is_regression:
        return all(target.kind == "scalar" for target in task.targets)
    return len(np.unique(task.truth[rows])) > 1


def init_from_probe(method: Supervised, features: np.ndarray, rows: np.ndarray, task: Task, seed: int) -> None:
    """Set the linear head to the probe on features [views, n, D] of `rows` [n] of the task.

    Views and repetitions of a row stay in one fold of the probe's cross-validation.
    """
    truth = _scaled_truth(method, task, rows)
    x, groups = np.concatenate(features), np.tile(pd.factorize(rows)[0], len(features))
    set_head(method, LinearProbe.fit(x, np.concatenate([truth] * len(features)), task, groups=groups, seed=seed), x)


def set_head(method: Supervised, probe: LinearProbe, features: np.ndarray) -> None:
    """Make a probe of features [n, D] the linear head."""
    assert isinstance(method.head, LinearHead)
    method.head.set_linear(*(torch.from_numpy(values).float() for values in (*probe.to_linear(), features)))


def _scaled_truth(method: Supervised, task: Task, rows: np.ndarray) -> np.ndarray:
    """Classes [n] of these rows, or values [n, columns] as the head gives them."""
    return method.scaler.transform(task.truth[rows]) if task.is_regression else task.truth[rows]


@torch.no_grad()
def augmented_features(
    backbone: Backbone, augment: Augment, images: Images, rows: np.ndarray, seed: int, precision: str
) -> np.ndarray:
    """Return features [views, n, D] float32 of augmented views of n images; `rows` are their row numbers.

    A probe of features averaged over views has weights far too large for single views: the average keeps small
    differences which augmentation and bfloat16 do not. Fine-tuning from it would first undo what was learned.
    """
    device = next(backbone.parameters()).device
    views = max(1, min(PROBE_VIEWS, PROBE_ROWS // max(len(rows), 1)))
    x = np.empty((views, len(rows), backbone.dim), np.float32)
    with eval_mode(backbone):
        for number, batch in enumerate(batches(len(rows), 256)):
            raw, batch_rows = torch.from_numpy(images[batch]).to(device), torch.from_numpy(rows[batch]).to(device)
            for view in range(views):
                crops = augment(raw, batch_rows, seed=seed, step=number * views + view).crops
                with autocast(backbone, precision):
                    pooled = backbone(crops[0], patch_tokens=False).pooled
                x[view, batch] = pooled.float().cpu().numpy()
    return x


def divide_labels(
    ids: np.ndarray, labels: Labels, fit: FitConfig, seed: int, split: Split
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the n labelled ids into (training, selection of weights and temperature)."""
    if not fit.select:
        return ids, ids[:0]
    share = min(fit.select, fit.select_most / max(len(ids), 1))
    return fit_select(ids, labels, share, seed=seed, groups=split.groups)
