"""Whole networks: exact for all eight elements, before and after training; heads and decoders transform too."""

import pytest
import torch

from zwicky import d4
from zwicky.backbones.d4 import layers

both = pytest.mark.parametrize("name", ["d4_vit", "d4_swin"])
CHOICES = [("cpu", 192), ("cuda", 384), ("cuda", 1024)]


@both
@pytest.mark.parametrize("stem", [{}, {"patch_size": 4, "stem": (2, 3)}])
@pytest.mark.parametrize(("size", "masked"), [(32, False), (32, True), (16, False), (64, True)])
def test_exact_for_all_eight_elements(name, size, masked, stem, network, errors):
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        net = network(name, dtype=dtype, **stem).train()
        net(torch.randn(8, 2, 32, 32, dtype=dtype) + 1)  # running statistics of a convolutional stem
        mask = torch.rand(2, *net.grid(size)) < 0.4 if masked else None
        result = errors(net.eval(), torch.randn(2, 2, size, size, dtype=dtype), mask)
        assert result[:, 0].max() < bound  # pooled
        assert result.max() < 3 * bound  # every vector of every patch and group element


@both
@torch.no_grad()
def test_whole_matrices_and_irreps_are_equal(name, network, errors, monkeypatch):
    net, images = network(name, dtype=torch.float64), torch.randn(2, 2, 32, 32, dtype=torch.float64)
    by_irreps = net(images)
    monkeypatch.setattr("zwicky.backbones.d4.heads.by_irreps", lambda *_: False)
    assert errors(net, images).max() < 1e-10
    dense = net(images)
    for part in ("pooled", "patch_tokens", "group_features"):
        assert torch.allclose(getattr(dense, part), getattr(by_irreps, part), atol=1e-9)
    choices = [layers.by_irreps(torch.device(*device), width) for *device, width in CHOICES]
    assert choices == [True, False, True]


@both
def test_exact_after_training_and_in_bfloat16_near(name, network, errors):
    net, images = network(name).train(), torch.randn(4, 2, 32, 32)
    before = net(images).pooled.detach()
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            result = net(images)
        (result.pooled.float()[:, ::2].square().sum() + result.patch_tokens[..., 1::3].float().sum()).backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.requires_grad)
        optimizer.step()
    net.eval()
    exact = net(images).pooled.detach()
    assert not torch.allclose(exact, before, atol=0.01)
    assert errors(net, images)[:, 0].max() < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert 0 < (net(images).pooled - exact).abs().max() < 0.2 * exact.std()


@both
@torch.no_grad()
def test_what_is_no_symmetry_changes_the_answer(name, network):
    """Another image, a shift by a pixel, and a crop that is not the transformed crop: else exactness means nothing."""
    net, images = network(name), torch.randn(2, 2, 35, 35)
    base = net(images[..., :32, :32]).pooled
    spread = (base[0] - base[1]).abs().max()
    assert spread > 0.01 * base.std()
    assert (net(images[..., :32, 1:33]).pooled - base).abs().max() > 0.05 * spread
    apart = sorted((net(each[..., :32, :32]).pooled - base).abs().max() / spread for each in d4.apply(images))
    assert apart[1] < 1e-3 < 0.05 < apart[2]  # the corner is fixed by the mirror along the diagonal


@both
@torch.no_grad()
def test_decoded_pixels_and_attention_are_equivariant(name, network):
    net, images = network(name), torch.randn(2, 2, 32, 32)
    decoder = net.pixel_decoder()
    pixels, attention = decoder(net(images)), net.attention(images)
    assert pixels.shape == images.shape
    assert not torch.allclose(pixels, pixels.flip(-1), atol=0.1)
    assert not torch.allclose(attention, attention.flip(-1), atol=1e-3)
    for g, transformed in enumerate(d4.apply(images)):
        assert torch.allclose(decoder(net(transformed)), d4.apply(pixels)[g], atol=1e-4)
        assert torch.allclose(net.attention(transformed), d4.apply(attention)[g], atol=1e-5)
