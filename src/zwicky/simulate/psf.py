"""Point spread functions as transfer functions, applied in Fourier space on the fine grid.

A Moffat profile I ∝ (1 + r²/α²)^(-β) (arXiv:astro-ph/0109067) of β = 3.5 has the elementary transform
(1 + s + s²/3) e^(-s), s = 2π α k, so that each image may have its own width at no cost.
"""

from __future__ import annotations

from functools import lru_cache
from math import log, pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zwicky.data.readers import Unreadable, read_image
from zwicky.errors import UserError

BETA = 3.5
_FWHM_OVER_ALPHA = 2 * (2 ** (1 / BETA) - 1) ** 0.5
_FWHM_OVER_SIGMA = 2 * (2 * log(2)) ** 0.5


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
