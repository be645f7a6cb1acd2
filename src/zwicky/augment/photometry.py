"""What happens to the flux of a crop: brightness, contrast, a wider point spread function, dust, noise, a lost band.

Every number is drawn per crop, all bands of a crop share it (dust alone differs by band, by a known law), any number
of bands is fine and nothing is clamped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zwicky.augment.config import ViewsConfig
from zwicky.errors import UserError

DRAWS = 9  # uniform numbers a view takes, in the order of `Photometry.draw`

# A_b / E(B-V) for R_V = 3.1, Schlafly & Finkbeiner (2011): SDSS u g r i z, and y of LSST and Pan-STARRS.
EXTINCTION = {"u": 4.239, "g": 3.303, "r": 2.285, "i": 1.698, "z": 1.263, "y": 1.088}


@dataclass(frozen=True)
class Draw:
    """What N crops get; each [N] float32 unless said otherwise.

    brightness, contrast: factors. sigma: widening in source pixels, 0 for none. noise: standard deviation, 0 for
    none. reddening: E(B-V) in magnitudes. lost: [N] int64 index of the blanked band, -1 for none.
    """

    brightness: Tensor
    contrast: Tensor
    sigma: Tensor
    noise: Tensor
    reddening: Tensor
    lost: Tensor


def draw(u: Tensor, config: ViewsConfig, bands: int) -> Draw:
    """Uniform numbers [..., DRAWS] → what each crop gets, each [...]."""
    brightness, contrast, blur, sigma, noise, level, dust, drop, band = u.unbind(-1)
    return Draw(
        brightness=1 + config.brightness * (2 * brightness - 1),
        contrast=1 + config.contrast * (2 * contrast - 1),
        sigma=torch.where(blur < config.blur, _log_uniform(sigma, config.blur_sigma), 0.0),
        noise=torch.where(noise < config.noise, _log_uniform(level, config.noise_sigma), 0.0),
        reddening=config.reddening * dust,
        lost=torch.where(drop < config.band_dropout, (band * bands).long().clamp(max=bands - 1), -1),
    )


def _log_uniform(u: Tensor, limits: tuple[float, float]) -> Tensor:
    low, high = math.log(limits[0]), math.log(limits[1])
    return torch.exp(low + (high - low) * u)


def brightness_contrast(crops: Tensor, brightness: Tensor, contrast: Tensor, valid: Tensor | None = None) -> Tensor:
    """b·(m + c·(x - m)) for crops [N, C, h, w] proportional to flux, factors [N], m each band's own mean over its valid
    pixels. Band ratios of an image of one colour stay what they were."""
    if valid is None:
        mean = crops.mean((2, 3), keepdim=True)
    else:  # invalid pixels are 0
        mean = crops.sum((2, 3), keepdim=True) / valid.sum((2, 3), keepdim=True).clamp(min=1)
    gain = (brightness * contrast)[:, None, None, None]
    return torch.addcmul(mean * (brightness * (1 - contrast))[:, None, None, None], crops, gain)


def extinction(bands: tuple[str, ...]) -> Tensor:
    """[bands] A_b / E(B-V); a band that is not listed raises UserError."""
    unknown = [band for band in bands if band not in EXTINCTION]
    if unknown:
        raise UserError(
            f"views.reddening needs bands whose extinction is known ({', '.join(EXTINCTION)}), not {unknown[0]!r}; "
            "set reddening to 0 or name the bands"
        )
    return torch.tensor([EXTINCTION[band] for band in bands])


def redden_(crops: Tensor, coefficients: Tensor, reddening: Tensor) -> Tensor:
    """Multiply band b of crops [N, C, h, w] by 10^(-0.4·k_b·E(B-V)), E(B-V) [N], in place."""
    return crops.mul_(torch.pow(10.0, -0.4 * reddening[:, None] * coefficients)[:, :, None, None])


def widen_psf(crops: Tensor, sigma: Tensor, valid: Tensor | None = None) -> Tensor:
    """Convolve crops [N, C, h, w] with a round Gaussian of its own sigma [N] > 0 each, in pixels of the crop.

    A separable convolution is a product with one h × h and one w × w band matrix, which batched matrix products do
    faster than a grouped convolution, untruncated. At the edge of the crop and beside invalid pixels the weights of
    the known pixels are brought back to a sum of 1, so that no sky is invented.
    """
    rows, columns = _gaussian(sigma, crops.shape[2]), _gaussian(sigma, crops.shape[3])

    def smooth(values: Tensor) -> Tensor:
        return rows @ values @ columns.transpose(-1, -2)

    if valid is None:
        return smooth(crops)
    weight = smooth(valid.to(crops.dtype))
    return torch.where(valid, smooth(crops * valid) / weight.clamp(min=1e-12), 0)


def _gaussian(sigma: Tensor, size: int) -> Tensor:
    """[N, 1, size, size]: row i holds the weights of all pixels in smoothed pixel i."""
    distance = torch.arange(1 - size, size, device=sigma.device, dtype=sigma.dtype)
    weight = torch.exp(-0.5 * (distance / sigma[:, None]) ** 2)
    weight = torch.where(weight > 1e-12, weight, 0)  # denormal numbers would slow the products down
    matrix = weight.unfold(1, size, 1).flip(1)
    return (matrix / matrix.sum(-1, keepdim=True))[:, None]
