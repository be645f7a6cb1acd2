"""SimSiam: where the gradient stops, and what the loss is."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from zwicky import methods
from zwicky.errors import UserError
from zwicky.methods.heads import MLP

SMALL = {"width": 24, "bottleneck": 8}


def apart(found, expected):
    """Norm of the difference of two lists of tensors over the norm of the second."""
    return float(
        torch.cat([(a - b).flatten() for a, b in zip(found, expected, strict=True)]).norm()
        / torch.cat([b.flatten() for b in expected]).norm()
    )


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
    found = [p.grad for p in method.parameters() if p.requires_grad]
    expected, gradients = by_hand(stop=True)
    assert float(loss.detach()) == pytest.approx(float(expected), abs=1e-6)
    assert apart(found, gradients) < 1e-3  # float32, through BatchNorm over six images
    _, without = by_hand(stop=False)
    assert apart(found, without) > 0.1  # the check above can tell the difference
    assert all(p.grad.any() for p in method.predictor.parameters())
    assert any(p.grad.any() for p in method.encoder.parameters() if p.requires_grad)


def test_architecture_is_that_of_the_paper(tiny_vit):
    method = methods.create("simsiam", tiny_vit(), **SMALL)
    names = [type(layer).__name__ for layer in method.projector]
    assert names == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert not list(method.projector[-1].parameters())
    assert [type(layer).__name__ for layer in method.predictor] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    shapes = [tuple(layer.weight.shape) for layer in method.predictor if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(8, 24), (24, 8)]
    known = dict(method.named_parameters())
    assert {id(known[name]) for name in method.constant_lr()} == {id(p) for p in method.predictor.parameters()}
    assert method.backbone is method.encoder


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
