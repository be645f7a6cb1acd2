"""SimMIM: hidden and valid pixels alone make the loss."""

from __future__ import annotations

import pytest
import torch

from zwicky import backbones, methods
from zwicky.methods.base import patchify, random_masking
from zwicky.methods.losses import masked_mean


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


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("patch", [8, 16])
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


def test_cells_are_cut_where_the_mask_stands():
    images = torch.arange(2 * 3 * 8 * 12).reshape(2, 3, 8, 12)
    found = patchify(images, (2, 3))
    assert found.shape == (2, 2, 3, 48)
    for i in range(2):
        for j in range(3):
            assert torch.equal(found[:, i, j], images[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].flatten(1))


def test_the_decoder_draws_each_cell_in_its_place(tiny_vit, make_views):
    method = methods.create("simmim", tiny_vit())
    features = method.encoder(make_views().crops[0])
    drawn = method.decoder(features)
    features.patch_tokens[:, 1, 2] += 1
    changed = patchify((method.decoder(features) != drawn), method.grid).any(-1)
    where = torch.zeros(4, 4, dtype=torch.bool)
    where[1, 2] = True
    assert torch.equal(changed, where.expand_as(changed))


def test_visible_and_invalid_pixels_are_no_targets_and_hidden_ones_no_input(tiny_vit, make_views):
    method = methods.create("simmim", tiny_vit())
    views = make_views(local=0, masking=method.needs.masking)
    views.valid[0] = torch.rand(views.crops[0].shape) > 0.2
    x, mask = views.crops[0], on_pixels(views.masks[0])
    drawn = method.decoder(method.encoder(x, mask=views.masks[0]))
    drawn.retain_grad()
    error = (patchify(drawn, method.grid) - patchify(x, method.grid)).abs()
    masked_mean(error, views.masks[0][..., None] & patchify(views.valid[0], method.grid)).backward()
    assert torch.equal(drawn.grad != 0, mask & views.valid[0])
    # What is hidden cannot be seen: the drawing does not depend on it.
    other = torch.where(mask, torch.randn_like(x), x)
    assert torch.equal(method.decoder(method.encoder(other, mask=views.masks[0])), drawn)


def test_constant_loss_is_the_lowest_a_constant_reaches(tiny_vit, make_views):
    method = methods.create("simmim", tiny_vit())
    views = make_views(local=0, masking=method.needs.masking)
    views.crops[0] = views.crops[0].exp()
    hidden = views.crops[0][on_pixels(views.masks[0])]
    lowest = min(float((hidden - c).abs().mean()) for c in torch.linspace(0, 5, 2001))
    assert float(method(views)["constant_loss"]) == pytest.approx(lowest, abs=1e-4)


@pytest.mark.parametrize("blocks", [False, True])
def test_every_image_hides_the_same_number(blocks):
    masks = random_masking("any", (5, 5), 0.5, blocks).draw(40, torch.Generator().manual_seed(0))
    assert set(masks.sum((1, 2)).tolist()) == {round(0.5 * 25)}
