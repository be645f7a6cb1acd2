"""Populations: which objects are simulated, with which instrument, and the prior of every parameter; read from YAML."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from zwicky.data.cutouts import STANDARD_COLUMNS
from zwicky.errors import UserError
from zwicky.io import read_settings
from zwicky.simulate import FOLDER, population_names
from zwicky.simulate.instruments import Instrument
from zwicky.simulate.priors import FAMILIES, SUBSTRUCTURES, Prior, Substructure, require

NOISE_MODELS = ("instrument", "none", "deeplense-1")
CHANNELS = ("R", "G", "B")
RESERVED = {*STANDARD_COLUMNS, "object_class", "pair_id", "magnification"}  # columns that are no parameters


@dataclass(frozen=True)
class PhotometryPrior:
    """AB magnitudes in `band` of one layer of light in the rendered area, as observed: after lensing, before noise.

    `colours` are the magnitudes of other bands minus that one; bands that the instrument lacks are ignored. If
    `unlensed`, all are those of the unlensed source instead, and the observed ones depend on magnification.
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
    """One type of object."""

    label: str
    fraction: float  # of the population, relative to the other types
    layers: Mapping[str, str]  # the shape of each layer of light, a name in `zwicky.simulate.light`
    parameters: Mapping[str, Prior] = field(default_factory=dict)  # of this type only, drawn after the common ones
    deflectors: tuple[str, ...] = ()  # of the light of its sources, names in `zwicky.simulate.lensing`
    substructure: Substructure | None = None

    def __post_init__(self) -> None:
        require(self.fraction >= 0, "fraction must be 0 or more")


@dataclass(frozen=True)
class Composite:
    """An 8-bit colour picture of three bands, stretched by an asinh of their sum (arXiv:astro-ph/0312483)."""

    channels: Mapping[str, str]  # the bands of R, G and B
    scales: tuple[float, float, float]  # factors of the three, of any common size
    Q: float  # softening; above 1/Q of the stretched sum the stretch is logarithmic
    alpha: float  # linear stretch of faint light, in fluxes of an AB magnitude of `zero_point`
    zero_point: float = 30.0
    resampling: float = 0.0  # half width, pixels, of the triangle kernel with which the picture was shifted; 0 for none

    def __post_init__(self) -> None:
        require(tuple(self.channels) == CHANNELS, "channels must give R, G and B a band each")
        require(min(*self.scales, self.Q, self.alpha) > 0, "scales, Q and alpha must be above 0")
        reaching = self.resampling == 0 or 0.5 < self.resampling < 8  # a pixel within half a pixel, whatever the shift
        require(reaching, "resampling must be 0, or above 0.5 and below 8 pixels")


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

    If `pairs` is not empty, images 2k and 2k+1 show one object and differ only in these parameters and layers'
    magnitudes, and in their noise.
    """

    description: str
    instrument: Instrument
    size: int  # pixels per side
    common: Mapping[str, Prior]  # of every object, drawn in this order
    light: Mapping[str, PhotometryPrior]  # of each layer, the same for all classes: flux and colour tell no class
    classes: Mapping[str, ObjectClass]
    name: str = ""
    text: str = ""  # the whole description as YAML, bases resolved
    supersampling: int = 2  # rendered cells per pixel and side
    noise: str = NOISE_MODELS[0]
    warning: str = ""  # what is wrong with these images, printed whenever they are simulated
    composite: Composite | None = None  # how the noisy image becomes a colour picture; None: it stays in nanomaggies
    eight_bit: bool = False  # whether each image is scaled to its own peak and rounded to 8 bits, as published ones are
    galaxies: Mapping[str, GalaxyStore] = field(default_factory=dict)  # as "source" and "lens"
    bands: tuple[str, ...] = ()  # those of the instrument that are used; all if empty
    pairs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bands:
            available = self.instrument.bands
            once = set(self.bands) <= set(available) and len(set(self.bands)) == len(self.bands)
            require(once, f"bands takes some of {', '.join(available)}, each once")
            instrument = replace(self.instrument, bands={name: available[name] for name in self.bands})
            object.__setattr__(self, "instrument", instrument)
        bands, common = self.instrument.bands, set(self.common)
        require(8 <= self.size <= 1024, "size must be from 8 to 1024 pixels")
        require(1 <= self.supersampling <= 16, "supersampling must be from 1 to 16 cells per pixel")
        require(self.noise in NOISE_MODELS, f"noise must be one of {', '.join(NOISE_MODELS)}")
        required = {"seeing", "exposure"} if self.noise == "deeplense-1" else {"seeing"}
        require(required <= common, f"common lacks {', '.join(required - common)}, as in the shipped populations")
        require(len(self.light) > 0, "light needs at least one layer")
        require(sum(one.fraction for one in self.classes.values()) > 0, "classes needs one with a fraction above 0")
        require(set(self.galaxies) <= {"source", "lens"}, "galaxies takes source and lens")
        require(set(self.channels.values()) <= set(bands), f"composite: the bands are {', '.join(bands)}")
        twice = self.eight_bit and self.composite is not None
        require(not twice, "eight_bit: a composite has 8 bits already; leave one of the two out")
        for layer, light in self.light.items():
            require(layer == "arc" or not light.unlensed, f"light.{layer}.unlensed: only the layer arc is lensed")
            missing = ", ".join(band for band in bands if band not in light.columns(layer))
            require(not missing, f"light.{layer}.colours lacks {missing}, a band of the instrument")
        for name, one in self.classes.items():
            complete = set(one.layers) == set(self.light)
            require(complete, f"classes.{name}.layers must give the shape of each of {', '.join(self.light)}")
            repeated = ", ".join(common & set(one.parameters))
            require(not repeated, f"classes.{name}.parameters repeats {repeated} of common; give it another name")
        parameters = common.union(*(one.parameters for one in self.classes.values()))
        taken = ", ".join(sorted(parameters & RESERVED))
        require(not taken, f"{taken} is a column of every simulation; give the parameter another name")
        unknown = ", ".join(name for name in self.pairs if name not in parameters.union(self.light))
        require(not unknown, f"pairs: {unknown!r} is neither a parameter nor a layer of light")

    @property
    def channels(self) -> Mapping[str, str]:
        """The instrument's band behind each channel of the images: the bands themselves, or R, G and B."""
        return self.composite.channels if self.composite else {band: band for band in self.instrument.bands}


