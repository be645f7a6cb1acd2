"""From raw images to `Views`: shapes, seeds, parts, targets, validation, and exactness where promised."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Augment, Masking, Target, ViewsNeeded, eval_views
from zwicky.errors import UserError

BANDS = ("u", "g", "r", "i", "z", "y")
PLAIN = ViewsConfig(crop=32, local_size=16, rotation="none", flip=False, shift=0, global_scale=(1, 1), blur=0, noise=0)
PLAIN.brightness = PLAIN.contrast = 0
EVERYTHING = ViewsConfig(crop=32, local_size=16, local_crops=3, blur=0.5, noise=0.5, reddening=0.2, band_dropout=0.3)


def stamps(count=6, bands=3, side=(46, 46), seed=0):
    return torch.randn(count, bands, *side, generator=torch.Generator().manual_seed(seed)) * 30


def unit(bands=3, stretch="linear"):
    return Normalisation(BANDS[:bands], (0.0,) * bands, (1.0,) * bands, stretch)


def build(config, images, n_global=2, local=True, stretch="linear", masking=None, **options):
    bands, needs = images.shape[1], ViewsNeeded(n_global, local, masking=masking)
    return Augment(config, unit(bands, stretch), images.shape[2:], BANDS[:bands], needs, **options)


def views_of(config, images, n_global=2, local=True, truth=None, **options):
    made = build(config, images, n_global, local, **options)
    return made(images, torch.arange(len(images)), seed=0, step=0, targets=truth)


@pytest.mark.parametrize("bands", range(1, 7))
def test_shapes_types_and_order(bands):
    images = stamps(5, bands, (50, 47))
    config = dataclasses.replace(EVERYTHING, image_size=24, band_dropout=0.3 if bands > 1 else 0)
    views = build(config, images)(images, torch.arange(10, 15), seed=0, step=0)
    sizes = [24, 24, 16, 16, 16]
    assert [tuple(crop.shape) for crop in views.crops] == [(5, bands, side, side) for side in sizes]
    assert [tuple(valid.shape) for valid in views.valid] == [(5, bands, side, side) for side in sizes]
    assert all(crop.dtype == torch.float32 and crop.is_contiguous() for crop in views.crops)
    assert all(valid.dtype == torch.bool for valid in views.valid)
    assert all(maps.shape == (5, 2, 3) and maps.dtype == torch.float32 for maps in views.to_source)
    assert (views.global_count, views.targets, views.rows.tolist()) == (2, [], [10, 11, 12, 13, 14])
    assert all(torch.isfinite(crop).all() for crop in views.crops)
    angles = torch.stack([torch.atan2(maps[:, 1, 1], maps[:, 0, 1]) for maps in views.to_source])
    assert angles.round(decimals=4).unique().numel() == 25  # no crop repeats another's


def test_everything_off_is_the_centre_of_the_image():
    images, classes = stamps(), torch.tensor([0, 1, 1, 0, 2, 2])
    views = views_of(PLAIN, images, truth=classes)
    crops, valid = eval_views(images, PLAIN, unit())
    assert all(torch.equal(made, images[:, :, 7:39, 7:39]) for made in (views.crops[0], crops))
    assert valid.all()
    assert len(views.targets) == len(views.crops)
    assert all(torch.equal(target, classes) for target in views.targets)


def test_seed_and_step_decide_everything():
    images = stamps()
    augment = build(EVERYTHING, images)
    one, again, step, seed = (
        augment(images, torch.arange(6), seed=s, step=t) for s, t in ((1, 7), (1, 7), (1, 8), (2, 7))
    )
    for crop, same, *others in zip(one.crops, again.crops, step.crops, seed.crops, strict=True):
        assert torch.equal(crop, same)
        assert not any(torch.equal(crop, other) for other in others)


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 5), seed=st.integers(0, 100))
def test_two_parts_are_the_whole_and_masks_move_no_crop(cut, seed):
    images = stamps()
    images[2, 1, 20:23, 20:25] = float("nan")
    augment = build(EVERYTHING, images, stretch="asinh", masking=Masking((4, 4), (0.3, 0.7), blocks=True))
    whole = augment(images, torch.arange(6), seed=seed, step=3)
    assert len(whole.masks) == 2
    assert not torch.equal(*whole.masks)
    for part in (slice(0, cut), slice(cut, 6)):
        views = augment(images[part], torch.arange(6)[part], seed=seed, step=3, part=part, global_batch=6)
        for crop, expected in zip(views.crops, whole.crops, strict=True):
            torch.testing.assert_close(crop, expected[part], rtol=1e-5, atol=1e-5)
        for name in ("valid", "to_source", "masks"):
            for values, expected in zip(getattr(views, name), getattr(whole, name), strict=True):
                assert torch.equal(values, expected[part])
    unmasked = build(EVERYTHING, images, stretch="asinh")(images, torch.arange(6), seed=seed, step=3)
    assert unmasked.masks == []
    assert all(torch.equal(crop, other) for crop, other in zip(unmasked.crops, whole.crops, strict=True))


CHANGES = {"rotation": "any", "shift": 3.0, "brightness": 0.3, "contrast": 0.3, "blur": 1, "noise": 1, "reddening": 0.5}


@pytest.mark.parametrize("change", CHANGES)
def test_parameters_differ_between_samples_and_between_crops(change):
    """Copies of one image: each step on its own gives each copy, and each of its crops, its own outcome."""
    config = dataclasses.replace(PLAIN, **{change: CHANGES[change]})
    outcomes = torch.cat(views_of(config, stamps(1).expand(8, -1, -1, -1), local=False).crops).flatten(1)
    distances = torch.cdist(outcomes, outcomes) + 1e9 * torch.eye(16)
    assert distances.min() > (0.5 if change != "shift" else -1)  # two of 49 shifts may agree
    assert outcomes.unique(dim=0).shape[0] > 8


def test_noise_has_the_declared_level_and_is_white():
    images = torch.zeros(300, 2, 32, 32)
    config = dataclasses.replace(PLAIN, noise=1.0, noise_sigma=(0.05, 0.05))
    augment = build(config, images, 1, False, stretch="asinh")
    crops, step, seed = (
        augment(images, torch.arange(300), seed=s, step=t).crops[0].double() for s, t in ((0, 0), (0, 1), (1, 0))
    )
    assert crops.std().item() == pytest.approx(0.05, rel=0.01)
    for other in (step, seed):
        assert abs((crops * other).mean().item()) < 2e-2 * 0.05**2
    assert abs((crops[..., 1:] * crops[..., :-1]).mean().item()) < 1e-4 * 0.05
    assert abs((crops[:, 0] * crops[:, 1]).mean().item()) < 2e-2 * 0.05**2
    assert abs((crops[1:] * crops[:-1]).mean().item()) < 2e-2 * 0.05**2


def test_each_crop_has_its_own_level_of_noise():
    config = dataclasses.replace(PLAIN, noise=1.0, noise_sigma=(0.01, 0.1))
    views = views_of(config, torch.zeros(600, 1, 32, 32), 2, False)
    levels = torch.stack([crop.double().std((1, 2, 3)).log() for crop in views.crops])
    assert levels.mean(1).tolist() == pytest.approx([np.log(0.001) / 2] * 2, abs=0.1)
    assert abs(torch.corrcoef(levels)[0, 1]) < 0.15


def test_the_flux_is_changed_before_it_is_stretched():
    images = stamps(8).abs() + 1
    crops = views_of(dataclasses.replace(PLAIN, brightness=0.3), images, 1, False, stretch="asinh").crops[0]
    factor = 3 * torch.sinh(crops.double()) / images[:, :, 7:39, 7:39]
    torch.testing.assert_close(factor, factor[:, :1, :1, :1].expand_as(factor), rtol=1e-4, atol=0)
    assert 0.7 <= factor.min() < 0.9 < 1.1 < factor.max() <= 1.3


def test_blur_widens_by_the_declared_source_pixels_whatever_the_zoom():
    """A Gaussian of sigma 2 becomes one of √(2² + 1²) in source pixels."""
    rows, columns = np.mgrid[:64, :64] - 31.5
    image = torch.from_numpy(np.exp(-(rows**2 + columns**2) / 8)).float()[None, None]
    config = dataclasses.replace(PLAIN, crop=48, image_size=96, rotation="any", blur=1, blur_sigma=(1, 1))
    crop = views_of(config, image, 1, False).crops[0][0, 0].double()
    x = torch.arange(96.0).double() - 47.5
    for profile in (crop.sum(0), crop.sum(1)):
        sigma = ((profile * x**2).sum() / profile.sum()).sqrt() / 2
        assert sigma.item() == pytest.approx(5**0.5, rel=0.02)


def test_a_lost_band_is_zero_and_not_valid():
    images = stamps(50) + 1000
    images[:, :, 9, 11] = float("nan")
    views = views_of(dataclasses.replace(PLAIN, band_dropout=1.0), images, 1, False)
    assert not views.valid[0][:, :, 2, 4].any()
    blank = (views.crops[0] == 0).all(-1).all(-1)
    assert torch.equal(~views.valid[0].any(-1).any(-1), blank)
    assert (blank.sum(1) == 1).all()
    assert (blank.sum(0) > 5).all()


@pytest.mark.parametrize("stretch", ["asinh", "linear"])
def test_invalid_pixels_end_as_zero_and_do_not_spread(stretch):
    images = stamps() + 50
    images[:, 1, 18:22, 25:28] = float("nan")
    images[3, 2] = float("nan")  # a missing band
    config = dataclasses.replace(EVERYTHING, band_dropout=0, noise=1.0, blur=1.0)
    views = views_of(config, images, stretch=stretch)
    for crop, valid in zip(views.crops, views.valid, strict=True):
        assert torch.isfinite(crop).all()
        assert (crop[~valid] == 0).all()
        assert not valid[3, 2].any()
        assert valid[:, 0].all()
        assert valid[:, 1].any()
    assert not views.valid[0][:, 1].all()


def test_a_flat_sky_with_holes_stays_flat():
    """No step lets the 0 of a hole, of the image's edge or of a turned corner into a valid pixel."""
    images = torch.full((20, 2, 40, 40), 7.0)
    images[torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) < 0.03] = float("nan")
    config = ViewsConfig(crop=36, local_size=16, rotation="any", brightness=0, contrast=0.5, blur=1.0, noise=0)
    views = views_of(config, images)
    for crop, valid in zip(views.crops, views.valid, strict=True):
        assert 0.3 < valid.double().mean() < 1
        torch.testing.assert_close(crop, torch.where(valid, 7.0, 0.0), atol=0.01, rtol=0)


