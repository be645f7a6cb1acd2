"""The description of a population in YAML: read strictly, so that a slip is told in one line and never passes.

A parameter is one word for how it is drawn, with what may stand beside it:

    lens_R: {normal: [0.65, 0.2], between: [0.3, 1.3], unit: arcsec, meaning: half-light radius}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from math import erf
from pathlib import Path
from typing import Any

import yaml

from zwicky.errors import UserError
from zwicky.files import read_settings
from zwicky.recipes import merge
from zwicky.simulate.composite import CHANNELS
from zwicky.simulate.config import FOLDER, population_names
from zwicky.simulate.distributions import (
    Annulus,
    Around,
    Choice,
    Constant,
    Distribution,
    EinsteinRadius,
    LogUniform,
    Normal,
    Times,
    Uniform,
)
from zwicky.simulate.instruments import INSTRUMENTS, Band, Instrument
from zwicky.simulate.population import NOISES, Composite, Galaxies, Kind, Light, Parameter, Population
from zwicky.simulate.substructure import AxionVortex, ColdDarkMatter, FixedNumber, Substructure

MOST_PIXELS = 1024

SUBSTRUCTURES: dict[str, Any] = {
    "fixed_number": FixedNumber,
    "cold_dark_matter": ColdDarkMatter,
    "axion_vortex": AxionVortex,
}

# How many numbers each word for a distribution takes; None: any.
WORDS: dict[str, int | None] = {
    "value": 1,
    "uniform": 2,
    "log_uniform": 2,
    "annulus": 2,
    "normal": 2,
    "choice": None,
    "einstein_radius": 1,
}


def read_population(name: str) -> Population:
    """The shipped population of this name, or the one a YAML file describes, called like the file."""
    path = _path_of(name)
    description = _resolved(path, ())
    text = yaml.dump(description, Dumper=_OneLineAParameter, sort_keys=False, allow_unicode=True, width=1000)
    return _Reader(name).population(path.stem, description, text)


class _OneLineAParameter(yaml.SafeDumper):
    """Writes lists and distributions on one line each, the rest as blocks."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, mapping, flow_style=any(word in mapping for word in WORDS))

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


def _path_of(name: str) -> Path:
    if name in population_names():
        return FOLDER / f"{name}.yaml"
    if not name.endswith((".yaml", ".yml")):
        raise UserError(
            f"there is no population {name!r}; choose one of {', '.join(population_names())}, or give a YAML file"
        )
    return Path(name)


