"""Light profiles against their definitions; `test_oracle.py` holds them against lenstronomy."""

import numpy as np
import pytest
import torch

from zwicky.simulate.light import ring, sersic, sersic_flux, spiral_arms
from zwicky.simulate.render import grid


def parameters(*values: float) -> list[torch.Tensor]:
    return [torch.full((1, 1, 1), value) for value in values]


@pytest.mark.parametrize("n", [0.6, 1.0, 2.0])
def test_sersic_flux_is_the_integral(n):
    x, y = grid(1200, 0.02)
    light = sersic(x.double(), y.double(), *parameters(0.0, 0.0, 0.2, -0.1, 0.5, n))
    assert float(light.sum()) * 0.02**2 == pytest.approx(float(sersic_flux(*parameters(0.5, n))), rel=1e-3)


def columns(**values: float) -> dict[str, torch.Tensor]:
    return dict(zip(values, parameters(*values.values()), strict=True))


CENTRED = dict.fromkeys(("lens_x", "lens_y", "disc_e1", "disc_e2", "ring_e1", "ring_e2"), 0.0)


def test_the_spiral_has_its_arms_where_the_formula_says():
    R, phase, pitch, sense = 1.2, 0.7, 0.3, -1.0
    p = columns(**CENTRED, arm_radius=R, arm_angle=phase, arm_pitch=pitch, arm_sense=sense, arm_sharpness=4.0)
    p |= columns(lopsided=0.0, lopsided_angle=0.0)
    r = torch.linspace(0.5, 3.0, 11).reshape(1, 1, -1)
    ridge = phase + sense * torch.log(r / R) / np.tan(pitch)
    angles = torch.linspace(-np.pi, np.pi, 20001).reshape(1, -1, 1)
    light = spiral_arms(r * torch.cos(angles), r * torch.sin(angles), p)
    brightest = angles[0, light.argmax(1)[0], 0]
    assert torch.cos(2 * (brightest - ridge[0, 0])).min() > 0.9999
    half_turn = spiral_arms(-r * torch.cos(angles), -r * torch.sin(angles), p)
    torch.testing.assert_close(half_turn, light, rtol=1e-3, atol=1e-6)
    assert r.flatten()[light.amax(1).flatten().argmax()] == pytest.approx(R, abs=0.15)


def test_the_ring_is_brightest_at_its_radius_and_its_angle():
    x, y = grid(200, 0.03)
    p = columns(**CENTRED, radius=1.5, ring_width=0.2, ring_knots=1.0, ring_angle=2.0)
    peak = int(ring(x, y, p).argmax())
    assert float(torch.hypot(x, y).flatten()[peak]) == pytest.approx(1.5, abs=0.03)
    assert float(torch.atan2(y, x).flatten()[peak]) == pytest.approx(2.0, abs=0.03)