def test_regression_targets_turn_with_the_image():
    """Oracle: ellipticity and offset measured on the crop itself by its moments, nothing known of the map."""
    random = np.random.default_rng(0)
    count, side = 24, 64
    offset, e = random.uniform(-4, 4, (count, 2)), random.uniform(-0.3, 0.3, (count, 2))
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    x, y = columns - offset[:, :1, None], rows - offset[:, 1:, None]
    size = 12.0  # trace of the second moments; e1 = (Qxx - Qyy)/T, e2 = 2 Qxy/T
    qxx, qyy, qxy = size * (1 + e[:, 0]) / 2, size * (1 - e[:, 0]) / 2, size * e[:, 1] / 2
    determinant = (qxx * qyy - qxy**2)[:, None, None]
    qxx, qyy, qxy = (moment[:, None, None] for moment in (qxx, qyy, qxy))
    form = (qyy * x**2 - 2 * qxy * x * y + qxx * y**2) / determinant
    images = torch.from_numpy(np.exp(-form / 2)).float()[:, None]
    values = torch.from_numpy(np.concatenate([np.full((count, 1), 1.3), offset, e], 1)).float()
    kinds = (Target(("theta_E",)), Target(("x", "y"), "vector"), Target(("e1", "e2"), "spin2"))
    config = dataclasses.replace(PLAIN, crop=44, rotation="any", flip=True)
    views = views_of(config, images, 2, False, truth=values, targets=kinds)
    grid = torch.arange(44.0).double() - 21.5
    for crop, target in zip(views.crops, views.targets, strict=True):
        light = crop[:, 0].double() / crop[:, 0].double().sum((1, 2), keepdim=True)
        mx, my = (light.sum(1) * grid).sum(1), (light.sum(2) * grid).sum(1)
        dx, dy = grid[None, None, :] - mx[:, None, None], grid[None, :, None] - my[:, None, None]
        xx, yy, xy = ((light * product).sum((1, 2)) for product in (dx**2, dy**2, dx * dy))
        measured = torch.stack([torch.full_like(mx, 1.3), mx, my, (xx - yy) / (xx + yy), 2 * xy / (xx + yy)], 1)
        torch.testing.assert_close(target.double(), measured, atol=0.02, rtol=0)  # interpolation rounds it by 1/3 px²
    assert (views.targets[0] - values).abs().max() > 1  # something did turn


