"""Each layer against its formula, and each with all eight elements."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zwicky import d4
from zwicky.backbones.base import Features
from zwicky.backbones.d4 import group
from zwicky.backbones.d4.decoder import D4PixelDecoder
from zwicky.backbones.d4.kernels import BlockProduct, GroupNorm
from zwicky.backbones.d4.layers import MLP, Drop, Lift, Norm, Readout, attend
from zwicky.backbones.d4.linear import GroupLinear
from zwicky.backbones.d4.vit import Block, Embed


def act(g, frames):
    """(g·F)(n, k) = F(g⁻¹n, g⁻¹k) of regular features [8, ..., h, w]."""
    return d4.apply(frames[d4.PRODUCT[d4.INVERSE[g]]])[g]


def filled(module):
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter, dtype=torch.float64)
    return module


@pytest.fixture
def frames():
    torch.manual_seed(0)
    return torch.randn(8, 4, 2, 5, 5, dtype=torch.float64)


def in_frames(layer, frames, irreps, tokens=True):
    """A layer's answer in the frames, whichever basis it works in."""
    x = group.to_irreps(frames) if irreps else frames
    y = layer(x.flatten(3) if tokens else x, irreps)
    y = group.to_frames(y) if irreps else y
    return y.unflatten(3, frames.shape[3:]) if tokens else y


def test_linear_is_the_sum_over_the_group(frames):
    layer = filled(GroupLinear(4, 6))
    expected = torch.zeros(8, 6, 2, 5, 5, dtype=torch.float64)
    for g in range(8):
        for k in range(8):
            weight = layer.weight[d4.PRODUCT[d4.INVERSE[g], k]]
            expected[g] += torch.einsum("oi,ibyx->obyx", weight, frames[k])
    expected += layer.bias[:, None, None, None]
    assert torch.allclose(in_frames(layer, frames, False), expected, atol=1e-10)
    assert torch.allclose(in_frames(layer, frames, True), expected, atol=1e-10)


