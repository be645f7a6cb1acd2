"""Instruments and observing conditions, in `instruments.yaml`: our own copy, since other packages change theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from zwicky.simulate.priors import require


@dataclass(frozen=True)
class Band:
    """One filter of a survey.

    Attributes:
        fwhm: median full width at half maximum of the point spread function, arcsec.
        zero_point: AB magnitude of one electron per second.
        sky_brightness: AB magnitude per square arcsec.
        exposure_time: of one exposure, s.
        read_noise: of one exposure, electrons per pixel.
        num_exposures: number of exposures that are added up.
        psf: "moffat" (β = 3.5, from the ground), "gaussian", or the path of an image of a star sampled at
            `pixel_scale / supersampling`.
    """

    fwhm: float
    zero_point: float
    sky_brightness: float
    exposure_time: float
    read_noise: float
    num_exposures: int = 1
    psf: str = "moffat"

    def __post_init__(self) -> None:
        require(min(self.fwhm, self.exposure_time, self.num_exposures) > 0, "fwhm and exposures must be above 0")
        require(self.read_noise >= 0, "read_noise must be 0 or more")

    @property
    def total_exposure(self) -> float:
        """Seconds of all exposures together."""
        return self.exposure_time * self.num_exposures

    @property
    def total_read_noise(self) -> float:
        """Electrons per pixel, of all exposures together."""
        return self.read_noise * self.num_exposures**0.5


@dataclass(frozen=True)
class Instrument:
    """A camera as used in a survey: pixel scale (arcsec per pixel) and bands by name."""

    name: str
    pixel_scale: float
    bands: Mapping[str, Band]

    def __post_init__(self) -> None:
        require(self.pixel_scale > 0 and len(self.bands) > 0, "needs a pixel_scale above 0 and a band")

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands, in order."""
        return tuple(self.bands)

    def select(self, bands: Sequence[str]) -> Instrument:
        """Return the instrument with these bands only, in this order; ValueError for unknown or repeated ones."""
        unique = len(set(bands)) == len(bands) > 0 and set(bands) <= set(self.bands)
        require(unique, f"{self.name} has the bands {', '.join(self.bands)}; choose some of these, each once")
        return replace(self, bands={name: self.bands[name] for name in bands})