def test_eval_views_resize_both_axes_of_the_centre():
    """60 × 52 image, window 48 to 24 pixels: block means of the centre, on both axes."""
    images, config = stamps(2, 3, (52, 60)), dataclasses.replace(PLAIN, crop=48, image_size=24)
    crops, valid = eval_views(images, config, unit())
    torch.testing.assert_close(crops, images[:, :, 2:50, 6:54].view(2, 3, 24, 2, 24, 2).mean((3, 5)), atol=1e-3, rtol=0)
    assert valid.shape == crops.shape
    images[0, 0, 2, 6] = float("nan")
    crops, valid = eval_views(images, config, unit())
    assert (~valid).nonzero().tolist() == [[0, 0, 0, 0]]
    assert crops[0, 0, 0, 0] == 0


def test_what_changes_the_images_is_said():
    changed = ViewsConfig(global_scale=(0.2, 0.5), blur=0.9, noise=0.0, reddening=0.05, band_dropout=0.5)
    steps = "contrast ±10%, crops of 20% to 50% of the area, blur 0.9, reddening 0.05, band dropout 0.5"
    assert changed.text().endswith(steps)
    plain = ViewsConfig(global_scale=(1.0, 1.0), blur=0.0, noise=0.0)
    assert plain.text() == "rotation auto, mirror, shift ±2 px, brightness ±10%, contrast ±10%"


