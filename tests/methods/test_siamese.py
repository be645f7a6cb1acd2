"""SimSiam and BYOL: where the gradient stops, and what the loss is."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from zwicky import methods
from zwicky.errors import UserError
from zwicky.methods.siamese import MLP

SMALL = {"width": 24, "bottleneck": 8}


def relative_difference(tensors, expected):
    """Norm of the difference of two lists of tensors over the norm of the second."""
    a, b = (torch.cat([tensor.flatten() for tensor in each]) for each in (tensors, expected))
    return float((a - b).norm() / b.norm())


def test_loss_and_gradient_are_those_of_the_paper_with_z_detached(tiny_vit, make_views):
    method = methods.create("simsiam", tiny_vit(), **SMALL)
    views = make_views(local=0)
    oracle = copy.deepcopy(method)

    def by_hand(stop):
        z1, z2 = (oracle.projector(oracle.encoder(crop).pooled) for crop in views.crops)
        p1, p2 = oracle.predictor(z1), oracle.predictor(z2)
        t1, t2 = (z1.detach(), z2.detach()) if stop else (z1, z2)
        p1, p2, t1, t2 = (v / v.norm(dim=1, keepdim=True) for v in (p1, p2, t1, t2))
        loss = -0.5 * (p1 * t2).sum(1).mean() - 0.5 * (p2 * t1).sum(1).mean()
        oracle.zero_grad()
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in oracle.parameters() if p.requires_grad]

    loss = method(views)["loss"]
    loss.backward()
    gradients = [p.grad for p in method.parameters() if p.requires_grad]
    expected, with_stop = by_hand(stop=True)
    assert float(loss.detach()) == pytest.approx(float(expected), abs=1e-6)
    assert relative_difference(gradients, with_stop) < 1e-3  # float32, through BatchNorm over six images
    assert relative_difference(gradients, by_hand(stop=False)[1]) > 0.1  # the check above can tell the difference
    assert all(p.grad.any() for p in method.predictor.parameters())


def test_constant_embeddings_are_reported(tiny_vit, make_views):
    method = methods.create("simsiam", tiny_vit(), **SMALL)
    healthy = {name: float(value.detach()) for name, value in method(make_views(batch=32, local=0)).items()}
    assert healthy["embedding_std"] == pytest.approx(1 / math.sqrt(24), rel=0.2)
    assert method.diagnose(healthy) is None
    with torch.no_grad():  # identical images would do too, but three BatchNorms blow up the rounding between their rows
        method.projector[-2].weight.zero_()
    collapsed = {name: float(value.detach()) for name, value in method(make_views(local=0)).items()}
    assert "constant embeddings" in method.diagnose(collapsed)


def test_a_batch_of_one_image_is_refused():
    with pytest.raises(UserError, match="batch_size"):
        MLP([4, 4, 2])(torch.randn(1, 4))
    assert MLP([4, 4, 2]).eval()(torch.randn(1, 4)).shape == (1, 2)


def test_byols_loss_is_symmetric_and_between_the_views(tiny_vit, make_views):
    method = methods.create("byol", tiny_vit(), hidden=24, width=8)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    views, expected = make_views(local=0), 0.0
    with torch.no_grad():
        for x, other in (views.crops, views.crops[::-1]):
            z = method.student["projector"](method.student["backbone"](x).pooled)
            y = method.teacher["projector"](method.teacher["backbone"](other).pooled)
            q = F.normalize(method.predictor(z)) - F.normalize(y)
            expected += float(q.square().sum(1).mean())
        for each in (views, dataclasses.replace(views, crops=views.crops[::-1])):
            assert float(method(each)["loss"]) == pytest.approx(expected, abs=1e-6)
