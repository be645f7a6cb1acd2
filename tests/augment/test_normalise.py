"""Normalisation: robust statistics against numpy, invalid pixels, types, and what must never happen (clamping)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zwicky.augment import normalise
from zwicky.augment.config import NormalisationConfig
from zwicky.augment.normalise import Normalisation, asinh
from zwicky.errors import UserError

BANDS = ("g", "r", "i", "z", "y", "u")


def sky_images(count=40, bands=3, side=20, seed=0):
    """Noise of a known level on a known sky, with a bright spot in each image."""
    random = np.random.default_rng(seed)
    level, sigma = 10.0 * np.arange(1, bands + 1), 0.5 * np.arange(1, bands + 1)
    images = level[:, None, None] + sigma[:, None, None] * random.standard_normal((count, bands, side, side))
    images[:, :, 9:11, 9:11] += 500
    return images.astype(np.float32), level, sigma


def test_sky_and_noise_are_found_despite_sources():
    images, level, sigma = sky_images()
    made = Normalisation.fit(images, BANDS[:3])
    assert (made.stretch, made.softening) == ("asinh", 3.0)
    np.testing.assert_allclose(made.center, level, atol=0.05)
    np.testing.assert_allclose(made.scale, sigma, rtol=0.05)
    np.testing.assert_allclose(made.center, np.median(images, axis=(0, 2, 3)), rtol=1e-6)  # the sample is all pixels


def test_percentile_is_the_scale_of_stretched_images():
    images = np.random.default_rng(1).integers(0, 256, (30, 1, 16, 16)).astype(np.uint8)
    made = Normalisation.fit(images, ("gray",))
    assert made.stretch == "linear"
    expected = np.percentile(images - np.median(images).astype(float), 99.8)
    assert made.scale[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stretch", ["asinh", "sqrt", "linear"])
def test_output_varies_by_one_and_is_the_formula_or_zero_where_invalid(stretch):
    images, _, _ = sky_images()
    images[:, :, :4] = np.nan
    made = Normalisation.fit(images, BANDS[:3], NormalisationConfig(stretch=stretch, scale="mad", softening=2.0))
    images[0, 1, 9, 9], images[1, 0, 12, 12] = np.inf, -np.inf
    out, valid = made(torch.from_numpy(images))
    center, scale = np.array(made.center)[:, None, None], np.array(made.scale)[:, None, None]
    x = (images.astype(np.float64) - center) / scale
    oracle = {"asinh": np.arcsinh(x / 2.0), "sqrt": np.sign(x) * np.sqrt(np.abs(x)), "linear": x}[stretch]
    np.testing.assert_allclose(out[valid], (oracle / made.output_std)[valid.numpy()], atol=2e-5, rtol=2e-5)
    assert out[valid].std().item() == pytest.approx(1, abs=0.02)
    assert np.array_equal(valid, np.isfinite(images))
    assert (out[~valid] == 0).all()


@given(st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False))
def test_asinh_is_asinh(value):
    got = asinh(torch.tensor([value], dtype=torch.float32)).item()
    assert got == pytest.approx(float(np.arcsinh(np.float64(value))), abs=3e-7, rel=3e-7)


def test_statistics_ignore_nan_and_leave_out_bad_images():
    images, level, sigma = sky_images(bands=2)
    images[::3, :, :5] = np.nan  # a quarter of each third image
    images[1, :] = np.nan
    images[1, 0, 0, 0] = 1e9  # the rest of an image that is nearly all invalid
    images[2:12:3, :, :15], images[2:12:3, :, 15:] = np.nan, 7777.0  # three quarters invalid, the rest nonsense
    made = Normalisation.fit(images, ("g", "r"))
    np.testing.assert_allclose(made.center, level[:2], atol=0.05)
    np.testing.assert_allclose(made.scale, sigma[:2], rtol=0.05)
    strict = Normalisation.fit(images, ("g", "r"), NormalisationConfig(max_invalid=0.0))
    clean = images[np.isfinite(images).all((1, 2, 3))]
    np.testing.assert_allclose(strict.center, np.median(clean, axis=(0, 2, 3)), rtol=1e-6)


def test_training_rows_alone_count():
    images, _, _ = sky_images()
    rows = np.arange(1, 40, 3)
    alone = Normalisation.fit(images[rows], BANDS[:3])
    images[np.setdiff1d(np.arange(40), rows)] = 7777.0
    assert Normalisation.fit(images, BANDS[:3], rows=rows) == alone


def test_a_large_survey_is_sampled_by_the_seed(monkeypatch):
    """Images and pixels get brighter from the first to the last."""
    monkeypatch.setattr(normalise, "MAX_IMAGES", 50)
    monkeypatch.setattr(normalise, "MAX_VALUES", 50 * 20)
    images = (np.arange(400.0)[:, None] + 4 * np.arange(100.0)).reshape(400, 1, 10, 10)
    one, again, other = (Normalisation.fit(images, ("g",), seed=seed) for seed in (0, 0, 1))
    assert one == again != other
    assert [made.center[0] for made in (one, other)] == pytest.approx([np.median(images)] * 2, abs=100)


def test_scale_is_the_noise_in_any_unit_and_the_deviation_on_an_empty_sky():
    images, _, sigma = sky_images(bands=1)
    made = Normalisation.fit(images * np.float32(1e-30), ("g",))
    assert made.scale[0] * 1e30 == pytest.approx(sigma[0], rel=0.05)
    empty = np.zeros((5, 1, 30, 30), np.float32)
    empty[:, :, 4, 4] = 50.0
    for scale in ("mad", "percentile"):
        made = Normalisation.fit(empty, ("g",), NormalisationConfig(scale=scale))
        assert made.scale[0] == pytest.approx(empty.std())


def test_faint_light_on_a_quantised_sky_is_stretched():
    """Most pixels have one value, so the median absolute deviation is 0; the ring has a few counts, the peak 255."""
    images = np.random.default_rng(0).choice([0, 1, 2], (50, 1, 20, 20), p=[0.2, 0.7, 0.1]).astype(np.uint8)
    images[:, :, 5:7, 5:15], images[:, :, 9:11, 9:11] = 4, 255
    made = Normalisation.fit(images, ("gray",))
    assert (made.stretch, made.scale) == ("asinh", (1.0,))
    assert "integers" in made.reason
    plain = np.random.default_rng(1).integers(0, 256, images.shape).astype(np.uint8)
    assert Normalisation.fit(np.concatenate([plain, images], 1), ("g", "r")).stretch == "asinh"
    spread = np.random.default_rng(0).choice([0, 1, 5], (50, 1, 20, 20), p=[0.2, 0.6, 0.2]).astype(np.uint8)
    assert Normalisation.fit(spread, ("gray",), NormalisationConfig(scale="mad")).scale == (2.5,)


def test_published_weights_get_the_scale_of_their_pixels():
    """Percentiles of the stretched pixels become 0 and 1, then mean and deviation are the published ones."""
    images, _, _ = sky_images(bands=2)
    made = Normalisation.fit(images, ("g", "r"), published=(0.45, 0.225))
    out = made(torch.from_numpy(images))[0].numpy() * 0.225 + 0.45
    np.testing.assert_allclose(np.percentile(out, [1, 99.8]), [0, 1], atol=1e-3)


def test_peaks_alone_are_warned_of():
    images, _, _ = sky_images(bands=1)
    made = Normalisation.fit(images, ("g",), NormalisationConfig(stretch="linear"))
    out = made(torch.from_numpy(images))[0].double()
    assert made.kurtosis == pytest.approx(((out - out.mean()) / out.std()).pow(4).mean().item(), rel=1e-3)
    assert "kurtosis" in made.warning
    images[:, :, 9:11, 9:11] -= 500
    made = Normalisation.fit(images, ("g",))
    assert (made.warning, made.stretch) == (None, "asinh")


def test_mistakes_are_one_line():
    images, _, _ = sky_images(count=4)
    one_band_missing = images.copy()
    one_band_missing[:, 1] = np.nan
    wrong = ({"softening": 0}, {"stretch": "log"}, {"scale": "max"}, {"max_invalid": 2})
    fits = [(images, ("g",)), (images[:0], BANDS[:3]), (np.full_like(images, np.nan), BANDS[:3])]
    fits += [(images, BANDS[:3], NormalisationConfig(**options)) for options in wrong]
    for arguments in (*fits, (one_band_missing, BANDS[:3])):
        with pytest.raises(UserError) as caught:
            Normalisation.fit(*arguments)
    assert "'r'" in str(caught.value)
    with pytest.raises(UserError, match="bands g"):
        Normalisation(("g",), (0.0,), (1.0,))(torch.zeros(2, 3, 4, 4))


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 1000), st.floats(-1e3, 1e3))
def test_units_of_the_images_do_not_matter(factor, offset):
    images, _, _ = sky_images(count=6, bands=2, side=8)
    one = Normalisation.fit(images, ("g", "r"))(torch.from_numpy(images))[0]
    other = (images.astype(np.float64) * factor + offset * factor).astype(np.float64)
    two = Normalisation.fit(other, ("g", "r"))(torch.from_numpy(other))[0]
    np.testing.assert_allclose(one, two, atol=5e-3)
