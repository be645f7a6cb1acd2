"""BYOL: the student predicts the projection of a moving average of itself."""

from __future__ import annotations

import copy

import pytest
import torch

from zwicky import methods
from zwicky.augment.views import Views
from zwicky.methods.byol import project
from zwicky.methods.ema import cosine

SMALL = {"hidden": 24, "width": 8}


def distance(q, z):
    """‖q/‖q‖ − z/‖z‖‖², mean over the batch."""
    return (q / q.norm(dim=1, keepdim=True) - z / z.norm(dim=1, keepdim=True)).square().sum(1).mean()


def test_loss_is_symmetric_and_between_the_views(tiny_vit, make_views):
    method = methods.create("byol", tiny_vit(), **SMALL)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    views = make_views(local=0)
    x1, x2 = views.crops
    with torch.no_grad():
        one = distance(method.predictor(project(method.student, x1)), project(method.teacher, x2))
        two = distance(method.predictor(project(method.student, x2)), project(method.teacher, x1))
        swapped = Views([x2, x1], views.to_source, views.valid, views.rows, 2)
        assert float(method(views)["loss"]) == pytest.approx(float(one + two), abs=1e-6)
        assert float(method(swapped)["loss"]) == pytest.approx(float(one + two), abs=1e-6)


def test_teacher_is_the_moving_average(tiny_vit, make_views):
    method = methods.create("byol", tiny_vit(), momentum=0.9, **SMALL)
    optimizer = torch.optim.SGD((p for p in method.parameters() if p.requires_grad), lr=0.1)
    teacher = {key: value.double() for key, value in copy.deepcopy(method.teacher.state_dict()).items()}
    parameters = {key for key, _ in method.teacher.named_parameters()}
    for step in range(3):
        views = make_views(local=0, seed=step)
        oracle = copy.deepcopy(method.teacher)
        for crop in views.crops:
            project(oracle, crop)
        optimizer.zero_grad()
        method(views)["loss"].backward()
        optimizer.step()
        method.after_step((step + 1) / 10)
        momentum = cosine(0.9, 1.0, step / 10)
        own = oracle.state_dict()
        for key, new in method.student.state_dict().items():
            average = momentum * teacher[key] + (1 - momentum) * new.double()
            teacher[key] = average if key in parameters else own[key].double()
    for key, value in method.teacher.state_dict().items():
        assert torch.allclose(value.double(), teacher[key], atol=1e-6), key
