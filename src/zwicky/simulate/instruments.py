"""Instruments and the noise of their exposures; images are in nanomaggies, 1e-9 of the flux of AB magnitude 0.

`instruments.yaml` holds the shipped ones: our own copy, since other packages change theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from zwicky.simulate.priors import require


@dataclass(frozen=True)
class Band:
    """One filter of a survey, in which `num_exposures` exposures are added up.

    Attributes:
        fwhm: median full width at half maximum of the point spread function, arcsec.
        zero_point: AB magnitude of one electron per second.
        sky_brightness: AB magnitude per square arcsec.
        exposure_time: of one exposure, s.
        read_noise: of one exposure, electrons per pixel.
        psf: "moffat" (β = 3.5), "gaussian", or the path of an image of a star sampled at `pixel_scale / supersampling`.
    """

    fwhm: float
    zero_point: float
    sky_brightness: float
    exposure_time: float
    read_noise: float
    num_exposures: int = 1
    psf: str = "moffat"

    def __post_init__(self) -> None:
        require(min(self.fwhm, self.exposure_time, self.num_exposures) > 0, "fwhm and exposures must be above 0")
        require(self.read_noise >= 0, "read_noise must be 0 or more")

    @property
    def total_read_noise(self) -> float:
        """Electrons per pixel, of all exposures together."""
        return self.read_noise * self.num_exposures**0.5

    def electrons(self, magnitude: float) -> float:
        """Return the electrons that all exposures collect from a source of this AB magnitude."""
        return self.exposure_time * self.num_exposures * 10 ** (0.4 * (self.zero_point - magnitude))


@dataclass(frozen=True)
class Instrument:
    """A camera as used in a survey: pixel scale (arcsec per pixel) and bands by name."""

    name: str
    pixel_scale: float
    bands: Mapping[str, Band]

    def __post_init__(self) -> None:
        require(self.pixel_scale > 0 and len(self.bands) > 0, "needs a pixel_scale above 0 and a band")


def nanomaggies(magnitude: np.ndarray) -> np.ndarray:
    """Return the flux of an AB magnitude: 10^(-0.4 (m - 22.5))."""
    return 10 ** (-0.4 * (np.asarray(magnitude, dtype=np.float64) - 22.5))


def sky_noise(instrument: Instrument) -> np.ndarray:
    """Return the standard deviation of an empty pixel per band, nanomaggies: √(sky + read noise²) / gain."""
    area, bands = instrument.pixel_scale**2, instrument.bands.values()
    variances = [band.electrons(band.sky_brightness) * area + band.total_read_noise**2 for band in bands]
    return np.array([one**0.5 / band.electrons(22.5) for one, band in zip(variances, bands, strict=True)])


def variance(images: np.ndarray, instrument: Instrument) -> np.ndarray:
    """Return the variance per pixel, nanomaggies², of noiseless images [n, bands, H, W]: sky, read noise, photons."""
    gain = np.array([band.electrons(22.5) for band in instrument.bands.values()], dtype=np.float32)
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
