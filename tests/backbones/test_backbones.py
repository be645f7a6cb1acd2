"""Every backbone by every number of bands and size keeps the contract."""

from __future__ import annotations

import copy

import pytest
import torch

from zwicky import backbones
from zwicky.backbones.registry import BACKBONES
from zwicky.errors import UserError


@pytest.fixture
def make(small_backbone):
    return small_backbone


MASKABLE = [name for name in BACKBONES if name != "resnet18"]


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 6])
def test_features_have_the_promised_shapes(name, bands, make):
    backbone = make(name, bands)
    for size in (16, 32, 48):
        found = backbone(torch.randn(2, bands, size, size))
        assert found.pooled.shape == (2, backbone.dim)
        assert found.patch_tokens.shape == (2, *backbone.grid(size), backbone.dim)
        assert torch.isfinite(found.pooled).all()


@pytest.mark.parametrize("size", [64, 70, 96, 100])
def test_resnet_grid_of_larger_images(size, make):
    backbone = make("resnet18", image_size=64)
    assert backbone(torch.randn(1, 3, size, size)).patch_tokens.shape[1:3] == backbone.grid(size)


@pytest.mark.parametrize("name", BACKBONES)
def test_layer_groups_hold_every_parameter_once(name, make):
    backbone = make(name)
    grouped = [parameter for group in backbone.layer_groups() for parameter in group]
    assert sorted(grouped) == sorted(parameter for parameter, _ in backbone.named_parameters())
    assert all(backbone.layer_groups())
    assert backbone.no_weight_decay() <= {parameter for parameter, _ in backbone.named_parameters()}


@pytest.mark.parametrize("name", BACKBONES)
def test_layer_groups_go_from_input_to_output(name, make):
    backbone = make(name)
    layer_of = {parameter: index for index, group in enumerate(backbone.layer_groups()) for parameter in group}
    visited = []
    for module_name, module in backbone.named_modules():
        own = [f"{module_name}.{parameter}" for parameter, _ in module.named_parameters(recurse=False)]
        if module_name.startswith("net.") and own:
            module.register_forward_hook(lambda *_, layer=layer_of[own[0]]: visited.append(layer))
    backbone(torch.randn(1, 3, 32, 32))
    assert visited == sorted(visited)
    assert set(visited) == set(range(len(backbone.layer_groups())))


@pytest.mark.parametrize("name", BACKBONES)
def test_config_builds_the_same_network_again(name, make):
    backbone = make(name, bands=2, image_size=48)
    again = backbones.create(**backbone.config)
    again.load_state_dict(backbone.state_dict())
    images = torch.randn(2, 2, 48, 48)
    assert torch.equal(backbone.eval()(images).pooled, again.eval()(images).pooled)


@pytest.mark.parametrize("name", BACKBONES)
def test_everything_that_learns_gets_a_gradient(name, make):
    backbone = make(name)
    found = backbone(torch.randn(3, 3, 32, 32))
    (found.pooled.square().sum() + found.patch_tokens.square().sum()).backward()
    missing = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


@pytest.mark.parametrize("size", [20, 4, 7, 33])
def test_a_size_that_does_not_fit_is_refused_with_one_that_does(size, make):
    backbone = make("vit_tiny")
    with pytest.raises(UserError) as caught:
        backbone.grid(size)
    better = int(str(caught.value).split("take ")[1].split()[0])
    assert backbone.grid(better)
    with pytest.raises(UserError):
        make("vit_tiny", image_size=size)


def test_resnet_refuses_images_smaller_than_its_stride(make):
    with pytest.raises(UserError, match="at least 16 px"):
        make("resnet18", image_size=8)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vit_huge", {}, "vit_tiny"),
        ("vit_tiny", {"widht": 3}, "widht"),
        ("vit_tiny", {"width": 32, "heads": 3}, "divisible"),
        ("resnet18", {"patch_size": 8}, "patch_size"),
    ],
)
def test_a_wrong_backbone_is_one_line(name, options, words):
    with pytest.raises(UserError, match=words) as caught:
        backbones.create(name, bands=3, image_size=32, **options)
    assert "\n" not in str(caught.value)


def test_resampled_positions_turn_with_the_image(make):
    """Positions symmetric under a quarter turn stay so at any other size; `scale_factor` would shift them."""
    backbone = make("vit_tiny", image_size=32).eval()
    net = backbone.net
    with torch.no_grad():
        grid = net.pos_embed[:, 1:].unflatten(1, (4, 4))
        symmetric = sum(grid.rot90(k, (1, 2)) for k in range(4)) / 4
        net.pos_embed[:, 1:] = symmetric.flatten(1, 2)
        for side in (2, 3, 5, 6):
            patches = torch.zeros(1, side, side, backbone.dim)
            placed = net._pos_embed(patches)[:, 1:].unflatten(1, (side, side))
            assert torch.allclose(placed, placed.rot90(1, (1, 2)), atol=1e-5), side


@pytest.mark.parametrize("name", MASKABLE)
def test_masked_cells_are_hidden_and_only_those(name, make):
    backbone = make(name).eval()
    with torch.no_grad():
        backbone.mask_token.normal_()
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 1, 2] = True
    images = torch.randn(2, 3, 32, 32)
    hidden, shown = images.clone(), images.clone()
    hidden[:, :, 8:16, 16:24] += 5
    shown[:, :, 0:8, 0:8] += 5
    with torch.no_grad():
        known = backbone(images, mask).patch_tokens
        assert torch.equal(backbone(hidden, mask).patch_tokens, known)
        assert not torch.allclose(backbone(shown, mask).patch_tokens, known, atol=1e-3)
        assert torch.equal(backbone(images, torch.zeros_like(mask)).patch_tokens, backbone(images).patch_tokens)
        assert not torch.allclose(known, backbone(images).patch_tokens, atol=1e-3)


def test_the_summary_is_the_mean_of_the_regions_where_that_is_asked_for(make):
    backbone, images = make("vit_tiny", pool="mean"), torch.randn(2, 3, 32, 32)
    found = backbone(images)
    assert torch.allclose(found.pooled, found.patch_tokens.mean((1, 2)), atol=1e-6)
    assert torch.equal(backbone(images, patch_tokens=False).pooled, found.pooled)
    assert not torch.allclose(make("vit_tiny")(images).pooled, found.pooled, atol=1e-3)
    with pytest.raises(UserError, match="cls or mean"):
        make("vit_tiny", pool="max")


def test_only_a_masking_method_trains_the_mask_token(make):
    backbone = make("vit_tiny")
    assert not backbone.mask_token.requires_grad
    backbone.set_trainable(masked=True)
    assert backbone.mask_token.requires_grad
    assert all(p.requires_grad for p in backbone.parameters())


def test_resnet_says_that_it_cannot_mask(make):
    with pytest.raises(UserError, match="vit"):
        make("resnet18")(torch.randn(1, 3, 32, 32), torch.zeros(1, 2, 2, dtype=torch.bool))


@pytest.mark.parametrize("name", BACKBONES)
def test_deepcopy_is_independent(name, make):
    backbone = make(name)
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    mine, theirs = dict(backbone.named_parameters()), dict(other.named_parameters())
    assert not any(torch.equal(mine[key], theirs[key]) for key in mine)
