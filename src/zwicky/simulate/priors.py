"""Priors of one parameter, and the cosmology that some of them need.

`draw(rng, count, drawn)` returns [count] floats; `drawn` holds the parameters drawn before, which some depend on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from astropy import units as u
from astropy.constants import G, M_sun, c
from astropy.cosmology import FlatLambdaCDM

COSMOLOGY = FlatLambdaCDM(H0=70, Om0=0.3)


def einstein_radius(mass: np.ndarray | float, z_lens: np.ndarray, z_source: np.ndarray) -> np.ndarray:
    """Return the Einstein radius, arcsec, of `mass` (Msun) within it: √(4 G M / c² · D_ls / (D_l D_s)).

    See Narayan & Bartelmann, arXiv:astro-ph/9606001. In a flat universe the angular-diameter distances follow from the
    comoving ones: D_l = x_l / (1 + z_l), D_s = x_s / (1 + z_s), D_ls = (x_s - x_l) / (1 + z_s).
    """
    x_lens, x_source = COSMOLOGY.comoving_distance(z_lens), COSMOLOGY.comoving_distance(z_source)
    ratio = (1 + np.asarray(z_lens)) * (x_source - x_lens) / (x_lens * x_source)
    return (np.sqrt(4 * G * M_sun * mass / c**2 * ratio).to_value("") * u.rad).to_value("arcsec")


class Distribution(Protocol):
    """Anything that can draw `count` values of one parameter."""

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        """[count] float64."""


@dataclass(frozen=True)
class Uniform:
    """Flat between `low` and `high`."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        return rng.uniform(self.low, self.high, count)


@dataclass(frozen=True)
class Constant:
    """Always `value`."""

    value: float

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.full(count, float(self.value))


@dataclass(frozen=True)
class LogUniform:
    """Flat in the logarithm between `low` and `high`, both above 0."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.exp(rng.uniform(np.log(self.low), np.log(self.high), count))


@dataclass(frozen=True)
class Annulus:
    """The distance from the centre of a point that lies anywhere in an annulus: density ∝ r from `inner` to `outer`."""

    inner: float
    outer: float

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.sqrt(rng.uniform(self.inner**2, self.outer**2, count))


@dataclass(frozen=True)
class Normal:
    """Gaussian, redrawn until it falls between `low` and `high`."""

    mean: float
    deviation: float
    low: float = -np.inf
    high: float = np.inf

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        values = rng.normal(self.mean, self.deviation, count)
        while (outside := (values < self.low) | (values > self.high)).any():
            values[outside] = rng.normal(self.mean, self.deviation, int(outside.sum()))
        return values


@dataclass(frozen=True)
class Choice:
    """One of `values`, with these weights."""

    values: tuple[float, ...]
    weights: tuple[float, ...]

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        share = np.asarray(self.weights, dtype=np.float64)
        return rng.choice(np.asarray(self.values, dtype=np.float64), count, p=share / share.sum())


@dataclass(frozen=True)
class Around:
    """`slope` times the value of the parameter `name`, plus a draw."""

    name: str
    offset: Distribution
    slope: float = 1.0

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.slope * drawn[self.name] + self.offset.draw(rng, count, drawn)


@dataclass(frozen=True)
class Times:
    """The value of the parameter `name` times a draw."""

    name: str
    factor: Distribution

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        return drawn[self.name] * self.factor.draw(rng, count, drawn)


@dataclass(frozen=True)
class EinsteinRadius:
    """That of a point of `mass` Msun, arcsec, at the redshifts `z_lens` and `z_source` drawn before."""

    mass: float

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        return einstein_radius(self.mass, drawn["z_lens"], drawn["z_source"])
