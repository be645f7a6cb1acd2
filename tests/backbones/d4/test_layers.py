"""Irreps and layers against their formulas; `test_networks.py` shows that networks are equivariant in both bases."""

import math

import pytest
import torch
import torch.nn.functional as F

from zwicky import d4
from zwicky.augment.views import Target
from zwicky.backbones.base import Features
from zwicky.backbones.d4 import irreps as algebra
from zwicky.backbones.d4.heads import D4PixelDecoder, TargetHead
from zwicky.backbones.d4.irreps import BlockProduct
from zwicky.backbones.d4.layers import GroupLinear, Lift, Norm, Readout
from zwicky.backbones.d4.swin import Merge, WindowBlock

from .conftest import act


@pytest.fixture
def fill(filled):
    return lambda module: filled(module, 1.0, torch.float64)


@pytest.fixture
def features():
    torch.manual_seed(0)
    return torch.randn(8, 4, 2, 5, 5, dtype=torch.float64)


def test_the_irreps_are_orthonormal_and_transform_among_themselves():
    assert torch.allclose(algebra.CHANGE @ algebra.CHANGE.T, torch.eye(8, dtype=torch.float64), atol=1e-14)
    x = torch.randn(8, 4, 1, 1, dtype=torch.float64)
    assert torch.allclose(algebra.to_regular(algebra.to_irreps(x)), x, atol=1e-12)
    for g in range(8):
        before, after = (algebra.to_irreps(y)[..., 0, 0] for y in (x, act(g, x)))
        assert torch.allclose(after[:4], algebra.CHARACTERS[:4, g, None] * before[:4], atol=1e-12)
        pairs = torch.einsum("ab,bjc->ajc", d4.VECTORS[g].double(), before[4:].view(2, 2, -1))
        assert torch.allclose(after[4:].view(2, 2, -1), pairs, atol=1e-12)


