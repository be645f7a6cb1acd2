"""The point spread function: a Moffat profile with β = 3.5, applied exactly, in Fourier space, on the fine grid.

Moffat (1969): I ∝ (1 + r²/α²)^(-β). For β = 3.5 its Fourier transform is elementary, (1 + s + s²/3) e^(-s) with
s = 2π α k, so each image may have its own width at no cost.
"""

from __future__ import annotations

import torch
from torch import Tensor

BETA = 3.5
_FWHM_OVER_ALPHA = 2 * (2 ** (1 / BETA) - 1) ** 0.5


def moffat_transfer(fwhm: Tensor, size: int, scale: float) -> Tensor:
    """Transfer function [..., size, size//2+1] for `fwhm` [...] on a grid of `scale`, both arcsec; 1 at k = 0."""
    ky = torch.fft.fftfreq(size, scale)
    kx = torch.fft.rfftfreq(size, scale)
    k = torch.hypot(ky[:, None], kx[None, :])
    s = 2 * torch.pi * (fwhm / _FWHM_OVER_ALPHA)[..., None, None] * k
    return (1 + s + s**2 / 3) * torch.exp(-s)