def read_population(name: str) -> Population:
    """Return the shipped population `name`, or the one that a YAML file describes, named like the file.

    A file may have a `base`, another population whose settings it changes.
    """
    path = _path_of(name)
    settings = _resolve(path, ())
    text = yaml.dump(settings, Dumper=_CompactDumper, sort_keys=False, allow_unicode=True, width=1000)
    return _read(Population, {**settings, "name": path.stem, "text": text}, (name,))


def inherited_parameters(name: str) -> set[str]:
    """Return the parameters that the `base` of a population declares; none if it has no base."""
    path = _path_of(name)
    base = read_settings(path).get("base")
    if base is None:
        return set()
    below = read_population(str(_base_path(path, base)))
    return set(below.common).union(*(one.parameters for one in below.classes.values()))


@cache
def load_instruments() -> dict[str, Instrument]:
    """Return the shipped instruments by name."""
    settings = read_settings(FOLDER.parent / "instruments.yaml")
    return {name: _read(Instrument, {"name": name, **entry}, (name,)) for name, entry in settings.items()}


def _read(annotation: Any, value: Any, keys: tuple[str, ...]) -> Any:
    """Return a YAML value as what `annotation` says; a ValueError becomes a UserError with `keys`, file and key."""
    try:
        return _convert(annotation, value, keys)
    except ValueError as error:
        raise UserError(": ".join(part for part in (keys[0], ".".join(keys[1:]), str(error)) if part)) from None


