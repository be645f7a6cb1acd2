"""SimMIM: hidden and valid pixels alone make the loss."""

from __future__ import annotations

import pytest
import torch

from zwicky import backbones, methods
from zwicky.methods.base import patchify


def slow_loss(x, y, mask, valid):
    """Σ |y − x| over hidden valid pixels, divided by their number; in plain double precision."""
    cell, total, count = x.shape[2] // mask.shape[1], 0.0, 0
    for b, c, i, j in torch.cartesian_prod(*(torch.arange(n) for n in x.shape)).tolist():
        if mask[b, i // cell, j // cell] and valid[b, c, i, j]:
            total += abs(float(y[b, c, i, j]) - float(x[b, c, i, j]))
            count += 1
    return total / max(count, 1)


def on_pixels(mask):
    """[B, 4, 4] cells of 8 px → [B, 3, 32, 32]."""
    return mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand(-1, 3, -1, -1)


@pytest.mark.parametrize(("batch", "bands", "patch"), [(1, 1, 16), (3, 3, 8)])
@pytest.mark.parametrize("ratio", [0.25, 0.6])
@pytest.mark.parametrize("invalid", [0.0, 0.3, 1.0])
def test_loss_is_the_mean_over_hidden_valid_pixels(batch, bands, patch, ratio, invalid, make_views):
    torch.manual_seed(0)
    backbone = backbones.create("vit_tiny", bands=bands, image_size=32, patch_size=patch, width=16, depth=1, heads=2)
    method = methods.create("simmim", backbone, mask_ratio=ratio)
    views = make_views(batch=batch, local=0, bands=bands, masking=method.needs.masking)
    views.valid[0] = torch.rand(views.crops[0].shape) >= invalid
    with torch.no_grad():
        y = method.decoder(backbone(views.crops[0], mask=views.masks[0]))
        expected = slow_loss(views.crops[0], y, views.masks[0], views.valid[0])
        metrics = method(views)
    assert float(metrics["loss"]) == pytest.approx(expected, abs=1e-6)
    assert torch.isfinite(metrics["constant_loss"])


def test_patches_are_cut_on_the_grid_of_the_mask():
    images = torch.arange(2 * 3 * 8 * 12).reshape(2, 3, 8, 12)
    found = patchify(images, (2, 3))
    assert found.shape == (2, 2, 3, 48)
    for i in range(2):
        for j in range(3):
            assert torch.equal(found[:, i, j], images[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].flatten(1))


def test_constant_loss_is_the_lowest_a_constant_reaches(tiny_vit, make_views):
    method = methods.create("simmim", tiny_vit())
    views = make_views(local=0, masking=method.needs.masking)
    views.crops[0] = views.crops[0].exp()
    hidden = views.crops[0][on_pixels(views.masks[0])]
    lowest = min(float((hidden - c).abs().mean()) for c in torch.linspace(0, 5, 2001))
    assert float(method(views)["constant_loss"]) == pytest.approx(lowest, abs=1e-4)
