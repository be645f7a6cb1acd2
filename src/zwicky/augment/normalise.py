"""Pixel values on a common scale: per band, robust, and fitted to the training rows alone.

There are two steps, so that photometric augmentation can act between them on values proportional to flux: `linear`
subtracts the sky and divides by the band's scale; `stretch_` compresses the bright end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zwicky.augment.config import NormalisationConfig
from zwicky.data.cutouts import Images, batches
from zwicky.errors import UserError
from zwicky.rng import numpy_rng

MAX_IMAGES = 4096  # statistics use at most this many images ...
MAX_VALUES = 2**22  # ... and this many pixels of each band, so that memory is bounded on any survey
BLOCK_BYTES = 2**25
LINEAR_PEAK = 10.0  # integers are stretched if their 99.8th percentile is further above the sky, in units of its noise
PEAKED = 15.0  # kurtosis after normalisation above which the network sees little but peaks
TINY = 1e-37  # its inverse must be a float32 too


@dataclass(frozen=True)
class Normalisation:
    """The map from raw pixels to the network's input, saved with every checkpoint.

    Stretch and softening are those of `NormalisationConfig`; for asinh see arXiv:astro-ph/9903081.
    """

    bands: tuple[str, ...]
    center: tuple[float, ...]  # the sky level of each band, in image units
    scale: tuple[float, ...]  # the unit of flux of each band, in image units
    stretch: Literal["asinh", "sqrt", "linear"] = "asinh"
    softening: float = 3.0
    output_std: float = 1.0  # divides the stretched image, which then has a deviation of about 1 over all bands
    output_center: float = 0.0  # subtracted before that; 0 is the sky unless weights were published for another scale
    kurtosis: float = 3.0  # of the fitted pixels after normalisation; 3 for a Gaussian
    reason: str = ""  # why the stretch was chosen

    @classmethod
    def fit(
        cls,
        images: Images,
        bands: Sequence[str],
        config: NormalisationConfig | None = None,
        seed: int = 0,
        rows: np.ndarray | None = None,
        published: tuple[float, float] | None = None,
    ) -> Normalisation:
        """Fit to a seeded sample of the pixels of images [N, bands, H, W] of any type, in training `rows` (None: all).

        The centre is the median of the band; the scale is 1.4826 × the median absolute deviation (mad) or the 99.8th
        percentile above the median (percentile). On a quantised or empty sky, where the deviation is 0, mad is half
        the 16–84 % range, of integers at least one count, or else the standard deviation; a constant band has scale 1.
        With `published` = (mean, deviation) of pixels in [0, 1], the 1st to the 99.8th percentile of the stretched
        pixels are mapped to [0, 1] and these to mean 0 and deviation 1, the input of published weights.
        """
        config = config or NormalisationConfig()
        config.validate()
        rows = np.arange(len(images)) if rows is None else rows
        if images.ndim != 4 or images.shape[1] != len(bands):
            raise UserError(f"images of shape {list(images.shape)} do not fit {len(bands)} bands; use [N, bands, H, W]")
        if not len(rows) or not all(images.shape):
            raise UserError("no training image to fit the normalisation to; check the split")
        values, count = _sample(images, rows, config.max_invalid, seed), float(images.dtype.kind != "f")
        sky, noise, bright = [], [], []
        for band, row in zip(bands, values, strict=True):
            row = row[np.isfinite(row)]
            if not len(row):
                raise UserError(f"band {band!r} has no valid pixel in the training images; remove the band")
            sky.append(float(np.median(row)))
            noise.append(_noise(row - sky[-1], count))
            bright.append(float(np.percentile(row, 99.8)) - sky[-1])
        peak = max(b / n for b, n in zip(bright, noise, strict=True))
        reason = f"the brightest pixels reach {peak:.3g} times the sky's noise"
        stretch = config.stretch
        if stretch == "auto":
            stretch = "asinh" if not count or peak > LINEAR_PEAK else "linear"
            reason = f"{stretch}, chosen for {'integers' if count else 'floats'}: {reason}"
        measure = ("percentile" if stretch == "linear" else "mad") if config.scale == "auto" else config.scale
        scale = noise if measure == "mad" else [b if b > TINY else n for b, n in zip(bright, noise, strict=True)]
        draft = cls(tuple(bands), tuple(sky), tuple(scale), stretch, config.softening)
        stretched, valid = draft(torch.from_numpy(values)[None, :, None])
        output = stretched.numpy()[valid.numpy()]  # torch's own indexing by a mask takes 32 bytes a value
        std = float(torch.from_numpy(output).double().std(correction=0)) or 1.0
        power = (output - float(output.mean(dtype=np.float64))) / std
        for _ in range(2):
            np.square(power, out=power)
        kurtosis = float(np.mean(power, dtype=np.float64))
        center = 0.0
        if published is not None:
            low, high = np.percentile(output, [1, 99.8])
            span = float(high - low) or 1.0
            center, std = float(low) + published[0] * span, published[1] * span
        reason = f"{reason}; kurtosis after it {kurtosis:.3g}"
        return replace(draft, output_std=std, output_center=center, kurtosis=kurtosis, reason=reason)

    @property
    def warning(self) -> str | None:
        """Return one line if a few peaks dominate the network's input."""
        if self.kurtosis <= PEAKED:
            return None
        return (
            f"peaked input: kurtosis {self.kurtosis:.0f} after the {self.stretch} stretch, so faint light is next to "
            "nothing beside the peaks; lower normalisation.softening, or take the stretch asinh"
        )

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise raw [B, bands, H, W] of any type: float32 with 0 where invalid, and `valid` (bool)."""
        scaled, valid = self.linear(images)
        return self.stretch_(scaled), all_valid(scaled) if valid is None else valid

    def linear(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Convert raw pixels [B, bands, H, W] of any type to flux in units of `scale` above the sky; never clamped.

        Returns float32 flux, 0 where invalid (NaN, infinite), and `valid`, bool, or None where all pixels are.
        """
        if images.ndim != 4 or images.shape[1] != len(self.bands):
            bands, shape = ", ".join(self.bands), list(images.shape)
            raise UserError(f"images of shape {shape} do not have the bands {bands}; use [B, {len(self.bands)}, H, W]")
        center = torch.tensor(self.center, dtype=torch.float32, device=images.device)[:, None, None]
        factor = 1 / torch.tensor(self.scale, dtype=torch.float32, device=images.device)[:, None, None]
        scaled = images.to(torch.float32, copy=True).sub_(center).mul_(factor)
        # A sum is finite only if each term is: one pass, against four of isfinite over each pixel.
        if not images.is_floating_point() or bool(torch.isfinite(scaled.sum())):
            return scaled, None
        valid = torch.isfinite(scaled)
        return (scaled, None) if bool(valid.all()) else (scaled.masked_fill_(~valid, 0), valid)

    def stretch_(self, scaled: Tensor) -> Tensor:
        """Compress linear values, in place if possible: asinh(x/softening), sign(x)·√|x| or x, standardised."""
        if self.stretch == "asinh":
            scaled = asinh(scaled.div_(self.softening))
        elif self.stretch == "sqrt":
            scaled = scaled.abs().sqrt_().copysign_(scaled)
        return scaled.sub_(self.output_center).div_(self.output_std)


