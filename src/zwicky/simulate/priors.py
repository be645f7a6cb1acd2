"""Prior distributions of parameters, and the cosmology that some of them need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.constants import G, M_sun, c
from astropy.cosmology import FlatLambdaCDM
from scipy.special import ndtr

COSMOLOGY = FlatLambdaCDM(H0=70, Om0=0.3)
# Families of priors and how many numbers each takes; 0: one or more.
FAMILIES = {"value": 1, "uniform": 2, "log_uniform": 2, "annulus": 2, "normal": 2, "choice": 0, "einstein_radius": 1}
MIN_ACCEPTANCE = 1e-4  # of the draws of a truncated normal


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def einstein_radius(mass: np.ndarray | float, z_lens: np.ndarray, z_source: np.ndarray) -> np.ndarray:
    """Return the Einstein radius, arcsec, of `mass` (Msun) within it: √(4 G M / c² · D_ls / (D_l D_s)).

    See Narayan & Bartelmann, arXiv:astro-ph/9606001. In a flat universe the angular-diameter distances follow from the
    comoving ones: D_l = x_l / (1 + z_l), D_s = x_s / (1 + z_s), D_ls = (x_s - x_l) / (1 + z_s).
    """
    x_lens, x_source = COSMOLOGY.comoving_distance(z_lens), COSMOLOGY.comoving_distance(z_source)
    ratio = (1 + np.asarray(z_lens)) * (x_source - x_lens) / (x_lens * x_source)
    return (np.sqrt(4 * G * M_sun * mass / c**2 * ratio).to_value("") * u.rad).to_value("arcsec")


@dataclass(frozen=True)
class Prior:
    """Prior distribution of one parameter, with its unit ("" if none) and meaning.

    Attributes:
        family: a key of `FAMILIES`. `annulus` is the distance from the centre of a point that lies anywhere in an
            annulus, i.e. of density ∝ r; `einstein_radius` is that of a mass (Msun) at `z_lens` and `z_source`.
        values: the numbers of the family: (value,), (low, high), (mean, deviation), the choices, or (mass,).
        between: (low, high), to which a normal is truncated.
        weights: relative weights of the choices; equal if empty.
        times: a parameter drawn before, with which the draw is multiplied.
        around: a parameter drawn before, of which `slope` (default 1) times its value is added to the draw.
    """

    family: str
    values: tuple[float, ...]
    between: tuple[float, float] | None = None
    weights: tuple[float, ...] = ()
    times: str | None = None
    around: str | None = None
    slope: float | None = None
    unit: str = ""
    meaning: str = ""

    def __post_init__(self) -> None:
        family, values, count = self.family, self.values, FAMILIES[self.family]
        require(len(values) == (count or max(len(values), 1)), f"{family} takes {count or 'one or more'} numbers")
        if family in ("uniform", "log_uniform", "annulus"):
            low, high = values
            lowest = {"uniform": -np.inf, "log_uniform": np.nextafter(0, 1), "annulus": 0.0}[family]
            require(lowest <= low <= high, f"{family} from {low:g} to {high:g} is empty; write [low, high]")
        require(family != "normal" or values[-1] >= 0, "normal has a negative standard deviation")
        if self.between:
            require(family == "normal", "between is for normal only")
            low, high = ndtr((np.array(self.between) - values[0]) / max(values[1], 1e-30))
            require(high - low >= MIN_ACCEPTANCE, "between leaves out nearly all of the normal; widen it")
        require(not self.weights or family == "choice", "weights are for choice only")
        fitting = len(self.weights) in (0, len(values)) and min(self.weights, default=1) >= 0
        require(fitting and sum(self.weights or (1,)) > 0, "weights must be one number of 0 or more per choice")
        require(not (self.times and self.around), "both times and around are given; remove one")
        require(self.slope is None or self.around is not None, "slope needs around")

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return [count] float64 draws; `drawn` holds the parameters drawn before, [count] each."""
        draws = self._draw(rng, count, drawn)
        if self.times:
            return drawn[self.times] * draws
        if self.around:
            return (1.0 if self.slope is None else self.slope) * drawn[self.around] + draws
        return draws

    def _draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        first, last = self.values[0], self.values[-1]
        if self.family == "value":
            return np.full(count, first)
        if self.family == "uniform":
            return rng.uniform(first, last, count)
        if self.family == "log_uniform":
            return np.exp(rng.uniform(np.log(first), np.log(last), count))
        if self.family == "annulus":
            return np.sqrt(rng.uniform(first**2, last**2, count))
        if self.family == "choice":
            weights = np.asarray(self.weights or np.ones(len(self.values)))
            return rng.choice(np.asarray(self.values), count, p=weights / weights.sum())
        if self.family == "einstein_radius":
            return einstein_radius(first, drawn["z_lens"], drawn["z_source"])
        draws = rng.normal(first, last, count)
        low, high = self.between or (-np.inf, np.inf)
        while (rejected := (draws < low) | (draws > high)).any():
            draws[rejected] = rng.normal(first, last, int(rejected.sum()))
        return draws
