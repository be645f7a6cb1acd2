"""Point spread functions as transfer functions, applied exactly, in Fourier space, on the fine grid.

Gaussian: exp(-2 (π σ k)²). Moffat (1969), I ∝ (1 + r²/α²)^(-β): for β = 3.5 the transform is elementary,
(1 + s + s²/3) e^(-s) with s = 2π α k. So each image may have its own width at no cost. A given image of a star is
transformed.
"""

from __future__ import annotations

import hashlib
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


def _frequencies(size: int, scale: float, where: torch.device) -> Tensor:
    """|k| [size, size//2+1], cycles per arcsec."""
    across, along = torch.fft.fftfreq(size, scale, device=where), torch.fft.rfftfreq(size, scale, device=where)
    return torch.hypot(across[:, None], along[None, :])


def moffat(fwhm: Tensor, size: int, scale: float) -> Tensor:
    """Transfer function [..., size, size//2+1] for `fwhm` [...] on a grid of `scale`, both arcsec; 1 at k = 0."""
    s = 2 * pi * (fwhm / _FWHM_OVER_ALPHA)[..., None, None] * _frequencies(size, scale, fwhm.device)
    return (1 + s + s**2 / 3) * torch.exp(-s)


def gaussian(fwhm: Tensor, size: int, scale: float) -> Tensor:
    """As `moffat`."""
    sigma = (fwhm / _FWHM_OVER_SIGMA)[..., None, None]
    return torch.exp(-2 * (pi * sigma * _frequencies(size, scale, fwhm.device)) ** 2)


PROFILES = {"moffat": moffat, "gaussian": gaussian}


@lru_cache(maxsize=16)
def read_star(path: str) -> np.ndarray:
    """[k, k] float64 image of a star in a file, k odd; UserError unless it is that, finite and of a sum above 0."""
    if not Path(path).is_file():
        raise UserError(f"there is no point spread function {path!r}: neither a file nor one of {', '.join(PROFILES)}")
    try:
        pixels = read_image(Path(path)).pixels
    except Unreadable as error:
        raise UserError(f"{path}: {error}; give an image of a star, or one of {', '.join(PROFILES)}") from error
    bands, height, width = pixels.shape
    if bands > 1 or height != width or width % 2 == 0:
        raise UserError(f"{path}: the image of a star must be of one band, square and an odd number of cells wide")
    kernel = pixels[0].astype(np.float64)
    if not np.isfinite(kernel).all() or not kernel.sum() > 0:
        raise UserError(f"{path}: the image of a star must be finite, with a sum above 0")
    return kernel


def transfer(psf: str, fwhm: Tensor, size: int, scale: float) -> Tensor:
    """Transfer function [n or 1, size, size//2+1] of a band: a name in `PROFILES`, of width `fwhm` [n], or a file."""
    if psf in PROFILES:
        return PROFILES[psf](fwhm, size, scale)
    return given_image(read_star(psf), size).to(fwhm.device)[None]


def digest(path: str) -> str:
    """A hash of the image of a star, by which a simulation that goes on knows that it is the same."""
    return hashlib.blake2b(read_star(path).tobytes(), digest_size=16).hexdigest()


def given_image(kernel: np.ndarray, size: int) -> Tensor:
    """Transfer function [size, size//2+1] of an image [k, k] of a star on the fine grid, k odd and at most `size`.

    The star is centred on the middle cell. The image is normalised to a sum of 1.
    """
    k = len(kernel)
    if kernel.shape != (k, k) or k % 2 == 0 or k > size:
        raise ValueError(f"the image of a star must be square, odd and at most {size} wide, not {kernel.shape}")
    padded = torch.zeros(size, size)
    padded[:k, :k] = torch.from_numpy(kernel / kernel.sum())
    return torch.fft.rfft2(torch.roll(padded, (-(k // 2), -(k // 2)), (0, 1)))
