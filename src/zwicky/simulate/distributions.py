"""How one parameter is drawn: small declarations that say what they are when printed.

`draw(rng, count, drawn)` gives [count] floats; `drawn` holds the parameters drawn before, which some depend on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from zwicky.simulate.cosmology import FIDUCIAL


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
        return FIDUCIAL.theta_E_of_mass(self.mass, drawn["z_lens"], drawn["z_source"])
