"""Substructure against its formulas: what is drawn, and that its mass is compensated."""

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.constants import G, M_sun, c
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from zwicky.simulate.draw import draw_block
from zwicky.simulate.lensing import DEFLECTORS
from zwicky.simulate.population import read_population
from zwicky.simulate.priors import (
    COSMOLOGY,
    AxionVortex,
    ColdDarkMatter,
    FixedNumber,
    Prior,
    einstein_radius,
    power_law,
)
from zwicky.simulate.render import grid, parameter_tensors
from zwicky.simulate.subhalos import PROFILES, deflect_fused, deflect_plain


def lenses(count):
    facts = {"lens_x": 0.3, "lens_y": -0.2, "z_lens": 0.5, "z_source": 1.0, "theta_E": 1.3}
    facts["theta_E_1e12"] = einstein_radius(1e12, 0.5, 1.0)
    return {name: np.full(count, value) for name, value in facts.items()}


def test_the_mass_function_is_a_power_law():
    mass = power_law(np.random.default_rng(0), (20000,), np.array(-1.9), 1e8, 1e10)
    share = (mass**-0.9 - 1e8**-0.9) / (1e10**-0.9 - 1e8**-0.9)  # its distribution function
    assert stats.kstest(share, "uniform").pvalue > 1e-3