def all_valid(like: Tensor) -> Tensor:
    """Return one True expanded to the shape of `like`."""
    return torch.ones((), dtype=torch.bool, device=like.device).expand_as(like)


def asinh(values: Tensor) -> Tensor:
    """Return asinh x = sign(x)·log(|x| + √(1 + x²)) of float32 values to an absolute 3e-7 or the last digit.

    torch's own is not vectorised on CPUs and takes several times as long, as does log1p.
    """
    size = values.abs()
    return torch.hypot(size, torch.ones((), dtype=size.dtype, device=size.device)).add_(size).log_().copysign_(values)


def _sample(images: Images, rows: np.ndarray, max_invalid: float, seed: int) -> np.ndarray:
    """Return a seeded sample of pixels [bands, values] float32, NaN where invalid, without mostly invalid images."""
    _, bands, height, width = images.shape
    rng = numpy_rng(seed)
    rows = rows[np.sort(rng.choice(len(rows), min(len(rows), MAX_IMAGES), replace=False))]
    n_pixels = min(height * width, max(1, MAX_VALUES // len(rows)))
    samples = []
    for part in batches(len(rows), max(1, BLOCK_BYTES // (4 * bands * height * width))):
        flat = images[rows[part]].astype(np.float32).reshape(-1, bands, height * width)
        flat[~np.isfinite(flat)] = np.nan
        flat = flat[np.isnan(flat).mean((1, 2)) <= max_invalid]
        pixels = rng.choice(height * width, n_pixels, replace=False) if n_pixels < height * width else slice(None)
        samples.append(flat[:, :, pixels].transpose(1, 0, 2).reshape(bands, -1))
    values = np.concatenate(samples, axis=1)
    if not values.shape[1]:
        raise UserError(f"all images have over {max_invalid:.0%} invalid pixels; raise normalisation.max_invalid")
    return values


def _noise(residuals: np.ndarray, count: float) -> float:
    """Robust deviation of residuals from the median, see `Normalisation.fit`; `count` is the step of quantised ones."""
    low, high = np.percentile(residuals, [16, 84])
    mad = 1.4826 * float(np.median(np.abs(residuals)))
    order = (mad, max(float(high - low) / 2, count), float(residuals.std(dtype=np.float64)))
    return next((value for value in order if value > TINY), 1.0)
