"""Observing conditions, kept as our own data: other packages change theirs between versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zwicky.errors import UserError


@dataclass(frozen=True)
class Band:
    """One filter of one survey.

    psf: "moffat" (β = 3.5, from the ground), "gaussian", or the path of an image of a star, in cells of the fine grid.
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

    def only(self, bands: Sequence[str]) -> Instrument:
        """The same instrument with these bands, in this order."""
        known = {band.name: band for band in self.bands}
        unknown = [band for band in bands if band not in known]
        if unknown or not bands or len(set(bands)) < len(bands):
            raise UserError(f"{self.name} has the bands {', '.join(known)}; choose some of these, each once")
        return replace(self, bands=tuple(known[band] for band in bands))


# Ten years of Rubin's main survey.
LSST = Instrument(
    "lsst",
    0.2,
    (
        Band("g", 0.77, 28.30, 22.26, 15.0 * 200, 10.0 * 200**0.5),
        Band("r", 0.73, 28.13, 21.2, 15.0 * 460, 10.0 * 460**0.5),
        Band("i", 0.71, 27.79, 20.48, 15.0 * 460, 10.0 * 460**0.5),
        Band("z", 0.69, 27.40, 19.6, 15.0 * 400, 10.0 * 400**0.5),
        Band("y", 0.68, 26.58, 18.61, 15.0 * 400, 10.0 * 400**0.5),
    ),
)

DES = Instrument(
    "des",
    0.263,
    (
        Band("g", 1.12, 26.58, 22.01, 90.0 * 10, 7.0 * 10**0.5),
        Band("r", 0.96, 26.78, 21.15, 90.0 * 10, 7.0 * 10**0.5),
        Band("i", 0.88, 26.75, 19.89, 90.0 * 10, 7.0 * 10**0.5),
        Band("z", 0.84, 26.48, 18.72, 90.0 * 10, 7.0 * 10**0.5),
    ),
)

# The Wide layer of the Subaru Strategic Programme. Approximate: zero points from the mirror and the throughput, and the
# sky is the one that gives depths of 26.5, 26.1 and 25.9 mag (5 σ, point sources).
HSC = Instrument(
    "hsc",
    0.168,
    (
        Band("g", 0.77, 29.0, 20.88, 600.0, 4.5 * 4**0.5),
        Band("r", 0.76, 29.0, 20.05, 600.0, 4.5 * 4**0.5),
        Band("i", 0.58, 28.8, 19.76, 1200.0, 4.5 * 6**0.5),
    ),
)

EUCLID_VIS = Instrument("euclid-vis", 0.101, (Band("VIS", 0.16, 25.72, 22.3, 566.0 * 4, 4.2 * 4**0.5),))

# The width is that of real WFC3/IR images; simulators often take 0.08".
HST_F160W = Instrument("hst-f160w", 0.08, (Band("F160W", 0.15, 25.96, 22.3, 5400.0, 4.0),))

# One orbit as in COSMOS. Approximate.
HST_F814W = Instrument("hst-f814w", 0.05, (Band("F814W", 0.10, 25.94, 21.9, 507.0 * 4, 5.0 * 4**0.5),))

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

# The same survey as its public colour composites show it: 12" in 64 pixels. The sky is no sky brightness but the one
# that gives the noise measured in those composites, 0.54, 1.05 and 1.47e-3 nanomaggies a pixel; the stacks were
# resampled, which smooths pixel noise.
CFHTLS_COMPOSITE = Instrument(
    "cfhtls-composite",
    0.1875,
    (
        Band("g", 0.78, 26.46, 22.79, 2500.0, 5.0 * 5**0.5),
        Band("r", 0.71, 25.98, 22.08, 2000.0, 5.0 * 4**0.5),
        Band("i", 0.65, 25.74, 20.72, 4300.0, 5.0 * 7**0.5),
    ),
)

INSTRUMENTS = {
    instrument.name: instrument
    for instrument in (LSST, DES, HSC, EUCLID_VIS, HST_F160W, HST_F814W, CFHTLS_WIDE, CFHTLS_COMPOSITE)
}
