"""Noise and colour composites against photon counting and literal formulas."""

import math

import numpy as np
import pytest
from scipy import ndimage

from zwicky.simulate.instruments import (
    add_noise,
    nanomaggies,
    signal_to_noise,
    sky_noise,
)
from zwicky.simulate.population import Composite, load_instruments, read_population
from zwicky.simulate.render import make_composite, resample
from zwicky.simulate.simulation import simulate_population

CFHTLS = load_instruments()["cfhtls-wide"]
COMPOSITE = Composite({"R": "i", "G": "r", "B": "g"}, (0.4, 0.6, 1.7), Q=1.0, alpha=0.09)


def test_magnitude_zero_point():
    assert nanomaggies(np.array([22.5, 20.0])) == pytest.approx([1.0, 10.0])
    band = CFHTLS.bands["g"]
    one_electron_per_second = float(nanomaggies(np.array(band.zero_point)))
    assert one_electron_per_second * band.electrons(22.5) == pytest.approx(band.exposure_time * band.num_exposures)


def test_noise_has_the_mean_and_variance_of_photon_counting():
    """Against counting itself: Poisson electrons of sky and source plus Gaussian read noise, sky subtracted."""
    levels = np.array([0.0, 0.01, 0.2], dtype=np.float32)
    clean = np.broadcast_to(levels[:, None, None, None], (3, 3, 300, 300))
    noisy = add_noise(clean, CFHTLS, np.random.default_rng(1))
    assert noisy.dtype == np.float32
    rng = np.random.default_rng(2)
    for index, band in enumerate(CFHTLS.bands.values()):
        gain, sky = band.electrons(22.5), band.electrons(band.sky_brightness) * CFHTLS.pixel_scale**2
        assert noisy[0, index].std() == pytest.approx(sky_noise(CFHTLS)[index], rel=0.02)
        for row, level in enumerate(levels):
            read_noise = rng.normal(0, band.read_noise * band.num_exposures**0.5, (300, 300))
            counted = rng.poisson(sky + level * gain, (300, 300)) + read_noise - sky
            assert noisy[row, index].std() == pytest.approx((counted / gain).std(), rel=0.02)
            assert noisy[row, index].mean() == pytest.approx(level, abs=5 * float(noisy[row, index].std()) / 300)


def test_signal_to_noise_is_the_scatter_of_a_matched_filter():
    rng = np.random.default_rng(3)
    axis = np.arange(24) - 11.5
    bump = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / 3.0**2).astype(np.float32)
    light = np.broadcast_to(0.01 * bump, (1, 3, 24, 24))
    clean = light + 0.2 * bump
    noise = add_noise(np.repeat(clean, 4000, 0), CFHTLS, rng) - clean
    filters = light / noise.var(0)
    amplitudes = (filters * (light + noise)).sum((1, 2, 3)) / (filters * light).sum()  # the best estimate of 1
    assert amplitudes.mean() == pytest.approx(1.0, abs=0.05)
    assert 1 / amplitudes.std() == pytest.approx(signal_to_noise(light, clean, CFHTLS)[0], rel=0.06)


def test_noise_of_deeplense_model_1():
    """Shot noise twice over and a sky of 0.01 counts per second."""
    clean = np.full((2, 1, 400, 400), 0.2, np.float32)
    instrument = read_population("deeplense-legacy-1").instrument
    noisy = add_noise(clean, instrument, np.random.default_rng(1), np.array([1000.0, 3000.0]))
    assert noisy.mean((1, 2, 3)) == pytest.approx([0.2, 0.2], abs=3e-4)
    expected = np.sqrt([2 * 0.2 / 1000 + 1e-4, 2 * 0.2 / 3000 + 1e-4])
    assert noisy.std((1, 2, 3)) == pytest.approx(expected, rel=0.01)


def test_each_pixel_of_a_composite_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    images = (0.002 * rng.standard_normal((2, 3, 9, 9)) + 0.02 * rng.random((2, 3, 9, 9)) ** 4).astype(np.float32)
    images[0, :, 0, 0] = 0.0
    images[0, :, 0, 1] = 5.0
    pictures = make_composite(images, ("g", "r", "i"), COMPOSITE, rng)
    assert pictures.dtype == np.uint8
    assert pictures[0, :, 0, 0].tolist() == [0, 0, 0]
    assert pictures[0, :, 0, 1].tolist() == [255, 255, 255]
    for n, y, x in np.ndindex(2, 9, 9):
        g, r, i = (float(images[n, band, y, x]) * 1000 for band in range(3))  # magnitude 30 is a thousandth
        scaled = [0.4 / 0.9 * i, 0.6 / 0.9 * r, 1.7 / 0.9 * g]
        total = sum(scaled)
        stretch = math.asinh(0.09 * total) / total if total else 0.0
        for channel, value in enumerate(scaled):
            expected = min(max(255 * value * stretch, 0), 255)
            tolerance = abs(expected - round(expected)) < 1e-3
            assert abs(int(pictures[n, channel, y, x]) - math.floor(expected)) <= tolerance


@pytest.mark.parametrize("width", [1.0, 1.15])
def test_resampling_is_interpolation_by_a_triangle(width):
    pictures = np.random.default_rng(1).integers(0, 256, (4, 3, 12, 12), dtype=np.uint8)
    resampled = resample(pictures, width, np.random.default_rng(2))
    rng = np.random.default_rng(2)
    down, right = rng.uniform(-0.5, 0.5, 4), rng.uniform(-0.5, 0.5, 4)
    for n, channel in np.ndindex(4, 3):
        expected = pictures[n, channel].astype(float)
        if width == 1.0:
            expected = ndimage.shift(expected, (-down[n], -right[n]), order=1, mode="nearest")
        else:
            for axis, shift in ((0, down[n]), (1, right[n])):
                weights = np.array([max(width - abs(step - shift), 0) for step in range(-2, 3)])
                expected = ndimage.correlate1d(expected, weights / weights.sum(), axis, mode="nearest")
        assert np.abs(resampled[n, channel] - expected).max() <= 0.501


def test_composites_are_black_sky_with_the_noise_of_the_survey():
    """Half of the sky of a native picture is below 0 and clipped; its noise in R, G, B was measured as 15, 16, 23."""
    cutouts, _ = simulate_population("lens-finding-cfht", 64)
    assert (cutouts.images.dtype, cutouts.bands) == (np.uint8, ("R", "G", "B"))
    assert cutouts.column("psf_fwhm")[0][0] < cutouts.column("psf_fwhm")[0][2]  # i is sharper than g
    sigma = np.array([0.54e-3, 1.05e-3, 1.47e-3], np.float32)[None, :, None, None]
    sky = sigma * np.random.default_rng(0).standard_normal((400, 3, 16, 16), dtype=np.float32)
    pictures = make_composite(sky, ("g", "r", "i"), COMPOSITE, np.random.default_rng(0))
    for channel, deviation in enumerate((15, 16, 23)):
        assert np.percentile(pictures[:, channel], 84.1) == pytest.approx(deviation, abs=1.6)
        assert (pictures[:, channel] == 0).mean() == pytest.approx(0.52, abs=0.02)