OUT_OF_RANGE = {
    **{
        "crop": (47, 0),
        "shift": (-1, float("nan"), float("inf")),
        "global_scale": ((0.0, 1.0), (0.8, 0.5), (0.5, 1.5)),
    },
    **{"image_size": (0,), "rotation": ("all",), "local_scale": ((0.5, 1.5),), "local_size": (33,), "blur": (1.1,)},
    **{"local_crops": (-1,), "brightness": (1.0,), "contrast": (-0.1, 1.0), "blur_sigma": ((0.0, 1.0),)},
    **{"reddening": (-1,), "noise_sigma": ((0.2, 0.1),), "noise": (float("nan"),), "band_dropout": (2,)},
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in OUT_OF_RANGE for value in OUT_OF_RANGE[name]])
def test_options_out_of_range_are_one_line(name, value):
    with pytest.raises(UserError, match=f"views.{name} "):
        build(dataclasses.replace(PLAIN, **{name: value}), stamps())


def test_options_that_do_not_fit_the_data_are_user_errors():
    images, scalar, rows = stamps(), {"targets": (Target(("theta_E",)),)}, torch.arange(6)
    x, changed = Normalisation(("x",), (0.0,), (1.0,)), partial(dataclasses.replace, PLAIN)
    for message, mistake in (
        ("global_scale", lambda: build(changed(global_scale=(0.5, 1)), images, 1, False, **scalar)),
        ("local_crops", lambda: build(PLAIN, images, 1, True, **scalar)),
        ("band_dropout", lambda: build(changed(band_dropout=0.1), stamps(bands=1))),
        ("reddening", lambda: Augment(changed(reddening=0.1), x, (46, 46), ("x",), ViewsNeeded(1))),
        ("bands", lambda: Augment(PLAIN, unit(3), (46, 46), ("r", "g", "u"), ViewsNeeded(1))),
        ("pixels", lambda: build(PLAIN, images)(stamps(side=(40, 46)), rows, seed=0, step=0)),
        ("bands", lambda: build(PLAIN, images)(stamps(bands=2), rows, seed=0, step=0)),
        ("crop", lambda: eval_views(stamps(side=(20, 46)), PLAIN, unit())),
    ):
        with pytest.raises(UserError, match=message):
            mistake()