def test_both_ways_of_the_linear_layer_give_the_same_gradients(frames):
    layer, found = filled(GroupLinear(4, 6)), []
    for irreps in (True, False):
        x = frames.clone().requires_grad_()
        layer.zero_grad()
        in_frames(layer, x, irreps).square().sum().backward()
        found.append((x.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_norm_is_torchs_layer_norm_over_all_frames(frames):
    layer = filled(Norm(4))
    flat = (3 + frames).permute(2, 3, 4, 0, 1).flatten(3)
    weight, bias = layer.weight.repeat(8), layer.bias.repeat(8)
    expected = F.layer_norm(flat, (32,), weight, bias, 1e-6).unflatten(3, (8, 4)).permute(3, 4, 0, 1, 2)
    for irreps in (True, False):
        assert torch.allclose(in_frames(layer, 3 + frames, irreps), expected, atol=1e-10)


def test_gradients_written_by_hand_are_those_of_differences():
    torch.manual_seed(0)

    def free(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(BlockProduct.apply, (free(8, 3, 5), free(4, 2, 3), free(4, 6), free(2)))
    for spread in (1, 8):
        fixed = (1e-6, spread, torch.float64)
        assert torch.autograd.gradcheck(GroupNorm.apply, (free(8, 3, 5), free(3), free(3), *fixed))


def test_lift_is_a_convolution_with_eight_kernels():
    layer = filled(Lift(2, 3, 4))
    images = torch.randn(2, 2, 12, 12, dtype=torch.float64)
    expected = torch.stack([F.conv2d(images, kernel, layer.bias, stride=4) for kernel in d4.apply(layer.kernel)])
    assert torch.allclose(layer(images, False).transpose(1, 2), expected, atol=1e-10)
    assert torch.allclose(group.to_frames(layer(images, True)).transpose(1, 2), expected, atol=1e-10)


def test_attention_is_torchs():
    q, k, v = (torch.randn(3, 2, 8, 5) for _ in range(3))
    bias = torch.randn(2, 5, 5)
    for added in (None, bias):
        expected = F.scaled_dot_product_attention(q.mT, k.mT, v.mT, attn_mask=added).mT
        assert torch.allclose(attend(q, k, v, added), expected, atol=1e-5)


@pytest.mark.parametrize("irreps", [True, False])
@pytest.mark.parametrize(("kind", "sizes"), [(GroupLinear, (4, 6)), (Norm, (4,)), (MLP, (4, 8)), (Block, (4, 2, 0.0))])
def test_layers_turn_their_output_with_their_input(kind, sizes, irreps, frames):
    layer = filled(kind(*sizes))
    upright = in_frames(layer, frames, irreps).detach()
    assert upright.std() > 0.1
    for g in range(8):
        turned = in_frames(layer, act(g, frames), irreps)
        assert torch.allclose(turned, act(g, upright), atol=1e-10 * float(upright.abs().max())), g


@pytest.mark.parametrize("irreps", [True, False])
@pytest.mark.parametrize("side", [2, 3, 4])
def test_embedding_turns_with_image_and_mask_at_any_size(irreps, side):
    layer = filled(Embed(2, 3, 4, 3))
    token = torch.randn(3, dtype=torch.float64)
    images = torch.randn(2, 2, 4 * side, 4 * side, dtype=torch.float64)
    mask = torch.rand(2, side, side) < 0.5

    def cells(images, mask):
        tokens = layer(images, mask, token, irreps)
        tokens = group.to_frames(tokens) if irreps else tokens
        return tokens[..., 0], tokens[..., 1:].unflatten(3, (side, side))

    first, rest = cells(images, mask)
    for g in range(8):
        cls, turned = cells(d4.apply(images)[g], d4.apply(mask)[g])
        assert torch.allclose(cls, first, atol=1e-12)
        assert torch.allclose(turned, act(g, rest), atol=1e-10)


@pytest.mark.parametrize("irreps", [True, False])
def test_readout_is_invariant_and_no_mean_of_its_input(irreps, frames):
    layer = filled(Readout(4))
    x = frames if not irreps else group.to_irreps(frames)
    upright = layer(x, irreps)
    assert upright.shape == (2, 5, 5, 32)
    for g in range(8):
        turned = act(g, frames)
        seen = layer(group.to_irreps(turned) if irreps else turned, irreps)
        assert torch.allclose(seen.permute(0, 3, 1, 2), d4.apply(upright.permute(0, 3, 1, 2))[g], atol=1e-10)
    # Features with the same mean over the frames are told apart: more than A1 passes.
    other = frames + torch.randn_like(frames)
    other = other - other.mean(0) + frames.mean(0)
    assert not torch.allclose(layer(group.to_irreps(other) if irreps else other, irreps), upright, atol=0.1)


def test_decoder_is_the_lift_transposed():
    """⟨lift(I), F⟩ = 8 ⟨I, decode(F)⟩ for the same kernel, bias and level left out."""
    decoder, lift = filled(D4PixelDecoder(24, 2, 12, 3)), filled(Lift(2, 3, 4))
    lift.kernel, lift.bias.data = decoder.kernel, 0 * lift.bias
    for parameter in decoder.level.parameters():
        parameter.data.zero_()
    images, field = torch.randn(2, 2, 12, 12).double(), torch.randn(2, 3, 3, 8, 3).double()
    decoded = decoder(Features(field[:, 0, 0, 0], torch.zeros(2, 3, 3, 24).double(), field))
    lifted = lift(images, False).permute(2, 3, 4, 0, 1)
    one, other = (lifted * field).sum().detach(), (images * decoded).sum().detach()
    assert float(one) == pytest.approx(8 * float(other), rel=1e-9)


def test_drop_path_drops_whole_images():
    torch.manual_seed(0)
    x = torch.ones(8, 3, 50, 2)
    dropped = Drop(0.4).train()(x)
    by_image = dropped.permute(2, 0, 1, 3).flatten(1)
    assert ((by_image == 0).all(1) | (by_image == by_image.max()).all(1)).all()
    assert 0 < int((by_image == 0).all(1).sum()) < 50
    assert torch.equal(Drop(0.4).eval()(x), x)
