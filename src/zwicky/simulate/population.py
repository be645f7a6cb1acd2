"""What a population is: a declaration of who is in it and how each parameter is drawn. It draws no pixel itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from zwicky.simulate.instruments import Instrument
from zwicky.simulate.priors import Distribution
from zwicky.simulate.substructure import Substructure

NOISES = ("counted", "none", "deeplense-1")


@dataclass(frozen=True)
class Parameter:
    """One number of an image's truth. unit: as in the docs, "" where it has none."""

    distribution: Distribution
    unit: str
    meaning: str


@dataclass(frozen=True)
class Light:
    """Magnitudes of one layer of light, as observed within the rendered frame: after lensing, before noise.

    band: the band of `magnitude` (AB). offsets: of each other band, its magnitude minus that one. unlensed: they are
    those of the source without a lens instead, so that the observed ones depend on how it is magnified.
    """

    band: str
    magnitude: Distribution
    offsets: Mapping[str, Distribution]
    unlensed: bool = False

    def columns(self, layer: str) -> dict[str, str]:
        """Of each band the column that holds these magnitudes of `layer`."""
        name = "source" if self.unlensed else layer
        return {band: f"{name}_mag_{band}" for band in (self.band, *self.offsets)}


@dataclass(frozen=True)
class Kind:
    """One sort of object.

    label: the class it belongs to. share: its part of the population. layers: of each layer of light, the name of
    its shape in `zwicky.simulate.layers`. parameters: those that only this kind has. deflectors: names in
    `zwicky.simulate.deflection` of what bends the light of its sources. substructure: its small masses.
    """

    label: str
    share: float
    layers: Mapping[str, str]
    parameters: Mapping[str, Parameter]
    deflectors: tuple[str, ...] = ()
    substructure: Substructure | None = None


@dataclass(frozen=True)
class Composite:
    """An 8-bit colour picture of three bands, stretched by an asinh of their sum (Lupton et al. 2004).

    channels: which band is R, G and B. scales: factors of the three, of any common size. Q: above 1/Q of the stretched
    sum it compresses. alpha: factor of faint light; fluxes are in units of an AB magnitude of `zero_point`.
    resampling: pixels; half width of the triangle that the 8-bit picture was resampled with, at any shift; 0: not.
    """

    channels: Mapping[str, str]
    scales: tuple[float, float, float]
    Q: float
    alpha: float
    zero_point: float = 30.0
    resampling: float = 0.0


@dataclass(frozen=True)
class Galaxies:
    """Real galaxies that a population shows. store: a path. part: from where to where, 0 to 1, of the galaxies."""

    store: str
    part: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Population:
    """Simulated objects of several kinds, seen with one instrument.

    about: one line for the list of populations. size: pixels a side. common: parameters of every kind, drawn in this
    order before the kind's own. light: magnitudes of each layer, the same for all kinds, so that no kind is known by
    its flux or colour. supersampling: cells a pixel is sampled with, a side. composite: how the noisy image becomes an
    8-bit picture, where it does. galaxies: real ones, for `source` and `lens`. text: the whole description in YAML, as
    `zwicky.simulate.description` reads it. noise: one of `NOISES`. warning: what is wrong with these images, where
    something is; said whenever they are made. pairs: where it is not empty, images 2k and 2k+1 are one object that
    differs in these parameters and layers' magnitudes alone (and in its noise).
    """

    name: str
    about: str
    instrument: Instrument
    size: int
    common: Mapping[str, Parameter]
    light: Mapping[str, Light]
    kinds: Mapping[str, Kind]
    supersampling: int = 2
    composite: Composite | None = None
    galaxies: Mapping[str, Galaxies] = field(default_factory=dict)
    text: str = ""
    noise: str = "counted"
    warning: str = ""
    pairs: tuple[str, ...] = ()

    @property
    def bands_shown(self) -> tuple[str, ...]:
        """The instrument's band behind each channel of the images."""
        return self.instrument.band_names if self.composite is None else tuple(self.composite.channels.values())

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the channels of the images: the bands, or R, G and B."""
        return self.instrument.band_names if self.composite is None else tuple(self.composite.channels)
