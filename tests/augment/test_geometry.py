"""Where crops look: the map against rendered points, the sampling against scipy, bounds, exact copies."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from zwicky.augment.config import ViewsConfig
from zwicky.augment.geometry import N_UNIFORMS, Geometry, crop_geometries, sample

ROTATIONS = ("any", "quarter", "none")


def draws(*shape, seed=0):
    return torch.rand(*shape, N_UNIFORMS, generator=torch.Generator().manual_seed(seed))


def corners(maps, size, margin=0.0):
    """Source positions [..., 4, 2] of the corner pixels' centres, or of points `margin` pixels outside them."""
    ends = (-margin, size - 1 + margin)
    points = torch.tensor([[x, y, 1.0] for x in ends for y in ends], dtype=torch.float64)
    return (maps.double()[..., None, :, :] @ points[:, :, None])[..., 0]


@settings(max_examples=60, deadline=None)
@given(
    side=st.sampled_from([(46, 46), (51, 60), (64, 49)]),
    crop=st.integers(8, 46),
    size=st.integers(4, 48),
    low=st.floats(0.05, 1.0),
    high=st.floats(0.05, 1.0),
    rotation=st.sampled_from(ROTATIONS),
    shift=st.floats(0, 10),
    seed=st.integers(0, 10**6),
)
def test_crops_stay_inside_the_image(side, crop, size, low, high, rotation, shift, seed):
    geometry = Geometry(side, crop, size, (min(low, high), max(low, high)), rotation, True, shift)
    assume(rotation != "any" or geometry.rotates_freely)
    maps = geometry.draw(draws(50, seed=seed))
    # The outermost samples, which lie inside the outermost crop pixel where several are averaged.
    where = corners(maps, size, 0.5 * (1 - 1 / geometry.oversample))
    # Where the crop has more pixels than the window, its outermost ones lie within the image's outermost half pixel.
    edge = 0.0 if rotation == "any" else max(0.0, geometry.reach - min(geometry.center))
    assert edge < 0.5
    assert where.min() >= -edge - 1e-6
    assert (where[..., 0] <= side[1] - 1 + edge + 1e-6).all()
    assert (where[..., 1] <= side[0] - 1 + edge + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(
    x=st.integers(14, 45),
    y=st.integers(14, 37),
    rotation=st.sampled_from(ROTATIONS),
    flip=st.booleans(),
    size=st.sampled_from([24, 31, 48, 60]),
    seed=st.integers(0, 10**6),
)
def test_a_point_lands_where_the_map_says(x, y, rotation, flip, size, seed):
    """Non-square image, a blob at a known pixel; its centroid in the crop, mapped back, is that pixel."""
    geometry = Geometry((52, 60), 34, size, (0.5, 1.0), rotation, flip, 3.0)
    rows, columns = np.mgrid[:52, :60]
    image = np.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2) / 1.5**2)
    maps = geometry.draw(draws(1, 1, seed=seed))
    crops, _ = sample(torch.from_numpy(image).float()[None, None], maps, geometry)
    crop = crops[0, 0].double().numpy()
    border = max(crop[0].max(), crop[-1].max(), crop[:, 0].max(), crop[:, -1].max())
    assume(crop.max() >= 0.5 and border <= 1e-3)  # inside this crop, and not cut by its edge
    row, column = ndimage.center_of_mass(crop)
    result = maps[0, 0] @ torch.tensor([column, row, 1.0], dtype=torch.float64)
    np.testing.assert_allclose(result, [x, y], atol=0.1)


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize(("side", "crop", "size"), [((46, 46), 32, 32), ((48, 61), 30, 25), ((50, 47), 31, 40)])
def test_sampling_is_bilinear_interpolation(rotation, side, crop, size):
    geometry = Geometry(side, crop, size, (0.4, 0.7), rotation, True, 4.0)
    assert geometry.oversample == 1
    images = torch.randn(3, 2, *side, generator=torch.Generator().manual_seed(1))
    maps = geometry.draw(draws(4, 3, seed=2))
    crops, valid = sample(images, maps, geometry)
    assert valid is None
    options = {"output_shape": (size, size), "order": 1, "mode": "nearest"}
    for crop_index, image, band in np.ndindex(4, 3, 2):
        matrix = maps[crop_index, image].numpy()
        linear, offset = matrix[::-1, :2][:, ::-1], matrix[::-1, 2]  # scipy counts (row, column)
        expected = ndimage.affine_transform(images[image, band].double().numpy(), linear, offset, **options)
        np.testing.assert_allclose(crops[crop_index * 3 + image, band], expected, atol=2e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 30), st.integers(5, 20), st.sampled_from([0.0, 1.0, 2.5, 9.0]), st.integers(0, 10**6))
def test_quarter_turns_copy_pixels(side, crop, shift, seed):
    """No zoom, quarter turns: each crop is a slice, turned by numpy, to the last bit."""
    geometry = Geometry((side, side + 3), crop, crop, rotation="quarter", flip=True, shift=shift)
    assert geometry.exact
    image = torch.randn(1, 2, side, side + 3, generator=torch.Generator().manual_seed(seed))
    u = draws(1, 1, seed=seed)
    maps = geometry.draw(u)
    crops, _ = sample(image, maps, geometry)
    where = corners(maps[0, 0], crop)
    torch.testing.assert_close(where, where.round(), atol=1e-6, rtol=0)
    left, top = where.min(0).values.round().long().tolist()
    window = image[0, :, top : top + crop, left : left + crop]
    candidates = [turned.rot90(k, (1, 2)) for turned in (window, window.flip(2)) for k in range(4)]
    assert any(torch.equal(crops[0], candidate) for candidate in candidates)


