"""Prior distributions of parameters and of dark-matter substructure, and the cosmology that they need.

Substructure is drawn as truth columns, [n] or one number per subhalo [n, S], NaN where an image has fewer than S.
A mass m has the Einstein radius √(m / 1e12 Msun) times `theta_E_1e12` (arcsec), that of 1e12 Msun at the redshifts of
the lens and the source.
"""

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
PIVOT_MASS = 1e10  # Msun, at which the subhalo mass function is normalised
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
    """Prior distribution of one parameter.

    `annulus` is the distance from the centre of a point that lies anywhere in an annulus, i.e. of density ∝ r;
    `einstein_radius` is that of a mass (Msun) at the parameters `z_lens` and `z_source`.
    """

    family: str  # a key of `FAMILIES`
    values: tuple[float, ...]  # (value,), (low, high), (mean, deviation), the choices, or (mass,)
    between: tuple[float, float] | None = None  # (low, high), to which a normal is truncated
    weights: tuple[float, ...] = ()  # of the choices, relative; equal if empty
    times: str | None = None  # a parameter drawn before, with which the draw is multiplied
    around: str | None = None  # a parameter drawn before, of which `slope` (default 1) times is added to the draw
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
        if self.around:
            return (1.0 if self.slope is None else self.slope) * drawn[self.around] + draws
        return drawn[self.times] * draws if self.times else draws

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


TAU = Prior("uniform", (2.0, 8.0))
TAU_LIMITS = (0.06, 1500.0)  # for which the deflection is computed
LOG10_AXION_MASS = Prior("uniform", (-24.0, -22.0))


def power_law(rng: np.random.Generator, shape: tuple[int, ...], slope: np.ndarray, low: float, high: float):
    """Return masses with dn/dm ∝ m^slope between `low` and `high`; slope ≠ -1 broadcasts against `shape`."""
    index = slope + 1
    return (low**index + rng.random(shape) * (high**index - low**index)) ** (1 / index)


def _require_masses(low: float, high: float) -> None:
    require(0 < low < high, "masses must be above 0, mass_min below mass_max")


def _place(drawn: Mapping[str, np.ndarray], r: np.ndarray, angle: np.ndarray, mass: np.ndarray):
    return {
        "subhalo_x": drawn["lens_x"][:, None] + r * np.cos(angle),
        "subhalo_y": drawn["lens_y"][:, None] + r * np.sin(angle),
        "subhalo_mass": mass,
        "subhalo_theta_E": drawn["theta_E_1e12"][:, None] * np.sqrt(mass / 1e12),
    }


