"""Noise of an exposure; images are in nanomaggies, 1e-9 of the flux of AB magnitude 0."""

from __future__ import annotations

import numpy as np

from zwicky.simulate.instruments import Band, Instrument


def nanomaggies(magnitude: np.ndarray) -> np.ndarray:
    """Return the flux of an AB magnitude: 10^(-0.4 (m - 22.5))."""
    return 10 ** (-0.4 * (np.asarray(magnitude, dtype=np.float64) - 22.5))


def electrons_per_nanomaggy(band: Band) -> float:
    """Return the electrons that all exposures collect from one nanomaggy."""
    return band.total_exposure * 10 ** (0.4 * (band.zero_point - 22.5))


def sky_electrons(band: Band, pixel_scale: float) -> float:
    """Return the electrons of sky per pixel in all exposures."""
    return band.total_exposure * 10 ** (0.4 * (band.zero_point - band.sky_brightness)) * pixel_scale**2


def sky_noise(instrument: Instrument) -> np.ndarray:
    """Return the standard deviation of an empty pixel per band, nanomaggies: √(sky + read noise²) / gain."""

    def sigma(band: Band) -> float:
        electrons2 = sky_electrons(band, instrument.pixel_scale) + band.total_read_noise**2
        return electrons2**0.5 / electrons_per_nanomaggy(band)

    return np.array([sigma(band) for band in instrument.bands.values()])


def variance(images: np.ndarray, instrument: Instrument) -> np.ndarray:
    """Return the variance per pixel, nanomaggies², of noiseless images [n, bands, H, W]: sky, read noise, photons."""
    gain = np.array([electrons_per_nanomaggy(band) for band in instrument.bands.values()], dtype=np.float32)
    sky = sky_noise(instrument).astype(np.float32)[:, None, None]
    return sky**2 + np.maximum(images, 0) / gain[:, None, None]


def signal_to_noise(light: np.ndarray, images: np.ndarray, instrument: Instrument) -> np.ndarray:
    """Return the signal-to-noise [n] of a layer `light` in `images` for a matched filter, all bands together.

    S/N² = Σ light² / variance over pixels and bands; both arrays are noiseless, [n, bands, H, W].
    """
    return np.sqrt((light**2 / variance(images, instrument)).sum((1, 2, 3), dtype=np.float64))


def add_noise(images: np.ndarray, instrument: Instrument, rng: np.random.Generator) -> np.ndarray:
    """Return noisy, sky-subtracted images [n, bands, H, W] float32 from noiseless ones, in nanomaggies.

    Photon counts are Gaussian with Poisson variance: with thousands of sky electrons per pixel the two are the same.
    """
    return images + np.sqrt(variance(images, instrument)) * rng.standard_normal(images.shape, dtype=np.float32)


def add_deeplense_noise(
    images: np.ndarray, instrument: Instrument, exposure: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return images, in counts per second, with the noise of DeepLense's Model I.

    Shot noise √(|counts| / exposure), `exposure` [n] in s, is added twice, as published, and constant sky noise once.
    """
    shot = np.sqrt(2 * np.abs(images) / exposure.astype(np.float32)[:, None, None, None])
    sky = sky_noise(instrument).astype(np.float32)[:, None, None]
    return images + np.hypot(shot, sky) * rng.standard_normal(images.shape, dtype=np.float32)
