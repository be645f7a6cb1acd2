"""Whole networks: exact for all eight elements, before and after learning, written and read."""

from __future__ import annotations

import pytest
import torch

from zwicky import backbones, d4
from zwicky.backbones.d4 import layers
from zwicky.backbones.registry import BACKBONES
from zwicky.errors import UserError

NAMES = [name for name in BACKBONES if name.startswith("d4_")]
both = pytest.mark.parametrize("name", NAMES)


def grid_mask(net, size, share=0.4):
    return torch.rand(2, *net.grid(size)) < share


@both
@pytest.mark.parametrize("size", [32, 16])
@pytest.mark.parametrize("masked", [False, True])
def test_exact_for_all_eight_elements(name, size, masked, network, errors):
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        net = network(name, dtype=dtype)
        found = errors(net, torch.randn(2, 2, size, size, dtype=dtype), grid_mask(net, size) if masked else None)
        assert found[:, 0].max() < bound  # the summary
        assert found.max() < 3 * bound  # every vector of every region and frame


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("d4_vit", {"patch_size": 8, "width": 384, "depth": 12, "heads": 6}),
        ("d4_swin", {"patch_size": 4, "window": 6, "width": 96, "depths": [2, 2, 6], "heads": [1, 2, 4]}),
    ],
)
def test_exact_at_the_depths_of_the_recipes(name, options, network, errors):
    net = network(name, image_size=48, matrices=False, **options)
    assert errors(net, torch.randn(2, 2, 48, 48))[:, 0].max() < 1e-5


@both
def test_exact_in_the_dense_way_and_equal_to_the_other(name, network, errors, monkeypatch):
    net, images = network(name, dtype=torch.float64), torch.randn(2, 2, 32, 32, dtype=torch.float64)
    by_irreps = net(images)
    monkeypatch.setattr(f"zwicky.backbones.d4.{name[3:]}.by_irreps", lambda *_: False)
    assert errors(net, images).max() < 1e-10
    dense = net(images)
    for part in ("pooled", "patch_tokens", "group_features"):
        assert torch.allclose(getattr(dense, part), getattr(by_irreps, part), atol=1e-9)


@both
def test_exact_after_learning_and_after_reading(name, network, errors):
    net, images = network(name).train(), torch.randn(4, 2, 32, 32)
    before = net(images).pooled.detach()
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        found = net(images)
        (found.pooled[:, ::2].square().sum() + found.patch_tokens[..., 1::3].sum()).backward()
        optimizer.step()
    net.eval()
    assert not torch.allclose(net(images).pooled, before, atol=0.01)
    assert errors(net, images)[:, 0].max() < 1e-5
    again = backbones.create(**net.config).eval()
    again.load_state_dict(net.state_dict())
    assert errors(again, images)[:, 0].max() < 1e-5
    assert torch.equal(again(images).pooled, net(images).pooled)


@both
def test_another_image_another_crop_and_a_shift_are_told_apart(name, network):
    """What is no symmetry must change the answer, or the exactness above means nothing."""
    net, images = network(name), torch.randn(2, 2, 34, 34)
    with torch.no_grad():
        base = net(images[..., 1:33, 1:33]).pooled
        scale = base.std()
        shifted = net(images[..., 1:33, 2:34]).pooled
        assert (shifted - base).abs().max() > 0.05 * scale
        assert (base[0] - base[1]).abs().max() > 0.05 * scale


@both
def test_regions_alone_or_the_summary_alone_reach_every_parameter(name, network):
    for part in ("pooled", "patch_tokens"):
        net = network(name).train()
        found = net(torch.randn(2, 2, 32, 32), patch_tokens=part == "patch_tokens")
        getattr(found, part).square().sum().backward()
        missing = [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []


@both
def test_summary_is_the_same_with_and_without_regions(name, network):
    net, images = network(name), torch.randn(2, 2, 32, 32)
    assert torch.allclose(net(images).pooled, net(images, patch_tokens=False).pooled, atol=1e-5)


@both
def test_pixels_are_decoded_turned(name, network):
    net = network(name)
    decoder, images = net.pixel_decoder(), torch.randn(2, 2, 32, 32)
    with torch.no_grad():
        upright = decoder(net(images))
        assert upright.shape == images.shape
        assert not torch.allclose(upright, upright.flip(-1), atol=0.1)
        for g, turned in enumerate(d4.apply(images)):
            assert torch.allclose(decoder(net(turned)), d4.apply(upright)[g], atol=1e-4)
    decoder(net(images)).square().sum().backward()
    assert [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


@both
def test_attention_turns_with_the_image(name, network):
    net, images = network(name), torch.randn(2, 2, 32, 32)
    with torch.no_grad():
        upright = net.attention(images)
        assert upright.shape[2:] == net.grid(32)
        assert torch.allclose(upright.sum((2, 3)), torch.ones(upright.shape[:2]), atol=1e-5)
        assert not torch.allclose(upright, upright.flip(-1), atol=1e-3)
        for g, turned in enumerate(d4.apply(images)):
            assert torch.allclose(net.attention(turned), d4.apply(upright)[g], atol=1e-5)


@both
def test_bfloat16_is_near(name, network):
    net, images = network(name).train(), torch.randn(2, 2, 32, 32)
    exact = net(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(images)
        loss = found.pooled.float().square().sum() + found.patch_tokens.float().square().sum()
    loss.backward()
    assert (found.pooled - exact.pooled).abs().max() < 0.2 * exact.pooled.std()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_an_eighth_of_the_parameters_of_a_plain_vit():
    options = {"bands": 3, "image_size": 32, "patch_size": 8, "width": 192, "depth": 12}
    plain, ours = backbones.create("vit_tiny", **options), backbones.create("d4_vit", **options)

    def in_blocks(net):
        return sum(p.numel() for key, p in net.named_parameters() if ".blocks." in key)

    assert in_blocks(ours) / in_blocks(plain) == pytest.approx(1 / 8, rel=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"width": 36}, "take 32"), ({"width": 64, "heads": 3}, "take 72"), ({"patch_size": 5}, "take 30 or 35 px")],
)
def test_what_does_not_divide_is_refused_with_what_does(options, words):
    with pytest.raises(UserError, match=words) as caught:
        backbones.create("d4_vit", bands=1, image_size=32, **options)
    assert "\n" not in str(caught.value)


def test_which_way_is_chosen_by_device_and_width():
    assert layers.by_irreps(torch.device("cpu"), 192)
    assert not layers.by_irreps(torch.device("cuda"), 384)
    assert layers.by_irreps(torch.device("cuda"), 1024)


@both
@torch.no_grad()
def test_a_crop_that_is_not_the_turned_crop_is_told_apart(name, network):
    """35 px cut to 32 from the corner: the turned image's crop holds other pixels, on another grid of patches."""
    net, images = network(name), torch.randn(2, 2, 35, 35)
    base = net(images[..., :32, :32]).pooled
    apart = [float((net(turned[..., :32, :32]).pooled - base).abs().max() / base.std()) for turned in d4.apply(images)]
    apart.sort()
    assert apart[1] < 1e-5  # the corner stays where it is under the diagonal's mirror
    assert apart[2] > 0.05


@torch.no_grad()
def test_a_plain_vit_is_not_invariant(network):
    torch.manual_seed(0)
    plain = backbones.create("vit_tiny", bands=2, image_size=32, width=48, depth=2).eval()
    images = torch.randn(2, 2, 32, 32)
    base = plain(images).pooled
    assert all((plain(turned).pooled - base).abs().max() > 1e-3 for turned in d4.apply(images)[1:])
