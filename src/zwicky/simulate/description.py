"""The description of a population in YAML: read strictly, so that a slip is told in one line and never passes.

What is drawn, and how, is read by `zwicky.simulate.words`; where the text comes from, by `zwicky.simulate.bases`.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from zwicky.errors import UserError
from zwicky.simulate import bases
from zwicky.simulate.composite import CHANNELS
from zwicky.simulate.instruments import INSTRUMENTS, Band, Instrument
from zwicky.simulate.population import NOISES, Composite, Galaxies, Kind, Light, Population
from zwicky.simulate.substructure import AxionVortex, ColdDarkMatter, FixedNumber, Substructure
from zwicky.simulate.words import Words

MOST_PIXELS = 1024

SUBSTRUCTURES: dict[str, Any] = {
    "fixed_number": FixedNumber,
    "cold_dark_matter": ColdDarkMatter,
    "axion_vortex": AxionVortex,
}


def read_population(name: str) -> Population:
    """The shipped population of this name, or the one a YAML file describes, called like the file."""
    return _Reader(name).population(*bases.find(name))


class _Reader(Words):
    """Reads the parts of one description."""

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
