"""Point spread functions as transfer functions, applied exactly, in Fourier space, on the fine grid.

Gaussian: exp(-2 (π σ k)²). Moffat (1969), I ∝ (1 + r²/α²)^(-β): for β = 3.5 the transform is elementary,
(1 + s + s²/3) e^(-s) with s = 2π α k. So each image may have its own width at no cost. A given image is transformed.
"""

from __future__ import annotations

from math import log, pi

import numpy as np
import torch
from torch import Tensor

BETA = 3.5
_FWHM_OVER_ALPHA = 2 * (2 ** (1 / BETA) - 1) ** 0.5
_FWHM_OVER_SIGMA = 2 * (2 * log(2)) ** 0.5


def _frequencies(size: int, scale: float) -> Tensor:
    """|k| [size, size//2+1], cycles per arcsec."""
    return torch.hypot(torch.fft.fftfreq(size, scale)[:, None], torch.fft.rfftfreq(size, scale)[None, :])


def moffat(fwhm: Tensor, size: int, scale: float) -> Tensor:
    """Transfer function [..., size, size//2+1] for `fwhm` [...] on a grid of `scale`, both arcsec; 1 at k = 0."""
    s = 2 * pi * (fwhm / _FWHM_OVER_ALPHA)[..., None, None] * _frequencies(size, scale)
    return (1 + s + s**2 / 3) * torch.exp(-s)


def gaussian(fwhm: Tensor, size: int, scale: float) -> Tensor:
    """As `moffat`."""
    return torch.exp(-2 * (pi * (fwhm / _FWHM_OVER_SIGMA)[..., None, None] * _frequencies(size, scale)) ** 2)


PROFILES = {"moffat": moffat, "gaussian": gaussian}


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
