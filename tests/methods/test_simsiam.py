"""SimSiam: where the gradient stops, and what the loss is."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from zwicky import backbones, methods
from zwicky.errors import UserError
from zwicky.methods.projectors import MLP
from zwicky.methods.simsiam import distance

SMALL = {"width": 24, "bottleneck": 8}


def slow_distance(p, z):
    """−(1/B) Σ_b Σ_d p_bd z_bd / (‖p_b‖ ‖z_b‖), in plain double precision."""
    total = 0.0
    for a, b in zip(p.double().tolist(), z.double().tolist(), strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        total -= dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))
    return total / len(p)


def apart(found, expected):
    """Norm of the difference of two lists of tensors over the norm of the second."""
    return float(
        torch.cat([(a - b).flatten() for a, b in zip(found, expected, strict=True)]).norm()
        / torch.cat([b.flatten() for b in expected]).norm()
    )


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("width", [1, 3, 32])
def test_distance_is_the_cosine_written_out_and_lightlys(batch, width):
    lightly = pytest.importorskip("lightly.loss")
    generator = torch.Generator().manual_seed(batch + width)
    p, z = torch.randn(2, batch, width, generator=generator)
    assert float(distance(p, z)) == pytest.approx(slow_distance(p, z), abs=1e-6)
    assert float(distance(p, z)) == pytest.approx(float(lightly.NegativeCosineSimilarity()(p, z)), abs=1e-6)


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


def test_nothing_reaches_what_is_predicted():
    p, z = torch.randn(2, 5, 8).requires_grad_().unbind(0)
    p.retain_grad(), z.retain_grad()
    distance(p, z).backward()
    assert p.grad.any()
    assert z.grad is None


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


def test_diagnosis_of_constant_and_of_spread_embeddings(tiny_vit, make_views):
    method = methods.create("simsiam", tiny_vit(), **SMALL)
    healthy = {name: float(value.detach()) for name, value in method(make_views(batch=32, local=0)).items()}
    assert healthy["embedding_std"] == pytest.approx(1 / math.sqrt(24), rel=0.2)
    assert method.diagnose(healthy) is None
    with torch.no_grad():  # identical images would do too, but three BatchNorms blow up the rounding between their rows
        method.projector[-2].weight.zero_()
    collapsed = {name: float(value.detach()) for name, value in method(make_views(local=0)).items()}
    assert "constant embeddings" in method.diagnose(collapsed)


def test_one_image_is_refused_in_words():
    with pytest.raises(UserError, match="batch_size"):
        MLP([4, 4, 2])(torch.randn(1, 4))
    assert MLP([4, 4, 2]).eval()(torch.randn(1, 4)).shape == (1, 2)


def test_a_few_steps_lower_the_loss(tiny_vit, make_views, falls):
    falls(methods.create("simsiam", tiny_vit(), **SMALL), make_views(batch=16, local=0))


def test_all_state_is_in_the_state_dict(tiny_vit, make_views, same_after_reading):
    same_after_reading(lambda: methods.create("simsiam", tiny_vit(), **SMALL), make_views(local=0))


def test_loss_is_float32_under_autocast(make_views):
    backbone = backbones.create("vit_tiny", bands=3, image_size=32, width=32, depth=1, heads=2)
    method = methods.create("simsiam", backbone, **SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        gauges = method(make_views(local=0))
    assert all(value.dtype == torch.float32 for value in gauges.values())
