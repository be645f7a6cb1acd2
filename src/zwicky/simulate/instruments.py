"""Observing conditions, kept as our own data: other packages change theirs between versions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Band:
    """One filter of one survey.

    psf: "moffat" (β = 3.5, from the ground) or "gaussian".
    fwhm: arcsec, median width of the point spread function. zero_point: AB magnitude of one electron a second.
    sky: AB magnitude per square arcsec. exposure: seconds in all. read_noise: electrons, of all exposures together.
    """

    name: str
    fwhm: float
    zero_point: float
    sky: float
    exposure: float
    read_noise: float
    psf: str = "moffat"


@dataclass(frozen=True)
class Instrument:
    """A camera and a survey done with it. pixel_scale: arcsec per pixel."""

    name: str
    pixel_scale: float
    bands: tuple[Band, ...]

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(band.name for band in self.bands)


# MegaCam on CFHT as in the Wide part of the CFHT Legacy Survey: 5, 2 and 7 exposures, dark sky. Approximate.
CFHTLS_WIDE = Instrument(
    "cfhtls-wide",
    0.187,
    (
        Band("g", 0.78, 26.46, 22.0, 2500.0, 5.0 * 5**0.5),
        Band("r", 0.71, 25.98, 21.3, 1000.0, 5.0 * 2**0.5),
        Band("i", 0.65, 25.74, 20.3, 4300.0, 5.0 * 7**0.5),
    ),
)
