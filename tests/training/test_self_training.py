"""Self-training: what is learned of which images, and that nobody else's label is read."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from zwicky import provenance
from zwicky.errors import UserError
from zwicky.evaluation.results import read_table
from zwicky.io import read_json
from zwicky.methods.supervised import Supervised
from zwicky.training import self_training
from zwicky.training.checkpoint import FitResult
from zwicky.training.config import TrainConfig
from zwicky.training.finetune import finetune
from zwicky.training.fit_labels import LabelFit
from zwicky.training.self_training import pseudo_labelled
from zwicky.training.task import Task


@pytest.fixture
def self_train(tmp_path, data, finetune_config, pretrain_config):
    """A function that fits a new small network to labels of `data`, with and without self-training, in a folder."""
    cutouts, labels, split = data

    def run(name, unlabelled=True, rounds=2, targets=(), count=20, split=split, **changes):
        config = finetune_config(labels=count, targets=targets, checkpoint_seconds=0.0)
        config.backbone, config.unlabelled = pretrain_config().backbone, unlabelled
        config.fit = dataclasses.replace(config.fit, self_training=rounds, **changes)
        return finetune(config, None, cutouts, labels, split, tmp_path / name, quiet=True)

    return run


def test_labels_are_true_where_given_and_predicted_elsewhere():
    task = Task(np.array([0, 1, 1, 0, -1]), ("a", "b"))
    predicted = np.array([[0.25, 0.75], [0.6, 0.4]], np.float32)
    learned = pseudo_labelled(task, np.array([1, 0]), np.array([2, 4]), predicted)
    assert learned.truth.tolist() == [0, 1, 1, -1, 0]  # the fourth is not used
    assert np.allclose(learned.soft, [[1, 0], [0, 1], [0.1, 0.9], [0, 0], [9 / 13, 4 / 13]])
    graded = dataclasses.replace(task, soft=np.array([[0.7, 0.3], [0.2, 0.8], *[[0.5, 0.5]] * 3], np.float32))
    learned = pseudo_labelled(graded, np.array([1, 0]), np.array([2, 4]), predicted)
    assert np.allclose(learned.soft, [[0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0, 0], [9 / 13, 4 / 13]])


def test_no_other_label_is_read(tmp_path, data, finetune_config, monkeypatch):
    """Every label outside the draw is turned round, and the students are given the same to learn."""
    cutouts, labels, split = data
    rows, pool = np.arange(12), cutouts.rows_of(split.ids("train"))
    given = []

    class Teacher:
        def probabilities(self, images):
            predicted = np.stack([np.full(len(images), 0.3), np.full(len(images), 0.7)], 1)
            predicted[-1] = np.nan  # of an image without a valid pixel
            return predicted

    def learn(start, job, **_):
        assert start == ["weights"]  # those that the teacher was fitted from, in each round
        start.append("learned")
        steps = job.config.train.steps(len(job.fit_rows))
        given.append((job.task.truth.copy(), job.task.soft.copy(), job.fit_rows, steps, job.seed))
        return Teacher(), FitResult()

    def students(unlabelled, truth=None, rounds=1):
        known = task if truth is None else dataclasses.replace(task, truth=truth)
        fit = dataclasses.replace(finetune_config(steps=7).fit, self_training=rounds)
        job = LabelFit(cutouts, known, rows, pool[-9:], None, fit, 5, tmp_path, "fit")
        return self_training.self_train(teacher, unlabelled, ["weights"], job)

    monkeypatch.setattr(self_training, "fit_labels", learn)
    task, teacher = Task.classification(cutouts, labels), Teacher()
    _, result = students(pool)
    students(pool, np.where(np.isin(np.arange(len(cutouts)), rows), task.truth, 1 - task.truth))
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(*given, strict=True))
    truth, soft, both, steps, seed = given[0]
    assert (steps, seed) == (7, 5)
    learned = np.setdiff1d(pool[:-9], rows)[:-1]
    assert set(both) == set(learned) | set(rows)
    assert np.isin(both, rows).mean() == pytest.approx(0.25, abs=0.05)
    assert np.allclose(soft[learned], [0.09 / 0.58, 0.49 / 0.58])
    assert np.array_equal(truth[rows], task.truth[rows])
    assert "70 % of pseudo-labels are" in result.warnings[0]  # but half of the labels
    students(pool, rounds=3)
    assert len({seed for *_, seed in given[2:]}) == 3  # the same batches would repeat the mistakes of the teacher
    assert given[-1][-1] == 5
    same, result = students(rows)
    assert same is teacher
    assert "no image is without a label" in result.warnings[0]


def test_what_was_pseudo_labelled_is_recorded(tmp_path, self_train, data):
    split = data[2]
    for name, unlabelled in (("with", True), ("without", False)):
        self_train(name, unlabelled=unlabelled, rounds=1)

    def used(name, use):
        objects = provenance.read(tmp_path / name).of_use(use)
        return set(data[0].ids[provenance.find_leaked(data[0], np.arange(len(data[0])), objects)])

    assert used("with", "pseudo_label") == set(split.ids("train", "unlabelled")) - used("with", "select")
    assert not used("without", "pseudo_label")
    weights = [load_file(tmp_path / name / "network.safetensors") for name in ("with", "without")]
    assert not all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("changes", [{}, {"consistency": 1.0, "student": TrainConfig(min_steps=6, max_steps=6)}])
def test_resumed_equals_uninterrupted(tmp_path, self_train, monkeypatch, changes):
    self_train("whole", **changes)
    after_step, steps = Supervised.after_step, []

    def interrupt(method, progress):
        steps.append(progress)
        if len(steps) in (3, 9, 14):
            raise KeyboardInterrupt
        after_step(method, progress)

    monkeypatch.setattr(Supervised, "after_step", interrupt)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            self_train("parts", **changes)
    self_train("parts", **changes)
    for file in ("network.safetensors", "metrics.csv", "self-training/metrics.csv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
    teacher, student = (read_table(tmp_path / "whole" / name) for name in ("metrics.csv", "self-training/metrics.csv"))
    assert "confident" not in teacher  # which has no images without labels
    assert ("confident" in student) == ("consistency" in changes)
    assert not list((tmp_path / "whole").glob("**/before*"))


def test_a_student_has_its_own_training(tmp_path, self_train):
    steps = TrainConfig(min_steps=6, max_steps=6, batch_size=8, lr=1e-3)
    self_train("own", student=steps)
    self_train("same")
    lengths = [read_table(tmp_path / name / "self-training" / "metrics.csv")["step"].max() for name in ("own", "same")]
    teacher = read_table(tmp_path / "own" / "metrics.csv")["step"].max()
    assert lengths == [6, teacher]
    assert teacher != 6
    assert read_json(tmp_path / "own" / "run.json")["steps"] == teacher + 2 * 6  # of all rounds


def test_without_an_unlabelled_image_the_fit_stays(tmp_path, data, self_train):
    roles = {i: role for i, role in data[2].roles.items() if role != "unlabelled"}
    self_train("run", count=0, split=dataclasses.replace(data[2], roles=roles), select=0.0)
    run = read_json(tmp_path / "run" / "run.json")
    assert run["steps"] > 0
    assert "no image is without a label" in " ".join(run["warnings"])


def test_what_cannot_self_train_is_refused_before_the_teacher_is_trained(self_train, tmp_path, finetune_config):
    with pytest.raises(UserError, match="regression"):
        self_train("numbers", targets=["flux"])
    with pytest.raises(UserError, match="student"):
        self_train("compute", train=dataclasses.replace(finetune_config().fit.train, pflops=1e-6))
    assert not list(tmp_path.glob("**/metrics.csv"))
