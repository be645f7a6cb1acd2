"""Predictions turn as `transform_targets` turns what they predict."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zwicky import d4, methods
from zwicky.augment.views import Target, Views, transform_targets
from zwicky.backbones.d4.readout import TargetHead
from zwicky.methods.supervised import TargetScaler, head_outputs, make_head

TARGETS = (Target(("dx", "dy"), "vector"), Target(("theta_E",)), Target(("gamma1", "gamma2"), "spin2"))


def turned_by(g, values, targets=TARGETS):
    to_source = torch.cat([d4.VECTORS[g].T, torch.zeros(2, 1)], 1).expand(len(values), 2, 3)
    return transform_targets(values, targets, to_source)


@pytest.mark.parametrize("name", ["d4_vit", "d4_swin"])
@torch.no_grad()
def test_predictions_turn_with_the_image(name, network):
    net, images = network(name), torch.randn(3, 2, 32, 32)
    head = make_head(net, 5, TARGETS)
    for parameter in head.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    upright = head(net(images))
    assert upright.shape == (3, 5)
    assert upright.std(0).min() > 1e-3
    for g, turned in enumerate(d4.apply(images)):
        expected = turned_by(g, upright)
        assert torch.allclose(head(net(turned)), expected, atol=2e-5), g
        moved = (expected - upright).abs().amax(0) > 1e-3
        assert moved.any() == (g > 0)  # and they do turn
        assert not moved[2]


def test_only_directions_on_an_equivariant_network_need_frames(network, small_backbone):
    net = network("d4_vit")
    assert isinstance(make_head(net, 2, TARGETS[:1]), TargetHead)
    assert isinstance(make_head(net, 1, TARGETS[1:2]), torch.nn.Linear)
    assert isinstance(make_head(small_backbone("vit_tiny"), 2, TARGETS[:1]), torch.nn.Linear)


def test_scales_of_directions_turn_too():
    values = np.random.default_rng(0).normal([1, -2, 5, 0, 0.3], [1, 2, 3, 4, 5], (200, 5))
    plain = TargetScaler.fit(values, TARGETS)
    assert np.allclose(plain.mean, values.mean(0))
    assert np.allclose(plain.std, values.std(0))
    scaler = TargetScaler.fit(values, TARGETS, equivariant=True)
    mean, std = scaler.mean, scaler.std
    assert np.allclose(scaler.inverse(scaler.transform(values)), values)
    assert mean == (0, 0, plain.mean[2], 0, 0)
    assert std[0] == std[1] == pytest.approx(np.sqrt((values[:, :2] ** 2).mean()))
    assert std[2] == plain.std[2]
    assert std[3] == std[4]


def test_offsets_and_shapes_are_learnt(network):
    """Blobs at an offset, elongated: 40 steps explain most of both, and every parameter has its gradient."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(16.0) - 7.5, torch.arange(16.0) - 7.5, indexing="ij")
    offset, angle = 6 * torch.rand(96, 2, 1, 1) - 3, 3.14159 * torch.rand(96, 1, 1)
    u, v = x - offset[:, 0], y - offset[:, 1]
    along, across = u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin()
    images = torch.exp(-(along**2 + 4 * across**2) / 18)[:, None].expand(-1, 2, -1, -1)
    truth = torch.cat([offset[:, :, 0, 0], (2 * angle).cos()[:, 0], (2 * angle).sin()[:, 0]], 1)
    kinds = (TARGETS[0], TARGETS[2])
    net = network("d4_vit", image_size=16, depth=2)
    method = methods.create("supervised", net, targets=kinds, scaler=TargetScaler((0.0,) * 4, (1.7, 1.7, 0.7, 0.7)))
    optimizer = torch.optim.AdamW((p for p in method.parameters() if p.requires_grad), lr=3e-3)
    ones = torch.ones((), dtype=torch.bool)
    views = Views([images], [torch.eye(2, 3).expand(96, 2, 3)], [ones], torch.arange(96), 1, [truth])
    for _ in range(40):
        optimizer.zero_grad()
        method(views)["loss"].backward()
        assert [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None] == []
        optimizer.step()
    with torch.no_grad():
        outputs = method.scaler.inverse(head_outputs(net.eval(), method.head, images))
        left = (outputs - truth).square().mean(0) / truth.var(0)
    assert left.max() < 0.5
