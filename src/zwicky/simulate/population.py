"""What a population is: a declaration of who is in it and how each parameter is drawn. It draws no pixel itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zwicky.simulate.distributions import Distribution
from zwicky.simulate.instruments import Instrument


@dataclass(frozen=True)
class Parameter:
    """One number of an image's truth. unit: as in the docs, "" where it has none."""

    distribution: Distribution
    unit: str
    meaning: str


@dataclass(frozen=True)
class Light:
    """Magnitudes of one layer of light, as observed within the rendered frame: after lensing, before noise.

    band: the band of `magnitude` (AB). offsets: of each other band, its magnitude minus that one.
    """

    band: str
    magnitude: Distribution
    offsets: Mapping[str, Distribution]


@dataclass(frozen=True)
class Kind:
    """One sort of object.

    label: the class it belongs to. share: its part of the population. layers: of each layer of light, the name of
    its shape in `zwicky.simulate.layers`. parameters: those that only this kind has.
    """

    label: str
    share: float
    layers: Mapping[str, str]
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True)
class Population:
    """Simulated objects of several kinds, seen with one instrument.

    about: one line for the list of populations. size: pixels a side. common: parameters of every kind, drawn in this
    order before the kind's own. light: magnitudes of each layer, the same for all kinds, so that no kind is known by
    its flux or colour.
    """

    name: str
    about: str
    instrument: Instrument
    size: int
    common: Mapping[str, Parameter]
    light: Mapping[str, Light]
    kinds: Mapping[str, Kind]
