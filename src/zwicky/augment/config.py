"""Options of views and normalisation: plain data, so that the command line describes them without importing torch."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from zwicky.errors import UserError


@dataclass
class ViewsConfig:
    """How crops are cut from cutouts and augmented. Lengths are in source pixels unless stated otherwise.

    Args:
        crop: side of the square window cut from each image before any zoom; null takes the largest possible.
        image_size: side in pixels of the network's input; null means `crop`.
        rotation: any angle, quarter turns only, or none; auto is any where the image contains the rotated window,
            else quarter. With any, pixels outside the image are 0 and invalid.
        flip: mirror half of the images.
        shift: largest shift of the window's centre on each axis; reduced where the window would leave the image.
        global_scale: range of the area of a global crop, as a fraction of the window's.
        local_crops: number of local crops, for methods that use them; each lies inside a rotated and shifted window.
        local_size: side in pixels of a local crop.
        local_scale: range of the area of a local crop, as a fraction of the window's.
        brightness: half-width of the range of the brightness factor around 1; all bands share the factor.
        contrast: half-width of the range of the contrast factor around 1.
        blur: probability of widening the point spread function.
        blur_sigma: range of the sigma of that Gaussian, log-uniform.
        noise: probability of adding noise.
        noise_sigma: range of the noise's standard deviation in units of the normalised image, log-uniform.
        reddening: largest E(B-V), in magnitudes; needs bands of known extinction.
        band_dropout: probability of blanking one of several bands.
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

    def window(self, source: tuple[int, int]) -> tuple[int, int]:
        """Return `crop` and `image_size` for images of `source` = (H, W) pixels."""
        crop = min(source) if self.crop is None else self.crop
        return crop, crop if self.image_size is None else self.image_size

    def resolved(self, source: tuple[int, int]) -> Self:
        """Return a copy with `crop` and `image_size` set, for images of `source` = (H, W) pixels."""
        crop, image_size = self.window(source)
        return replace(self, crop=crop, image_size=image_size)

    def text(self) -> str:
        """Return in one line how crops are changed; blur, noise and band dropout by their probabilities."""
        parts = [f"rotation {self.rotation}", "mirror" if self.flip else "no mirror", f"shift ±{self.shift:g} px"]
        parts += [f"brightness ±{self.brightness:.0%}", f"contrast ±{self.contrast:.0%}"]
        low, high = self.global_scale
        parts += [f"crops of {low:.0%} to {high:.0%} of the area"] if low < 1 else []
        chances = {name: getattr(self, name) for name in ("blur", "noise", "reddening", "band_dropout")}
        return ", ".join(parts + [f"{name.replace('_', ' ')} {value:g}" for name, value in chances.items() if value])

    def validate(
        self,
        source: tuple[int, int],
        bands: tuple[str, ...],
        n_local: int = 0,
        targets: tuple[Any, ...] = (),
        section: str = "views",
    ) -> None:
        """Raise UserError for the first option that does not fit images of `source` = (H, W) pixels or the targets."""
        crop, size = self.window(source)
        increasing, fraction = "two numbers above 0, the smaller first", "two fractions of the area, 0 < low ≤ high ≤ 1"
        shares = [(name, getattr(self, name)) for name in ("blur", "noise", "band_dropout")]
        rules = [
            ("crop", 1 <= crop <= min(source), f"from 1 to {min(source)}: the images are {source[0]} x {source[1]} px"),
            ("image_size", size >= 1, "1 or more"),
            ("rotation", self.rotation in ("auto", "any", "quarter", "none"), "auto, any, quarter or none"),
            ("shift", 0 <= self.shift < math.inf, "0 or more source pixels"),
            ("global_scale", _increasing(self.global_scale, 1), fraction),
            ("local_crops", self.local_crops >= 0, "0 or more"),
            ("local_scale", not n_local or _increasing(self.local_scale, 1), fraction),
            ("local_size", not n_local or 1 <= self.local_size <= size, f"from 1 to {size}, a global crop's side"),
            ("brightness", 0 <= self.brightness < 1, "from 0 to below 1"),
            ("contrast", 0 <= self.contrast < 1, "from 0 to below 1"),
            *[(name, 0 <= share <= 1, "a probability from 0 to 1") for name, share in shares],
            ("blur_sigma", _increasing(self.blur_sigma), increasing),
            ("noise_sigma", _increasing(self.noise_sigma), increasing),
            ("reddening", 0 <= self.reddening < math.inf, "0 or more magnitudes"),
            ("band_dropout", not self.band_dropout or len(bands) > 1, f"0: there is one band only ({bands[0]})"),
            ("global_scale", not targets or tuple(self.global_scale) == (1, 1), "[1, 1]: a zoom changes theta_E"),
            ("local_crops", not targets or not n_local, "0 for regression: a local crop zooms, which changes theta_E"),
        ]
        check(section, self, *rules)


@dataclass
class NormalisationConfig:
    """How pixel values are put on a common scale, from the training split alone.

    Args:
        stretch: asinh or sqrt of the scaled flux, or linear; auto is asinh, but linear for 8- and 16-bit images whose
            bright pixels are within ten times the sky's noise.
        softening: scaled flux where asinh turns from linear to logarithmic.
        scale: unit of flux: mad (median absolute deviation of the sky) or percentile (the 99.8th); auto is
            percentile for linear and mad for the others.
        max_invalid: fraction of invalid pixels above which an image is left out of the statistics.
    """

    stretch: Literal["auto", "asinh", "sqrt", "linear"] = "auto"
    softening: float = 3.0
    scale: Literal["auto", "mad", "percentile"] = "auto"
    max_invalid: float = 0.5

    def validate(self) -> None:
        """Raise UserError for the first option outside its range."""
        rules = [
            ("stretch", self.stretch in ("auto", "asinh", "sqrt", "linear"), "auto, asinh, sqrt or linear"),
            ("scale", self.scale in ("auto", "mad", "percentile"), "auto, mad or percentile"),
            ("softening", 0 < self.softening < math.inf, "a number above 0"),
            ("max_invalid", 0 <= self.max_invalid <= 1, "a fraction from 0 to 1"),
        ]
        check("normalisation", self, *rules)


def check(section: str, config: object, *rules: tuple[str, bool, str]) -> None:
    """Raise UserError for the first rule (option, whether it holds, what to choose instead) that does not hold."""
    for name, fits, choices in rules:
        if not fits:
            raise UserError(f"{section}.{name} is {getattr(config, name)!r}; choose {choices}")


def _increasing(limits: tuple[float, float], high: float = math.inf) -> bool:
    return 0 < limits[0] <= limits[1] <= high and limits[1] < math.inf
