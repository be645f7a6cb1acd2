"""Pixel values on a common scale: per band, robust, learnt from the training rows alone, undone by nothing later.

Two steps, so that photometric augmentation can act between them on values proportional to flux:
`linear` subtracts the sky and divides by the band's scale; `stretch_` compresses the bright end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zwicky.augment.config import NormalisationConfig
from zwicky.data.stored_images import Images, in_batches
from zwicky.errors import UserError
from zwicky.rng import numpy_rng

STRETCHES = ("asinh", "sqrt", "linear")
MAX_IMAGES = 4096  # statistics come from at most this many images ...
MAX_VALUES = 2**22  # ... and this many pixels of each band, so that memory stays flat on any survey
BLOCK_BYTES = 2**25
REMEDY = "take the checkpoint from its run again"


@dataclass(frozen=True)
class Normalisation:
    """What turns raw pixels into what the network sees; it travels with every checkpoint.

    bands: names of the channels, in order.
    center: [bands] the sky level, in image units.
    scale: [bands] the unit of flux, in image units.
    stretch: "asinh", "sqrt" or "linear".
    softening: scaled flux where asinh turns from linear to logarithmic.
    unit: one number for all bands by which the stretched image is divided, so that it varies by about 1.
    """

    bands: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    stretch: Literal["asinh", "sqrt", "linear"] = "asinh"
    softening: float = 3.0
    unit: float = 1.0

    @classmethod
    def fit(
        cls,
        images: Images,
        bands: Sequence[str],
        config: NormalisationConfig | None = None,
        seed: int = 0,
        rows: np.ndarray | None = None,
    ) -> Normalisation:
        """Learn it from the training rows of images [N, bands, H, W] of any type; `rows` are all unless given.

        center is the median of the band; scale is 1.4826 × the median absolute deviation (mad) or the 99.8th
        percentile above the median (percentile). Where that is 0, the next of mad, percentile, standard deviation
        that is not; a constant band gets 1. A seeded sample of images and pixels is read block by block.
        """
        config = config or NormalisationConfig()
        rows = np.arange(len(images)) if rows is None else rows
        _check(images, rows, bands, config)
        stretch = config.stretch
        if stretch == "auto":
            stretch = "asinh" if images.dtype.kind == "f" else "linear"
        kind = config.scale if config.scale != "auto" else ("percentile" if stretch == "linear" else "mad")
        values = _sample(images, rows, config.max_invalid, seed)
        center, scale = [], []
        for band, row in zip(bands, values, strict=True):
            row = row[np.isfinite(row)]
            if not len(row):
                raise UserError(f"band {band!r} has no valid pixel in the training images; leave it out or mend them")
            center.append(float(np.median(row)))
            scale.append(_scale(row - center[-1], kind))
        draft = cls(tuple(bands), tuple(center), tuple(scale), stretch, config.softening)
        stretched, valid = draft(torch.from_numpy(values)[None, :, None])
        some = stretched.numpy()[valid.numpy()]  # torch's own indexing by a mask takes 32 bytes a value
        spread = float(torch.from_numpy(some).double().std(correction=0))
        return replace(draft, unit=spread if spread > 0 else 1.0)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw [B, bands, H, W] of any type → normalised float32 with 0 where invalid, and `valid` (bool)."""
        scaled, valid = self.linear(images)
        return self.stretch_(scaled), valid

    def linear(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw [B, bands, H, W] of any type → (flux in units of `scale` above the sky, valid), both that shape.

        Invalid pixels (NaN, infinite) become 0. Nothing is clamped. Where all pixels are valid, `valid` is one
        True expanded to the shape (its strides are 0), so a caller can tell without reading it.
        """
        if images.ndim != 4 or images.shape[1] != len(self.bands):
            raise UserError(
                f"images of shape {list(images.shape)} do not fit a normalisation for the bands "
                f"{', '.join(self.bands)}; give [B, {len(self.bands)}, H, W] in this order of bands"
            )
        center = torch.tensor(self.center, dtype=torch.float32, device=images.device)[:, None, None]
        factor = 1 / torch.tensor(self.scale, dtype=torch.float32, device=images.device)[:, None, None]
        scaled = images.to(torch.float32, copy=True).sub_(center).mul_(factor)
        everything = torch.ones((), dtype=torch.bool, device=images.device).expand_as(scaled)
        # A sum is finite only if each term is: one pass, against four of isfinite over each pixel.
        if not images.is_floating_point() or bool(torch.isfinite(scaled.sum())):
            return scaled, everything
        valid = torch.isfinite(scaled)
        if bool(valid.all()):
            return scaled, everything
        return scaled.masked_fill_(~valid, 0), valid

    def stretch_(self, scaled: Tensor) -> Tensor:
        """Compress linear values, in place if it can: asinh(x/softening), sign(x)·√|x| or x, over `unit`. 0 stays 0."""
        if self.stretch == "asinh":
            scaled = asinh(scaled.div_(self.softening))
        elif self.stretch == "sqrt":
            scaled = scaled.abs().sqrt_().copysign_(scaled)
        return scaled.div_(self.unit)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and words, for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Normalisation:
        """The inverse of `to_dict`; anything else raises UserError."""
        try:
            made = cls(
                bands=tuple(str(band) for band in values["bands"]),
                center=tuple(float(value) for value in values["center"]),
                scale=tuple(float(value) for value in values["scale"]),
                stretch=values["stretch"],
                softening=float(values["softening"]),
                unit=float(values["unit"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"the stored normalisation is damaged ({error!r}); {REMEDY}") from error
        numbers = (*made.center, *made.scale, made.softening, made.unit)
        lengths = {len(made.bands), len(made.center), len(made.scale)}
        positive = all(value > 0 for value in (*made.scale, made.softening, made.unit))
        if len(lengths) != 1 or made.stretch not in STRETCHES or not np.isfinite(numbers).all() or not positive:
            raise UserError(f"the stored normalisation is damaged (numbers that cannot be); {REMEDY}")
        return made


def asinh(values: Tensor) -> Tensor:
    """asinh of float32 values to an absolute 3e-7 or the last digit: sign(x)·log(|x| + √(1 + x²)), without overflow.

    torch's own is not vectorised on CPUs and takes several times as long, as does log1p.
    """
    size = values.abs()
    return torch.hypot(size, torch.ones((), dtype=size.dtype, device=size.device)).add_(size).log_().copysign_(values)


def _check(images: Images, rows: np.ndarray, bands: Sequence[str], config: NormalisationConfig) -> None:
    if images.ndim != 4 or images.shape[1] != len(bands):
        raise UserError(f"images of shape {list(images.shape)} do not fit {len(bands)} bands; give [N, bands, H, W]")
    if not len(rows) or not all(images.shape):
        raise UserError("no training image to learn the normalisation from; check the split")
    if config.stretch not in ("auto", *STRETCHES):
        raise UserError(f"normalisation.stretch is {config.stretch!r}; choose auto, {', '.join(STRETCHES)}")
    if config.scale not in ("auto", "mad", "percentile"):
        raise UserError(f"normalisation.scale is {config.scale!r}; choose auto, mad or percentile")
    if not (config.softening > 0 and np.isfinite(config.softening)):
        raise UserError(f"normalisation.softening is {config.softening}; choose a number above 0")
    if not 0 <= config.max_invalid <= 1:
        raise UserError(f"normalisation.max_invalid is {config.max_invalid}; choose a share from 0 to 1")


def _sample(images: Images, rows: np.ndarray, max_invalid: float, seed: int) -> np.ndarray:
    """[bands, values] float32 of a seeded sample of pixels, NaN where invalid; images too invalid are left out."""
    _, bands, height, width = images.shape
    random = numpy_rng(seed)
    rows = rows[np.sort(random.choice(len(rows), min(len(rows), MAX_IMAGES), replace=False))]
    pixels = min(height * width, max(1, MAX_VALUES // len(rows)))
    block = max(1, BLOCK_BYTES // (4 * bands * height * width))
    kept = []
    for _, part in in_batches(images, block, rows):
        flat = part.astype(np.float32).reshape(-1, bands, height * width)
        flat[~np.isfinite(flat)] = np.nan
        flat = flat[np.isnan(flat).mean((1, 2)) <= max_invalid]
        some = random.choice(height * width, pixels, replace=False) if pixels < height * width else slice(None)
        kept.append(flat[:, :, some].transpose(1, 0, 2).reshape(bands, -1))
    values = np.concatenate(kept, axis=1)
    if not values.shape[1]:
        raise UserError(
            f"all {len(rows)} training images looked at have more than {max_invalid:.0%} invalid pixels; "
            "mend them or raise normalisation.max_invalid"
        )
    return values


def _scale(residuals: np.ndarray, kind: str) -> float:
    mad = 1.4826 * float(np.median(np.abs(residuals)))
    percentile = float(np.percentile(residuals, 99.8))
    spread = float(residuals.std(dtype=np.float64))
    order = (mad, percentile, spread) if kind == "mad" else (percentile, mad, spread)
    return next((value for value in order if value > 1e-37), 1.0)  # its inverse must be a float32 too
