"""Swin: timm's values where timm does not pad, and what padding would have spoilt."""

from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

from zwicky.backbones import windows
from zwicky.errors import UserError


def randomise(backbone, scale=0.2):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return backbone.eval()


CASES = [  # image, patch, window, depths
    (32, 2, 4, (2, 2)),
    (32, 1, 4, (1, 2, 1)),
    (64, 4, 4, (2, 2, 2)),
    (96, 4, 6, (2, 2, 2)),
    (48, 4, 6, (2, 3)),
    (40, 4, 5, (2, 2)),
    (24, 4, 3, (3,)),
]


@pytest.mark.parametrize(("size", "patch", "window", "depths"), CASES)
def test_values_are_timms(size, patch, window, depths, small_backbone):
    heads = (1, 2, 4)[: len(depths)]
    backbone = randomise(
        small_backbone("swin_tiny", image_size=size, patch_size=patch, window=window, depths=depths, heads=heads)
    )
    timms = SwinTransformer(
        img_size=size,
        patch_size=patch,
        window_size=window,
        embed_dim=16,
        depths=depths,
        num_heads=heads,
        num_classes=0,
        drop_path_rate=0.0,
    ).eval()
    timms.load_state_dict(backbone.net.state_dict())
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        found, expected = backbone(images), timms.forward_features(images)
        assert torch.allclose(found.patch_tokens, expected, atol=1e-5)
        assert torch.allclose(found.pooled, timms(images), atol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_map_smaller_than_the_window_is_attended_whole_and_unpadded(side, small_backbone):
    """A literal attention over all cells, its bias looked up by offset in the table of a 4 × 4 window."""
    backbone = randomise(small_backbone("swin_tiny", image_size=16, window=4, depths=(2,), heads=(2,)))
    for block in backbone.net.layers[0].blocks:
        attn = block.attn
        raw = torch.randn(2, side, side, 16)
        x = block.norm1(raw)
        q, k, v = attn.qkv(x).unflatten(-1, (3, 2, 8)).unbind(3)
        cells = [(y, x) for y in range(side) for x in range(side)]
        mixed, received = torch.zeros(2, side, side, 2, 8), torch.zeros(2, 2, side**2)
        for qy, qx in cells:
            for head in range(2):
                scores = [
                    (q[:, qy, qx, head] * k[:, ky, kx, head]).sum(-1) / 8**0.5
                    + attn.relative_position_bias_table[(qy - ky + 3) * 7 + (qx - kx + 3), head]
                    for ky, kx in cells
                ]
                weights = torch.stack(scores, -1).softmax(-1)
                received[:, head] += weights / side**2
                mixed[:, qy, qx, head] = sum(weights[:, [i]] * v[:, y, x, head] for i, (y, x) in enumerate(cells))
        with torch.no_grad():
            assert torch.allclose(windows.attention(block, x), attn.proj(mixed.flatten(3)), atol=1e-5)
            assert torch.allclose(windows.received(block, raw).flatten(2), received, atol=1e-6)


def test_cells_that_only_the_shift_brought_together_do_not_meet(small_backbone):
    """A change in one corner is not felt in the other by a shifted block, though they share a rolled window."""
    backbone = randomise(small_backbone("swin_tiny", image_size=32, window=4, depths=(2,), heads=(2,)))
    block = backbone.net.layers[0].blocks[1]
    assert windows.window_of(block, 8) == (4, 2)
    x = torch.randn(1, 8, 8, 16)
    changed = x.clone()
    changed[:, 0, 0] = torch.randn(16)
    with torch.no_grad():
        difference = (windows.run(block, changed) - windows.run(block, x)).abs().amax(-1)[0]
    felt = difference > 1e-6
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(felt, expected)


@pytest.mark.parametrize(
    ("options", "size", "words"),
    [
        ({"patch_size": 4, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8)}, 32, "one region"),
        ({"patch_size": 4}, 30, "patches of 4 px"),
        ({"patch_size": 4, "depths": (2, 2, 2), "heads": (1, 2, 4)}, 40, "cannot halve|windows"),
        ({"patch_size": 4, "window": 4}, 40, "windows of 4"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_one_that_does(options, size, words, small_backbone):
    with pytest.raises(UserError, match=words) as caught:
        small_backbone("swin_tiny", image_size=size, **options)
    better = int(str(caught.value).split("take ")[1].split()[0])
    backbone = small_backbone("swin_tiny", image_size=better, **options)
    assert backbone(torch.randn(1, 3, better, better)).patch_tokens.shape[1] >= 2


def test_a_crop_that_does_not_fit_is_refused_when_seen(small_backbone):
    with pytest.raises(UserError, match="take 32 px"):
        small_backbone("swin_tiny")(torch.randn(1, 3, 34, 34))


def test_wrong_options_are_one_line(small_backbone):
    for options in ({"depths": (2, 2), "heads": (2,)}, {"width": 18, "heads": (4, 4)}):
        with pytest.raises(UserError) as caught:
            small_backbone("swin_tiny", **options)
        assert "\n" not in str(caught.value)


def test_stages_keeps_the_first_ones(small_backbone):
    cut = small_backbone("swin_tiny", image_size=64, depths=(2, 2, 6, 2), heads=(1, 2, 4, 8), stages=2)
    assert cut.dim == 32
    assert [len(layer.blocks) for layer in cut.net.layers] == [2, 2]


@pytest.mark.parametrize("size", [16, 32, 64])
def test_attention_received_sums_to_one(size, small_backbone):
    backbone = randomise(small_backbone("swin_tiny", image_size=32))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        found = backbone.attention(images)
    assert found.shape == (2, 2, *backbone.grid(size))
    assert torch.allclose(found.sum((2, 3)), torch.ones(2, 2), atol=1e-5)
    assert found.min() >= 0


def test_what_an_evaluation_laid_out_can_be_trained_on(small_backbone):
    """Layouts are remembered; one made in inference mode could not be saved for a backward pass."""
    windows._layout.cache_clear()
    backbone = small_backbone("swin_tiny")
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        backbone(images)
    backbone(images).pooled.square().sum().backward()
    table = backbone.net.layers[0].blocks[0].attn.relative_position_bias_table
    assert table.grad is not None
    assert table.grad.any()
