"""Augmentation of the flux: brightness, contrast, a wider point spread function, dust, noise, a dropped band.

Every parameter is drawn per crop and shared by its bands (dust alone differs by band, by a known law). Any number of
bands works, and nothing is clamped.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from zwicky.augment.config import ViewsConfig
from zwicky.errors import UserError

N_UNIFORMS = 9  # uniform numbers per crop, in the order of `Photometry.draw`

# A_b / E(B-V) for R_V = 3.1, Table 6 of Schlafly & Finkbeiner (arXiv:1012.4804): SDSS ugriz, and LSST y.
EXTINCTION = {"u": 4.239, "g": 3.303, "r": 2.285, "i": 1.698, "z": 1.263, "y": 1.088}


@dataclass(frozen=True)
class Photometry:
    """Photometric parameters, each a tensor with one float32 entry per crop."""

    brightness: Tensor  # factor
    contrast: Tensor  # factor
    blur_sigma: Tensor  # widening in source pixels, 0 for none
    noise_sigma: Tensor  # standard deviation in units of the normalised image, 0 for none
    reddening: Tensor  # E(B-V) in magnitudes
    dropped_band: Tensor  # int64 index of the blanked band, -1 for none

    @classmethod
    def draw(cls, u: Tensor, config: ViewsConfig, n_bands: int) -> Self:
        """Map uniform numbers [..., N_UNIFORMS] to the parameters of each crop, [...] each."""
        brightness, contrast, blur, sigma, noise, level, dust, drop, band = u.unbind(-1)
        return cls(
            brightness=1 + config.brightness * (2 * brightness - 1),
            contrast=1 + config.contrast * (2 * contrast - 1),
            blur_sigma=torch.where(blur < config.blur, log_uniform(sigma, config.blur_sigma), 0.0),
            noise_sigma=torch.where(noise < config.noise, log_uniform(level, config.noise_sigma), 0.0),
            reddening=config.reddening * dust,
            dropped_band=torch.where(drop < config.band_dropout, (band * n_bands).long().clamp(max=n_bands - 1), -1),
        )


def log_uniform(u: Tensor, limits: tuple[float, float]) -> Tensor:
    """Map uniform numbers to log-uniform ones within limits."""
    low, high = math.log(limits[0]), math.log(limits[1])
    return torch.exp(low + (high - low) * u)


def brightness_contrast(crops: Tensor, brightness: Tensor, contrast: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return b·(m + c·(x - m)), with m the mean of each band over its valid pixels; this preserves colours.

    Crops x are [N, C, h, w] proportional to flux, 0 where invalid; factors b and c are [N].
    """
    if valid is None:
        mean = crops.mean((2, 3), keepdim=True)
    else:
        mean = crops.sum((2, 3), keepdim=True) / valid.sum((2, 3), keepdim=True).clamp(min=1)
    gain = (brightness * contrast)[:, None, None, None]
    return torch.addcmul(mean * (brightness * (1 - contrast))[:, None, None, None], crops, gain)


def extinction(bands: tuple[str, ...]) -> Tensor:
    """Return k_b = A_b / E(B-V), [bands]; raises UserError for a band of unknown extinction."""
    for band in bands:
        if band not in EXTINCTION:
            raise UserError(f"views.reddening needs bands among {', '.join(EXTINCTION)}, not {band!r}; set it to 0")
    return torch.tensor([EXTINCTION[band] for band in bands])


def redden_(crops: Tensor, coefficients: Tensor, reddening: Tensor) -> Tensor:
    """Multiply band b of crops [N, C, h, w] by 10^(-0.4·k_b·E(B-V)), in place; k [C], E(B-V) [N]."""
    return crops.mul_(torch.pow(10.0, -0.4 * reddening[:, None] * coefficients)[:, :, None, None])


def widen_psf(crops: Tensor, sigma: Tensor, valid: Tensor | None = None) -> Tensor:
    """Convolve each crop with a round Gaussian of its own width.

    A separable convolution is a product with one h × h and one w × w matrix, which batched matrix products do faster
    than a grouped convolution, untruncated. At the edge of the crop and beside invalid pixels the weights of the
    valid pixels are normalised to a sum of 1, so that no sky is invented. Crops are [N, C, h, w], sigma is [N] > 0 in
    pixels of the crop.
    """
    rows, columns = _gaussian(sigma, crops.shape[2]), _gaussian(sigma, crops.shape[3])

    def smooth(values: Tensor) -> Tensor:
        return rows @ values @ columns.transpose(-1, -2)

    if valid is None:
        return smooth(crops)
    weight = smooth(valid.to(crops.dtype))
    return torch.where(valid, smooth(crops * valid) / weight.clamp(min=1e-12), 0)


def _gaussian(sigma: Tensor, size: int) -> Tensor:
    """Return [N, 1, size, size]: row i has the weights of all pixels in smoothed pixel i."""
    distance = torch.arange(1 - size, size, device=sigma.device, dtype=sigma.dtype)
    weight = torch.exp(-0.5 * (distance / sigma[:, None]) ** 2)
    weight = torch.where(weight > 1e-12, weight, 0)  # denormal numbers would slow the products down
    matrix = weight.unfold(1, size, 1).flip(1)
    return (matrix / matrix.sum(-1, keepdim=True))[:, None]