def _convert(annotation: Any, value: Any, keys: tuple[str, ...]) -> Any:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is UnionType and len(args) > 2:  # {axion_vortex: {mass: 1e10}}
        named = isinstance(value, dict) and len(value) == 1 and set(value) <= set(SUBSTRUCTURES)
        require(named, f"must be one of {', '.join(SUBSTRUCTURES)}")
        return next(_read(SUBSTRUCTURES[model], settings or {}, keys) for model, settings in value.items())
    if origin is UnionType:  # X | None
        return None if value is None else _read(args[0], value, keys)
    if origin is tuple:
        values = value if isinstance(value, list) else [value]
        length = len(values) if args[-1] is Ellipsis else len(args)
        require(len(values) == length, f"takes {length} values, not {value!r}")
        return tuple(_read(args[0], one, keys) for one in values)
    if annotation in _SCALARS:
        return _scalar(annotation, value)
    if annotation is Instrument and isinstance(value, str):
        require(value in load_instruments(), f"unknown {value!r}; choose one of {', '.join(load_instruments())}")
        return load_instruments()[value]
    named = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    require(value is not None, "is null, which removes what a base has, and it has none of this name")
    require(named, f"is {value!r}; write `name: value` lines")
    if origin is not None:  # Mapping[str, X]
        return {key: _read(args[1], one, (*keys, key)) for key, one in value.items()}
    cls = annotation
    if cls is Prior:  # {uniform: [0, 1], unit: arcsec}
        families = [family for family in FAMILIES if family in value]
        require(len(families) == 1, f"must be drawn by one of {', '.join(FAMILIES)}")
        value = {"values" if key in families else key: one for key, one in value.items()} | {"family": families[0]}
    hints = get_type_hints(cls)
    required = {one.name for one in fields(cls) if one.default is one.default_factory is MISSING}
    unknown, missing = sorted(set(value) - set(hints)), sorted(required - set(value))
    require(not unknown, f"has no {', '.join(map(repr, unknown))}; it takes {', '.join(sorted(hints))}")
    require(not missing, f"lacks {', '.join(missing)}; add it")
    return cls(**{key: _read(hints[key], one, keys if key == "values" else (*keys, key)) for key, one in value.items()})


_SCALARS: dict[Any, tuple[Any, str]] = {  # accepted types, and what to write
    float: (int | float | str, "a finite number"),
    int: (int, "a whole number"),
    bool: (bool, "true or false"),
    str: (str | int | float, "text"),
}


def _scalar(scalar: Any, value: Any) -> Any:
    accepted, expected = _SCALARS[scalar]
    try:
        if isinstance(value, accepted) and isinstance(value, bool) == (scalar is bool):
            result = scalar(value)
            if scalar is not float or math.isfinite(result):
                return result
    except ValueError:  # text that is no number
        pass
    raise ValueError(f"is {value!r}; write {expected}")


class _CompactDumper(yaml.SafeDumper):
    """Writes lists and priors on one line each, the rest as blocks."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, mapping, flow_style=any(family in mapping for family in FAMILIES))

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


def _path_of(name: str) -> Path:
    if name in population_names():
        return FOLDER / f"{name}.yaml"
    if not name.endswith((".yaml", ".yml")) or not Path(name).is_file():
        shipped = ", ".join(population_names())
        raise UserError(f"there is no population {name!r}; choose one of {shipped}, or give the path of a YAML file")
    return Path(name)


def _resolve(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Return the settings of a file merged into those of its bases; a null removes what a base has, and must."""
    if path in above:
        raise UserError(f"{path}: is based on itself; change `base`")
    settings = read_settings(path)
    base = settings.pop("base", None)
    if not isinstance(base, str | None):
        raise UserError(f"{path}: base is {base!r}; write the name of a population or a YAML file")
    if base is None:
        return _merge({}, settings)
    return _merge(_resolve(_base_path(path, base), (*above, path)), settings)


def _base_path(path: Path, base: str) -> Path:
    return _path_of(base if base in population_names() else str(path.parent / base))


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` changed key by key; a null removes its key, a prior of another family all but unit and meaning."""
    merged = dict(base)
    for key, new in changes.items():
        if isinstance(new, dict):
            old = merged[key] if isinstance(merged.get(key), dict) else {}
            if any(new.get(family) is not None and family not in old for family in FAMILIES):
                old = {name: old[name] for name in ("unit", "meaning") if name in old}
            new = _merge(old, new)
        merged[key] = new
    return {key: value for key, value in merged.items() if value is not None or key not in {*base, *FAMILIES}}
