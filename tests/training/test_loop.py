"""The loop: resumed as if never interrupted, batches a function of (seed, step), and what is kept."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from zwicky import backbones, methods
from zwicky.augment.augment import Augment
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.errors import UserError
from zwicky.evaluation.results import read_table
from zwicky.methods.ema import cosine
from zwicky.training import checkpoint, loop, state
from zwicky.training.config import TrainConfig
from zwicky.training.loader import TrainingSet
from zwicky.training.loop import fit
from zwicky.training.optim import make_optimizer, set_schedule, warmup_cosine


class Stopped(Exception):
    pass


@pytest.fixture
def trial(make_blobs, tmp_path):
    """trial(folder, method name, stop=step or None, …) → (method, FitResult) of a small fit."""
    cutouts, _ = make_blobs(50)
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands, NormalisationConfig())
    views = ViewsConfig(local_crops=2, local_size=8)

    def run(folder, kind="dino", stop=None, monkeypatch=None, rows=50, evaluate=None, keep_lowest=None, **train):
        torch.manual_seed(3)
        options = {"patch_size": 8, "width": 32, "depth": 2, "heads": 2, "drop_path": 0.3}
        backbone = backbones.create("vit_tiny", bands=2, image_size=16, **options)
        targets = None
        if kind == "dino":
            method = methods.create("dino", backbone, prototypes=16, hidden=16, bottleneck=8)
        else:
            method, targets = methods.create("supervised", backbone, classes=2), torch.arange(50) % 2
        needs = method.needs
        augment = Augment(views, normalisation, cutouts.size, cutouts.bands, needs.global_crops, needs.local_crops)
        config = TrainConfig(
            **{"max_steps": 9, "batch_size": 16, "precision": "float32", "lr": 1e-2, "evaluations": 3} | train
        )
        if stop is not None:
            before = method.after_step
            calls = []

            def after_step(progress):
                calls.append(progress)
                if len(calls) == stop:
                    raise Stopped
                before(progress)

            method.after_step = after_step
        source = TrainingSet(cutouts.images, np.arange(rows), targets)
        arguments = {"evaluate": evaluate, "keep_lowest": keep_lowest, "quiet": True}
        fitted = fit(method, source, augment, config, seed=5, folder=tmp_path / folder, title="trial", **arguments)
        return method, fitted

    return run


def alternating(values):
    """An `evaluate` whose gauge runs through `values`, found by the weights' own progress so that it can resume."""

    def evaluate(method):
        return {"select_loss": values[round(float(method.progress) * 9) % len(values)]}

    return evaluate


