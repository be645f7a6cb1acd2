"""MAE: the encoder sees what is visible, the decoder draws what is hidden."""

from __future__ import annotations

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from zwicky import backbones, methods
from zwicky.methods.base import patchify
from zwicky.methods.mae import normalise_patches

SMALL = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def slow_loss(x, drawn, mask, valid, patch):
    """Σ (y − (x − μ)/√(σ² + ε))² over hidden valid pixels, over their number, patch by patch in doubles."""
    total, spread, count = 0.0, 0.0, 0
    for b, i, j in torch.cartesian_prod(*(torch.arange(n) for n in mask.shape)).tolist():
        if not mask[b, i, j]:
            continue
        part = (slice(None), slice(patch * i, patch * (i + 1)), slice(patch * j, patch * (j + 1)))
        pixels, good = x[b][part].double().flatten().tolist(), valid[b][part].flatten().tolist()
        values = [v for v, ok in zip(pixels, good, strict=True) if ok]
        if not values:
            continue
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
        for v, ok, y in zip(pixels, good, drawn[b, i, j].double().tolist(), strict=True):
            if ok:
                target = (v - mean) / math.sqrt(variance + 1e-6)
                total, spread, count = total + (y - target) ** 2, spread + target**2, count + 1
    return total / max(count, 1), spread / max(count, 1)


@pytest.mark.parametrize(("batch", "bands", "patch"), [(1, 1, 16), (3, 3, 8)])
@pytest.mark.parametrize("ratio", [0.25, 0.75])
@pytest.mark.parametrize("invalid", [0.0, 0.3, 1.0])
def test_loss_is_the_mean_over_hidden_valid_normalised_pixels(batch, bands, patch, ratio, invalid, make_views):
    torch.manual_seed(0)
    backbone = backbones.create("vit_tiny", bands=bands, image_size=32, patch_size=patch, width=16, depth=1, heads=2)
    method = methods.create("mae", backbone, mask_ratio=ratio, **SMALL)
    views = make_views(batch=batch, local=0, bands=bands, masking=method.needs.masking)
    views.valid[0] = torch.rand(views.crops[0].shape) >= invalid
    kept = torch.stack([(~mask.flatten()).nonzero()[:, 0] for mask in views.masks[0]])
    with torch.no_grad():
        drawn = method.decoder(backbone.visible(views.crops[0], kept), kept)
        expected = slow_loss(views.crops[0], drawn, views.masks[0], views.valid[0], patch)
        metrics = method(views)
    assert [float(metrics["loss"]), float(metrics["constant_loss"])] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_the_encoder_receives_only_visible_patches(tiny_vit):
    """The same numbers as timm's own layers on the kept tokens; other pixels, even NaN, play no part."""
    backbone = tiny_vit().eval()
    images = torch.randn(5, 3, 32, 32)
    kept = torch.stack([torch.randperm(16)[:4] for _ in range(5)])
    hidden = torch.ones(5, 16, dtype=torch.bool).scatter_(1, kept, False).unflatten(1, (4, 4))
    pixels = hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand_as(images)
    with torch.no_grad():
        features = backbone.visible(images, kept)
        assert features.shape == (5, 5, 32)
        assert torch.equal(backbone.visible(images.masked_fill(pixels, torch.nan), kept), features)
        net: VisionTransformer = backbone.net
        tokens = net._pos_embed(net.patch_embed(images))
        for image in range(5):
            rows = tokens[image : image + 1, [0, *(1 + kept[image]).tolist()]]
            assert torch.allclose(net.norm(net.blocks(rows)), features[image : image + 1], atol=1e-5)
        everything = torch.arange(16).expand(5, 16)
        features = backbone(images)
        assert torch.allclose(backbone.visible(images, everything)[:, 0], features.pooled, atol=1e-6)
        assert torch.allclose(
            backbone.visible(images, everything)[:, 1:], features.patch_tokens.flatten(1, 2), atol=1e-6
        )


def test_pixels_reach_the_loss_as_input_or_as_target_and_never_both(tiny_vit, make_views):
    method = methods.create("mae", tiny_vit(), **SMALL)
    views = make_views(local=0, masking=method.needs.masking)
    views.crops[0].requires_grad_()
    kept = (~views.masks[0]).flatten(1).nonzero()[:, 1].unflatten(0, (6, -1))
    method.encoder.visible(views.crops[0], kept).square().sum().backward()
    features = patchify(views.crops[0].grad != 0, method.grid).any(-1)
    assert torch.equal(features, ~views.masks[0])
    views.crops[0].grad = None
    method(views)["constant_loss"].backward()
    target = patchify(views.crops[0].grad != 0, method.grid).any(-1)
    assert not (target & ~views.masks[0]).any()


def test_the_mask_token_of_the_encoder_is_not_trained(tiny_vit, make_views):
    method = methods.create("mae", tiny_vit(), **SMALL)
    assert not method.encoder.mask_token.requires_grad
    method(make_views(local=0, masking=method.needs.masking))["loss"].backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    assert method.decoder.mask_token.grad.any()


def test_the_noise_of_empty_sky_is_not_blown_up(tiny_vit, make_views):
    """Half the patches are sky of σ 0.05: the target of the galaxies has variance 1 as in the paper, theirs a half."""
    method = methods.create("mae", tiny_vit(), **SMALL)
    views = make_views(batch=200, local=0, masking=method.needs.masking)
    views.crops[0][:, :, :16] *= 0.05
    method.prepare(views)
    assert float(method.sky_variance) == pytest.approx(0.05**2, rel=0.1)
    patches = patchify(views.crops[0], method.grid)
    target = normalise_patches(patches, torch.ones_like(patches, dtype=torch.bool), method.sky_variance)
    assert float(target[:, :2].var(-1).mean()) == pytest.approx(0.5, abs=0.03)
    assert float(target[:, 2:].var(-1).mean()) == pytest.approx(1, abs=0.01)
    assert float(method(views)["constant_loss"]) == pytest.approx(0.75, abs=0.03)
    assert "sky_variance" in method.state_dict()