def test_linear_is_the_sum_over_the_group_in_both_bases(features, fill):
    layer, x = fill(GroupLinear(4, 6)), features.requires_grad_()
    expected = torch.zeros(8, 6, 2, 5, 5, dtype=torch.float64)
    for g in range(8):
        for k in range(8):
            expected[g] += torch.einsum("oi,ibyx->obyx", layer.weight[d4.PRODUCT[d4.INVERSE[g], k]], features[k])
    expected += layer.bias[:, None, None, None]
    dense, by_irreps = layer(x, False), algebra.to_regular(layer(algebra.to_irreps(x), True))
    gradients = [torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]) for y in (expected, dense, by_irreps)]
    for y, gradient in zip((dense, by_irreps), gradients[1:], strict=True):
        for one, other in zip((y, *gradient), (expected, *gradients[0]), strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_norm_is_torchs_layer_norm_over_group_and_channels(features, fill):
    layer = fill(Norm(4))
    flat = (3 + features).permute(2, 3, 4, 0, 1).flatten(3)
    expected = F.layer_norm(flat, (32,), layer.weight.repeat(8), layer.bias.repeat(8), 1e-6)
    expected = expected.unflatten(3, (8, 4)).permute(3, 4, 0, 1, 2)
    assert torch.allclose(layer(3 + features, False), expected, atol=1e-10)


def test_gradients_written_by_hand_are_those_of_differences():
    torch.manual_seed(0)

    def free(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(BlockProduct.apply, (free(8, 3, 5), free(4, 2, 3), free(4, 6), free(2)))


def test_lift_is_a_convolution_with_eight_kernels(fill):
    layer, images = fill(Lift(2, 3, 4)), torch.randn(2, 2, 12, 12, dtype=torch.float64)
    expected = torch.stack([F.conv2d(images, kernel, layer.bias, stride=4) for kernel in d4.apply(layer.kernel)])
    assert torch.allclose(layer(images, False).transpose(1, 2), expected, atol=1e-10)


@torch.no_grad()
def test_decoder_is_the_lift_transposed(fill):
    """⟨lift(I), F⟩ = 8 ⟨I, decode(F)⟩ for the same kernel, bias and level left out."""
    decoder, lift = fill(D4PixelDecoder(24, 2, (4, 4))), fill(Lift(2, 3, 4))
    lift.kernel, lift.bias.data = decoder.kernel, 0 * lift.bias
    for parameter in decoder.level.parameters():
        parameter.zero_()
    images, field = torch.randn(2, 2, 12, 12).double(), torch.randn(2, 3, 3, 8, 3).double()
    decoded = decoder(Features(field[:, 0, 0, 0], torch.zeros(2, 3, 3, 24).double(), field))
    lifted = lift(images, False).permute(2, 3, 4, 0, 1)
    assert float((lifted * field).sum()) == pytest.approx(8 * float((images * decoded).sum()), rel=1e-9)
    decoder.level.bias.fill_(2)
    assert torch.allclose(decoder(Features(field[:, 0, 0, 0], torch.zeros(2, 3, 3, 24).double(), field)), decoded + 2)


@torch.no_grad()
def test_a_closed_gate_leaves_the_irreps_times_the_weight(fill):
    head, field = fill(TargetHead(24, (Target(("x", "y"), "vector"),))), torch.randn(2, 3, 3, 8, 3).double()
    for parameter in head.gates.parameters():
        parameter.zero_()
    pairs = algebra.to_irreps(field.mean((1, 2)).transpose(0, 1))[4:].view(2, 2, 2, 3)  # [x or y, 2, B, C]
    expected = torch.einsum("ijbc,jc->bi", pairs, head.weight[0])
    assert torch.allclose(head(Features(torch.randn(2, 24).double(), torch.empty(0), field)), expected, atol=1e-12)


def test_invariants_tell_more_than_the_mean_over_the_group(features, fill):
    readout, x = fill(Readout(4)), features - features.mean(0)
    assert (readout(x, False) - readout(0 * x, False)).abs().max() > 0.1


def test_every_other_block_shifts_its_windows(small_backbone):
    blocks = [part for part in small_backbone("d4_swin").modules() if isinstance(part, WindowBlock)]
    assert [block.shifted for block in blocks] == [False, True, False, True]


def windowed_attention(block, x):
    """Attention of one image among the cells of a window, no window wrapping around the edge; [8, C, h, w]."""
    side, heads = x.shape[-1], block.heads
    size = min(block.window, side)
    shift = size // 2 if block.shifted and side > size else 0
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    near = ((cells - shift).div(size, rounding_mode="floor")[:, None] == (cells - shift) // size).all(-1)
    dy, dx = (cells[:, None] - cells + block.window - 1).clamp(0, 2 * block.window - 2).unbind(-1)
    bias = torch.stack([each[:, dy, dx] for each in d4.apply(block.bias)])  # [8, heads, N, N]
    qkv = block.qkv(block.norm1(x[:, :, None], False), False)[:, :, 0].flatten(2).unflatten(1, (3, heads, -1))
    q, k, v = qkv.unbind(1)  # [8, heads, d, N]
    scores = torch.einsum("ghdn,ghdm->ghnm", q, k) / math.sqrt(q.shape[2]) + bias
    weights = scores.masked_fill(~near, -torch.inf).softmax(-1)
    mixed = torch.einsum("ghnm,ghdm->ghdn", weights, v).flatten(1, 2).unflatten(2, (side, side))
    return block.proj(mixed[:, :, None], False)


@pytest.mark.parametrize(("side", "shifted"), [(4, False), (4, True), (2, True), (1, False)])
@torch.no_grad()
def test_window_attention_is_its_formula(side, shifted, fill):
    block = fill(WindowBlock(4, 2, 2, shifted, 0.0))
    block.mlp.fc2.weight.zero_()
    block.mlp.fc2.bias.zero_()
    x = torch.randn(8, 4, 1, side, side, dtype=torch.float64)
    assert torch.allclose(block(x, False) - x, windowed_attention(block, x[:, :, 0]), atol=1e-10)


@torch.no_grad()
def test_merging_is_the_group_convolution_of_its_formula(fill):
    merge = fill(Merge(3))
    x = torch.randn(8, 3, 1, 2, 2, dtype=torch.float64)
    expected = merge.reduction.bias.expand(8, -1).clone()
    weight = merge.reduction.weight.unflatten(2, (4, 3))  # [8, 6, corner δ', 3]
    merge.norm.forward = lambda x, _: x  # the norm comes before the convolution
    for g in range(8):
        for k in range(8):
            corners = d4.apply(x[k, :, 0])[d4.INVERSE[k]].flatten(1)  # x(k δ', k) by δ'
            expected[g] += torch.einsum("odc,cd->o", weight[d4.PRODUCT[d4.INVERSE[g], k]], corners)
    assert torch.allclose(merge(x, False)[:, :, 0, 0, 0], expected, atol=1e-10)