@dataclass(frozen=True)
class FixedNumber:
    """`number` masses with dn/dm ∝ m^slope (Msun), at distances uniform between `r_min` and `r_max` arcsec."""

    number: int
    slope: float
    mass_min: float
    mass_max: float
    r_min: float
    r_max: float

    def __post_init__(self) -> None:
        require(self.number >= 1, "number must be 1 or more")
        require(self.slope != -1, "slope must not be -1; take -1.0001 for masses uniform in their logarithm")
        _require_masses(self.mass_min, self.mass_max)
        require(0 <= self.r_min <= self.r_max, "distances must be 0 or more, r_min at most r_max")

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the truth columns of `count` lenses, [count] or [count, S]."""
        shape = (count, self.number)
        mass = power_law(rng, shape, np.array(self.slope), self.mass_min, self.mass_max)
        return _place(drawn, rng.uniform(self.r_min, self.r_max, shape), rng.uniform(0, 2 * np.pi, shape), mass)


@dataclass(frozen=True)
class ColdDarkMatter:
    """Truncated NFW subhalos in a disc around the lens, and a negative mass sheet that compensates their mass.

    The number is Poisson, with d²N / (dA dm) = Σ_sub / m_0 · (m / m_0)^slope at m_0 = `PIVOT_MASS` (as in Gilman et al.
    2020, arXiv:1908.06983). The scale radius is r200 / c with c = concentration · (m / 1e8 Msun)^-0.08, scattered by
    0.1 dex. The sheet has minus the mean convergence of the subhalos in the disc, κ = -Σ θ_E² / radius².
    """

    sigma_sub: Prior  # Σ_sub, 1/kpc²
    slope: Prior
    mass_min: float = 1e8  # Msun
    mass_max: float = 1e10
    radius: float = 3.0  # of the disc, arcsec
    concentration: float = 13.0  # of a subhalo of 1e8 Msun
    tau: Prior = TAU  # truncation radius over scale radius

    def __post_init__(self) -> None:
        _require_masses(self.mass_min, self.mass_max)
        require(min(self.radius, self.concentration) > 0, "radius and concentration must be above 0")

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the truth columns of `count` lenses, [count] or [count, S]."""
        sigma, slope = self.sigma_sub.draw(rng, count, drawn), self.slope.draw(rng, count, drawn)
        require(sigma.min(initial=0) >= 0, "sigma_sub is drawn below 0; truncate its prior with between")
        kpc = COSMOLOGY.kpc_proper_per_arcmin(drawn["z_lens"]).value / 60  # per arcsec
        critical_density = COSMOLOGY.critical_density(drawn["z_lens"]).to_value("Msun / kpc3")[:, None]
        index = slope + 1
        per_kpc2 = sigma * ((self.mass_max / PIVOT_MASS) ** index - (self.mass_min / PIVOT_MASS) ** index) / index
        numbers = rng.poisson(per_kpc2 * np.pi * (self.radius * kpc) ** 2)
        shape = (count, int(numbers.max(initial=1)))
        absent = np.arange(shape[1]) >= numbers[:, None]
        mass = power_law(rng, shape, slope[:, None], self.mass_min, self.mass_max)
        r200 = (3 * mass / (800 * np.pi * critical_density)) ** (1 / 3)  # kpc
        scatter = 10 ** rng.normal(0.0, 0.1, shape)
        columns = _place(drawn, self.radius * np.sqrt(rng.random(shape)), rng.uniform(0, 2 * np.pi, shape), mass)
        columns["subhalo_Rs"] = r200 / (self.concentration * (mass / 1e8) ** -0.08 * scatter) / kpc[:, None]
        tau = self.tau.draw(rng, count * shape[1], drawn).reshape(shape)
        low, high = TAU_LIMITS
        require(low <= tau.min() and tau.max() <= high, f"tau is drawn outside {low:g} to {high:g}; narrow its prior")
        columns["subhalo_tau"] = tau
        columns = {name: np.where(absent, np.nan, values) for name, values in columns.items()}
        return columns | {
            "sigma_sub": sigma,
            "subhalo_slope": slope,
            "subhalos": numbers.astype(np.float64),
            "substructure_mass": np.nansum(columns["subhalo_mass"], 1),
            "sheet_kappa": -np.nansum(columns["subhalo_theta_E"] ** 2, 1) / self.radius**2,
        }


@dataclass(frozen=True)
class AxionVortex:
    """A vortex in an axion condensate, a line of mass through the lens (arXiv:1909.07346), at a random angle.

    Its half-length is 0.03 arcsec · (1e-22 eV / axion mass). With `compensated`, a negative singular isothermal sphere
    removes the mass that the line adds within θ_E: a uniform line has an SIS's mass within each radius up to its end.
    """

    mass: float = 3e10  # Msun
    log10_axion_mass: Prior = LOG10_AXION_MASS
    compensated: bool = True

    def __post_init__(self) -> None:
        require(self.mass > 0, "mass must be above 0")

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the truth columns of `count` lenses, [count] or [count, S]."""
        log10_mass = self.log10_axion_mass.draw(rng, count, drawn)
        half_length = 0.03 * 10 ** (-22 - log10_mass)
        vortex, theta_E = drawn["theta_E_1e12"] * (self.mass / 1e12) ** 0.5, drawn["theta_E"]
        removed = -(vortex**2) * np.minimum(1, theta_E / half_length) / theta_E
        return {
            "log10_axion_mass": log10_mass,
            "substructure_mass": np.full(count, self.mass),
            "vortex_theta_E": vortex,
            "vortex_angle": rng.uniform(0, np.pi, count),
            "vortex_half_length": half_length,
            "sis_theta_E": removed if self.compensated else np.zeros(count),
        }


Substructure = FixedNumber | ColdDarkMatter | AxionVortex
SUBSTRUCTURES = {"fixed_number": FixedNumber, "cold_dark_matter": ColdDarkMatter, "axion_vortex": AxionVortex}
