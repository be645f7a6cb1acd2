"""Photons to noisy images, in physical units: nanomaggies, flux over 1e-9 of that of an AB magnitude of 0."""

from __future__ import annotations

import numpy as np

from zwicky.simulate.instruments import Band, Instrument


def nanomaggies(magnitude: np.ndarray) -> np.ndarray:
    """Flux of an AB magnitude: 10^(-0.4 (m - 22.5))."""
    return 10 ** (-0.4 * (np.asarray(magnitude, dtype=np.float64) - 22.5))


def electrons_per_nanomaggy(band: Band) -> float:
    """Electrons collected in the whole exposure from one nanomaggy."""
    return band.exposure * 10 ** (0.4 * (band.zero_point - 22.5))


def sky_electrons(band: Band, pixel_scale: float) -> float:
    """Electrons of sky in one pixel in the whole exposure."""
    return band.exposure * 10 ** (0.4 * (band.zero_point - band.sky)) * pixel_scale**2


def sky_noise(instrument: Instrument) -> np.ndarray:
    """[bands] standard deviation of an empty pixel, nanomaggies: √(sky + read noise²) / electrons per nanomaggy."""
    return np.array(
        [
            (sky_electrons(band, instrument.pixel_scale) + band.read_noise**2) ** 0.5 / electrons_per_nanomaggy(band)
            for band in instrument.bands
        ]
    )


def variance(images: np.ndarray, instrument: Instrument) -> np.ndarray:
    """Variance of each pixel, nanomaggies², of noiseless images [n, bands, H, W]: sky, read noise, the light itself."""
    gain = np.array([electrons_per_nanomaggy(band) for band in instrument.bands], dtype=np.float32)[:, None, None]
    sky = sky_noise(instrument).astype(np.float32)[:, None, None]
    return sky**2 + np.maximum(images, 0) / gain


def signal_to_noise(light: np.ndarray, images: np.ndarray, instrument: Instrument) -> np.ndarray:
    """[n] signal-to-noise of a layer `light` within `images`, all bands together, as a matched filter sees it.

    S/N² = Σ light² / variance over pixels and bands; both arrays are noiseless, [n, bands, H, W].
    """
    return np.sqrt((light**2 / variance(images, instrument)).sum((1, 2, 3), dtype=np.float64))


def add_noise(images: np.ndarray, instrument: Instrument, rng: np.random.Generator) -> np.ndarray:
    """Noisy, sky-subtracted images [n, bands, H, W] float32 from noiseless ones in nanomaggies.

    Photons are counted as Gaussian numbers of Poisson variance: with thousands of sky electrons in a pixel the two
    cannot be told apart, and a last-bit change in one pixel then stays in that pixel.
    """
    return images + np.sqrt(variance(images, instrument)) * rng.standard_normal(images.shape, dtype=np.float32)


def noise_of_deeplense_1(
    images: np.ndarray, instrument: Instrument, exposure: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Noise as DeepLense's Model I has it, on images in counts a second: photons of `exposure` [n] seconds, twice over.

    Each of the two adds √(|counts| / exposure) × a normal number; the sky a normal number of constant width.
    """
    shot = np.sqrt(2 * np.abs(images) / exposure.astype(np.float32)[:, None, None, None])
    sky = sky_noise(instrument).astype(np.float32)[:, None, None]
    return images + np.hypot(shot, sky) * rng.standard_normal(images.shape, dtype=np.float32)
