"""The polar backbone: sampling against scipy, exact invariance, attention in sectors."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates

from zwicky import d4
from zwicky.augment.views import Target
from zwicky.backbones.polar import find_centre, polar_points, sample_polar
from zwicky.backbones.polar_swin import SectorBlock
from zwicky.errors import UserError

networks = pytest.mark.parametrize("name", ["polar_vit", "polar_swin"])


@pytest.mark.parametrize("centre", ["frame", "elsewhere"])
def test_sampling_is_bilinear_and_zero_outside_the_image(centre):
    images = torch.randn(3, 2, 17, 17)
    points = polar_points(6, 16, "linear")
    middle = torch.full((1, 2), 8.0, dtype=torch.float64)
    where = middle if centre == "frame" else middle + torch.rand(3, 2, dtype=torch.float64)
    polar = sample_polar(images, points, where, radius=12.0)
    for image in range(3):
        x, y = (points * 12.0 + where[image % len(where)]).unbind(-1)
        for band in range(2):
            pixels = images[image, band].numpy()
            expected = map_coordinates(pixels, [y.numpy(), x.numpy()], order=1, mode="grid-constant")
            assert np.allclose(polar[image, band], expected, atol=1e-5)


@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_points_are_exactly_symmetric(spacing):
    points = polar_points(5, 32, spacing)
    as_set = {tuple(point) for point in points.flatten(0, 1).tolist()}
    assert len(as_set) == 5 * 32
    assert {(-y, x) for x, y in as_set} == as_set == {(x, -y) for x, y in as_set}
    radius = points.norm(dim=-1)
    assert torch.all(radius.diff(dim=0) > 0)
    places = radius[:, 0] if spacing == "linear" else torch.log((radius[:, 0] + 0.05) / 0.05)
    edge = places[-1] + places.diff().mean() / 2  # half an interval beyond the last point
    assert edge.item() == pytest.approx(1 if spacing == "linear" else math.log(21))
    assert places[0].item() == pytest.approx(places.diff().mean().item() / 2)


@pytest.mark.parametrize("radius", [0.7, 1.0])
def test_rows_of_the_canvas_are_radii(radius, small_backbone):
    y, x = torch.meshgrid(torch.arange(32.0) - 15.5, torch.arange(32.0) - 15.5, indexing="ij")
    canvas = small_backbone("polar_vit", bands=1, radius=radius).canvas(torch.hypot(x, y)[None, None])[0, 0]
    expected = radius * 16 * (torch.arange(8) + 0.5) / 8
    assert torch.allclose(canvas[1:], expected[1:, None].expand_as(canvas[1:]), atol=0.15)


@pytest.mark.parametrize("size", [16, 33, 48])
@pytest.mark.parametrize("options", [{}, {"spacing": "log"}, {"radius": 0.7}, {"centre": "brightest"}])
@networks
def test_pooled_features_are_exactly_invariant(size, options, name, small_backbone, filled):
    backbone = filled(small_backbone(name, bands=2, image_size=size, **options))
    images = torch.randn(4, 2, size, size) * torch.tensor([0.1, 1.0, 3.0, 10.0])[:, None, None, None]
    with torch.no_grad():
        pooled = torch.stack([backbone(turned).pooled for turned in d4.apply(images)])
    assert (pooled - pooled[0]).abs().max() < 0.01 * pooled[0].std(0).max()  # it tells images apart


@networks
def test_without_mirror_symmetric_kernels_only_rotations_are_exact(name, small_backbone, filled):
    backbone = filled(small_backbone(name, mirror=False))
    assert not backbone.invariant
    with torch.no_grad():
        pooled = torch.stack([backbone(turned).pooled for turned in d4.apply(torch.randn(4, 3, 32, 32))])
    assert (pooled[:4] - pooled[0]).abs().max() < 1e-5
    assert (pooled[4:] - pooled[0]).abs().max() > 1e-4


def test_any_rotation_of_a_smooth_image_changes_little(small_backbone, filled):
    """The error of interpolation: far below the difference between images."""
    backbone = filled(small_backbone("polar_vit", bands=1, image_size=48, radius=0.8))
    y, x = torch.meshgrid(torch.arange(48.0) - 23.5, torch.arange(48.0) - 23.5, indexing="ij")

    def arc(angle, width=3.0):
        r, theta = (x**2 + y**2).sqrt(), torch.atan2(y, x) - angle
        return 5 * torch.exp(-((r - 12) ** 2) / (2 * width**2) + 2 * (theta.cos() - 1))

    with torch.no_grad():
        turned = backbone(torch.stack([arc(0.13 * k) for k in range(8)])[:, None]).pooled
        other = backbone(arc(0.0, width=1.5)[None, None]).pooled
    assert (turned - turned[0]).norm(dim=1).max() < 0.1 * (other - turned[0]).norm()


def test_the_centre_is_found():
    """In the mean of the bands and the inner half; brightest is no single pixel, negative flux counts nowhere."""
    images = torch.zeros(1, 2, 32, 32)
    images[:, 1, 11:14, 17:20], images[..., 12, 30], images[..., 2, 18], images[..., 20, 9] = 9.0, 99.0, 99.0, -9.0
    expected = torch.tensor([[18.0, 12.0]]).double()
    assert torch.allclose(find_centre(images, "centroid"), expected, atol=1e-6)
    images[..., 20, 12] = 20.0
    assert torch.equal(find_centre(images, "brightest"), expected)
    assert find_centre(torch.zeros(1, 1, 32, 32), "centroid").tolist() == [[15.5, 15.5]]


def test_equally_bright_pixels_keep_the_invariance(small_backbone):
    y, x = torch.meshgrid(torch.arange(32.0) - 15.5, torch.arange(32.0) - 15.5, indexing="ij")
    image = (9 * torch.exp(-(x**2 + y**2) / 18) + torch.exp(-((x - 9) ** 2) - (y + 3) ** 2))[None, None]
    for one in (image, torch.zeros(1, 1, 32, 32)):
        assert find_centre(one, "brightest").tolist() == [[15.5, 15.5]]
    backbone = small_backbone("polar_vit", bands=1, centre="brightest").eval()
    pooled = torch.stack([backbone(turned).pooled for turned in d4.apply(image)])
    assert (pooled - pooled[0]).abs().max() < 1e-5


@pytest.mark.parametrize("centre", ["brightest", "centroid"])
def test_what_is_valid_is_resampled_about_the_centre_of_the_image(centre, small_backbone):
    backbone = small_backbone("polar_vit", bands=1, centre=centre)
    images = torch.zeros(1, 1, 32, 32)
    images[..., 12, 18] = 9.0
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 9:16, 15:22] = 1.0  # a square about that point: near the centre in every direction, and nowhere else
    polar = backbone.canvas(mask, images)[0, 0]
    assert polar[0].min() == 1
    assert polar[-1].max() == 0
    place = torch.arange(32)
    valid = (place - 18) ** 2 + (place[:, None] - 12) ** 2 > 8.5**2  # outside the first row of patches
    assert not backbone.valid_patches(images, valid[None, None])[0, 0].any()


@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_patches_lie_where_their_pixels_do(spacing, small_backbone):
    """A pixel changes the canvas of the patch that `patch_at` names, and no patch but it and its neighbours."""
    backbone = small_backbone("polar_vit", bands=1, spacing=spacing)
    height, width = backbone.grid(32)
    centres = backbone.patch_centres(32)
    assert torch.equal(backbone.patch_at(centres, 32), torch.arange(height * width).unflatten(0, (height, width)))
    assert backbone.patch_at(torch.tensor([[0.0, 0.0], [15.5, -0.6]]).double(), 32).tolist() == [-1, -1]
    for x, y in ((20, 9), (3, 17), (25, 25)):
        image = torch.zeros(1, 1, 32, 32)
        image[..., y - 1 : y + 2, x - 1 : x + 2] = 1
        light = torch.nn.functional.adaptive_avg_pool2d(backbone.canvas(image), (height, width)).flatten()
        assert light.argmax() == backbone.patch_at(torch.tensor([x, y]).double(), 32)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("angles", [8, 16])
def test_sector_attention_is_its_formula(shifted, angles):
    """A sector of four of eight angles does not tile a quarter of the circle: the whole circle is one sector then."""
    torch.manual_seed(0)
    block = SectorBlock(8, 2, (3, angles), sector=4, shifted=shifted, drop=0.0).eval()
    maps, sector = torch.randn(2, 3, angles, 8), 4 if angles == 16 else 8
    shift = 2 if shifted and angles == 16 else 0
    qkv = block.attn.qkv(block.norm1(maps)).flatten(1, 2).unflatten(2, (3, 2, 4))
    q, k, v = qkv.unbind(2)  # [B, N, heads, d]
    r, a = torch.cartesian_prod(torch.arange(3), torch.arange(angles)).unbind(1)
    near = (a[:, None] - shift) % angles // sector == (a - shift) % angles // sector
    apart = torch.minimum((a[:, None] - a).abs(), angles - (a[:, None] - a).abs())
    bias = block.bias[:, r[:, None] - r + 2, apart.clamp(max=block.bias.shape[2] - 1)]
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / 2 + bias
    weights = scores.masked_fill(~near, -torch.inf).softmax(-1)
    expected = torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2).unflatten(1, (3, angles))
    assert torch.allclose(block.attention_received(maps), weights.mean(2).unflatten(2, (3, angles)), atol=1e-6)
    expected = maps + block.attn.proj(expected)
    expected = expected + block.mlp(block.norm2(expected))
    assert torch.allclose(block(maps), expected, atol=1e-5)


def test_every_other_block_shifts_its_sectors(small_backbone):
    blocks = [part for part in small_backbone("polar_swin", angles=64).modules() if isinstance(part, SectorBlock)]
    assert [block.shift for block in blocks] == [0, 1, 0, 1]


def test_four_patches_in_angle_cannot_tell_the_axes_of_a_spin2_target(small_backbone):
    backbone = small_backbone("polar_vit", angles=32)
    with pytest.raises(UserError, match="double `angles`"):
        backbone.prediction_head(2, (Target(("e1", "e2"), "spin2"),))(backbone(torch.randn(1, 3, 16, 16)))


@torch.no_grad()
def test_tokens_have_their_position_in_radius_and_a_circular_convolution(small_backbone, filled):
    """Everything masked, the tokens are the mask token and what tells the patches apart."""
    backbone = filled(small_backbone("polar_vit", bands=1))
    mask = torch.ones(1, *backbone.grid(32), dtype=torch.bool)
    tokens = (backbone.mask_token + backbone.net.pos_embed).expand(*mask.shape, -1).permute(0, 3, 1, 2)
    kernel = (backbone.net.pos_conv.weight + backbone.net.pos_conv.weight.flip(3)) / 2
    padded = F.pad(torch.cat([tokens[..., -1:], tokens, tokens[..., :1]], 3), (0, 0, 1, 1))
    expected = tokens + F.conv2d(padded, kernel, groups=backbone.dim)
    result = backbone._embed(torch.randn(1, 1, 32, 32), mask)
    assert torch.allclose(result, expected.permute(0, 2, 3, 1).flatten(1, 2), atol=1e-5)


def test_positions_are_relative_in_angle(small_backbone, filled):
    """A shift of the canvas by whole patches shifts the tokens, across the seam too."""
    backbone = filled(small_backbone("polar_swin", bands=1))
    canvas = torch.randn(1, 1, 8, 32)
    with torch.no_grad():
        tokens = []
        for shift in (0, 8, 24):
            backbone.canvas = lambda images, shift=shift: canvas.roll(shift, 3)
            tokens.append(backbone(torch.zeros(1, 1, 32, 32)).patch_tokens)
    assert torch.allclose(tokens[1], tokens[0].roll(1, 2), atol=1e-5)
    assert torch.allclose(tokens[2], tokens[0].roll(3, 2), atol=1e-5)
