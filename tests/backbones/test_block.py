"""The block computed our way against timm's own forward pass."""

import pytest
import torch

from zwicky import backbones


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    backbone = backbones.create("vit_tiny", bands=3, image_size=32, width=48, depth=3, heads=3)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    for block in backbone.net.blocks:
        block.attn.fused_attn = False
    return backbone


def timm_tokens(backbone, images):
    net = backbone.net
    return net.norm(net.blocks(net._pos_embed(net.patch_embed(images))))


def gradients(backbone, summary):
    backbone.zero_grad()
    weights = torch.linspace(-1, 1, summary.shape[1])
    (summary.float() * weights).square().sum().backward()
    return torch.cat([p.grad.flatten() for p in backbone.parameters() if p.requires_grad])


@pytest.mark.parametrize("size", [16, 32, 48])
def test_float32_is_timms(backbone, size):
    images = torch.randn(4, 3, size, size)
    tokens = timm_tokens(backbone, images)
    found = backbone(images)
    assert torch.allclose(found.pooled, tokens[:, 0], atol=1e-5)
    assert torch.allclose(found.patch_tokens.flatten(1, 2), tokens[:, 1:], atol=1e-5)


@pytest.mark.parametrize("size", [16, 32])
def test_without_regions_value_and_gradient_are_the_same(backbone, size):
    images = torch.randn(4, 3, size, size)
    found = backbone(images, patch_tokens=False)
    summary = timm_tokens(backbone, images)[:, 0]
    assert found.patch_tokens.shape == (4, 0, 0, backbone.dim)
    assert torch.allclose(found.pooled, summary, atol=1e-5)
    expected = gradients(backbone, summary)
    assert torch.allclose(gradients(backbone, found.pooled), expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


def test_bfloat16_errs_no_more_than_timm_does(backbone):
    images = torch.randn(64, 3, 32, 32)
    exact = timm_tokens(backbone, images)[:, 0]
    exact_gradient = gradients(backbone, exact)
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = timm_tokens(backbone, images)[:, 0], backbone(images, patch_tokens=False).pooled
    assert ours.dtype == torch.float32
    assert 0 < (ours - exact).norm() < 1.5 * (theirs - exact).norm()
    error, allowed = (gradients(backbone, summary) - exact_gradient for summary in (ours, theirs))
    assert 0 < error.norm() < 1.5 * allowed.norm()
