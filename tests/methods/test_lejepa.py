"""LeJEPA: agreement, and normality against numerical integration."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from zwicky import methods
from zwicky.methods.lejepa import sigreg

SMALL = {"projection": 4, "hidden": 16}


def unit(dim, count, seed=0):
    return torch.nn.functional.normalize(torch.randn(dim, count, generator=torch.Generator().manual_seed(seed)), dim=0)


def slow_sigreg(z, directions, knots=17):
    """The formula with its sums written out, in doubles."""
    total = 0.0
    for view in z.double().numpy():
        for a in directions.double().numpy().T:
            values = []
            for k in range(knots):
                t = 3 * k / (knots - 1)
                cos = sum(math.cos(t * float(row @ a)) for row in view) / len(view)
                sin = sum(math.sin(t * float(row @ a)) for row in view) / len(view)
                normal = math.exp(-t * t / 2)
                values.append(((cos - normal) ** 2 + sin**2) * normal)
            step = 3 / (knots - 1)
            total += len(view) * 2 * step * (sum(values) - (values[0] + values[-1]) / 2)
    return total / len(z) / directions.shape[1]


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("batch", [1, 2, 17])
@pytest.mark.parametrize("dim", [1, 5])
def test_sigreg_is_the_formula_written_out(views, batch, dim):
    z = torch.randn(views, batch, dim, generator=torch.Generator().manual_seed(batch))
    directions = unit(dim, 6)
    assert float(sigreg(z, directions)) == pytest.approx(slow_sigreg(z, directions), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_seventeen_knots_are_the_integral(scale, shift):
    """Against scipy's adaptive quadrature over the whole of [−3, 3]."""
    x = shift + scale * torch.randn(1, 50, 1, generator=torch.Generator().manual_seed(3))
    numbers = x.flatten().double().numpy()

    def integrand(t):
        normal = math.exp(-t * t / 2)
        return ((np.cos(t * numbers).mean() - normal) ** 2 + np.sin(t * numbers).mean() ** 2) * normal

    expected = 50 * integrate.quad(integrand, -3, 3, epsabs=1e-10)[0]
    # The trapezoid rule over knots 0.19 apart is right to a per mille of the collapsed value (26 for 50 images).
    assert float(sigreg(x, torch.ones(1, 1))) == pytest.approx(expected, abs=0.03)


def test_loss_is_the_sum_written_out(tiny_vit, make_views):
    method = methods.create("lejepa", tiny_vit(), sigreg=0.1, **SMALL)
    views = make_views(local=3)
    with torch.no_grad():
        features = torch.cat([method.encoder(crop).pooled for crop in views.crops])
        z = method.projector(features).double().unflatten(0, (5, 6))
        total = sum(float(((view - (z[0] + z[1]) / 2) ** 2).sum()) for view in z) / (5 * 6 * 4)
        metrics = method(views)
    assert float(metrics["prediction"]) == pytest.approx(total, rel=1e-4, abs=1e-6)
    assert float(metrics["loss"]) == pytest.approx(0.9 * total + 0.1 * float(metrics["sigreg"]), rel=1e-4)


def test_directions_are_new_each_step_and_resumed(tiny_vit, make_views):
    method = methods.create("lejepa", tiny_vit(), **SMALL)
    views = make_views()
    first = method(views)["sigreg"]
    torch.manual_seed(99)
    assert torch.equal(method(views)["sigreg"], first)
    method.after_step(0.1)
    second = method(views)["sigreg"]
    assert not torch.equal(second, first)
    other = methods.create("lejepa", tiny_vit(), **SMALL)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other(views)["sigreg"], second)


def test_the_mean_of_the_views_is_not_detached(tiny_vit, make_views):
    """Moving all projections together changes no agreement; with a stopped gradient it would seem to."""
    method = methods.create("lejepa", tiny_vit(), sigreg=0.0, **SMALL)
    method(make_views(local=3))["loss"].backward()
    last = method.projector[-1]
    assert float(last.bias.grad.abs().max()) < 1e-3 * float(last.weight.grad.abs().max())