@pytest.mark.parametrize(
    ("kind", "stops", "kept"),
    [("dino", [5], False), ("dino", [3, 4], True), ("supervised", [1], False), ("supervised", [9], True)],
)
def test_resumed_is_uninterrupted(trial, monkeypatch, tmp_path, kind, stops, kept):
    monkeypatch.setattr(state, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    options = {"kind": kind, "weight_ema": 0.9}
    if kept:
        gauge = alternating([5.0, 4.0, 3.0, 2.0, 6.0, 7.0, 8.0, 9.0, 8.0])
        options |= {"evaluate": gauge, "keep_lowest": "select_loss", "evaluations": 9}
    whole, fitted = trial("whole", **options)
    for stop in stops:  # after_step raises: this step's update has happened but nothing of it was kept
        with pytest.raises(Stopped):
            trial("parts", stop=stop, **options)
    resumed, again = trial("parts", **options)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert fitted.rows == again.rows
    assert len(fitted.rows) == 9
    assert (fitted.steps, fitted.images_seen, fitted.flops) == (again.steps, again.images_seen, again.flops)
    first, second = (checkpoint.load(tmp_path / name / "checkpoint" / "last.pt") for name in ("whole", "parts"))
    for part in ("method", "average"):
        assert all(torch.equal(first[part][key], second[part][key]) for key in first[part]), part
    assert first["best_value"] == second["best_value"]
    assert read_table(tmp_path / "whole" / "metrics.csv").equals(read_table(tmp_path / "parts" / "metrics.csv"))


def test_keep_lowest_gives_back_those_weights(trial):
    seen = {}

    def evaluate(method):
        step = round(float(method.progress) * 9)
        seen[step] = copy.deepcopy(method.state_dict())
        return {"select_loss": abs(step - 4.0)}

    options = {"evaluate": evaluate, "keep_lowest": "select_loss", "evaluations": 9, "weight_ema": 0.5}
    method, _ = trial("run", kind="supervised", **options)
    assert sorted(seen) == list(range(1, 10))
    assert all(torch.equal(value, seen[4][key]) for key, value in method.state_dict().items())
    assert not torch.equal(seen[4]["head.weight"], seen[9]["head.weight"])


def test_the_average_of_weights_is_as_by_hand(trial, monkeypatch):
    steps = []
    original = loop.ema_update

    def spy(average, method, momentum):
        steps.append((momentum, {key: value.clone() for key, value in method.state_dict().items()}))
        original(average, method, momentum)

    monkeypatch.setattr(loop, "ema_update", spy)
    torch.manual_seed(3)
    method, _ = trial("run", kind="supervised", weight_ema=0.7)
    assert [momentum for momentum, _ in steps] == [min(0.7, (1 + k) / (10 + k)) for k in range(9)]
    last = steps[-1][1]
    assert not torch.equal(method.state_dict()["head.weight"], last["head.weight"])
    # The start is the network before its first step: rebuild it, then average in double precision.
    torch.manual_seed(3)
    options = {"patch_size": 8, "width": 32, "depth": 2, "heads": 2, "drop_path": 0.3}
    start = methods.create("supervised", backbones.create("vit_tiny", bands=2, image_size=16, **options), classes=2)
    average = {key: value.double() for key, value in start.named_parameters()}
    for momentum, weights in steps:
        average = {key: momentum * value + (1 - momentum) * weights[key].double() for key, value in average.items()}
    for key, value in average.items():
        assert torch.allclose(method.state_dict()[key].double(), value, atol=1e-6), key


def test_fewer_images_than_the_batch(trial):
    _, fitted = trial("run", rows=5)
    assert fitted.steps == 9
    assert fitted.images_seen == 45


def test_flops_count_all_steps(trial):
    _, short = trial("short", kind="supervised", max_steps=3)
    _, long = trial("long", kind="supervised", max_steps=6)
    assert 0 < short.flops == long.flops / 2


@pytest.mark.parametrize("kind", ["dino", "supervised"])
def test_a_budget_of_compute_sets_the_steps_and_changes_nothing_else(trial, kind):
    whole, fitted = trial("whole", kind=kind, max_steps=4)
    bought, same = trial("bought", kind=kind, max_steps=0, pflops=fitted.flops * 1.1 / 1e15)
    assert same.steps == 4
    assert same.flops == fitted.flops
    assert all(torch.equal(value, bought.state_dict()[key]) for key, value in whole.state_dict().items())
    _, half = trial("half", kind=kind, max_steps=0, pflops=fitted.flops / 2 / 1e15)
    assert half.steps == 2


def test_a_loss_that_is_not_finite_is_one_line(trial, tmp_path):
    with pytest.raises(UserError, match="not finite at step") as caught:
        trial("run", kind="supervised", lr=1e30, clip=0.0, warmup=0.0)
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_one_line(trial, tmp_path):
    trial("run", max_steps=2)
    path = tmp_path / "run" / "checkpoint" / "last.pt"
    for content in (path.read_bytes()[:-100], b"", b"nonsense"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged") as caught:
            trial("run", max_steps=2)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "images", "steps"),
    [
        ({"epochs": 3, "batch_size": 10}, 100, 30),
        ({"epochs": 0.5, "batch_size": 10}, 100, 5),
        ({"epochs": 1, "batch_size": 10, "min_steps": 25}, 100, 25),
        ({"epochs": 3, "batch_size": 10, "max_steps": 7, "min_steps": 25}, 100, 7),
        ({"epochs": 4, "batch_size": 64}, 3, 4),
        ({"epochs": 0.001, "batch_size": 64}, 100, 1),
    ],
)
def test_number_of_steps(settings, images, steps):
    assert TrainConfig(**settings).steps(images) == steps


def test_layer_decay_and_weight_decay_groups():
    options = {"patch_size": 8, "width": 32, "depth": 3, "heads": 2}
    backbone = backbones.create("vit_tiny", bands=2, image_size=16, **options)
    method = methods.create("supervised", backbone, classes=2)
    config = TrainConfig(
        layer_decay=0.5, weight_decay=0.1, weight_decay_end=0.3, lr=1.0, warmup=0.2, min_lr=0.01, beta2=0.95
    )
    optimizer = make_optimizer(method, config)
    assert all(group["betas"] == (0.9, 0.95) for group in optimizer.param_groups)
    name_of = {id(parameter): name for name, parameter in method.named_parameters()}
    set_schedule(optimizer, config, 64, 0.6)
    lr, decay = warmup_cosine(0.25, 0.01, 0.6, 0.2), cosine(0.1, 0.3, 0.6)
    found = {name_of[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert sorted(found) == sorted(name for name, p in method.named_parameters() if p.requires_grad)
    # From the output: head, norm, blocks 2, 1, 0, then the embeddings.
    distance = {"head.weight": 0, "encoder.net.norm.weight": 1, "encoder.net.blocks.2.mlp.fc1.weight": 2}
    distance |= {
        "encoder.net.blocks.0.attn.qkv.bias": 4,
        "encoder.net.patch_embed.proj.weight": 5,
        "encoder.net.pos_embed": 5,
    }
    for name, layers in distance.items():
        assert found[name]["lr"] == pytest.approx(lr * 0.5**layers), name
    decayed = {name for name, group in found.items() if group["weight_decay"]}
    assert all(found[name]["weight_decay"] == pytest.approx(decay) for name in decayed)
    matrices = {name for name, p in method.named_parameters() if p.requires_grad and p.ndim > 1}
    assert decayed == matrices - {"encoder.net.cls_token", "encoder.net.pos_embed"}


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"epochs": -1}, {"epochs": np.nan}, {"lr": -1.0}, {"warmup": 2.0}, {"layer_decay": 0.0}]
    + [{"weight_ema": 1.0}, {"min_steps": -1}, {"clip": -1.0}, {"pflops": -1.0}, {"evaluations": -2}],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UserError, match=f"train.{next(iter(wrong))}"):
        TrainConfig(**wrong)
