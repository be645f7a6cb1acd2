"""The consistency loss against NumPy, and its teacher."""

import numpy as np
import pytest
import torch

from zwicky.methods import consistency
from zwicky.methods.consistency import Consistency


@pytest.fixture
def views(make_views):
    views = make_views(local=0)
    views.targets = [torch.tensor([0, 1, 0, 1, 1, 0])] * 2
    return views


def test_sure_answers_are_asked_of_the_second_view(tiny_vit, views, monkeypatch):
    monkeypatch.setattr(consistency, "NOISE", 0.0)
    torch.manual_seed(3)
    method = Consistency(tiny_vit(), classes=2, label_smoothing=0.1, weight=0.7).eval()
    for head in (method.head, method.teacher["head"]):
        torch.nn.init.normal_(head.weight)
    with torch.no_grad():
        first, second = (method.encoder.predict(method.head, crop).numpy().astype(float) for crop in views.crops)
        given = method.teacher["backbone"].predict(method.teacher["head"], views.crops[0]).numpy().astype(float)
    log_p = [x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (first, second, given)]
    q, target = np.exp(log_p[2]), views.targets[0].numpy()
    threshold = float(np.median(q.max(1)))
    monkeypatch.setattr(consistency, "CONFIDENCE", threshold)
    sure = q.max(1) >= threshold
    assert sure.sum() == 3
    with torch.no_grad():
        metrics = method(views)
    supervised = -(0.9 * log_p[0][np.arange(6), target] + 0.1 * log_p[0].mean(1)).mean()
    agreeing = -(q * log_p[1]).sum(1)[sure].sum() / 6
    assert float(metrics["loss"]) == pytest.approx(supervised + 0.7 * agreeing, rel=1e-5)
    assert float(metrics["confident"]) == pytest.approx(sure.mean())
    assert float(metrics["agreement"]) == pytest.approx((q.argmax(1) == target).mean())


def test_only_the_student_learns_and_the_teacher_follows(tiny_vit, views):
    method = Consistency(tiny_vit(), classes=2)
    method(views)["loss"].backward()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    assert method.head.weight.grad.abs().sum() > 0
    weight = method.head.weight
    for momentum in (1 / 10, 2 / 11, 0.99):
        if momentum == 0.99:
            method.steps.fill_(10_000)
        before = method.teacher["head"].weight.clone()
        with torch.no_grad():
            weight += 1
        method.after_step(0.1)
        assert torch.allclose(method.teacher["head"].weight, torch.lerp(weight, before, momentum))


def test_the_noise_is_that_of_the_step(tiny_vit, views, monkeypatch):
    monkeypatch.setattr(consistency, "CONFIDENCE", 0.5)
    method = Consistency(tiny_vit(), classes=2).eval()
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(method(views)["consistency"].item())
    assert losses[0] == losses[1] != losses[2]
    views.valid[1] = torch.zeros_like(views.valid[1])  # pixels that are invalid stay 0
    losses = [method(views)["consistency"].item() for _ in range(2)]
    assert losses[0] == losses[1]


def test_each_image_has_its_own_level_of_noise(tiny_vit, make_views, monkeypatch):
    method, views, seen = Consistency(tiny_vit(), classes=2), make_views(batch=400, local=0), []
    views.targets = [torch.arange(400) % 2] * 2
    predict = method.encoder.predict
    monkeypatch.setattr(method.encoder, "predict", lambda head, images: seen.append(images) or predict(head, images))
    method(views)
    weak, strong = seen[0].split(400)
    assert torch.equal(weak, views.crops[0])
    levels = (strong - views.crops[1]).std((1, 2, 3))
    assert levels.sort().values[[0, 200, -1]].tolist() == pytest.approx([0, 0.25, 0.5], abs=0.05)


def test_a_target_is_used_from_a_probability_of_95_percent(tiny_vit, views):
    method = Consistency(tiny_vit(), classes=2)
    torch.nn.init.zeros_(method.teacher["head"].weight)
    for probability in (0.949, 0.951):
        method.teacher["head"].bias.copy_(torch.tensor([probability, 1 - probability]).log())
        assert float(method(views)["confident"]) == (probability > 0.95)
