"""What holds for all of the self-distillation family."""

from __future__ import annotations

import copy

import pytest
import torch

from zwicky import methods
from zwicky.methods.schedules import cosine

SMALL = {"prototypes": 24, "hidden": 32, "bottleneck": 16}
CASES = [("dino", {}), ("ibot", {}), ("ibot", {"shared_head": False}), ("esvit", {}), ("esvit", {"region_loss": False})]
family = pytest.mark.parametrize(("name", "options"), CASES)


@pytest.fixture
def make(small_backbone):
    def build(name, options, network="vit_tiny", **more):
        return methods.create(name, small_backbone(network), **SMALL, **options, **more)

    return build


def views_for(method, make_views, **options):
    return make_views(masking=method.needs.masking, **options)


@family
def test_the_teacher_starts_as_the_student_and_cannot_learn(name, options, make):
    method = make(name, options)
    student, teacher = method.student.state_dict(), method.teacher.state_dict()
    assert student.keys() == teacher.keys()
    assert all(torch.equal(student[key], teacher[key]) for key in student)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert not {p.data_ptr() for p in method.teacher.parameters()} & {p.data_ptr() for p in method.student.parameters()}
    assert method.student["backbone"].mask_token.requires_grad == (name == "ibot")


@family
def test_gradients_reach_the_student_alone(name, options, make, make_views):
    method = make(name, options)
    method.progress.fill_(0.5)
    method(views_for(method, make_views))["loss"].backward()
    found = {key: p.grad for key, p in method.named_parameters() if p.requires_grad}
    assert all(key.startswith("student.") for key in found)
    assert all(g is not None and torch.isfinite(g).all() for g in found.values())
    assert all(g.any() for key, g in found.items() if key.endswith("prototypes"))
    assert all(p.grad is None for p in method.teacher.parameters())


@family
def test_teacher_and_centers_after_steps_are_as_by_hand(name, options, make, make_views):
    method = make(name, options, network="swin_tiny", momentum=0.9)
    optimizer = torch.optim.SGD((p for p in method.parameters() if p.requires_grad), lr=0.1)
    teacher = {key: value.double() for key, value in copy.deepcopy(method.teacher.state_dict()).items()}
    parameters = {key for key, _ in method.teacher.named_parameters()}
    heads = {"center": "head"}
    if hasattr(method, "region_center"):
        heads["region_center"] = "head" if options.get("shared_head", name == "ibot") else "region_head"
    centers = {center: torch.zeros(24, dtype=torch.float64) for center in heads}
    for step in range(3):
        views = views_for(method, make_views, seed=step)
        with torch.no_grad():
            oracle = copy.deepcopy(method.teacher)
            features = oracle["backbone"](torch.cat(views.crops[:2]))
            inputs = {"center": features.pooled, "region_center": features.patch_tokens.flatten(0, 2)}
            for center, head in heads.items():
                centers[center] = 0.9 * centers[center] + 0.1 * oracle[head](inputs[center]).double().mean(0)
        optimizer.zero_grad()
        method(views)["loss"].backward()
        optimizer.step()
        method.after_step((step + 1) / 10)
        momentum = cosine(0.9, 1.0, step / 10)
        student = method.student.state_dict()
        for key, value in teacher.items():
            new = student[key].double()
            teacher[key] = momentum * value + (1 - momentum) * new if key in parameters else new
    for key, value in method.teacher.state_dict().items():
        assert torch.allclose(value.double(), teacher[key], atol=1e-6), key
    for center, value in centers.items():
        assert torch.allclose(getattr(method, center).double(), value, atol=1e-5), center
        assert value.any()


@family
def test_read_back_in_the_middle_it_goes_on_alike(name, options, make, make_views, same_after_reading):
    first = make(name, options)
    same_after_reading(lambda: make(name, options), views_for(first, make_views))


@family
def test_the_temperature_rises_for_all_targets(name, options, make, make_views):
    """At the end of the ramp every teacher's entropy is that of a method built with the end temperature."""
    rising = make(name, options, teacher_temperature=0.04, teacher_temperature_end=0.2)
    warm = make(name, options, teacher_temperature=0.2, teacher_temperature_end=0.2)
    views = views_for(rising, make_views)
    cold = rising(views)
    rising.progress.fill_(0.5)
    late, expected = rising(views), warm(views)
    for gauge in [key for key in expected if key.endswith("teacher_entropy")]:
        assert torch.equal(late[gauge], expected[gauge])
        assert late[gauge] > cold[gauge]


@family
def test_float32_under_autocast_and_without_local_crops(name, options, make, make_views):
    method = make(name, options)
    with torch.autocast("cpu", torch.bfloat16):
        gauges = method(views_for(method, make_views, local=0))
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in gauges.values())
    assert not any(value.requires_grad for key, value in gauges.items() if key != "loss")


@family
def test_a_few_steps_lower_the_loss(name, options, make, make_views, falls):
    method = make(name, options)
    falls(method, views_for(method, make_views))
