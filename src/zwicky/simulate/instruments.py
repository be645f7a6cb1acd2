"""Instruments, their point spread functions and noise; images are in nanomaggies, 1e-9 of the flux of AB magnitude 0.

Shipped instruments are in `instruments.yaml`: our own copy, since other packages change theirs. Point spread functions
are transfer functions, applied in Fourier space on the fine grid. A Moffat profile I ∝ (1 + r²/α²)^(-β)
(arXiv:astro-ph/0109067) of β = 3.5 has the elementary transform (1 + s + s²/3) e^(-s), s = 2π α k, so that each image
may have its own width at no cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import log, pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zwicky.data.readers import Unreadable, read_image
from zwicky.errors import UserError
from zwicky.simulate.priors import require

BETA = 3.5
_FWHM_OVER_ALPHA = 2 * (2 ** (1 / BETA) - 1) ** 0.5
_FWHM_OVER_SIGMA = 2 * (2 * log(2)) ** 0.5


@dataclass(frozen=True)
class Band:
    """One filter of a survey, in which `num_exposures` exposures are added up."""

    fwhm: float  # median full width at half maximum of the point spread function, arcsec
    zero_point: float  # AB magnitude of one electron per second
    sky_brightness: float  # AB magnitude per square arcsec
    exposure_time: float  # of one exposure, s
    read_noise: float  # of one exposure, electrons per pixel
    num_exposures: int = 1
    psf: str = "moffat"  # or "gaussian", or the path of an image of a star sampled at `pixel_scale / supersampling`

    def __post_init__(self) -> None:
        require(min(self.fwhm, self.exposure_time, self.num_exposures) > 0, "fwhm and exposures must be above 0")
        require(self.read_noise >= 0, "read_noise must be 0 or more")

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

    @property
    def stars(self) -> list[str]:
        """Files of stars that are the point spread function of a band."""
        return [band.psf for band in self.bands.values() if band.psf not in PROFILES]


def _frequencies(size: int, scale: float, device: torch.device) -> Tensor:
    """Return |k| [size, size//2+1], cycles per arcsec."""
    across, along = torch.fft.fftfreq(size, scale, device=device), torch.fft.rfftfreq(size, scale, device=device)
    return torch.hypot(across[:, None], along[None, :])


def moffat(fwhm: Tensor, size: int, scale: float) -> Tensor:
    """Return the transfer function [..., size, size//2+1] of `fwhm` [...] on a grid of `scale`, both arcsec."""
    s = 2 * pi * (fwhm / _FWHM_OVER_ALPHA)[..., None, None] * _frequencies(size, scale, fwhm.device)
    return (1 + s + s**2 / 3) * torch.exp(-s)


def gaussian(fwhm: Tensor, size: int, scale: float) -> Tensor:
    """Return exp(-2 (π σ k)²), with shapes and units as in `moffat`."""
    sigma = (fwhm / _FWHM_OVER_SIGMA)[..., None, None]
    return torch.exp(-2 * (pi * sigma * _frequencies(size, scale, fwhm.device)) ** 2)


PROFILES = {"moffat": moffat, "gaussian": gaussian}


@lru_cache(maxsize=16)
def read_star(path: str) -> np.ndarray:
    """Return the image of a star [k, k] float64, k odd; UserError unless it is square and finite, of one band."""
    if not Path(path).is_file():
        raise UserError(f"unknown point spread function {path!r}: choose one of {', '.join(PROFILES)}, or give a file")
    try:
        pixels = read_image(Path(path)).image
    except Unreadable as error:
        raise UserError(f"{path}: {error}; give an image of a star, or one of {', '.join(PROFILES)}") from error
    bands, height, width = pixels.shape
    if bands > 1 or height != width or width % 2 == 0:
        raise UserError(f"{path}: the image of a star must have one band, be square and an odd number of pixels wide")
    kernel = pixels[0].astype(np.float64)
    if not np.isfinite(kernel).all() or not kernel.sum() > 0:
        raise UserError(f"{path}: the image of a star must be finite, with a sum above 0")
    return kernel


def kernel_transfer(kernel: np.ndarray, size: int) -> Tensor:
    """Return the transfer function [size, size//2+1] of a centred kernel [k, k], k odd, of sum 1."""
    k = len(kernel)
    padded = torch.zeros(size, size)
    padded[:k, :k] = torch.from_numpy(kernel / kernel.sum())
    return torch.fft.rfft2(torch.roll(padded, (-(k // 2), -(k // 2)), (0, 1)))


def transfer(psf: str, fwhm: Tensor, size: int, scale: float) -> Tensor:
    """Return the transfer function [n or 1, size, size//2+1] of a profile of width `fwhm` [n], or of a star's image."""
    if psf in PROFILES:
        return PROFILES[psf](fwhm, size, scale)
    return kernel_transfer(read_star(psf), size).to(fwhm.device)[None]


def nanomaggies(magnitude: np.ndarray) -> np.ndarray:
    """Return the flux of an AB magnitude: 10^(-0.4 (m - 22.5))."""
    return 10 ** (-0.4 * (np.asarray(magnitude, dtype=np.float64) - 22.5))


def sky_noise(instrument: Instrument) -> np.ndarray:
    """Return the standard deviation of an empty pixel per band, nanomaggies: √(sky + read noise²) / gain."""
    area, bands = instrument.pixel_scale**2, instrument.bands.values()
    sky_and_read = [(b.electrons(b.sky_brightness) * area, b.read_noise * b.num_exposures**0.5) for b in bands]
    return np.array([(sky + r**2) ** 0.5 / b.electrons(22.5) for (sky, r), b in zip(sky_and_read, bands, strict=True)])


def variance(images: np.ndarray, instrument: Instrument, exposure: np.ndarray | None = None) -> np.ndarray:
    """Return the variance per pixel of noiseless images [n, bands, H, W]: sky, read noise, photons; nanomaggies².

    With `exposure` [n], s, images are in counts per second and the noise is that of DeepLense's Model I: shot noise
    √(|counts| / exposure) is added twice, as published, and constant sky noise once.
    """
    sky = sky_noise(instrument).astype(np.float32)[:, None, None]
    if exposure is not None:
        return sky**2 + 2 * np.abs(images) / exposure.astype(np.float32)[:, None, None, None]
    gain = np.array([band.electrons(22.5) for band in instrument.bands.values()], dtype=np.float32)
    return sky**2 + np.maximum(images, 0) / gain[:, None, None]


def signal_to_noise(
    light: np.ndarray, images: np.ndarray, instrument: Instrument, exposure: np.ndarray | None = None
) -> np.ndarray:
    """Return the signal-to-noise [n] of a layer `light` in `images` for a matched filter, all bands together.

    S/N² = Σ light² / variance over pixels and bands; both arrays are noiseless, [n, bands, H, W]. See `variance`.
    """
    return np.sqrt((light**2 / variance(images, instrument, exposure)).sum((1, 2, 3), dtype=np.float64))


def add_noise(
    images: np.ndarray, instrument: Instrument, rng: np.random.Generator, exposure: np.ndarray | None = None
) -> np.ndarray:
    """Return noisy, sky-subtracted images [n, bands, H, W] float32 from noiseless ones, in nanomaggies.

    Photon counts are Gaussian with Poisson variance: with thousands of sky electrons per pixel the two are the same.
    See `variance`.
    """
    sigma = np.sqrt(variance(images, instrument, exposure))
    return images + sigma * rng.standard_normal(images.shape, dtype=np.float32)
