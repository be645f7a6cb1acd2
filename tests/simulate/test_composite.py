"""The 8-bit colour picture against literal versions."""

import math

import numpy as np
import pytest
from scipy import ndimage

from zwicky.simulate.api import simulate
from zwicky.simulate.population import Composite
from zwicky.simulate.render import make_composite, resample

CHOSEN = Composite({"R": "i", "G": "r", "B": "g"}, (0.4, 0.6, 1.7), Q=1.0, alpha=0.09)


def test_each_pixel_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    images = (0.002 * rng.standard_normal((2, 3, 9, 9)) + 0.02 * rng.random((2, 3, 9, 9)) ** 4).astype(np.float32)
    images[0, :, 0, 0] = 0.0
    images[0, :, 0, 1] = 5.0
    made = make_composite(images, ("g", "r", "i"), CHOSEN, rng)
    assert made.dtype == np.uint8
    assert made[0, :, 0, 0].tolist() == [0, 0, 0]
    assert made[0, :, 0, 1].tolist() == [255, 255, 255]
    for n in range(2):
        for y in range(9):
            for x in range(9):
                g, r, i = (float(images[n, band, y, x]) * 1000 for band in range(3))  # magnitude 30 is a thousandth
                scaled = [0.4 / 0.9 * i, 0.6 / 0.9 * r, 1.7 / 0.9 * g]
                total = sum(scaled)
                stretch = math.asinh(0.09 * total) / total if total else 0.0
                for channel, value in enumerate(scaled):
                    wanted = min(max(255 * value * stretch, 0), 255)
                    assert abs(int(made[n, channel, y, x]) - math.floor(wanted)) <= (abs(wanted - round(wanted)) < 1e-3)


@pytest.mark.parametrize("width", [1.0, 1.15])
def test_resampling_is_interpolation_by_a_triangle(width):
    pictures = np.random.default_rng(1).integers(0, 256, (4, 3, 12, 12), dtype=np.uint8)
    made = resample(pictures, width, np.random.default_rng(2))
    rng = np.random.default_rng(2)
    down, right = rng.uniform(-0.5, 0.5, 4), rng.uniform(-0.5, 0.5, 4)
    for n in range(4):
        for channel in range(3):
            if width == 1.0:
                picture = pictures[n, channel].astype(float)
                wanted = ndimage.shift(picture, (-down[n], -right[n]), order=1, mode="nearest")
            else:
                wanted = pictures[n, channel].astype(float)
                for axis, shift in ((0, down[n]), (1, right[n])):
                    weights = np.array([max(width - abs(step - shift), 0) for step in range(-2, 3)])
                    wanted = ndimage.correlate1d(wanted, weights / weights.sum(), axis, mode="nearest")
            assert np.abs(made[n, channel] - wanted).max() <= 0.501


def test_simulated_pictures_are_black_sky_with_the_noise_of_the_survey():
    """Half of the sky of a native picture is below 0 and clipped; its noise in R, G, B was measured as 15, 16, 23."""
    cutouts, _ = simulate("lens-finding-cfht", 64)
    assert cutouts.images.dtype == np.uint8
    assert cutouts.bands == ("R", "G", "B")
    assert cutouts.column("noise").tolist() == [None] * 64
    assert cutouts.column("psf_fwhm")[0][0] < cutouts.column("psf_fwhm")[0][2]  # i is sharper than g
    sky = np.zeros((400, 3, 16, 16), np.float32)
    noise = np.array([0.54e-3, 1.05e-3, 1.47e-3], np.float32)[None, :, None, None]
    drawn = make_composite(
        sky + noise * np.random.default_rng(0).standard_normal(sky.shape, dtype=np.float32),
        ("g", "r", "i"),
        CHOSEN,
        np.random.default_rng(0),
    )
    for channel, deviation in enumerate((15, 16, 23)):
        assert np.percentile(drawn[:, channel], 84.1) == pytest.approx(deviation, abs=1.6)
        assert (drawn[:, channel] == 0).mean() == pytest.approx(0.52, abs=0.02)
