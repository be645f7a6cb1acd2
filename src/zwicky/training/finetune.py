"""Learning from labels: a head and a backbone, pretrained or new, fitted to n labels and to nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from zwicky.backbones.contract import Backbone
from zwicky.cutouts.contract import Cutouts
from zwicky.metrics.calibration import fit_temperature, nll
from zwicky.methods.contract import Method
from zwicky.methods.supervised import Supervised
from zwicky.training.config import FitConfig
from zwicky.training.loop import Fitted, Source, fit
from zwicky.training.network import Network
from zwicky.training.pretrain import resident
from zwicky.views.augment import Augment
from zwicky.views.config import ViewsConfig
from zwicky.views.contract import Target
from zwicky.views.normalise import Normalisation


@dataclass(frozen=True)
class Task:
    """What is learned. rows: all labelled rows that may be used, split into `fit` and `select` (row numbers).

    classes: names in output order, with truth[row] an index; or targets, with truth[row] their values [columns].
    truth: [N] int64 or [N, columns] float32 over all rows of the cutouts; only rows in `fit` and `select` are read.
    """

    fit: np.ndarray
    select: np.ndarray
    truth: np.ndarray
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()


def fit_labels(
    backbone: Backbone,
    normalisation: Normalisation,
    views: ViewsConfig,
    cutouts: Cutouts,
    task: Task,
    config: FitConfig,
    *,
    seed: int,
    folder: Path,
    title: str,
    quiet: bool = False,
) -> tuple[Network, Fitted]:
    """Fit `backbone` (in place) and a new head to `task.fit`; `task.select` chooses the weights and the temperature."""
    torch.manual_seed(seed)
    columns = tuple(name for target in task.targets for name in target.columns)
    if columns:
        known = task.truth[task.fit]
        mean, std = known.mean(0).tolist(), known.std(0).tolist()
        method = Supervised(backbone, targets=len(columns), target_mean=mean, target_std=std)
    else:
        mean, std = [], []
        method = Supervised(backbone, classes=len(task.classes), label_smoothing=config.label_smoothing)
    truth = torch.from_numpy(task.truth.astype(np.float32 if columns else np.int64))
    augment = Augment(views, normalisation, cutouts.size, cutouts.bands, 1, False, task.targets)

    def network_of(learner: Method) -> Network:
        assert isinstance(learner, Supervised)
        scale = cutouts.pixel_scale
        return Network(learner.net, normalisation, views, cutouts.bands, scale, learner.head, task.classes, columns, mean, std)

    def selection(learner: Method) -> dict[str, float]:
        outputs = network_of(learner).outputs(cutouts.images[task.select], turns=False)
        known = task.truth[task.select]
        if columns:
            return {"select_loss": float(np.abs((outputs - known) / np.maximum(std, 1e-12)).mean())}
        probabilities = torch.from_numpy(outputs).double().softmax(1).numpy()
        return {"select_loss": nll(known, probabilities), "select_accuracy": float((outputs.argmax(1) == known).mean())}

    some = len(task.select) > 0
    fitted = fit(
        method,
        Source(resident(cutouts), torch.from_numpy(np.asarray(task.fit, dtype=np.int64)), truth),
        augment,
        config.train,
        seed=seed,
        folder=folder,
        title=title,
        evaluate=selection if some else None,
        keep_lowest="select_loss" if some else None,
        quiet=quiet,
    )
    network = network_of(method)
    if some and not columns:
        network.temperature = fit_temperature(network.outputs(cutouts.images[task.select]), task.truth[task.select])
    return network, fitted
