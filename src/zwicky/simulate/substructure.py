"""Models of dark-matter substructure: how the small masses of a lens are drawn.

A mass m has the Einstein radius √(m / 1e12 Msun) times `theta_E_1e12` (arcsec), that of 1e12 Msun at the redshifts of
the lens and the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from zwicky.simulate.priors import COSMOLOGY, Prior

PIVOT_MASS = 1e10  # Msun, at which the subhalo mass function is normalised
TAU = Prior("uniform", (2.0, 8.0))
LOG10_AXION_MASS = Prior("uniform", (-24.0, -22.0))


class Substructure:
    """Base class of the models."""

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the truth columns of `count` lenses, float64; `drawn` holds the parameters drawn before.

        A column is [count], or [count, S] with one number per subhalo and NaN where an image has fewer than S.
        """
        raise NotImplementedError


def power_law(rng: np.random.Generator, shape: tuple[int, ...], slope: np.ndarray, low: float, high: float):
    """Return masses with dn/dm ∝ m^slope between `low` and `high`; slope ≠ -1 broadcasts against `shape`."""
    index = slope + 1
    return (low**index + rng.random(shape) * (high**index - low**index)) ** (1 / index)


def _place(drawn: Mapping[str, np.ndarray], r: np.ndarray, angle: np.ndarray, mass: np.ndarray):
    return {
        "subhalo_x": drawn["lens_x"][:, None] + r * np.cos(angle),
        "subhalo_y": drawn["lens_y"][:, None] + r * np.sin(angle),
        "subhalo_mass": mass,
        "subhalo_theta_E": drawn["theta_E_1e12"][:, None] * np.sqrt(mass / 1e12),
    }


@dataclass(frozen=True)
class FixedNumber(Substructure):
    """`number` masses with dn/dm ∝ m^slope (Msun), at distances uniform between `r_min` and `r_max` arcsec."""

    number: int
    slope: float
    mass_min: float
    mass_max: float
    r_min: float
    r_max: float

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Substructure.draw`."""
        shape = (count, self.number)
        mass = power_law(rng, shape, np.array(self.slope), self.mass_min, self.mass_max)
        return _place(drawn, rng.uniform(self.r_min, self.r_max, shape), rng.uniform(0, 2 * np.pi, shape), mass)


@dataclass(frozen=True)
class ColdDarkMatter(Substructure):
    """Truncated NFW subhalos in a disc around the lens, and a negative mass sheet that compensates their mass.

    The number is Poisson, with d²N / (dA dm) = Σ_sub / m_0 · (m / m_0)^slope at m_0 = `PIVOT_MASS` (as in Gilman et al.
    2020, arXiv:1908.06983). The scale radius is r200 / c with c = concentration · (m / 1e8 Msun)^-0.08, scattered by
    0.1 dex. The sheet has minus the mean convergence of the subhalos in the disc, κ = -Σ θ_E² / radius².

    Attributes:
        sigma_sub: Σ_sub, 1/kpc².
        mass_min: lowest mass, Msun, and `mass_max` the highest.
        radius: of the disc, arcsec.
        tau: truncation radius over scale radius.
    """

    sigma_sub: Prior
    slope: Prior
    mass_min: float = 1e8
    mass_max: float = 1e10
    radius: float = 3.0
    concentration: float = 13.0
    tau: Prior = TAU

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Substructure.draw`."""
        sigma, slope = self.sigma_sub.draw(rng, count, drawn), self.slope.draw(rng, count, drawn)
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
        columns["subhalo_tau"] = self.tau.draw(rng, count * shape[1], drawn).reshape(shape)
        columns = {name: np.where(absent, np.nan, values) for name, values in columns.items()}
        return columns | {
            "sigma_sub": sigma,
            "subhalo_slope": slope,
            "subhalos": numbers.astype(np.float64),
            "substructure_mass": np.nansum(columns["subhalo_mass"], 1),
            "sheet_kappa": -np.nansum(columns["subhalo_theta_E"] ** 2, 1) / self.radius**2,
        }


@dataclass(frozen=True)
class AxionVortex(Substructure):
    """A vortex in an axion condensate, a line of mass through the lens (arXiv:1909.07346), at a random angle.

    Its half-length is 0.03 arcsec · (1e-22 eV / axion mass). With `compensated`, a negative singular isothermal sphere
    removes the mass that the line adds within θ_E: a uniform line has an SIS's mass within each radius up to its end.
    """

    mass: float = 3e10
    log10_axion_mass: Prior = LOG10_AXION_MASS
    compensated: bool = True

    def draw(self, rng: np.random.Generator, count: int, drawn: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Substructure.draw`."""
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


SUBSTRUCTURES: dict[str, type[Substructure]] = {
    "fixed_number": FixedNumber,
    "cold_dark_matter": ColdDarkMatter,
    "axion_vortex": AxionVortex,
}