def test_area_angle_and_mirror_are_spread_as_declared():
    geometry = Geometry((64, 64), 32, 16, (0.1, 0.3), "any", True, 0.0)
    maps = geometry.draw(draws(4000))
    determinant = torch.linalg.det(maps[:, :, :2])
    share = determinant.abs() * 16**2 / 32**2
    assert 0.1 <= share.min() < 0.105 < 0.295 < share.max() <= 0.3
    assert share.mean().item() == pytest.approx(0.2, abs=0.005)
    assert (determinant < 0).double().mean().item() == pytest.approx(0.5, abs=0.03)
    angle = torch.atan2(-maps[:, 0, 1], maps[:, 1, 1])
    assert torch.histc(angle, 8, -math.pi, math.pi).min() > 400
    quarter = Geometry((64, 64), 32, 16, rotation="quarter").draw(draws(4000))
    turns = (torch.atan2(quarter[:, 1, 0], quarter[:, 1, 1]) / (math.pi / 2)).round().long() % 4
    assert torch.bincount(turns, minlength=4).min() > 900
    # One area for both axes: a resize of the height alone would squash.
    lengths = maps[:, :, :2].norm(dim=1)
    torch.testing.assert_close(lengths[:, 0], lengths[:, 1])


def test_crops_lie_anywhere_in_the_turned_window_and_the_window_shifts_both_ways():
    u, options = draws(4000), {"rotation": "any", "flip": True, "shift": 3.0}
    window = Geometry((64, 64), 32, 32, **options).draw(u)
    where = corners(Geometry((64, 64), 32, 16, (0.1, 0.3), **options).draw(u), 16)
    inside = torch.linalg.solve(window[:, None, :, :2], (where - window[:, None, :, 2])[..., None])[..., 0]
    for low, high in inside.flatten(0, 1).T.sort().values[:, [0, -1]].tolist():
        assert (low, high) == pytest.approx((0, 31), abs=0.1)
        assert -1e-6 <= low < high <= 31 + 1e-6
    for low, high in corners(window, 32).mean(1).T.sort().values[:, [0, -1]].tolist():
        assert (low, high) == pytest.approx((28.5, 34.5), abs=0.01)
    copied = Geometry((40, 40), 32, 32, rotation="quarter", shift=2.0).draw(u)
    for centres in corners(copied, 32).mean(1).T:
        places, counts = centres.round(decimals=6).unique(return_counts=True)
        assert places.tolist() == [17.5, 18.5, 19.5, 20.5, 21.5]
        assert counts.min() > 700


@pytest.mark.parametrize(("crop", "rotation"), [(32, "any"), (33, "quarter")])
def test_auto_is_any_angle_where_the_turned_window_fits(crop, rotation):
    """The corner pixels of 32 px lie 15.5 √2 = 21.9 px from the centre, which lies 22.5 px from the outermost."""
    config = ViewsConfig(crop=crop, global_scale=(0.5, 1.0), local_size=16, local_scale=(0.1, 0.3))
    large, local = crop_geometries(config, (46, 46))
    assert large.rotation == local.rotation == rotation
    assert (large.size, large.scale) == (crop, (0.5, 1.0))
    assert (local.size, local.scale) == (16, (0.1, 0.3))


def test_zooming_out_averages_and_does_not_alias():
    """64 → 16 pixels are the means of blocks."""
    geometry = Geometry((64, 64), 64, 16, (0.25, 1.0))
    assert geometry.oversample == 4
    maps = geometry.draw(torch.tensor([1.0] + [0.5] * (N_UNIFORMS - 1))[None, None])
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    blocks = image.view(1, 3, 16, 4, 16, 4).mean((3, 5))
    torch.testing.assert_close(sample(image, maps, geometry)[0], blocks, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("crop", "size", "rotation"), [(24, 24, "any"), (24, 20, "any"), (30, 10, "none"), (24, 24, "quarter")]
)
def test_a_crop_pixel_is_valid_only_if_all_under_it_is(crop, size, rotation):
    """Oracle: a pixel's value with the hole at 0 and at 1000 differs exactly where the hole contributes."""
    geometry = Geometry((40, 40), crop, size, (1.0, 1.0) if rotation == "quarter" else (0.8, 1.0), rotation, True, 1.0)
    maps = geometry.draw(draws(3, 2, seed=4))
    images = torch.randn(2, 2, 40, 40, generator=torch.Generator().manual_seed(0))
    valid = torch.rand(2, 2, 40, 40, generator=torch.Generator().manual_seed(1)) > 0.02
    zero = torch.where(valid, images, 0)
    touched = sample(torch.where(valid, 0.0, 1000.0), maps, geometry)[0]
    crops, usable = sample(zero, maps, geometry, valid)
    assert usable is not None
    assert torch.equal(usable, touched < 1.0)
    assert 0 < (~usable).sum() < usable.numel() / 2
    plain = sample(images, maps, geometry)[0]
    torch.testing.assert_close(crops[usable], plain[usable], atol=0.01, rtol=0)
    assert (crops[~usable] == 0).all()


def test_pixels_outside_the_image_are_zero_and_invalid():
    geometry = Geometry((40, 36), 36, 30, rotation="any")
    maps = geometry.draw(draws(20, 1))
    crops, usable = sample(torch.ones(1, 1, 40, 36), maps, geometry)
    y, x = torch.meshgrid(torch.arange(30.0), torch.arange(30.0), indexing="ij")
    where = torch.stack([x, y, torch.ones(30, 30)], -1).double() @ maps.mT  # [20, 30, 30, 2]
    inside = ((where > -0.5) & (where < torch.tensor([35.5, 39.5]))).all(-1)
    assert torch.equal(usable[:, 0], inside)
    torch.testing.assert_close(crops[:, 0], inside.float())
    assert 0.8 < inside.double().mean() < 1
