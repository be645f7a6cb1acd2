"""SimMIM and MAE: masked, valid pixels alone make the loss; MAE's encoder receives only visible patches."""

import dataclasses

import numpy as np
import pytest
import torch

from zwicky import methods
from zwicky.augment.views import Masking
from zwicky.backbones.patches import patchify
from zwicky.methods.masked import Decoder, normalise_patches

DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def expected_loss(x, y, counted, valid, normalise):
    """Mean of |y − x|, or of (y − (x − μ)/√(σ² + ε))², over counted pixels; and of the second for y = 0.

    All are patches [B, h, w, pixels], and mean and variance of each patch's valid pixels.
    """
    x = np.ma.array(x.double().numpy(), mask=~valid.numpy())
    variance = x.var(-1, ddof=1, keepdims=True).filled(0)
    target = (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-6)
    error = (y.double().numpy() - target) ** 2 if normalise else abs(y.double().numpy() - x)
    return [float(values.data[counted].mean()) if counted.any() else 0.0 for values in (error, target**2)]


NETWORKS = [("vit_tiny", {"patch_size": 16}), ("vit_tiny", {}), ("polar_vit", {})]
CASES = [(name, *network) for name in ("simmim", "mae") for network in NETWORKS] + [("simmim", "polar_swin", {})]


@pytest.mark.parametrize(("name", "network", "options"), CASES)
@pytest.mark.parametrize(("batch", "bands", "ratio"), [(1, 1, 0.25), (3, 3, 0.75)])
@pytest.mark.parametrize("valid_columns", [32, 20, 0])
def test_loss_is_the_mean_over_masked_valid_pixels(
    name, network, options, batch, bands, ratio, valid_columns, small_backbone, make_views
):
    """Patches are those of the canvas, which is polar on a polar network."""
    backbone = small_backbone(network, bands=bands, **options)
    method = methods.create(name, backbone, mask_ratio=ratio, **(DECODER if name == "mae" else {})).eval()
    views = make_views(batch=batch, local=0, bands=bands, masking=method.needs.masking)
    views.valid[0] = (torch.arange(32) < valid_columns).expand_as(views.crops[0])
    x, mask = views.crops[0], views.masks[0]
    visible = torch.stack([(~each.flatten()).nonzero()[:, 0] for each in mask])
    with torch.no_grad():
        if name == "mae":
            y = method.decoder(backbone.visible(x, visible), visible)
        else:
            y = patchify(method.decoder(backbone(x, mask)), method.grid)
        valid = patchify(backbone.canvas(views.valid[0].float()) > 0.999, method.grid)
        counted, patches = mask[..., None] & valid, patchify(backbone.canvas(x), method.grid)
        loss, constant = expected_loss(patches, y, counted, valid, normalise=name == "mae")
        metrics = method(views)
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5, abs=1e-6)
    if name == "mae":
        assert float(metrics["constant_loss"]) == pytest.approx(constant, rel=1e-5, abs=1e-6)
    assert torch.isfinite(metrics["constant_loss"])
    assert (loss > 0) == bool(counted.any())


@pytest.mark.parametrize(("name", "share"), [("simmim", 0.6), ("mae", 0.75), ("beit", 0.4)])
def test_the_papers_share_is_masked(name, share, tiny_vit):
    assert methods.create(name, tiny_vit()).needs.masking == Masking((4, 4), (share, share), blocks=name == "beit")


@torch.no_grad()
def test_the_decoder_puts_tokens_and_mask_tokens_in_their_places():
    decoder, visible = Decoder(6, (2, 3), 5, width=8, depth=1, heads=2), torch.tensor([[4, 0, 3], [1, 5, 2]])
    tokens = torch.randn(2, 4, 6)  # [CLS] first
    embedded, position = decoder.embed(tokens), decoder.position
    assert len(position.unique(dim=0)) == 6
    for image in range(2):
        rows = [decoder.mask_token] * 6
        for place, token in zip(visible[image].tolist(), embedded[image, 1:], strict=True):
            rows[place] = token
        sequence = torch.cat([embedded[image, :1], torch.stack(rows) + position])[None]
        expected = decoder.to_pixels(decoder.norm(decoder.blocks[0](sequence)))[0, 1:]
        assert torch.allclose(decoder(tokens, visible)[image].flatten(0, 1), expected, atol=1e-6)


