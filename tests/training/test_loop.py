"""The training loop: which weights it ends with, its budget, its schedules and its messages."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from zwicky.errors import UserError
from zwicky.methods.supervised import Supervised
from zwicky.training.checkpoint import FitResult
from zwicky.training.config import TrainConfig
from zwicky.training.loop import MetricsLog, make_optimizer, set_schedules


def test_keep_lowest_gives_back_those_weights(trial):
    evaluated_weights = {}

    def evaluate(method):
        step = len(evaluated_weights) + 1
        evaluated_weights[step] = copy.deepcopy(method.state_dict())
        return {"select_loss": abs(step - 4.0)}

    options = {"evaluate": evaluate, "keep_lowest": "select_loss", "evaluations": 9, "weight_ema": 0.5}
    method, _ = trial("run", name="supervised", **options)
    assert sorted(evaluated_weights) == list(range(1, 10))
    assert all(torch.equal(value, evaluated_weights[4][key]) for key, value in method.state_dict().items())
    assert not torch.equal(evaluated_weights[4]["head.weight"], evaluated_weights[9]["head.weight"])


def test_averaged_weights_follow_the_ema_formula(trial):
    """θ' ← m θ' + (1 − m) θ with the momentum m = min(0.7, (1 + k) / (10 + k)) of step k."""
    weights = []

    def copy_weights(method):
        weights.append({name: value.detach().double().clone() for name, value in method.named_parameters()})

    method, _ = trial("ema", name="supervised", weight_ema=0.7, after_step=copy_weights)
    last, _ = trial("last", name="supervised")
    start, _ = trial("start", name="supervised", lr=0.0, min_lr=0.0, max_steps=1)
    average = {name: value.detach().double() for name, value in start.named_parameters()}
    for k, step in enumerate(weights):
        momentum = min(0.7, (1 + k) / (10 + k))
        average = {name: momentum * value + (1 - momentum) * step[name] for name, value in average.items()}
    for name, value in method.named_parameters():
        assert torch.allclose(value.double(), average[name], atol=1e-6), name
    assert len(weights) == 9
    assert not torch.equal(method.head.weight, last.head.weight)


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_a_step_clips_the_gradients_and_tells_the_method_before_and_after(trial, monkeypatch, clip):
    events, step = [], torch.optim.AdamW.step

    def update(optimizer, *args, **more):
        gradients = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
        events.append(float(torch.cat(gradients).norm()))
        return step(optimizer, *args, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", update)
    monkeypatch.setattr(Supervised, "before_step", lambda method: events.append("before"))
    trial("run", name="supervised", max_steps=3, clip=clip, after_step=lambda method: events.append("after"))
    assert (events[::3], events[2::3]) == (["before"] * 3, ["after"] * 3)
    assert (max(events[1::3]) <= 0.01 * (1 + 1e-4)) == (clip > 0)
    progress = []
    monkeypatch.setattr(Supervised, "after_step", lambda _, done: progress.append(done))
    trial("progress", name="supervised", max_steps=3)
    assert progress == pytest.approx([1 / 3, 2 / 3, 1])


def test_images_and_flops_count_all_steps(trial):
    _, result = trial("few", rows=5)  # fewer than the batch
    assert (result.steps, result.images_seen) == (9, 45)
    _, short = trial("short", name="supervised", max_steps=3)
    _, long = trial("long", name="supervised", max_steps=6)
    assert 0 < short.flops == long.flops / 2
    both = FitResult([], 1, 2, 3.0, 4.0).after(FitResult([], 10, 20, 30.0, 40.0))
    assert (both.steps, both.images_seen, both.flops, both.seconds) == (11, 22, 33, 44)


@pytest.mark.parametrize("name", ["dino", "supervised"])
def test_a_budget_of_compute_sets_the_steps_and_changes_nothing_else(trial, name):
    whole, result = trial("whole", name=name, max_steps=4)
    bought, same = trial("bought", name=name, max_steps=0, pflops=result.flops * 1.1 / 1e15)
    assert same.steps == 4
    assert same.flops == result.flops
    assert all(torch.equal(value, bought.state_dict()[key]) for key, value in whole.state_dict().items())
    _, half = trial("half", name=name, max_steps=0, pflops=result.flops / 2 / 1e15)
    assert half.steps == 2


def test_metrics_are_judged_after_a_fifth_of_the_steps(trial, monkeypatch):
    judged = []
    monkeypatch.setattr(Supervised, "diagnose", lambda _, row: judged.append(row["step"]) or f"stuck: {row['step']}")
    with pytest.warns(UserWarning, match="^trial: stuck: 5$"):
        _, result = trial("run", name="supervised", max_steps=24)
    assert judged == list(range(5, 25))
    assert result.warnings == ["stuck: 5"]


def test_each_step_trains_with_its_own_noise_and_rate(trial):
    def after_step(method):
        steps.append((method.training, float(torch.rand(()))))

    steps, options = [], {"warmup": 0.0, "min_lr": 0.0, "evaluate": lambda method: {"training": method.eval().training}}
    _, result = trial("run", name="supervised", after_step=after_step, **options)
    training, noise = zip(*steps, strict=True)
    assert all(training)
    assert len(set(noise)) == 9
    rates = [1e-2 * 16 / 256 * (1 + math.cos(math.pi * k / 9)) / 2 for k in range(9)]
    assert [row["lr"] for row in result.rows] == pytest.approx(rates)
    assert [row["epoch"] for row in result.rows] == pytest.approx([row["images"] / 48 for row in result.rows])


def test_mistakes_are_one_line(trial, tmp_path):
    with pytest.raises(UserError, match="not finite at step"):
        trial("infinite", name="supervised", lr=1e30, clip=0.0, warmup=0.0)
    trial("run", max_steps=2)
    path = tmp_path / "run" / "checkpoint" / "last.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a complete checkpoint"):
        trial("run", max_steps=2)


@pytest.mark.parametrize(("n_steps", "evaluations"), [(9, 3), (250, 20), (1000, 7), (1, 5), (40, 0)])
def test_rows_and_evaluations_are_evenly_spread(n_steps, evaluations):
    log = MetricsLog(n_steps, evaluations)
    rows = [step for step in range(1, n_steps + 1) if log.is_due(step)]
    evaluated = [step for step in rows if log.evaluation_is_due(step)]
    assert rows[-1] == evaluated[-1] == n_steps
    assert len(rows) <= 100
    assert min(evaluations, n_steps, 1) <= len(evaluated) <= max(evaluations, 1)
    one_process = SimpleNamespace(all_reduce=lambda values, reduce_op: values)
    for values in ([1.0, 2.0, 6.0], [5.0]):  # since the row before
        for value in values:
            log.add({"loss": torch.tensor(value)})
        assert log.means(one_process) == {"loss": sum(values) / len(values)}


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


def test_layer_decay_and_weight_decay_groups(small_backbone, small_method):
    method = small_method("supervised", small_backbone(depth=3), classes=2)
    changes = {"layer_decay": 0.5, "weight_decay": 0.1, "weight_decay_end": 0.3, "min_lr": 0.01, "beta2": 0.95}
    config = TrainConfig(lr=1.0, warmup=0.2, **changes)
    optimizer = make_optimizer(method, config)
    assert set_schedules(optimizer, config, 64, 0.1) == pytest.approx(0.5 * 64 / 256)  # half of the warm-up
    lr, decay = 0.01 + 0.24 / 2, 0.3 - 0.2 * (1 + math.cos(0.6 * math.pi)) / 2  # half of the cosine after it
    assert set_schedules(optimizer, config, 64, 0.6) == pytest.approx(lr)
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parameters = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert len(group_of) == len(parameters)
    group_of = {name: group_of[id(p)] for name, p in parameters.items()}
    assert all(group["betas"] == (0.9, 0.95) for group in group_of.values())
    # From the output: head, norm, blocks 2, 1, 0, then the embeddings.
    distance = {"head.weight": 0, "encoder.net.norm.weight": 1, "encoder.net.blocks.2.mlp.fc1.weight": 2}
    distance |= {"encoder.net.blocks.0.attn.qkv.bias": 4}
    distance |= {"encoder.net.patch_embed.proj.weight": 5, "encoder.net.pos_embed": 5}
    for name, layers in distance.items():
        assert group_of[name]["lr"] == pytest.approx(lr * 0.5**layers), name
    tokens = {"encoder.net.cls_token", "encoder.net.pos_embed"}
    matrices = {name for name, p in parameters.items() if p.ndim > 1} - tokens
    for name, group in group_of.items():
        assert group["weight_decay"] == pytest.approx(decay if name in matrices else 0.0), name
    method, config = small_method("simsiam", small_backbone()), replace(config, layer_decay=1.0)
    set_schedules(optimizer := make_optimizer(method, config), config, 64, 0.6)
    peak = {id(p) for group in optimizer.param_groups if group["lr"] == 64 / 256 for p in group["params"]}
    assert {name for name, p in method.named_parameters() if id(p) in peak} == method.constant_lr() != set()
