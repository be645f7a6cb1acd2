"""Populations: which objects are simulated, with which instrument, and the prior of every parameter.

Inconsistent settings raise ValueError. `zwicky.simulate.population_yaml` reads a population from a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from zwicky.simulate.instruments import Instrument
from zwicky.simulate.priors import Prior, require
from zwicky.simulate.substructure import Substructure

NOISE_MODELS = ("instrument", "none", "deeplense-1")
CHANNELS = ("R", "G", "B")
MAX_SIZE = 1024


@dataclass(frozen=True)
class Parameter:
    """One simulated quantity: its prior, its unit ("" if none) and what it means."""

    prior: Prior
    unit: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class PhotometryPrior:
    """AB magnitudes of one layer of light in the rendered area, as observed: after lensing, before noise.

    Attributes:
        band: reference band.
        magnitude: magnitude in `band`.
        colours: of each other band, its magnitude minus that in `band`; bands that the instrument lacks are ignored.
        unlensed: the magnitudes are those of the unlensed source instead; the observed ones depend on magnification.
    """

    band: str
    magnitude: Prior
    colours: Mapping[str, Prior] = field(default_factory=dict)
    unlensed: bool = False

    def columns(self, layer: str) -> dict[str, str]:
        """Return the truth column of each band's magnitude of `layer`."""
        name = "source" if self.unlensed else layer
        return {band: f"{name}_mag_{band}" for band in (self.band, *self.colours)}


@dataclass(frozen=True)
class ObjectClass:
    """One type of object.

    Attributes:
        label: its class label.
        fraction: its share of the population, relative to the other types.
        layers: of each layer of light its shape, a name in `zwicky.simulate.light`.
        parameters: those that only this type has, drawn in this order after the common ones.
        deflectors: what deflects the light of its sources, names in `zwicky.simulate.lensing`.
        substructure: model of its small masses.
    """

    label: str
    fraction: float
    layers: Mapping[str, str]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    deflectors: tuple[str, ...] = ()
    substructure: Substructure | None = None

    def __post_init__(self) -> None:
        require(self.fraction >= 0, "fraction must be 0 or more")


@dataclass(frozen=True)
class Composite:
    """An 8-bit colour picture of three bands, stretched by an asinh of their sum (arXiv:astro-ph/0312483).

    Attributes:
        channels: the bands of R, G and B.
        scales: factors of the three, of any common size.
        Q: softening; above 1/Q of the stretched sum the stretch is logarithmic.
        alpha: linear stretch of faint light, in fluxes of an AB magnitude of `zero_point`.
        zero_point: see `alpha`.
        resampling: half width, pixels, of the triangle kernel with which the picture was shifted; 0 for none.
    """

    channels: Mapping[str, str]
    scales: tuple[float, float, float]
    Q: float
    alpha: float
    zero_point: float = 30.0
    resampling: float = 0.0

    def __post_init__(self) -> None:
        require(tuple(self.channels) == CHANNELS, "channels must give R, G and B a band each")
        require(min(*self.scales, self.Q, self.alpha) > 0, "scales, Q and alpha must be above 0")
        require(0 <= self.resampling < 8, "resampling must be from 0 to 8 pixels")


@dataclass(frozen=True)
class GalaxyStore:
    """Real galaxies: the path of a store, and which part of them, as an interval in [0, 1]."""

    store: str
    part: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        require(0 <= self.part[0] < self.part[1] <= 1, "part takes two numbers from 0 to 1, in order, as in [0, 0.8]")


