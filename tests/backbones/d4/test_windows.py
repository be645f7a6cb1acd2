"""Windows against a literal loop over cells; and what breaks the symmetry does break it."""

from __future__ import annotations

import math

import pytest
import torch

from zwicky import backbones, d4
from zwicky.backbones.d4.swin import Merge
from zwicky.backbones.d4.windows import WindowBlock
from zwicky.errors import UserError


def act(g, frames):
    """(g·F)(n, k) = F(g⁻¹n, g⁻¹k) of regular features [8, ..., h, w]."""
    return d4.apply(frames[d4.PRODUCT[d4.INVERSE[g]]])[g]


def filled(module):
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter, dtype=torch.float64)
    return module


def error(layer, side, channels=4):
    """Largest difference between turning the input and turning the output, over the output's spread."""
    torch.manual_seed(0)
    frames = torch.randn(8, channels, 2, side, side, dtype=torch.float64)
    upright = layer(frames, False)
    apart = [layer(act(g, frames), False) - act(g, upright) for g in range(8)]
    return float(torch.stack(apart).abs().max() / upright.std())


def literal(block, x):
    """Attention of one image, cell by cell: cells attend to those of their own window; [8, C, h, w]."""
    side = x.shape[-1]
    size = min(block.window, side)
    shift = size // 2 if block.shifted and side > size else 0
    heads, depth = block.heads, x.shape[1] // block.heads
    qkv = block.qkv(block.norm1(x[:, :, None], False), False)[:, :, 0].unflatten(1, (3, heads, depth))
    out = torch.zeros(8, heads, depth, side, side, dtype=x.dtype)
    cells = [(y, x) for y in range(side) for x in range(side)]

    def window(cell):  # no window reaches round the edge
        return tuple((place - shift) // size for place in cell)

    for g in range(8):
        bias = d4.apply(block.bias)[g]
        for head in range(heads):
            for n in cells:
                near = [m for m in cells if window(m) == window(n)]
                q = qkv[g, 0, head, :, n[0], n[1]]
                scores = torch.stack(
                    [
                        q @ qkv[g, 1, head, :, m[0], m[1]] / math.sqrt(depth)
                        + bias[head, n[0] - m[0] + block.window - 1, n[1] - m[1] + block.window - 1]
                        for m in near
                    ]
                )
                for weight, m in zip(scores.softmax(0), near, strict=True):
                    out[g, head, :, n[0], n[1]] += weight * qkv[g, 2, head, :, m[0], m[1]]
    return block.proj(out.flatten(1, 2)[:, :, None], False)


@pytest.mark.parametrize(("side", "shifted"), [(4, False), (4, True), (2, True), (1, False)])
def test_window_attention_is_the_literal_loop(side, shifted):
    block = filled(WindowBlock(4, 2, 2, shifted, 0.0)).eval()
    block.mlp.fc2.weight.data.zero_()
    block.mlp.fc2.bias.data.zero_()
    x = torch.randn(8, 4, 1, side, side, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(block(x, False) - x, literal(block, x[:, :, 0]), atol=1e-10)


@pytest.mark.parametrize(("window", "side"), [(4, 8), (2, 6), (4, 4), (4, 3), (6, 12)])
@pytest.mark.parametrize("shifted", [False, True])
def test_blocks_are_exact(window, side, shifted):
    with torch.no_grad():
        assert error(filled(WindowBlock(4, 2, window, shifted, 0.0)), side) < 1e-10


def test_merging_is_exact_and_the_group_convolution_of_its_formula():
    merge = filled(Merge(3))
    with torch.no_grad():
        assert error(merge, 4, channels=3) < 1e-10
        x = torch.randn(8, 3, 1, 2, 2, dtype=torch.float64)
        expected = merge.reduction.bias.expand(8, -1).clone()
        weight = merge.reduction.weight.unflatten(2, (4, 3))  # [8, 6, corner δ', 3]
        # The norm stands before the convolution and knows no frame: its scale is put aside.
        merge.norm.forward = lambda x, _: x
        for g in range(8):
            for k in range(8):
                seen = d4.apply(x[k, :, 0])[d4.INVERSE[k]].flatten(1)  # x(k δ', k) by δ'
                expected[g] += torch.einsum("odc,cd->o", weight[d4.PRODUCT[d4.INVERSE[g], k]], seen)
        assert torch.allclose(merge(x, False)[:, :, 0, 0, 0], expected, atol=1e-10)


@torch.no_grad()
def test_what_a_plain_swin_does_is_no_symmetry(monkeypatch):
    """Odd window, another shift, one bias for all frames, merging that knows no frame: each fails clearly."""
    assert error(filled(WindowBlock(4, 2, 3, True, 0.0)), 9) > 0.02
    block = filled(WindowBlock(4, 2, 4, True, 0.0))
    assert error(block, 8) < 1e-10
    block.standing = lambda side: (4, 1)
    assert error(block, 8) > 0.02
    with monkeypatch.context() as patch:
        patch.setattr("zwicky.backbones.d4.windows.orbit", lambda table: table.expand(8, *table.shape))
        assert error(filled(WindowBlock(4, 2, 4, False, 0.0)), 8) > 0.02
    with monkeypatch.context() as patch:
        patch.setattr("zwicky.backbones.d4.swin.orbit", lambda corners: corners.expand(8, 2, 2))
        assert error(filled(Merge(3)), 4, channels=3) > 0.02


@pytest.mark.parametrize(
    ("size", "options"),
    [(30, {}), (36, {}), (40, {"patch_size": 4}), (20, {"window": 6, "patch_size": 2}), (3, {}), (50, {"stages": 1})],
)
def test_a_size_that_does_not_fit_is_refused_with_one_that_does(size, options):
    options = {"patch_size": 2, "window": 4, "width": 32, "depths": [1, 1, 1], "heads": [1, 1, 1], **options}
    with pytest.raises(UserError) as caught:
        backbones.create("d4_swin", bands=1, image_size=size, **options)
    better = int(str(caught.value).split("take ")[1].split()[0])
    assert backbones.create("d4_swin", bands=1, image_size=better, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"window": 3}, "take 2"), ({"heads": [1]}, "one of each"), ({"heads": [1, 3]}, "of"), ({"width": 4}, "take")],
)
def test_options_that_do_not_fit_are_refused(options, words):
    options = {"patch_size": 2, "window": 4, "width": 32, "depths": [1, 1], "heads": [1, 1], **options}
    with pytest.raises(UserError, match=words) as caught:
        backbones.create("d4_swin", bands=1, image_size=32, **options)
    assert "\n" not in str(caught.value)


def test_the_bias_tables_are_not_decayed_and_other_biases_are_not_named():
    net = backbones.create("d4_swin", bands=1, image_size=32, patch_size=2, width=32, depths=[2, 1], heads=[1, 1])
    spared = net.no_weight_decay() - {"mask_token"}
    assert {dict(net.named_parameters())[name].ndim for name in spared} == {3}
    assert len(spared) == 3
