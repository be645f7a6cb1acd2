"""SimSiam and BYOL: where the gradient stops, and what the loss is."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import integrate
from torch.nn.utils import parameters_to_vector

from zwicky import methods
from zwicky.errors import UserError
from zwicky.methods import lejepa
from zwicky.methods.lejepa import sigreg
from zwicky.methods.siamese import MLP


def test_loss_and_gradient_are_those_of_the_paper_with_z_detached(small_method, tiny_vit, make_views):
    method, views = small_method("simsiam", tiny_vit()), make_views(local=0)
    trained = [p for p in method.parameters() if p.requires_grad]

    def by_hand(stop):
        z1, z2 = (method.projector(method.encoder(crop).pooled) for crop in views.crops)
        p1, p2 = method.predictor(z1), method.predictor(z2)
        t1, t2 = (z1.detach(), z2.detach()) if stop else (z1, z2)
        p1, p2, t1, t2 = (v / v.norm(dim=1, keepdim=True) for v in (p1, p2, t1, t2))
        return -0.5 * (p1 * t2).sum(1).mean() - 0.5 * (p2 * t1).sum(1).mean()

    results = method(views)["loss"], by_hand(stop=True), by_hand(stop=False)
    gradient, expected, through = (parameters_to_vector(torch.autograd.grad(loss, trained)) for loss in results)
    assert float(results[0].detach()) == pytest.approx(float(results[1].detach()), abs=1e-6)
    assert (gradient - expected).norm() < 1e-3 * expected.norm()  # float32, through BatchNorm over six images
    assert (gradient - through).norm() > 0.1 * through.norm()  # the check above can tell the difference


def test_the_projector_has_three_layers_and_normalises_its_output(small_method, tiny_vit):
    """Linear, BatchNorm and ReLU in turn; nothing is learned after the last BatchNorm."""

    def norm(x):
        return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()

    projector, x = small_method("simsiam", tiny_vit()).projector, torch.randn(16, 32)
    first, second, third = (layer.weight for layer in projector if isinstance(layer, torch.nn.Linear))
    expected = norm(F.relu(norm(F.relu(norm(x @ first.T)) @ second.T)) @ third.T)
    assert torch.allclose(projector(x), expected, atol=1e-4)
    assert [p.ndim for p in projector.parameters()] == [2, 1, 1, 2, 1, 1, 2]


def test_a_batch_of_one_image_is_refused():
    with pytest.raises(UserError, match="batch_size"):
        MLP([4, 4, 2])(torch.randn(1, 4))
    assert MLP([4, 4, 2]).eval()(torch.randn(1, 4)).shape == (1, 2)


def test_byols_loss_is_symmetric_and_between_the_views(tiny_vit, make_views):
    method = methods.create("byol", tiny_vit(), hidden=24, width=8)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    views, expected = make_views(local=0), 0.0
    with torch.no_grad():
        for x, other in (views.crops, views.crops[::-1]):
            z = method.student["projector"](method.student["backbone"](x).pooled)
            y = method.teacher["projector"](method.teacher["backbone"](other).pooled)
            q = F.normalize(method.predictor(z)) - F.normalize(y)
            expected += float(q.square().sum(1).mean())
        for each in (views, dataclasses.replace(views, crops=views.crops[::-1])):
            assert float(method(each)["loss"]) == pytest.approx(expected, abs=1e-6)


NARROW = {"projection": 4, "hidden": 16}


def integral(x):
    """The Epps-Pulley statistic of numbers [N] over [−3, 3], by scipy's adaptive quadrature."""

    def integrand(t):
        normal = math.exp(-t * t / 2)
        return ((np.cos(t * x).mean() - normal) ** 2 + np.sin(t * x).mean() ** 2) * normal

    return len(x) * integrate.quad(integrand, -3, 3, epsabs=1e-10)[0]


@pytest.mark.parametrize(("scale", "shift"), [(0.3, 0.0), (1.0, 0.0), (2.0, 1.0)])
@pytest.mark.parametrize(("views", "batch", "dim"), [(1, 50, 1), (3, 2, 5), (2, 17, 4)])
def test_sigreg_is_the_mean_of_the_integrals(scale, shift, views, batch, dim):
    """The trapezoid rule over knots 0.19 apart is right to a per mille of the value of a collapse, half of N."""
    generator = torch.Generator().manual_seed(3)
    z = shift + scale * torch.randn(views, batch, dim, generator=generator)
    directions = F.normalize(torch.randn(dim, 6, generator=generator), dim=0)
    expected = np.mean([integral((view @ a).double().numpy()) for view in z for a in directions.T])
    value = float(sigreg(z, directions))
    assert value == pytest.approx(expected, abs=6e-4 * batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(sigreg(z, directions)) == value


def test_loss_is_the_sum_written_out(tiny_vit, make_views):
    method = methods.create("lejepa", tiny_vit(), sigreg=0.1, **NARROW)
    views = make_views(local=3)
    with torch.no_grad():
        features = torch.cat([method.encoder(crop).pooled for crop in views.crops])
        z = method.projector(features).double().unflatten(0, (5, 6))
        total = sum(float(((view - (z[0] + z[1]) / 2) ** 2).sum()) for view in z) / (5 * 6 * 4)
        metrics = method(views)
    assert float(metrics["prediction"]) == pytest.approx(total, rel=1e-4, abs=1e-6)
    assert float(metrics["loss"]) == pytest.approx(0.9 * total + 0.1 * float(metrics["sigreg"]), rel=1e-4)


def test_directions_are_new_each_step_whatever_the_global_generator(tiny_vit, make_views, monkeypatch):
    method, given = methods.create("lejepa", tiny_vit(), **NARROW), []
    monkeypatch.setattr(lejepa, "sigreg", lambda z, directions: given.append(directions) or sigreg(z, directions))
    views = make_views()
    method(views)
    torch.manual_seed(99)
    method(views)
    method.after_step(0.1)
    method(views)
    assert torch.equal(given[0], given[1])
    assert not torch.equal(given[0], given[2])
    assert given[0].shape == (4, 256)
    assert torch.allclose(given[0].norm(dim=0), torch.ones(256))


def test_the_mean_of_the_views_is_not_detached(tiny_vit, make_views):
    """Moving all projections together changes no agreement; with a stopped gradient it would seem to."""
    method = methods.create("lejepa", tiny_vit(), sigreg=0.0, **NARROW)
    method(make_views(local=3))["loss"].backward()
    last = method.projector[-1]
    assert float(last.bias.grad.abs().max()) < 1e-3 * float(last.weight.grad.abs().max())