def test_subhalos_follow_their_declaration():
    """Number, place, mass, Einstein and scale radius by the formulas, written out for one lens."""
    declared = ColdDarkMatter(Prior("value", (2e-3,)), Prior("value", (-1.9,)), 1e8, 1e10, radius=2.0)
    drawn = lenses(400)
    found = declared.draw(np.random.default_rng(1), 400, drawn)
    kpc = COSMOLOGY.angular_diameter_distance(0.5).value * 1e3 / 206264.806
    m = np.logspace(8, 10, 20001)
    mean = np.trapezoid(2e-3 * (m / 1e10) ** -1.9 / 1e10, m) * np.pi * (2.0 * kpc) ** 2
    assert found["subhalos"].mean() == pytest.approx(mean, abs=4 * (mean / 400) ** 0.5)
    assert np.array_equal(np.isfinite(found["subhalo_mass"]).sum(1), found["subhalos"])
    there = np.isfinite(found["subhalo_x"])
    x, y = found["subhalo_x"][there] - 0.3, found["subhalo_y"][there] + 0.2
    assert stats.kstest((x**2 + y**2) / 4, "uniform").pvalue > 1e-3
    assert stats.kstest(np.arctan2(y, x) / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(found["substructure_mass"], np.nansum(found["subhalo_mass"], 1))
    mass = found["subhalo_mass"][there]
    np.testing.assert_allclose(found["subhalo_theta_E"][there], einstein_radius(mass, 0.5, 1.0), rtol=1e-9)
    density = 200 * COSMOLOGY.critical_density(0.5).to_value("Msun / kpc3")
    concentration = (mass / (4 / 3 * np.pi * density)) ** (1 / 3) / (found["subhalo_Rs"][there] * kpc)
    ratio = np.log10(concentration / (13 * (mass / 1e8) ** -0.08))
    assert ratio.mean() == pytest.approx(0, abs=5e-3)
    assert ratio.std() == pytest.approx(0.1, abs=5e-3)
    assert found["subhalo_tau"][there].min() >= 2
    assert found["subhalo_tau"][there].max() <= 8


def test_deeplense_subhalos():
    found = FixedNumber(25, -0.9, 1e6, 1e10, 0.25, 2.0).draw(np.random.default_rng(1), 300, lenses(300))
    x, y = found["subhalo_x"] - 0.3, found["subhalo_y"] + 0.2
    assert stats.kstest(np.arctan2(y, x).ravel() / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3
    r = np.hypot(x, y)
    assert r.shape == (300, 25)
    assert stats.kstest(r.ravel(), stats.uniform(0.25, 1.75).cdf).pvalue > 1e-3
    assert np.median(found["subhalo_mass"]) == pytest.approx(((1e6**0.1 + 1e10**0.1) / 2) ** 10, rel=0.1)


def test_the_vortex_is_as_long_as_its_axion_is_light():
    found = AxionVortex().draw(np.random.default_rng(1), 200, lenses(200))
    np.testing.assert_allclose(found["vortex_half_length"], 0.03 * 1e-22 / 10 ** found["log10_axion_mass"])
    assert found["vortex_half_length"].min() > 0.03
    assert found["vortex_half_length"].max() < 3
    assert stats.kstest(found["vortex_angle"] / np.pi, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(found["vortex_theta_E"], einstein_radius(3e10, 0.5, 1.0))


def mass_excess(deflectors):
    """By class, the mean inward deflection on the ring, over θ_E, of these deflectors of 64 lenses."""
    population, excess = read_population("deeplense-repaired-2"), {}
    drawn = draw_block(population, 3, 0)
    angle = torch.linspace(0, 2 * np.pi, 721)[:-1].reshape(1, 1, -1)
    for name, object_class in population.classes.items():
        excess[name] = []
        for row in np.flatnonzero(drawn.object_class == name):
            p = parameter_tensors(drawn, np.array([row]))
            x, y = p["lens_x"] + p["theta_E"] * torch.cos(angle), p["lens_y"] + p["theta_E"] * torch.sin(angle)
            alphas = [DEFLECTORS[one](x, y, p) for one in object_class.deflectors if one in deflectors]
            inward = sum((ax * torch.cos(angle) + ay * torch.sin(angle)).mean() for ax, ay in alphas)
            excess[name].append(float(inward / p["theta_E"]))
    return {name: np.array(values) for name, values in excess.items()}


def test_compensated_substructure_leaves_the_mass_within_the_ring():
    """The mean inward deflection on a circle is the mass within it (Gauss); that of compensated substructure is 0."""
    compensated = mass_excess({"tnfw_subhalos", "mass_sheet", "vortex", "sis"})
    alone = mass_excess({"tnfw_subhalos", "vortex"})
    assert np.abs(compensated["axion"]).max() < 2e-3  # points stand for a line
    assert alone["axion"].min() > 0.01
    error = compensated["cdm"].std() / len(compensated["cdm"]) ** 0.5
    assert abs(compensated["cdm"].mean()) < 3 * error
    assert alone["cdm"].mean() > 10 * error
    assert compensated["cdm"].std() < 0.02  # of θ_E, which itself varies by half


def test_legacy_is_as_published():
    """θ_E from luminosity distances; Model II's ring shrunk to 0.81 arcsec; 14.93 counts a second in all."""
    one, two = (draw_block(read_population(f"deeplense-legacy-{k}"), 0, 0).values for k in (1, 2))
    comoving = {z: COSMOLOGY.comoving_distance(z).value for z in (0.5, 1.0, 2.5)}
    near, far = 1.5 * comoving[0.5], 2.0 * comoving[1.0]  # luminosity distances
    published = np.sqrt(4 * 4.785416e-20 * 1e12 * (far - near) / (near * far)) * 206264.806
    assert one["theta_E"] == pytest.approx(published, rel=1e-4)
    shrunk = (1 - comoving[0.5] / comoving[1.0]) / (1 - comoving[0.5] / comoving[2.5])
    assert two["theta_E"] == pytest.approx(published * shrunk, rel=1e-3)
    assert two["gamma1"] == pytest.approx(0.05 * shrunk, rel=1e-3)
    assert two["theta_E_1e12"] == pytest.approx(published * shrunk**0.5, rel=1e-3)
    assert 10 ** (-0.4 * (one["source_mag_I"] - 22.5)) == pytest.approx(14.93, rel=1e-3)
    assert one["exposure"].min() >= 1e3
    assert one["exposure"].max() <= 10**3.5


def test_einstein_radius_is_that_of_angular_diameter_distances():
    """1e12 Msun at z 0.5 before z 1.0 is 1.66 arcsec; luminosity distances in their place gave 1.28."""
    near, far = (COSMOLOGY.angular_diameter_distance(z) for z in (0.5, 1.0))
    between = (COSMOLOGY.comoving_distance(1.0) - COSMOLOGY.comoving_distance(0.5)) / 2
    angle = np.sqrt(4 * G * 1e12 * M_sun / c**2 * between / (near * far)).to_value("") * u.rad
    assert einstein_radius(1e12, 0.5, 1.0) == pytest.approx(angle.to_value("arcsec"), rel=1e-9)
    assert einstein_radius(1e12, 0.5, 1.0) == pytest.approx(1.66, abs=0.01)


def some(images, count, seed):
    """Random subhalos; one lies exactly on a pixel, and an image has fewer than `count`."""
    rng = np.random.default_rng(seed)
    x0, y0 = rng.uniform(-2.5, 2.5, (2, images, count))
    x0[0, 0], y0[0, 0] = 0.05, 0.05
    b = rng.uniform(0.005, 0.2, (images, count))
    b[-1, count // 2 :] = 0
    Rs, tau = 10 ** rng.uniform(-2, 0, (images, count)), 10 ** rng.uniform(-1, 3, (images, count))
    columns = {"x0": x0, "y0": y0, "b": b, "Rs": Rs, "tau": tau}
    return {name: torch.from_numpy(values).float() for name, values in columns.items()}


@pytest.mark.parametrize("profile", PROFILES)
@settings(max_examples=8, derandomize=True)
@given(count=st.sampled_from([1, 2, 5, 17]), size=st.sampled_from([20, 33]), seed=st.integers(0, 2**32 - 1))
def test_fused_is_plain(profile, count, size, seed):
    x, y = grid(size, 0.1)
    drawn = some(2, count, seed)
    plain, summed = deflect_plain(profile, x, y, drawn), deflect_fused(profile, x, y, drawn)
    peak = torch.hypot(*plain).amax((1, 2)) + 1e-9
    for one, other in zip(plain, summed, strict=True):
        assert ((one - other).abs().amax((1, 2)) < 1e-5 * peak).all()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_number_of_threads_and_of_images_changes_no_bit(profile, monkeypatch):
    x, y = grid(24, 0.1)
    drawn = some(5, 6, 1)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(torch.stack(deflect_fused(profile, x, y, drawn)))
    alone = deflect_fused(profile, x, y, {name: values[2:3] for name, values in drawn.items()})
    assert torch.equal(*results)
    assert torch.equal(results[0][:, 2:3], torch.stack(alone))