@dataclass(frozen=True)
class Population:
    """Simulated objects of several classes, observed with one instrument.

    Attributes:
        description: one line.
        instrument: camera, survey and bands.
        size: pixels per side.
        common: parameters of every object, drawn in this order.
        light: magnitudes of each layer of light, the same for all classes, so that flux and colour tell no class.
        classes: types of object by name.
        name: as in file names and ids.
        text: the whole description as YAML, bases resolved.
        supersampling: rendered cells per pixel and side.
        noise: one of `NOISE_MODELS`.
        warning: what is wrong with these images, printed whenever they are simulated.
        composite: how the noisy image becomes a colour picture; None if it stays in nanomaggies.
        galaxies: real galaxies as "source" and "lens".
        bands: those of the instrument that are used; all if empty.
        pairs: if not empty, images 2k and 2k+1 show one object and differ only in these parameters and layers'
            magnitudes, and in their noise.
    """

    description: str
    instrument: Instrument
    size: int
    common: Mapping[str, Parameter]
    light: Mapping[str, PhotometryPrior]
    classes: Mapping[str, ObjectClass]
    name: str = ""
    text: str = ""
    supersampling: int = 2
    noise: str = NOISE_MODELS[0]
    warning: str = ""
    composite: Composite | None = None
    galaxies: Mapping[str, GalaxyStore] = field(default_factory=dict)
    bands: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bands:
            object.__setattr__(self, "instrument", self.instrument.select(self.bands))
        self._validate()

    def _validate(self) -> None:
        bands, common = self.instrument.band_names, set(self.common)
        require(8 <= self.size <= MAX_SIZE, f"size must be from 8 to {MAX_SIZE} pixels")
        require(1 <= self.supersampling <= 16, "supersampling must be from 1 to 16 cells per pixel")
        require(self.noise in NOISE_MODELS, f"noise must be one of {', '.join(NOISE_MODELS)}")
        require("seeing" in common, "common lacks seeing, the width of the point spread function over its median")
        exposed = self.noise != "deeplense-1" or "exposure" in common
        require(exposed, "noise deeplense-1 needs the parameter exposure (s) in common")
        require(len(self.light) > 0, "light needs at least one layer")
        require(sum(one.fraction for one in self.classes.values()) > 0, "classes needs one with a fraction above 0")
        require(set(self.galaxies) <= {"source", "lens"}, "galaxies takes source and lens")
        if self.composite:
            require(set(self.composite.channels.values()) <= set(bands), f"composite: the bands are {', '.join(bands)}")
        _check_order("common", self.common, set())
        for layer, light in self.light.items():
            missing = ", ".join(band for band in bands if band not in light.columns(layer))
            require(not missing, f"light.{layer}.colours lacks {missing}, a band of the instrument")
            _check_drawn(f"light.{layer}", [light.magnitude, *light.colours.values()], common)
        for name, one in self.classes.items():
            path, known = f"classes.{name}", common | set(one.parameters)
            layers = ", ".join(self.light)
            require(set(one.layers) == set(self.light), f"{path}.layers must give the shape of each of {layers}")
            repeated = ", ".join(common & set(one.parameters))
            require(not repeated, f"{path}.parameters repeats {repeated} of common; give it another name")
            _check_order(f"{path}.parameters", one.parameters, common)
            if one.substructure:
                _check_drawn(f"{path}.substructure", [one.substructure], known)
        names = common.union(self.light, *(one.parameters for one in self.classes.values()))
        unknown = ", ".join(name for name in self.pairs if name not in names)
        require(not unknown, f"pairs: {unknown!r} is neither a parameter nor a layer of light")

    @property
    def observed_bands(self) -> tuple[str, ...]:
        """The instrument's band behind each channel of the images."""
        return tuple(self.composite.channels.values()) if self.composite else self.instrument.band_names

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the channels of the images: the bands, or R, G and B."""
        return tuple(self.composite.channels) if self.composite else self.instrument.band_names


def _check_order(path: str, parameters: Mapping[str, Parameter], drawn: set[str]) -> None:
    """Check that each parameter depends only on `drawn` and on those before it."""
    for name, parameter in parameters.items():
        _check_drawn(f"{path}.{name}", [parameter.prior], drawn)
        drawn = drawn | {name}


def _check_drawn(path: str, models: Iterable[Prior | Substructure], drawn: set[str]) -> None:
    for model in models:
        missing = ", ".join(sorted(model.depends_on - drawn))
        require(not missing, f"{path}: needs {missing}, not drawn before it; declare it above")
