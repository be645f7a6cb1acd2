"""Whether a `ViewsConfig` makes sense for given images: one line for the first thing that does not."""

from __future__ import annotations

import math

from zwicky.augment.config import ViewsConfig
from zwicky.augment.views import Target
from zwicky.errors import UserError


def check(
    config: ViewsConfig, source: tuple[int, int], bands: tuple[str, ...], local_count: int, targets: tuple[Target, ...]
) -> None:
    """Raise UserError unless images of `source` = (H, W) pixels can be augmented so and the targets stay true."""
    height, width = source
    crop = min(source) if config.crop is None else config.crop
    size = crop if config.image_size is None else config.image_size
    if not 1 <= crop <= min(source):
        raise _wrong("crop", crop, f"from 1 to {min(source)}: the images are {height} x {width} pixels")
    if size < 1:
        raise _wrong("image_size", size, "1 or more")
    if config.rotation not in ("auto", "any", "quarter", "none"):
        raise _wrong("rotation", config.rotation, "auto, any, quarter or none")
    if not (math.isfinite(config.shift) and config.shift >= 0):
        raise _wrong("shift", config.shift, "0 or more source pixels")
    _area("global_scale", config.global_scale)
    if config.local_crops < 0:
        raise _wrong("local_crops", config.local_crops, "0 or more")
    if local_count:
        _area("local_scale", config.local_scale)
        if not 1 <= config.local_size <= size:
            raise _wrong("local_size", config.local_size, f"from 1 to {size}, the side of a global crop")
    for name in ("brightness", "contrast"):
        if not 0 <= getattr(config, name) < 1:
            raise _wrong(name, getattr(config, name), "from 0 to below 1")
    for name in ("blur", "noise", "band_dropout"):
        if not 0 <= getattr(config, name) <= 1:
            raise _wrong(name, getattr(config, name), "a probability from 0 to 1")
    for name in ("blur_sigma", "noise_sigma"):
        low, high = getattr(config, name)
        if not (0 < low <= high < math.inf):
            raise _wrong(name, [low, high], "two numbers above 0, the smaller first")
    if not 0 <= config.reddening < math.inf:
        raise _wrong("reddening", config.reddening, "0 or more magnitudes")
    if config.band_dropout and len(bands) < 2:
        raise _wrong("band_dropout", config.band_dropout, f"0: the images have one band only ({bands[0]})")
    if targets and tuple(config.global_scale) != (1.0, 1.0):
        raise _wrong("global_scale", list(config.global_scale), "[1, 1] for regression: a zoom changes theta_E")
    if targets and local_count:
        raise _wrong("local_crops", local_count, "0 for regression: a local crop is a zoom, which changes theta_E")


def _area(name: str, limits: tuple[float, float]) -> None:
    if not 0 < limits[0] <= limits[1] <= 1:
        raise _wrong(name, list(limits), "two shares of the area above 0 and up to 1, the smaller first")


def _wrong(name: str, value: object, instead: str) -> UserError:
    return UserError(f"views.{name} is {value!r}; choose {instead}")
