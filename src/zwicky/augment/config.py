"""What can be chosen about views; plain data, so that the command line can describe it without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class ViewsConfig:
    """How cutouts become crops. Lengths are in source pixels unless said otherwise.

    Args:
        crop: side of the square window cut from each image before any zoom; null takes the largest there is.
        image_size: side in pixels of the square the network sees; null means `crop`.
        rotation: any angle, quarter turns only, none; auto is any where the image holds the turned window, else
            quarter. With any, what falls outside the image is 0 and not valid.
        flip: mirror half of the images.
        shift: largest shift of the window's centre on each axis; less where the image has no room for it.
        global_scale: range of the share of the window's area a global crop shows.
        local_crops: how many local crops, for methods that use them; each lies inside a turned and shifted window.
        local_size: side in pixels of a local crop.
        local_scale: range of the share of the window's area a local crop shows.
        brightness: half-width of the factor on all bands together, around 1.
        contrast: half-width of the contrast factor, around 1.
        blur: probability of widening the point spread function.
        blur_sigma: range of the sigma of that widening, log-uniform.
        noise: probability of adding noise.
        noise_sigma: range of the added noise in units of the normalised image, log-uniform.
        reddening: largest E(B-V), in magnitudes; needs bands whose extinction is known.
        band_dropout: probability of blanking one band of several.
    """

    crop: int | None = None
    image_size: int | None = None
    rotation: Literal["auto", "any", "quarter", "none"] = "auto"
    flip: bool = True
    shift: float = 2.0
    global_scale: tuple[float, float] = (0.5, 1.0)
    local_crops: int = 6
    local_size: int = 32
    local_scale: tuple[float, float] = (0.1, 0.3)
    brightness: float = 0.1
    contrast: float = 0.1
    blur: float = 0.3
    blur_sigma: tuple[float, float] = (0.3, 1.0)
    noise: float = 0.3
    noise_sigma: tuple[float, float] = (0.01, 0.1)
    reddening: float = 0.0
    band_dropout: float = 0.0


@dataclass
class NormalisationConfig:
    """How pixel values are put on a common scale, from the training split alone.

    Args:
        stretch: asinh or sqrt of the scaled flux, or linear; auto is asinh for float images and linear for 8- and
            16-bit ones, which somebody has stretched already.
        softening: scaled flux where asinh turns from linear to logarithmic.
        scale: mad (median absolute deviation of the sky) or percentile (the 99.8th) as the unit of flux; auto is
            percentile for linear and mad for the others.
        max_invalid: share of invalid pixels above which an image is left out of the statistics.
    """

    stretch: Literal["auto", "asinh", "sqrt", "linear"] = "auto"
    softening: float = 3.0
    scale: Literal["auto", "mad", "percentile"] = "auto"
    max_invalid: float = 0.5
