"""Distances and Einstein radii against astropy's cosmology and constants."""

import astropy.units as u
import numpy as np
import pytest
from astropy.constants import G, M_sun, c
from astropy.cosmology import FlatLambdaCDM

from zwicky.simulate.cosmology import FIDUCIAL, Cosmology

Z_LENS, Z_SOURCE = np.array([0.05, 0.5, 0.72, 1.4]), np.array([0.3, 1.0, 2.4, 4.5])


def from_lens_to_source(cosmology: FlatLambdaCDM) -> u.Quantity:
    """D_ls; the method of that name is called differently in old and new versions of astropy."""
    return (cosmology.comoving_distance(Z_SOURCE) - cosmology.comoving_distance(Z_LENS)) / (1 + Z_SOURCE)


@pytest.mark.parametrize(("h0", "omega_m"), [(70.0, 0.3), (67.4, 0.315)])
def test_distances_are_astropys(h0, omega_m):
    theirs = FlatLambdaCDM(H0=h0, Om0=omega_m)
    near, far, between = Cosmology(h0, omega_m).lens_distances(Z_LENS, Z_SOURCE)
    np.testing.assert_allclose(near, theirs.angular_diameter_distance(Z_LENS).value, rtol=1e-9)
    np.testing.assert_allclose(far, theirs.angular_diameter_distance(Z_SOURCE).value, rtol=1e-9)
    np.testing.assert_allclose(between, from_lens_to_source(theirs).value, rtol=1e-9)


def test_einstein_radii_are_those_of_angular_diameter_distances():
    theirs = FlatLambdaCDM(H0=70, Om0=0.3)
    near, far = theirs.angular_diameter_distance(Z_LENS), theirs.angular_diameter_distance(Z_SOURCE)
    between = from_lens_to_source(theirs)
    mass = np.sqrt(4 * G * 1e12 * M_sun / c**2 * between / near / far).to_value("") * u.rad
    np.testing.assert_allclose(FIDUCIAL.theta_E_of_mass(1e12, Z_LENS, Z_SOURCE), mass.to_value("arcsec"), rtol=1e-5)
    sphere = 4 * np.pi * (241 * u.km / u.s / c).to_value("") ** 2 * (between / far).value * u.rad
    ours = FIDUCIAL.theta_E_of_dispersion(241.0, Z_LENS, Z_SOURCE)
    np.testing.assert_allclose(ours, sphere.to_value("arcsec"), rtol=1e-9)
    np.testing.assert_allclose(FIDUCIAL.dispersion_of_theta_E(ours, Z_LENS, Z_SOURCE), 241.0)


def test_the_ring_of_deeplense_with_the_right_distances():
    """1e12 Msun at z 0.5 before z 1.0 is 1.66 arcsec; luminosity distances in their place gave 1.28."""
    assert FIDUCIAL.theta_E_of_mass(1e12, 0.5, 1.0) == pytest.approx(1.66, abs=0.01)


def test_critical_density_is_astropys():
    theirs = FlatLambdaCDM(H0=70, Om0=0.3).critical_density(Z_LENS).to_value(u.Msun / u.kpc**3)
    np.testing.assert_allclose(FIDUCIAL.critical_density(Z_LENS), theirs, rtol=1e-5)
