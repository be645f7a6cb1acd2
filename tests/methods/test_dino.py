"""DINO: who learns, who follows, and what the loss is."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath

from zwicky import backbones, methods
from zwicky.methods import losses
from zwicky.methods.heads import PrototypeHead
from zwicky.methods.schedules import cosine

SMALL = {"prototypes": 24, "hidden": 32, "bottleneck": 16}


def gradients(method):
    return {name: p.grad for name, p in method.named_parameters() if p.requires_grad}


def test_teacher_starts_as_the_student_and_cannot_learn(tiny_vit):
    method = methods.create("dino", tiny_vit(drop_path=0.3), **SMALL)
    student, teacher = method.student.state_dict(), method.teacher.state_dict()
    assert student.keys() == teacher.keys()
    assert all(torch.equal(student[name], teacher[name]) for name in student)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    drops = [module.drop_prob for module in method.teacher.modules() if isinstance(module, DropPath)]
    assert drops == [0.0] * len(drops)
    own = [module.drop_prob for module in method.student.modules() if isinstance(module, DropPath)]
    assert own
    assert max(own) == pytest.approx(0.3)
    assert method.backbone is method.teacher["backbone"]


def test_loss_is_that_of_the_networks_one_crop_at_a_time(tiny_vit, make_views):
    # Without BatchNorm, whose statistics are those of all crops together.
    method = methods.create(
        "dino", tiny_vit(), student_temperature=0.2, teacher_temperature=0.05, batch_norm=False, **SMALL
    )
    method.center.normal_(0, 0.1)
    views = make_views()
    with torch.no_grad():
        student = [method.student["head"](method.student["backbone"](crop).pooled) for crop in views.crops]
        teacher = [
            ((method.teacher["head"](method.teacher["backbone"](crop).pooled) - method.center) / 0.05).softmax(-1)
            for crop in views.crops[:2]
        ]
        pairs = [(g, v) for g in range(2) for v in range(len(student)) if v != g]
        expected = sum(-(teacher[g] * (student[v] / 0.2).log_softmax(-1)).sum(-1).mean() for g, v in pairs) / len(pairs)
    gauges = method(views)
    loss = gauges["loss"].detach()
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    assert not any(value.requires_grad for name, value in gauges.items() if name != "loss")
    together = torch.cat(teacher)
    assert float(gauges["teacher_entropy"]) == pytest.approx(float(losses.entropy(together)), abs=1e-5)
    assert float(gauges["usage_entropy"]) == pytest.approx(float(losses.entropy(together.mean(0))), abs=1e-5)


def test_gradients_reach_the_student_alone(tiny_vit, make_views):
    method = methods.create("dino", tiny_vit(), **SMALL)
    method.progress.fill_(0.5)
    method(make_views())["loss"].backward()
    found = gradients(method)
    assert found
    assert all(name.startswith("student.") for name in found)
    assert {name.split(".")[1] for name in found} == {"backbone", "head"}
    assert all(g is not None and torch.isfinite(g).all() for g in found.values())
    assert all(p.grad is None for p in method.teacher.parameters())
    assert found["student.head.prototypes"].abs().sum() > 0


def test_frozen_prototypes_get_zero_gradient_and_point_the_same_way(tiny_vit, make_views):
    method = methods.create("dino", tiny_vit(), freeze_prototypes=0.5, **SMALL)
    optimizer = torch.optim.AdamW((p for p in method.parameters() if p.requires_grad), lr=1e-2, weight_decay=0.1)
    prototypes = method.student["head"].prototypes
    before = F.normalize(prototypes.detach(), dim=-1)
    for step in range(3):
        optimizer.zero_grad()
        method(make_views(seed=step))["loss"].backward()
        assert prototypes.grad is not None
        assert not prototypes.grad.any()
        optimizer.step()
        method.after_step(0.1 * (step + 1))
    assert torch.allclose(F.normalize(prototypes.detach(), dim=-1), before, atol=1e-6)
    method.after_step(0.6)
    optimizer.zero_grad()
    method(make_views(seed=9))["loss"].backward()
    optimizer.step()
    assert not torch.allclose(F.normalize(prototypes.detach(), dim=-1), before, atol=1e-4)


@pytest.mark.parametrize("name", ["vit_tiny", "resnet18"])
def test_teacher_and_center_after_steps_are_as_by_hand(name, make_views):
    torch.manual_seed(0)
    options = {"patch_size": 8, "width": 32, "depth": 1, "heads": 2} if name == "vit_tiny" else {}
    method = methods.create("dino", backbones.create(name, bands=3, image_size=32, **options), **SMALL, momentum=0.9)
    optimizer = torch.optim.SGD((p for p in method.parameters() if p.requires_grad), lr=0.1)
    teacher = {key: value.double() for key, value in copy.deepcopy(method.teacher.state_dict()).items()}
    center = torch.zeros(SMALL["prototypes"], dtype=torch.float64)
    parameters = {key for key, _ in method.teacher.named_parameters()}
    for step in range(3):
        views = make_views(seed=step)
        with torch.no_grad():
            oracle = copy.deepcopy(method.teacher)
            logits = oracle["head"](oracle["backbone"](torch.cat(views.crops[:2])).pooled)
        optimizer.zero_grad()
        method(views)["loss"].backward()
        optimizer.step()
        method.after_step((step + 1) / 10)
        momentum = cosine(0.9, 1.0, step / 10)
        center = 0.9 * center + 0.1 * logits.double().mean(0)
        student = method.student.state_dict()
        for key, value in teacher.items():
            new = student[key].double()
            teacher[key] = momentum * value + (1 - momentum) * new if key in parameters else new
    for key, value in method.teacher.state_dict().items():
        assert torch.allclose(value.double(), teacher[key], atol=1e-6), key
    assert torch.allclose(method.center.double(), center, atol=1e-5)
    assert float(method.progress) == pytest.approx(0.3)


def test_all_state_is_in_the_state_dict(tiny_vit, make_views):
    """A method read back from its state dict goes on with the same numbers."""
    method = methods.create("dino", tiny_vit(), **SMALL)
    method(make_views())["loss"].backward()
    method.after_step(0.4)
    other = methods.create("dino", tiny_vit(), **SMALL)
    other.load_state_dict(method.state_dict())
    views = make_views(seed=1)
    assert torch.equal(method(views)["loss"], other(views)["loss"])


def test_logits_are_cosines():
    torch.manual_seed(0)
    head = PrototypeHead(8, 5, hidden=16, bottleneck=4)
    z = torch.randn(7, 8)
    inner = head.mlp(z)
    expected = torch.stack([F.cosine_similarity(inner, row[None]) for row in head.prototypes], 1)
    assert torch.allclose(head(z), expected, atol=1e-6)
    with torch.no_grad():
        head.prototypes.mul_(7.0)
    assert torch.allclose(head(z), expected, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(z).dtype == torch.float32


def test_no_local_crops_is_fine(tiny_vit, make_views):
    method = methods.create("dino", tiny_vit(), **SMALL)
    assert torch.isfinite(method(make_views(local=0))["loss"])


def test_loss_is_float32_under_autocast(tiny_vit, make_views):
    method = methods.create("dino", tiny_vit(), **SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        gauges = method(make_views())
    assert all(value.dtype == torch.float32 for value in gauges.values())
