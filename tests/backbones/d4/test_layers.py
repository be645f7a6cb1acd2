"""Irreps and layers against their formulas in loops, each with all eight elements; and what breaks the symmetry."""

import math

import pytest
import torch
import torch.nn.functional as F

from zwicky import d4
from zwicky.backbones import attention
from zwicky.backbones.base import Features
from zwicky.backbones.d4 import irreps as algebra
from zwicky.backbones.d4.heads import D4PixelDecoder
from zwicky.backbones.d4.irreps import BlockProduct
from zwicky.backbones.d4.layers import MLP, Drop, GroupLinear, Lift, Norm, Readout
from zwicky.backbones.d4.swin import Merge, WindowBlock
from zwicky.backbones.d4.vit import Block, Embed

in_both_bases = pytest.mark.parametrize("irreps", [True, False])


@pytest.fixture
def fill(filled):
    return lambda module: filled(module, 1.0, torch.float64)


@pytest.fixture
def features():
    torch.manual_seed(0)
    return torch.randn(8, 4, 2, 5, 5, dtype=torch.float64)


def regular(layer, features, irreps, tokens=True):
    """A layer's answer in the regular representation, whichever basis it works in."""
    x = algebra.to_irreps(features) if irreps else features
    y = layer(x.flatten(3) if tokens else x, irreps)
    y = algebra.to_regular(y) if irreps else y
    return y.unflatten(3, features.shape[3:]) if tokens else y


def test_the_irreps_are_orthonormal_and_transform_among_themselves(act):
    assert torch.allclose(algebra.CHANGE @ algebra.CHANGE.T, torch.eye(8, dtype=torch.float64), atol=1e-14)
    x = torch.randn(8, 4, 1, 1, dtype=torch.float64)
    assert torch.allclose(algebra.to_regular(algebra.to_irreps(x)), x, atol=1e-12)
    for g in range(8):
        before, after = (algebra.to_irreps(y)[..., 0, 0] for y in (x, act(g, x)))
        assert torch.allclose(after[:4], algebra.CHARACTERS[:4, g, None] * before[:4], atol=1e-12)
        pairs = torch.einsum("ab,bjc->ajc", d4.VECTORS[g].double(), before[4:].view(2, 2, -1))
        assert torch.allclose(after[4:].view(2, 2, -1), pairs, atol=1e-12)


