"""The point spread function and the noise against literal versions."""

import numpy as np
import pytest
import torch
from scipy.signal import fftconvolve

from zwicky.simulate.noise import (
    add_noise,
    electrons_per_nanomaggy,
    nanomaggies,
    signal_to_noise,
    sky_electrons,
    sky_noise,
)
from zwicky.simulate.population_yaml import load_instruments
from zwicky.simulate.psf import BETA, moffat

SIZE, SCALE = 128, 0.1
CFHTLS_WIDE = load_instruments()["cfhtls-wide"]


def convolved(image: torch.Tensor, fwhm: float) -> np.ndarray:
    spectrum = torch.fft.rfft2(image) * moffat(torch.tensor(fwhm), SIZE, SCALE)
    return torch.fft.irfft2(spectrum, s=(SIZE, SIZE)).numpy()


@pytest.mark.parametrize("fwhm", [0.5, 0.7, 1.0])
def test_matches_a_sampled_moffat_kernel(fwhm):
    axis = (np.arange(SIZE) - SIZE // 2) * SCALE
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / BETA) - 1))
    wide = (np.arange(4 * SIZE + 1) - 2 * SIZE) * SCALE  # wings far beyond the frame, for the normalisation
    kernel = (1 + (wide[:, None] ** 2 + wide[None, :] ** 2) / alpha**2) ** -BETA
    kernel /= kernel.sum()
    image = np.exp(-0.5 * ((axis[:, None] - 0.4) ** 2 + (axis[None, :] + 0.7) ** 2) / 0.3**2)
    expected = fftconvolve(image, kernel[SIZE : 3 * SIZE + 1, SIZE : 3 * SIZE + 1], mode="same")
    ours = convolved(torch.from_numpy(image).float(), fwhm)
    assert np.abs(ours - expected).max() < 2e-4 * expected.max()


def test_keeps_flux_and_place():
    image = torch.zeros(SIZE, SIZE)
    image[60, 70] = 5.0
    blurred = convolved(image, 0.7)
    assert blurred.sum() == pytest.approx(5.0, rel=1e-5)
    assert np.unravel_index(blurred.argmax(), blurred.shape) == (60, 70)


def test_the_width_is_the_fwhm_asked_for():
    image = torch.zeros(SIZE, SIZE)
    image[64, 64] = 1.0
    row = convolved(image, 1.0)[64, 64:] / convolved(image, 1.0)[64, 64]
    assert np.interp(-0.5, -row[:20], np.arange(20) * SCALE) == pytest.approx(0.5, abs=0.01)


def test_magnitude_zero_point():
    assert nanomaggies(np.array([22.5, 20.0])) == pytest.approx([1.0, 10.0])
    band = CFHTLS_WIDE.bands["g"]
    one_electron_a_second = float(nanomaggies(np.array(band.zero_point)))
    assert one_electron_a_second * electrons_per_nanomaggy(band) == pytest.approx(band.total_exposure)


def test_noise_has_the_mean_and_variance_of_photon_counting():
    """Against counting itself: Poisson electrons of sky and source plus Gaussian read noise, sky taken off again."""
    levels = np.array([0.0, 0.01, 0.2], dtype=np.float32)
    clean = np.broadcast_to(levels[:, None, None, None], (3, 3, 300, 300))
    noisy = add_noise(clean, CFHTLS_WIDE, np.random.default_rng(1))
    assert noisy.dtype == np.float32
    rng = np.random.default_rng(2)
    for position, band in enumerate(CFHTLS_WIDE.bands.values()):
        gain, sky = electrons_per_nanomaggy(band), sky_electrons(band, CFHTLS_WIDE.pixel_scale)
        assert noisy[0, position].std() == pytest.approx(sky_noise(CFHTLS_WIDE)[position], rel=0.02)
        for row, level in enumerate(levels):
            counted = (
                rng.poisson(sky + level * gain, (300, 300)) + rng.normal(0, band.total_read_noise, (300, 300)) - sky
            )
            assert noisy[row, position].std() == pytest.approx((counted / gain).std(), rel=0.02)
            assert noisy[row, position].mean() == pytest.approx(level, abs=5 * float(noisy[row, position].std()) / 300)


def test_signal_to_noise_is_the_scatter_of_a_matched_filter():
    rng = np.random.default_rng(3)
    axis = np.arange(24) - 11.5
    bump = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / 3.0**2).astype(np.float32)
    light = np.broadcast_to(0.01 * bump, (1, 3, 24, 24))
    clean = light + 0.2 * bump
    noise = add_noise(np.repeat(clean, 4000, 0), CFHTLS_WIDE, rng) - clean
    filters = light / noise.var(0)
    amplitudes = (filters * (light + noise)).sum((1, 2, 3)) / (filters * light).sum()  # the best estimate of 1
    assert amplitudes.mean() == pytest.approx(1.0, abs=0.05)
    assert 1 / amplitudes.std() == pytest.approx(signal_to_noise(light, clean, CFHTLS_WIDE)[0], rel=0.06)