def test_patches_are_cut_on_the_grid_of_the_mask():
    images = torch.arange(2 * 3 * 8 * 12).reshape(2, 3, 8, 12)
    cells = images.unfold(2, 4, 4).unfold(3, 4, 4)  # [B, bands, h, w, 4, 4]
    assert torch.equal(patchify(images, (2, 3)), cells.permute(0, 2, 3, 1, 4, 5).flatten(3))


def test_constant_loss_of_simmim_is_the_lowest_a_constant_reaches(tiny_vit, make_views):
    method = methods.create("simmim", tiny_vit())
    views = make_views(local=0, masking=method.needs.masking)
    views.crops[0] = views.crops[0].exp()
    masked = patchify(views.crops[0], method.grid)[views.masks[0]]
    lowest = min(float((masked - c).abs().mean()) for c in torch.linspace(0, 5, 2001))
    assert float(method(views)["constant_loss"]) == pytest.approx(lowest, abs=1e-4)


def test_the_encoder_receives_only_visible_patches(tiny_vit):
    """The same numbers as timm's own layers on the visible tokens; other pixels, even NaN, play no part."""
    backbone = tiny_vit().eval()
    images = torch.randn(5, 3, 32, 32)
    visible = torch.stack([torch.randperm(16)[:4] for _ in range(5)])
    hidden = torch.ones(5, 16, dtype=torch.bool).scatter_(1, visible, False).unflatten(1, (4, 4))
    pixels = hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand_as(images)
    with torch.no_grad():
        tokens = backbone.visible(images, visible)
        assert tokens.shape == (5, 5, 32)
        assert torch.equal(backbone.visible(images.masked_fill(pixels, torch.nan), visible), tokens)
        net = backbone.net
        embedded = net._pos_embed(net.patch_embed(images))
        for image in range(5):
            rows = embedded[image : image + 1, [0, *(1 + visible[image]).tolist()]]
            assert torch.allclose(net.norm(net.blocks(rows)), tokens[image : image + 1], atol=1e-5)
        features, everything = backbone(images), backbone.visible(images, torch.arange(16).expand(5, 16))
        assert torch.allclose(everything[:, 0], features.pooled, atol=1e-6)
        assert torch.allclose(everything[:, 1:], features.patch_tokens.flatten(1, 2), atol=1e-6)


def test_the_noise_of_empty_sky_is_not_blown_up(tiny_vit, make_views):
    """Half the patches are sky of σ 0.05: the target of the galaxies has variance 1 as in the paper, theirs a half.

    Patches with holes do not lower its estimate.
    """
    method = methods.create("mae", tiny_vit(), **DECODER)
    views = make_views(batch=200, local=0, masking=method.needs.masking)
    views.crops[0][:, :, :16] *= 0.05
    whole, holes = views.crops[0], (torch.arange(32) >= 8) & (torch.arange(32) % 8 < 4)
    holed = dataclasses.replace(views, crops=[whole.masked_fill(holes, 0)], valid=[(~holes).expand_as(whole)])
    for each in (holed, views):
        method.prepare(each)
        assert float(method.sky_variance) == pytest.approx(0.05**2, rel=0.1)
    patches = patchify(views.crops[0], method.grid)
    target = normalise_patches(patches, torch.ones_like(patches, dtype=torch.bool), method.sky_variance)
    assert float(target[:, :2].var(-1).mean()) == pytest.approx(0.5, abs=0.03)
    assert float(target[:, 2:].var(-1).mean()) == pytest.approx(1, abs=0.01)
    assert float(method(views)["constant_loss"]) == pytest.approx(0.75, abs=0.03)