def test_linear_is_the_sum_over_the_group_in_both_bases(features, fill):
    layer, gradients = fill(GroupLinear(4, 6)), []
    expected = torch.zeros(8, 6, 2, 5, 5, dtype=torch.float64)
    for g in range(8):
        for k in range(8):
            expected[g] += torch.einsum("oi,ibyx->obyx", layer.weight[d4.PRODUCT[d4.INVERSE[g], k]], features[k])
    expected += layer.bias[:, None, None, None]
    for irreps in (True, False):
        x = features.clone().requires_grad_()
        layer.zero_grad()
        result = regular(layer, x, irreps)
        assert torch.allclose(result, expected, atol=1e-10)
        result.square().sum().backward()
        gradients.append((x.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


@in_both_bases
def test_norm_is_torchs_layer_norm_over_group_and_channels(features, irreps, fill):
    layer = fill(Norm(4))
    flat = (3 + features).permute(2, 3, 4, 0, 1).flatten(3)
    expected = F.layer_norm(flat, (32,), layer.weight.repeat(8), layer.bias.repeat(8), 1e-6)
    expected = expected.unflatten(3, (8, 4)).permute(3, 4, 0, 1, 2)
    assert torch.allclose(regular(layer, 3 + features, irreps), expected, atol=1e-10)


def test_gradients_written_by_hand_are_those_of_differences():
    torch.manual_seed(0)

    def free(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(BlockProduct.apply, (free(8, 3, 5), free(4, 2, 3), free(4, 6), free(2)))


@in_both_bases
def test_lift_is_a_convolution_with_eight_kernels(irreps, fill):
    layer, images = fill(Lift(2, 3, 4)), torch.randn(2, 2, 12, 12, dtype=torch.float64)
    expected = torch.stack([F.conv2d(images, kernel, layer.bias, stride=4) for kernel in d4.apply(layer.kernel)])
    result = layer(images, irreps)
    result = algebra.to_regular(result) if irreps else result
    assert torch.allclose(result.transpose(1, 2), expected, atol=1e-10)


@in_both_bases
@pytest.mark.parametrize(("kind", "sizes"), [(GroupLinear, (4, 6)), (Norm, (4,)), (MLP, (4, 8)), (Block, (4, 2, 0.0))])
@torch.no_grad()
def test_layers_are_equivariant(kind, sizes, irreps, features, fill, act):
    layer = fill(kind(*sizes))
    upright = regular(layer, features, irreps)
    assert upright.std() > 0.1
    for g in range(8):
        result = regular(layer, act(g, features), irreps)
        assert torch.allclose(result, act(g, upright), atol=1e-10 * float(upright.abs().max())), g


@in_both_bases
@pytest.mark.parametrize("side", [2, 3, 4])
@torch.no_grad()
def test_embedding_is_equivariant_in_image_and_mask_at_any_size(irreps, side, fill, act):
    layer, token = fill(Embed(2, 3, 4, 3)), torch.randn(3, dtype=torch.float64)
    images, mask = torch.randn(2, 2, 4 * side, 4 * side, dtype=torch.float64), torch.rand(2, side, side) < 0.5

    def embed(images, mask):
        tokens = layer(images, mask, token, irreps)
        tokens = algebra.to_regular(tokens) if irreps else tokens
        return tokens[..., 0], tokens[..., 1:].unflatten(3, (side, side))

    cls, patches = embed(images, mask)
    for g in range(8):
        found_cls, result = embed(d4.apply(images)[g], d4.apply(mask)[g])
        assert torch.allclose(found_cls, cls, atol=1e-12)
        assert torch.allclose(result, act(g, patches), atol=1e-10)


@in_both_bases
@torch.no_grad()
def test_readout_is_invariant_and_no_mean_of_its_input(irreps, features, fill, act):
    layer = fill(Readout(4))

    def read(x):
        return layer(algebra.to_irreps(x) if irreps else x, irreps)

    upright = read(features)
    for g in range(8):
        expected = d4.apply(upright.permute(0, 3, 1, 2))[g]
        assert torch.allclose(read(act(g, features)).permute(0, 3, 1, 2), expected, atol=1e-10)
    other = features + torch.randn_like(features)  # of the same mean over the group: more than A1 must pass
    assert not torch.allclose(read(other - other.mean(0) + features.mean(0)), upright, atol=0.1)


@torch.no_grad()
def test_decoder_is_the_lift_transposed(fill):
    """⟨lift(I), F⟩ = 8 ⟨I, decode(F)⟩ for the same kernel, bias and level left out."""
    decoder, lift = fill(D4PixelDecoder(24, 2, 4)), fill(Lift(2, 3, 4))
    lift.kernel, lift.bias.data = decoder.kernel, 0 * lift.bias
    for parameter in decoder.level.parameters():
        parameter.zero_()
    images, field = torch.randn(2, 2, 12, 12).double(), torch.randn(2, 3, 3, 8, 3).double()
    decoded = decoder(Features(field[:, 0, 0, 0], torch.zeros(2, 3, 3, 24).double(), field))
    lifted = lift(images, False).permute(2, 3, 4, 0, 1)
    assert float((lifted * field).sum()) == pytest.approx(8 * float((images * decoded).sum()), rel=1e-9)


def test_drop_path_drops_whole_images():
    torch.manual_seed(0)
    x = torch.ones(8, 3, 50, 2)
    by_image = Drop(0.4).train()(x).permute(2, 0, 1, 3).flatten(1)
    assert ((by_image == 0).all(1) | (by_image == by_image.max()).all(1)).all()
    assert 0 < int((by_image == 0).all(1).sum()) < 50
    assert torch.equal(Drop(0.4).eval()(x), x)


def literal(block, x):
    """Attention of one image, cell by cell: cells attend to those of their own window; [8, C, h, w]."""
    side = x.shape[-1]
    size = min(block.window, side)
    shift = size // 2 if block.shifted and side > size else 0
    heads, depth = block.heads, x.shape[1] // block.heads
    qkv = block.qkv(block.norm1(x[:, :, None], False), False)[:, :, 0].unflatten(1, (3, heads, depth))
    out = torch.zeros(8, heads, depth, side, side, dtype=x.dtype)
    cells = [(y, x) for y in range(side) for x in range(side)]

    def window(cell):  # no window wraps around the edge
        return tuple((coordinate - shift) // size for coordinate in cell)

    for g in range(8):
        bias = d4.apply(block.bias)[g]
        for head in range(heads):
            for n in cells:
                near, scores = [m for m in cells if window(m) == window(n)], []
                for m in near:
                    product = qkv[g, 0, head, :, n[0], n[1]] @ qkv[g, 1, head, :, m[0], m[1]]
                    offset = (n[0] - m[0] + block.window - 1, n[1] - m[1] + block.window - 1)
                    scores.append(product / math.sqrt(depth) + bias[head][offset])
                for weight, m in zip(torch.stack(scores).softmax(0), near, strict=True):
                    out[g, head, :, n[0], n[1]] += weight * qkv[g, 2, head, :, m[0], m[1]]
    return block.proj(out.flatten(1, 2)[:, :, None], False)


@pytest.mark.parametrize(("side", "shifted"), [(4, False), (4, True), (2, True), (1, False)])
@torch.no_grad()
def test_window_attention_is_the_literal_loop(side, shifted, fill):
    block = fill(WindowBlock(4, 2, 2, shifted, 0.0))
    block.mlp.fc2.weight.zero_()
    block.mlp.fc2.bias.zero_()
    x = torch.randn(8, 4, 1, side, side, dtype=torch.float64)
    assert torch.allclose(block(x, False) - x, literal(block, x[:, :, 0]), atol=1e-10)


@pytest.fixture
def error(act):
    @torch.no_grad()
    def measure(layer, side, channels=4):
        """Largest difference between transforming the input and transforming the output, over the output's spread."""
        torch.manual_seed(0)
        x = torch.randn(8, channels, 2, side, side, dtype=torch.float64)
        upright = layer(x, False)
        apart = [layer(act(g, x), False) - act(g, upright) for g in range(8)]
        return float(torch.stack(apart).abs().max() / upright.std())

    return measure


@pytest.mark.parametrize(("window", "side"), [(4, 8), (2, 6), (4, 4), (4, 3), (6, 12)])
@pytest.mark.parametrize("shifted", [False, True])
def test_window_blocks_are_equivariant(window, side, shifted, fill, error):
    assert error(fill(WindowBlock(4, 2, window, shifted, 0.0)), side) < 1e-10


@torch.no_grad()
def test_merging_is_equivariant_and_the_group_convolution_of_its_formula(fill, error):
    merge = fill(Merge(3))
    assert error(merge, 4, channels=3) < 1e-10
    x = torch.randn(8, 3, 1, 2, 2, dtype=torch.float64)
    expected = merge.reduction.bias.expand(8, -1).clone()
    weight = merge.reduction.weight.unflatten(2, (4, 3))  # [8, 6, corner δ', 3]
    merge.norm.forward = lambda x, _: x  # the norm comes before the convolution
    for g in range(8):
        for k in range(8):
            corners = d4.apply(x[k, :, 0])[d4.INVERSE[k]].flatten(1)  # x(k δ', k) by δ'
            expected[g] += torch.einsum("odc,cd->o", weight[d4.PRODUCT[d4.INVERSE[g], k]], corners)
    assert torch.allclose(merge(x, False)[:, :, 0, 0, 0], expected, atol=1e-10)


@torch.no_grad()
def test_what_a_plain_swin_does_is_not_equivariant(monkeypatch, fill, error):
    """Odd window, another shift, one bias for the whole group, plain merging: each fails clearly."""
    assert error(fill(WindowBlock(4, 2, 3, True, 0.0)), 9) > 0.02
    with monkeypatch.context() as patch:
        layout = (4, 1, attention.relative_position_index(4, 4), attention.shifted_window_mask(8, 4, 1))
        patch.setattr("zwicky.backbones.d4.swin.window_layout", lambda *_: layout)
        assert error(fill(WindowBlock(4, 2, 4, True, 0.0)), 8) > 0.02
    monkeypatch.setattr("zwicky.backbones.d4.swin.orbit", lambda maps: maps.expand(8, *maps.shape))
    assert error(fill(WindowBlock(4, 2, 4, False, 0.0)), 8) > 0.02
    assert error(fill(Merge(3)), 4, channels=3) > 0.02