def _resolved(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The description with those it is based on laid under it; a null takes away what they have."""
    if path in above:
        raise UserError(f"{path}: is based on itself; mend `base`")
    if not path.is_file():
        raise UserError(
            f"population {path}: there is no such file; choose one of {', '.join(population_names())}, or give a "
            "YAML file"
        )
    settings = read_settings(path)
    base = settings.pop("base", None)
    if base is None:
        return settings
    if not isinstance(base, str):
        raise UserError(f"{path}: base is {base!r}; write the name of a population or a YAML file")
    below = _path_of(base) if base in population_names() or Path(base).is_absolute() else path.parent / _path_of(base)
    return _without_null(_laid_over(_resolved(below, (*above, path)), settings))


def _laid_over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """As `merge`, but a parameter that is drawn by another word keeps only its unit and meaning."""
    merged = merge(base, changes)
    for key, new in changes.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            words = [word for word in WORDS if new.get(word) is not None]
            kept = old if not words or words[0] in old else {k: old[k] for k in ("unit", "meaning") if k in old}
            merged[key] = _laid_over(kept, new)
    return merged


def _without_null(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_null(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if value is not None
    }


def _share_between(mean: float, deviation: float, low: float, high: float) -> float:
    """How many of such normal numbers lie in the interval; those outside are drawn again."""
    if deviation == 0:
        return float(low <= mean <= high)
    return (erf((high - mean) / deviation / 2**0.5) - erf((low - mean) / deviation / 2**0.5)) / 2


class _Reader:
    """Reads the parts of one description; `source` begins each complaint."""

    def __init__(self, source: str) -> None:
        self.source = source

    def wrong(self, where: str, what: str) -> UserError:
        return UserError(f"{self.source}: {where}: {what}")

    def table(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.wrong(where, f"is {value!r}; write names with values, as in `{where.split('.')[-1]}: {{a: …}}`")
        return value

    def only(self, value: Mapping[str, Any], where: str, needed: set[str], allowed: set[str]) -> None:
        unknown, missing = set(value) - needed - allowed, needed - set(value)
        if unknown:
            known = ", ".join(sorted(needed | allowed))
            raise self.wrong(where, f"does not know {', '.join(map(repr, sorted(unknown)))}; it takes {known}")
        if missing:
            raise self.wrong(where, f"lacks {', '.join(sorted(missing))}; add it")

    def number(self, value: Any, where: str) -> float:
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
        except (TypeError, ValueError):
            raise self.wrong(where, f"{value!r} is not a number; write one") from None
        if not abs(number) < float("inf"):
            raise self.wrong(where, f"{number} is not finite; write a number")
        return number

    def numbers(self, value: Any, where: str, count: int | None) -> tuple[float, ...]:
        values = value if isinstance(value, list) else [value]
        if (count is not None and len(values) != count) or not values:
            raise self.wrong(where, f"takes {count or 'one or more'} numbers, not {value!r}")
        return tuple(self.number(one, where) for one in values)

    def distribution(self, value: Any, where: str, drawn: set[str], also: set[str]) -> Distribution:
        """drawn: the parameters that are known by then. also: keys that are not the distribution's."""
        table = self.table(value, where)
        words = [word for word in WORDS if word in table]
        if len(words) != 1:
            raise self.wrong(where, f"must say how it is drawn, by one of {', '.join(WORDS)}")
        word = words[0]
        if word == "einstein_radius" and not {"z_lens", "z_source"} <= drawn:
            raise self.wrong(where, "needs z_lens and z_source; put these parameters above")
        fitting = {"normal": {"between"}, "choice": {"weights"}}.get(word, set())
        beside = {"times", "around"} | ({"slope"} if "around" in table else set())
        self.only(table, where, {word}, fitting | also | beside)
        given = self.numbers(table[word], f"{where}.{word}", WORDS[word])
        made = self._plain(word, given, table, where)
        if "times" in table and "around" in table:
            raise self.wrong(where, "has both `times` and `around`; write one of them")
        for key in ("times", "around"):
            if key in table and table[key] not in drawn:
                raise self.wrong(where, f"{key} {table[key]!r}, which is not drawn before it; put that one above")
        if "times" in table:
            return Times(table["times"], made)
        if "around" in table:
            return Around(table["around"], made, self.number(table.get("slope", 1.0), f"{where}.slope"))
        return made

    def _plain(self, word: str, given: tuple[float, ...], table: dict[str, Any], where: str) -> Distribution:
        if word == "value":
            return Constant(given[0])
        if word == "einstein_radius":
            return EinsteinRadius(given[0])
        if word == "choice":
            weights = self.numbers(table["weights"], f"{where}.weights", len(given)) if "weights" in table else None
            weights = weights or (1.0,) * len(given)
            if min(weights) < 0 or sum(weights) == 0:
                raise self.wrong(where, "has weights that are no shares; write numbers above 0")
            return Choice(given, weights)
        if word == "normal":
            mean, deviation = given
            if deviation < 0:
                raise self.wrong(where, f"has the standard deviation {deviation:g}; write 0 or more")
            if "between" not in table:
                return Normal(mean, deviation)
            low, high = self.numbers(table["between"], f"{where}.between", 2)
            if not low < high or _share_between(mean, deviation, low, high) < 1e-4:
                raise self.wrong(where, f"between {low:g} and {high:g} such numbers are not drawn; mend `between`")
            return Normal(mean, deviation, low, high)
        kinds: dict[str, Callable[[float, float], Distribution]] = {
            "uniform": Uniform,
            "log_uniform": LogUniform,
            "annulus": Annulus,
        }
        low, high = given
        if low > high or (word == "log_uniform" and low <= 0) or (word == "annulus" and low < 0):
            raise self.wrong(where, f"{word} from {low:g} to {high:g} cannot be drawn; mend the two numbers")
        return kinds[word](low, high)

    def parameters(self, value: Any, where: str, known: set[str]) -> dict[str, Parameter]:
        """In the order written, which is the order of drawing."""
        found: dict[str, Parameter] = {}
        for name, entry in self.table(value, where).items():
            place = f"{where}.{name}"
            entry = self.table(entry, place)
            drawn = self.distribution(entry, place, known | set(found), {"unit", "meaning"})
            texts = [entry.get(key, "") for key in ("unit", "meaning")]
            if not all(isinstance(text, str) for text in texts):
                raise self.wrong(place, "has a unit or meaning that is no text; write it in quotes")
            found[name] = Parameter(drawn, *texts)
        return found

    def light(self, value: Any, where: str, bands: tuple[str, ...], known: set[str]) -> Light:
        """Offsets of bands that the instrument lacks may stand there, and are left out."""
        table = self.table(value, where)
        self.only(table, where, {"band", "magnitude"}, {"offsets", "unlensed"})
        reference = table["band"]
        offsets = self.table(table.get("offsets", {}), f"{where}.offsets")
        missing = [band for band in bands if band != reference and band not in offsets]
        if missing:
            raise self.wrong(f"{where}.offsets", f"lacks {', '.join(missing)}, which the instrument has; add it")
        read = {
            band: self.distribution(entry, f"{where}.offsets.{band}", known, set()) for band, entry in offsets.items()
        }
        magnitude = self.distribution(table["magnitude"], f"{where}.magnitude", known, set())
        unlensed = table.get("unlensed", False)
        if type(unlensed) is not bool:
            raise self.wrong(f"{where}.unlensed", f"is {unlensed!r}; write true or false")
        return Light(str(reference), magnitude, {band: one for band, one in read.items() if band in bands}, unlensed)

    def instrument(self, value: Any) -> Instrument:
        """A name, or one described in full."""
        if isinstance(value, str):
            if value not in INSTRUMENTS:
                raise self.wrong("instrument", f"there is no {value!r}; choose one of {', '.join(INSTRUMENTS)}")
            return INSTRUMENTS[value]
        table = self.table(value, "instrument")
        self.only(table, "instrument", {"name", "pixel_scale", "bands"}, set())
        wanted = [field.name for field in fields(Band) if field.name not in ("name", "psf")]
        bands = []
        for name, entry in self.table(table["bands"], "instrument.bands").items():
            where = f"instrument.bands.{name}"
            entry = self.table(entry, where)
            self.only(entry, where, set(wanted), {"psf"})
            numbers = {key: self.number(entry[key], f"{where}.{key}") for key in wanted}
            band = Band(name, psf=str(entry.get("psf", "moffat")), **numbers)
            if min(band.fwhm, band.exposure) <= 0 or band.read_noise < 0:
                raise self.wrong(where, "fwhm and exposure must be above 0 and read_noise not below; mend them")
            bands.append(band)
        scale = self.number(table["pixel_scale"], "instrument.pixel_scale")
        if scale <= 0 or not bands:
            raise self.wrong("instrument", "needs a pixel_scale above 0 and a band; mend it")
        return Instrument(str(table["name"]), scale, tuple(bands))

    def composite(self, value: Any, bands: tuple[str, ...]) -> Composite:
        table = self.table(value, "composite")
        optional = {"zero_point", "resampling"}
        self.only(table, "composite", {"channels", "scales", "Q", "alpha"}, optional)
        channels = self.table(table["channels"], "composite.channels")
        if tuple(channels) != CHANNELS or any(band not in bands for band in channels.values()):
            raise self.wrong("composite.channels", f"must give R, G and B a band each, of {', '.join(bands)}")
        scales = self.numbers(table["scales"], "composite.scales", 3)
        rest = {key: self.number(table[key], f"composite.{key}") for key in ("Q", "alpha", *optional) if key in table}
        if min(*scales, rest["Q"], rest["alpha"]) <= 0 or not 0 <= rest.get("resampling", 0.0) < 8:
            raise self.wrong("composite", "scales, Q and alpha must be above 0 and resampling from 0 to 8 pixels")
        return Composite(channels, (scales[0], scales[1], scales[2]), **rest)

    def population(self, name: str, description: dict[str, Any], text: str) -> Population:
        needed = {"about", "instrument", "size", "common", "light", "kinds"}
        optional = {"bands", "composite", "supersampling", "galaxies", "noise", "warning", "pairs"}
        self.only(description, "population", needed, optional)
        instrument = self.instrument(description["instrument"])
        if "bands" in description:
            wanted = description["bands"]
            try:
                instrument = instrument.only([wanted] if isinstance(wanted, str) else [*map(str, wanted)])
            except (UserError, TypeError) as error:
                raise self.wrong("bands", str(error)) from None
        size = description["size"]
        if type(size) is not int or not 8 <= size <= MOST_PIXELS:
            raise self.wrong("size", f"is {size!r}; write a whole number of pixels from 8 to {MOST_PIXELS}")
        common = self.parameters(description["common"], "common", set())
        if "seeing" not in common:
            raise self.wrong("common", "lacks seeing, the width of the point spread function over its median; add it")
        bands, known = instrument.band_names, set(common)
        lights = self.table(description["light"], "light")
        light = {key: self.light(one, f"light.{key}", bands, known) for key, one in lights.items()}
        sorts = self.table(description["kinds"], "kinds")
        kinds = {key: self.kind(one, f"kinds.{key}", known, set(light)) for key, one in sorts.items()}
        if not light or sum(kind.share for kind in kinds.values()) <= 0:
            raise self.wrong("kinds", "needs a layer of light and a kind with a share above 0")
        composite = self.composite(description["composite"], bands) if "composite" in description else None
        galaxies = self.galaxies(description.get("galaxies", {}))
        about = " ".join(str(description["about"]).split())
        cells = description.get("supersampling", 2)
        if type(cells) is not int or not 1 <= cells <= 16:
            raise self.wrong("supersampling", f"is {cells!r}; write how many cells a pixel is cut into, from 1 to 16")
        noise = description.get("noise", NOISES[0])
        if noise not in NOISES:
            raise self.wrong("noise", f"is {noise!r}; choose one of {', '.join(NOISES)}")
        if noise == "deeplense-1" and "exposure" not in common:
            raise self.wrong("noise", "deeplense-1 needs the parameter exposure, in seconds; declare it in common")
        warning = " ".join(str(description.get("warning", "")).split())
        own = {name for kind in kinds.values() for name in kind.parameters}
        pairs = self.pairs(description.get("pairs", []), {*common, *light, *own})
        return Population(
            name, about, instrument, size, common, light, kinds, cells, composite, galaxies, text, noise, warning, pairs
        )


    def pairs(self, value: Any, known: set[str]) -> tuple[str, ...]:
        """What the two images of a pair differ in."""
        if not isinstance(value, list):
            raise self.wrong("pairs", f"is {value!r}; list what two images of one object differ in, as in [source_dx]")
        unknown = [name for name in value if name not in known]
        if unknown:
            raise self.wrong("pairs", f"{unknown[0]!r} is neither a parameter nor a layer of light; mend it")
        return tuple(value)

    def galaxies(self, value: Any) -> dict[str, Galaxies]:
        table = self.table(value, "galaxies")
        self.only(table, "galaxies", set(), {"source", "lens"})
        found = {}
        for name, entry in table.items():
            where = f"galaxies.{name}"
            self.only(self.table(entry, where), where, {"store"}, {"part"})
            if not isinstance(entry["store"], str):
                raise self.wrong(f"{where}.store", f"is {entry['store']!r}; write the path of a store")
            low, high = self.numbers(entry.get("part", [0, 1]), f"{where}.part", 2)
            if not 0 <= low < high <= 1:
                raise self.wrong(f"{where}.part", "takes two numbers from 0 to 1, the smaller first, as in [0, 0.8]")
            found[name] = Galaxies(entry["store"], (low, high))
        return found

    def substructure(self, value: Any, where: str, known: set[str]) -> Substructure:
        """One word for a declaration in `zwicky.simulate.substructure`, with its fields."""
        table = self.table(value, where)
        if len(table) != 1 or next(iter(table)) not in SUBSTRUCTURES:
            raise self.wrong(where, f"must be one of {', '.join(SUBSTRUCTURES)}, with its settings")
        ((word, entry),) = table.items()
        where, kind = f"{where}.{word}", SUBSTRUCTURES[word]
        if missing := sorted(kind.needs - known):
            raise self.wrong(where, f"needs {', '.join(missing)}; declare these parameters")
        entry = self.table(entry or {}, where)
        names = {field.name: field for field in fields(kind)}
        needed = {name for name, field in names.items() if field.default is MISSING}
        self.only(entry, where, needed, set(names))
        given: dict[str, Any] = {}
        for name, one in entry.items():
            place, wanted = f"{where}.{name}", str(names[name].type)
            if wanted == "Distribution":
                given[name] = self.distribution(one, place, known, set())
            elif wanted == "bool":
                if type(one) is not bool:
                    raise self.wrong(place, f"is {one!r}; write true or false")
                given[name] = one
            else:
                number = self.number(one, place)
                given[name] = int(number) if wanted == "int" else number
        return kind(**given)

    def kind(self, value: Any, where: str, common: set[str], light: set[str]) -> Kind:
        table = self.table(value, where)
        self.only(table, where, {"label", "share", "layers"}, {"parameters", "deflectors", "substructure"})
        layers = self.table(table["layers"], f"{where}.layers")
        self.only(layers, f"{where}.layers", light, set())
        share = self.number(table["share"], f"{where}.share")
        if share < 0:
            raise self.wrong(f"{where}.share", f"is {share:g}; write a share of 0 or more")
        parameters = self.parameters(table.get("parameters", {}), f"{where}.parameters", common)
        repeated = sorted(common & set(parameters))
        if repeated:
            raise self.wrong(f"{where}.parameters", f"repeats {', '.join(repeated)} of common; give it another name")
        deflectors = table.get("deflectors", [])
        if not isinstance(deflectors, list):
            raise self.wrong(f"{where}.deflectors", f"is {deflectors!r}; write a list, as in [sie, shear]")
        small = None
        if "substructure" in table:
            small = self.substructure(table["substructure"], f"{where}.substructure", common | set(parameters))
        named = {key: str(shape) for key, shape in layers.items()}
        return Kind(str(table["label"]), share, named, parameters, tuple(map(str, deflectors)), small)
