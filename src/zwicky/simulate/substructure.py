"""Substructure as declarations: which small masses a lens holds besides its smooth halo, and how they are drawn.

`draw(rng, count, drawn)` gives columns, of one number an image [count] or of one a subhalo [count, S], NaN where an
image has fewer than S. `drawn` holds what was drawn before, which must include `needs`: `theta_E_1e12` is the Einstein
radius of 1e12 Msun at the redshifts of the lens and the source (arcsec); that of a mass m is √(m / 1e12) of it.
`columns` gives unit and meaning of each column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from zwicky.simulate.priors import COSMOLOGY, Distribution, Uniform

VORTEX_POINTS = 100
PIVOT = 1e10  # Msun, at which the mass function is normalised
TAU = Uniform(2.0, 8.0)
LOG10_AXION_MASS = Uniform(-24.0, -22.0)

Drawn = Mapping[str, np.ndarray]
Columns = Mapping[str, tuple[str, str]]

PLACED: Columns = {
    "subhalo_x": ("arcsec", "place of each subhalo in the image, along the last axis"),
    "subhalo_y": ("arcsec", "place of each subhalo in the image, along the rows"),
    "subhalo_mass": ("Msun", "total mass of each subhalo"),
    "subhalo_theta_E": ("arcsec", "Einstein radius of a point of each subhalo's mass"),
}


class Substructure(Protocol):
    """Anything that can draw the small masses of `count` lenses."""

    columns: ClassVar[Columns]
    needs: ClassVar[set[str]]

    def draw(self, rng: np.random.Generator, count: int, drawn: Drawn) -> dict[str, np.ndarray]:
        """Columns, [count] or [count, S] float64."""


def power_law(rng: np.random.Generator, shape: tuple[int, ...], slope: np.ndarray, low: float, high: float):
    """Masses with dn/dm ∝ m^slope between `low` and `high`; slope ≠ -1 broadcasts against `shape`."""
    index = slope + 1
    return (low**index + rng.random(shape) * (high**index - low**index)) ** (1 / index)


def _place(drawn: Drawn, r: np.ndarray, angle: np.ndarray, mass: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "subhalo_x": drawn["lens_x"][:, None] + r * np.cos(angle),
        "subhalo_y": drawn["lens_y"][:, None] + r * np.sin(angle),
        "subhalo_mass": mass,
        "subhalo_theta_E": drawn["theta_E_1e12"][:, None] * np.sqrt(mass / 1e12),
    }


@dataclass(frozen=True)
class FixedNumber:
    """`number` masses with dn/dm ∝ m^slope, at radii even in r between `nearest` and `farthest` arcsec."""

    number: int
    slope: float
    low: float  # Msun
    high: float  # Msun
    nearest: float
    farthest: float

    columns: ClassVar[Columns] = PLACED
    needs: ClassVar[set[str]] = {"lens_x", "lens_y", "theta_E_1e12"}

    def draw(self, rng: np.random.Generator, count: int, drawn: Drawn) -> dict[str, np.ndarray]:
        shape = (count, self.number)
        mass = power_law(rng, shape, np.array(self.slope), self.low, self.high)
        return _place(drawn, rng.uniform(self.nearest, self.farthest, shape), rng.uniform(0, 2 * np.pi, shape), mass)


@dataclass(frozen=True)
class ColdDarkMatter:
    """Truncated NFW subhalos, even over a disc about the lens, and the negative sheet that makes up for their mass.

    Their number is Poisson; d²N/(dA dm) = Σ_sub (m/PIVOT)^slope / PIVOT with `sigma_sub` in 1/kpc², `low` < m < `high`
    (Msun) and within `radius` arcsec. Scale radius: r200 / c with c = concentration (m / 1e8)^-0.08, scattered by 0.1
    dex. The truncation radius is `tau` scale radii. The sheet has the negative of the subhalos' mean convergence in the
    disc, so that they add no mass to it: κ = -Σ θ_E² / radius².
    """

    sigma_sub: Distribution
    slope: Distribution
    low: float = 1e8
    high: float = 1e10
    radius: float = 3.0
    concentration: float = 13.0
    tau: Distribution = TAU

    columns: ClassVar[Columns] = {
        **PLACED,
        "subhalo_Rs": ("arcsec", "scale radius of each subhalo"),
        "subhalo_tau": ("", "truncation radius of each subhalo over its scale radius"),
        "sigma_sub": ("1/kpc²", "normalisation of the subhalo mass function at 1e10 Msun"),
        "subhalo_slope": ("", "slope of the subhalo mass function, dn/dm"),
        "subhalos": ("", "number of subhalos"),
        "substructure_mass": ("Msun", "total mass of the substructure"),
        "sheet_kappa": ("", "convergence of the even sheet that makes up for the mass of the subhalos"),
    }
    needs: ClassVar[set[str]] = {"lens_x", "lens_y", "theta_E_1e12", "z_lens", "z_source"}

    def draw(self, rng: np.random.Generator, count: int, drawn: Drawn) -> dict[str, np.ndarray]:
        sigma, slope = self.sigma_sub.draw(rng, count, drawn), self.slope.draw(rng, count, drawn)
        kpc = COSMOLOGY.kpc_proper_per_arcmin(drawn["z_lens"]).value / 60  # in an arcsec
        index = slope + 1
        density = sigma * ((self.high / PIVOT) ** index - (self.low / PIVOT) ** index) / index  # 1/kpc²
        numbers = rng.poisson(density * np.pi * (self.radius * kpc) ** 2)
        shape = (count, int(numbers.max(initial=1)))
        absent = np.arange(shape[1]) >= numbers[:, None]
        mass = power_law(rng, shape, slope[:, None], self.low, self.high)
        critical = COSMOLOGY.critical_density(drawn["z_lens"]).to_value("Msun / kpc3")[:, None]
        r200 = (3 * mass / (800 * np.pi * critical)) ** (1 / 3)  # kpc
        scatter = 10 ** rng.normal(0.0, 0.1, shape)
        found = _place(drawn, self.radius * np.sqrt(rng.random(shape)), rng.uniform(0, 2 * np.pi, shape), mass)
        found["subhalo_Rs"] = r200 / (self.concentration * (mass / 1e8) ** -0.08 * scatter) / kpc[:, None]
        found["subhalo_tau"] = self.tau.draw(rng, count * shape[1], drawn).reshape(shape)
        found = {name: np.where(absent, np.nan, values) for name, values in found.items()}
        return found | {
            "sigma_sub": sigma,
            "subhalo_slope": slope,
            "subhalos": numbers.astype(np.float64),
            "substructure_mass": np.nansum(found["subhalo_mass"], 1),
            "sheet_kappa": -np.nansum(found["subhalo_theta_E"] ** 2, 1) / self.radius**2,
        }


@dataclass(frozen=True)
class AxionVortex:
    """A vortex of `mass` Msun: a line through the lens of half-length 0.03 arcsec · (1e-22 eV / axion mass).

    log10 of the axion mass in eV is drawn from `log10_axion_mass`; the line lies at a random angle. With `compensated`,
    a negative isothermal sphere takes away as much mass within θ_E as the line adds there; a line of even density has
    an isothermal sphere's mass within each radius up to its end.
    """

    mass: float = 3e10
    log10_axion_mass: Distribution = LOG10_AXION_MASS
    compensated: bool = True

    columns: ClassVar[Columns] = {
        "log10_axion_mass": ("", "log10 of the axion's mass in eV"),
        "substructure_mass": ("Msun", "total mass of the substructure"),
        "vortex_theta_E": ("arcsec", "Einstein radius of a point of the vortex's mass"),
        "vortex_angle": ("rad", "position angle of the vortex"),
        "vortex_half_length": ("arcsec", "half the length of the vortex"),
        "sphere_theta_E": ("arcsec", "Einstein radius, negative, of the sphere that makes up for the vortex's mass"),
    }
    needs: ClassVar[set[str]] = {"theta_E", "theta_E_1e12"}

    def draw(self, rng: np.random.Generator, count: int, drawn: Drawn) -> dict[str, np.ndarray]:
        axion = self.log10_axion_mass.draw(rng, count, drawn)
        half = 0.03 * 10 ** (-22 - axion)
        strength = drawn["theta_E_1e12"] * (self.mass / 1e12) ** 0.5
        ring = drawn["theta_E"]
        taken = -(strength**2) * np.minimum(1, ring / half) / ring if self.compensated else np.zeros(count)
        return {
            "log10_axion_mass": axion,
            "substructure_mass": np.full(count, self.mass),
            "vortex_theta_E": strength,
            "vortex_angle": rng.uniform(0, np.pi, count),
            "vortex_half_length": half,
            "sphere_theta_E": taken,
        }
