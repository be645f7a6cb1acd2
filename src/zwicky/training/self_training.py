"""Self-training: a fitted network labels the images without labels, and the same network learns anew from both.

The noisy student of Xie et al. 2020 (arXiv:1911.04252) with soft pseudo-labels: the teacher's calibrated
probabilities p, averaged over its test views and sharpened to p^(1/T) / Σ p^(1/T) as in MixMatch (arXiv:1905.02249),
are learned from augmented views.
"""

import copy
import shutil
from dataclasses import replace

import numpy as np

from zwicky.errors import UserError
from zwicky.training.checkpoint import FitResult
from zwicky.training.config import FitConfig
from zwicky.training.fit_labels import LabelFit, fit_labels
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


def self_train(teacher: Network, unlabelled: np.ndarray, start: Network, job: LabelFit) -> tuple[Network, FitResult]:
    """Fit `start` to the labels of a fit and to pseudo-labels of `unlabelled`, whose labels are not read.

    Args:
        teacher: network that was fitted to these labels; of a later round it is the last student.
        unlabelled: rows to pseudo-label, those that the fit trains on or selects by left out.
        start: network that the teacher was fitted from; a copy is fitted, as by `student` or for as many steps.
        job: the fit; each round before the last has another seed, since batches in the same order would repeat the
            teacher's mistakes, and a folder in that of the fit while it runs.

    Returns:
        (network, result): the last student and the cost of all rounds, or the teacher if no image is without a label.
    """
    task, fit_rows, config = job.task, job.fit_rows, job.config
    rows = np.setdiff1d(unlabelled, np.concatenate([fit_rows, job.select_rows]))
    result = FitResult()
    if not len(rows):
        result.warn(job.title, "self-training: no image is without a label; the network is its teacher")
        return teacher, result
    copies = max(round(LABELLED / (1 - LABELLED) * len(rows) / len(fit_rows)), 1)
    if config.student is None:
        steps = config.train.steps(len(fit_rows))
        config = replace(config, train=replace(config.train, min_steps=steps, max_steps=steps, pflops=0.0))
    else:
        config = replace(config, train=config.student)
    if config.head == "frozen":  # the teacher alone
        config = replace(config, head="probe")
    for number in range(config.self_training, 0, -1):
        predicted = teacher.probabilities(job.cutouts.take(rows).images)
        valid = np.isfinite(predicted).all(1)  # an image without a valid pixel has no prediction
        rows, predicted = rows[valid], predicted[valid]
        following = replace(
            job,
            task=pseudo_labelled(task, fit_rows, rows, predicted),
            fit_rows=np.concatenate([np.tile(fit_rows, copies), rows]),
            config=config,
            seed=job.seed + ROUND_SEED * (number - 1),
            folder=job.folder if number == 1 else job.folder / f"before{number - 1}",
        )
        teacher, student = fit_labels(copy.deepcopy(start), following, consistency=config.consistency)
        result = student.after(result)
    for path in job.folder.glob("before*"):
        shutil.rmtree(path)
    result.warn(job.title, _drift(task, fit_rows, predicted))
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
