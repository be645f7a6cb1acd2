"""Distances in a flat universe of matter and a cosmological constant, and the Einstein radii that follow from them.

Redshifts may be arrays. Angular-diameter distances, in Mpc: D_l to the lens, D_s to the source, D_ls from one to the
other. Hogg (1999), astro-ph/9905116, equations 14-19; radiation is left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

C_KM_S = 299792.458
GM_SUN_OVER_C2 = 1.3271244e20 / 299792458**2 / 3.0856775814913673e22  # Mpc, from the nominal solar GM in SI
ARCSEC = np.pi / 648000  # radians
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


class Cosmology:
    """h0: Hubble constant, km/s/Mpc. omega_m: matter over critical density today."""

    def __init__(self, h0: float = 70.0, omega_m: float = 0.3) -> None:
        self.h0, self.omega_m = h0, omega_m

    def comoving_distance(self, z: ArrayLike) -> np.ndarray:
        """∫ c dz / H(z), Mpc."""
        z = np.asarray(z, dtype=np.float64)[..., None]
        at = z * (_NODES + 1) / 2
        expansion = np.sqrt(self.omega_m * (1 + at) ** 3 + 1 - self.omega_m)
        return C_KM_S / self.h0 * (z / 2 * _WEIGHTS / expansion).sum(-1)

    def lens_distances(self, z_lens: ArrayLike, z_source: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """D_l, D_s, D_ls."""
        near, far = self.comoving_distance(z_lens), self.comoving_distance(z_source)
        one, two = 1 + np.asarray(z_lens), 1 + np.asarray(z_source)
        return near / one, far / two, (far - near) / two

    def theta_E_of_mass(self, mass: ArrayLike, z_lens: ArrayLike, z_source: ArrayLike) -> np.ndarray:
        """Einstein radius, arcsec, of `mass` (Msun) within it: √(4 G M / c² · D_ls / (D_l D_s))."""
        near, far, between = self.lens_distances(z_lens, z_source)
        return np.sqrt(4 * GM_SUN_OVER_C2 * np.asarray(mass) * between / (near * far)) / ARCSEC

    def theta_E_of_dispersion(self, sigma: ArrayLike, z_lens: ArrayLike, z_source: ArrayLike) -> np.ndarray:
        """Einstein radius, arcsec, of an isothermal sphere of dispersion `sigma` (km/s): 4π (σ/c)² D_ls/D_s."""
        _, far, between = self.lens_distances(z_lens, z_source)
        return 4 * np.pi * (np.asarray(sigma) / C_KM_S) ** 2 * between / far / ARCSEC

    def dispersion_of_theta_E(self, theta_E: ArrayLike, z_lens: ArrayLike, z_source: ArrayLike) -> np.ndarray:
        """The inverse of `theta_E_of_dispersion`: km/s."""
        return np.sqrt(np.asarray(theta_E) / self.theta_E_of_dispersion(1.0, z_lens, z_source))

    def critical_density(self, z: ArrayLike) -> np.ndarray:
        """3 H² / (8 π G) at redshift z, Msun/kpc³."""
        hubble = (self.h0 / C_KM_S) ** 2 * (self.omega_m * (1 + np.asarray(z)) ** 3 + 1 - self.omega_m)  # Mpc^-2
        return 3 * hubble / (8 * np.pi * GM_SUN_OVER_C2) / 1e9


FIDUCIAL = Cosmology()
