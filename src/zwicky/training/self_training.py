"""Self-training: a fitted network labels the images without labels, and the same network learns anew from both.

The noisy student of Xie et al. 2020 (arXiv:1911.04252) with soft pseudo-labels: the teacher's calibrated
probabilities p, averaged over its test views and sharpened to p^(1/T) / Σ p^(1/T) as in MixMatch (arXiv:1905.02249),
are learned from augmented views.
"""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from zwicky.augment.config import ViewsConfig
from zwicky.data.cutouts import Cutouts
from zwicky.errors import UserError
from zwicky.training.checkpoint import FitResult
from zwicky.training.config import FitConfig
from zwicky.training.fit_labels import fit_labels
from zwicky.training.network import Network
from zwicky.training.task import Task

LABELLED = 0.25  # share of a batch, on average, that has true labels
SHARPENING = 0.5  # the temperature T of pseudo-labels
ROUND_SEED = 1000  # between the seeds of rounds; further apart than draws of labels
DRIFT = 0.15  # distance (total variation) of the classes of pseudo-labels and labels above which a warning is given


def check_self_training(config: FitConfig, is_regression: bool) -> None:
    """Raise UserError unless students can learn so; call it before their teacher is trained."""
    if is_regression:
        raise UserError("self-training learns from pseudo-labels of classes; leave it out of a regression")
    if config.train.pflops and config.student is None:
        raise UserError(
            "self-training: train.pflops sets the steps of the teacher alone; give `student` its own training"
        )


def self_train(
    teacher: Network,
    unlabelled: np.ndarray,
    start: Network,
    cutouts: Cutouts,
    task: Task,
    fit_rows: np.ndarray,
    select_rows: np.ndarray,
    views: ViewsConfig,
    config: FitConfig,
    *,
    seed: int,
    folder: Path,
    title: str,
    quiet: bool = False,
) -> tuple[Network, FitResult]:
    """Fit `start` to the labels of `fit_rows` and to pseudo-labels of `unlabelled`, whose labels are not read.

    Args:
        teacher: network fitted to `fit_rows`; of a later round it is the last student.
        unlabelled: rows to pseudo-label, those of `fit_rows` and `select_rows` left out.
        start: network that the teacher was fitted from; a copy is fitted, as by `config.student` or for as many steps.
        cutouts: this and task, fit_rows, select_rows and views as of `fit_labels`.
        task: the classes.
        fit_rows: rows to train on.
        select_rows: rows for selection.
        views: augmentation.
        config: the fit; `self_training` is the number of rounds.
        seed: of the last round; each round before has another, since batches in the same order would repeat the
            teacher's mistakes.
        folder: as of `fit_labels`; earlier rounds have folders in it while they run.
        title: name for the progress bar and messages.
        quiet: show no progress.

    Returns:
        (network, result): the last student and the cost of all rounds, or the teacher if no image is without a label.
    """
    rows = np.setdiff1d(unlabelled, np.concatenate([fit_rows, select_rows]))
    result = FitResult()
    if not len(rows):
        result.warn(title, "self-training: no image is without a label; the network is its teacher")
        return teacher, result
    copies = max(round(LABELLED / (1 - LABELLED) * len(rows) / len(fit_rows)), 1)
    if config.student is None:
        steps = config.train.steps(len(fit_rows))
        config = replace(config, train=replace(config.train, min_steps=steps, max_steps=steps, pflops=0.0))
    else:
        config = replace(config, train=config.student)
    for number in range(config.self_training, 0, -1):
        predicted = teacher.probabilities(cutouts.take(rows).images)
        valid = np.isfinite(predicted).all(1)  # an image without a valid pixel has no prediction
        rows, predicted = rows[valid], predicted[valid]
        learned = pseudo_labelled(task, fit_rows, rows, predicted)
        both = np.concatenate([np.tile(fit_rows, copies), rows])
        teacher, student = fit_labels(
            *(copy.deepcopy(start), cutouts, learned, both, select_rows, views, config),
            seed=seed + ROUND_SEED * (number - 1),
            folder=folder if number == 1 else folder / f"before{number - 1}",
            title=title,
            quiet=quiet,
            consistency=config.consistency,
        )
        result = student.after(result)
    for path in folder.glob("before*"):
        shutil.rmtree(path)
    result.warn(title, _drift(task, fit_rows, predicted))
    return teacher, result


def _drift(task: Task, fit_rows: np.ndarray, predicted: np.ndarray) -> str | None:
    """A warning if the classes of pseudo-labels are not those of labels, the sign of confirmation bias."""
    labelled, expected = np.bincount(task.truth[fit_rows], minlength=task.n_outputs) / len(fit_rows), predicted.mean(0)
    if np.abs(labelled - expected).sum() / 2 <= DRIFT:
        return None
    k = int((expected - labelled).argmax())
    percent = f"{100 * expected[k]:.0f} % of pseudo-labels are {task.classes[k]!r}, but {100 * labelled[k]:.0f} %"
    return (
        f"self-training: {percent} of the labels; unless the images without labels are another population, the network "
        "confirms its own mistakes"
    )


def pseudo_labelled(task: Task, fit_rows: np.ndarray, rows: np.ndarray, probabilities: np.ndarray) -> Task:
    """Return `task` with the true labels of `fit_rows` and the `probabilities` [len(rows), classes] of `rows` alone."""
    truth, soft = np.full_like(task.truth, -1), np.zeros((len(task.truth), task.n_outputs), np.float32)
    truth[fit_rows], truth[rows] = task.truth[fit_rows], probabilities.argmax(1)
    soft[fit_rows] = np.eye(task.n_outputs)[task.truth[fit_rows]] if task.soft is None else task.soft[fit_rows]
    sharp = probabilities ** (1 / SHARPENING)
    soft[rows] = sharp / sharp.sum(1, keepdims=True)
    return replace(task, truth=truth, soft=soft)
