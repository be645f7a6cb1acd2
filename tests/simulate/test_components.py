"""Noiseless light and deflection against lenstronomy, which shares no code with caustics."""

import numpy as np
import pytest
import torch
from caustics.light.func import k_sersic
from hypothesis import given, settings
from hypothesis import strategies as st
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from scipy.special import gammaincinv

from zwicky.simulate.components import elliptical_polar, ring, sersic, sersic_flux, shoot, spiral
from zwicky.simulate.render import grid

ELLIPTICITY = st.floats(-0.3, 0.3)
PLACE = st.floats(-0.5, 0.5)
SHEAR = st.floats(-0.12, 0.12)


def columns(*values: float) -> list[torch.Tensor]:
    return [torch.full((1, 1, 1), value) for value in values]


def lenstronomy_sersic(x, y, x0, y0, e1, e2, R, n):
    """lenstronomy rounds b_n to 1.9992 n - 0.3271; another R and another amplitude undo the difference."""
    b, theirs = float(k_sersic(torch.tensor(n, dtype=torch.float64))), 1.9992 * n - 0.3271
    profile = {"amp": np.exp(b - theirs), "R_sersic": R * (theirs / b) ** n, "n_sersic": n}
    model = LightModel(["SERSIC_ELLIPSE"])
    return model.surface_brightness(x, y, [profile | {"e1": e1, "e2": e2, "center_x": x0, "center_y": y0}])


@settings(max_examples=25, deadline=None)
@given(PLACE, PLACE, ELLIPTICITY, ELLIPTICITY, st.floats(0.1, 1.5), st.floats(0.6, 5.0))
def test_sersic_matches_lenstronomy(x0, y0, e1, e2, R, n):
    x, y = grid(48, 0.12)
    ours = sersic(x, y, *columns(x0, y0, e1, e2, R, n))[0].numpy()
    theirs = lenstronomy_sersic(x[0].double().numpy(), y[0].double().numpy(), x0, y0, e1, e2, R, n)
    assert np.abs(ours - theirs).max() < 1e-4 * theirs.max()


@settings(max_examples=25, deadline=None)
@given(
    *(PLACE, PLACE, st.floats(0.5, 2.5), ELLIPTICITY, ELLIPTICITY, SHEAR, SHEAR),
    *(st.floats(-0.8, 0.8), st.floats(-0.8, 0.8), ELLIPTICITY, ELLIPTICITY, st.floats(0.08, 0.4), st.floats(0.7, 2.0)),
)
def test_lensed_sersic_matches_lenstronomy(x0, y0, theta_E, e1, e2, gamma1, gamma2, sx, sy, se1, se2, R, n):
    x, y = grid(48, 0.12)
    u, v = shoot(x, y, *columns(x0, y0, theta_E, e1, e2, gamma1, gamma2))
    ours = sersic(u, v, *columns(x0 + sx, y0 + sy, se1, se2, R, n))[0].numpy()
    lens = LensModel(["SIE", "SHEAR"])
    sie = {"theta_E": theta_E, "e1": e1, "e2": e2, "center_x": x0, "center_y": y0}
    shear = {"gamma1": gamma1, "gamma2": gamma2, "ra_0": x0, "dec_0": y0}
    theirs_u, theirs_v = lens.ray_shooting(x[0].double().numpy(), y[0].double().numpy(), [sie, shear])
    theirs = lenstronomy_sersic(theirs_u, theirs_v, x0 + sx, y0 + sy, se1, se2, R, n)
    assert np.abs(ours - theirs).max() < 1e-4 * max(theirs.max(), 1)  # 1 at R, should no pixel lie nearer the peak


@pytest.mark.parametrize("n", [0.6, 1.0, 2.0])
def test_sersic_flux_is_the_integral(n):
    x, y = grid(1200, 0.02)
    light = sersic(x.double(), y.double(), *columns(0.0, 0.0, 0.2, -0.1, 0.5, n))
    assert float(light.sum()) * 0.02**2 == pytest.approx(float(sersic_flux(*columns(0.5, n))), rel=1e-3)


@pytest.mark.parametrize("n", [0.6, 1.0, 2.5, 5.5])
def test_b_n_puts_half_the_light_within_R(n):
    assert float(k_sersic(torch.tensor(n, dtype=torch.float64))) == pytest.approx(gammaincinv(2 * n, 0.5), abs=2e-4)


def test_half_the_light_of_a_sersic_lies_within_R():
    x, y = grid(1000, 0.02)
    shape = columns(0.0, 0.0, 0.1, 0.25)
    light = sersic(x, y, *shape, *columns(0.6, 1.0))
    r, _ = elliptical_polar(x, y, *shape)
    assert float(light[r < 0.6].sum() / light.sum()) == pytest.approx(0.5, abs=2e-3)


def test_the_spiral_has_its_arms_where_the_formula_says():
    R, phase, pitch, sense = 1.2, 0.7, 0.3, -1.0
    r = torch.linspace(0.5, 3.0, 11).reshape(1, 1, -1)
    ridge = phase + sense * torch.log(r / R) / np.tan(pitch)
    angles = torch.linspace(-np.pi, np.pi, 20001).reshape(1, -1, 1)
    light = spiral(r, angles, 2, *columns(R, phase, pitch, sense, 4.0))
    brightest = angles[0, light.argmax(1)[0], 0]
    assert torch.cos(2 * (brightest - ridge[0, 0])).min() > 0.9999
    half_turn = spiral(r, angles + np.pi, 2, *columns(R, phase, pitch, sense, 4.0))
    torch.testing.assert_close(half_turn, light, rtol=1e-3, atol=1e-6)
    assert r.flatten()[light.amax(1).flatten().argmax()] == pytest.approx(R, abs=0.15)


def test_the_ring_is_brightest_at_its_radius_and_its_angle():
    x, y = grid(200, 0.03)
    r, angle = elliptical_polar(x, y, *columns(0.0, 0.0, 0.0, 0.0))
    light = ring(r, angle, *columns(1.5, 0.2, 1.0, 2.0))
    peak = int(light.argmax())
    assert float(r.flatten()[peak]) == pytest.approx(1.5, abs=0.03)
    assert float(angle.flatten()[peak]) == pytest.approx(2.0, abs=0.03)


def test_nothing_is_nan_at_the_very_centre():
    zero = torch.zeros(1, 1, 1)
    u, v = shoot(zero, zero, *columns(0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0))
    assert torch.isfinite(u).all()
    assert torch.isfinite(v).all()
