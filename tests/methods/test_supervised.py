"""Supervised losses against their formulas."""

import numpy as np
import pytest
import torch

from zwicky import methods
from zwicky.augment.views import Target
from zwicky.methods.supervised import TargetScaler


def test_classification_loss_is_the_smoothed_cross_entropy(tiny_vit, make_views):
    backbone = tiny_vit()
    targets = torch.tensor([0, 2, 1, 1, 0, 2])
    method = methods.create("supervised", backbone, classes=3, label_smoothing=0.1)
    views = make_views(local=0, targets=targets)
    logits = method.head(backbone(torch.cat(views.crops))).double()
    smooth = 0.9 * torch.eye(3)[targets.repeat(2)] + 0.1 / 3
    expected = -(smooth * logits.log_softmax(-1)).sum(-1).mean()
    metrics = method(views)
    assert float(metrics["loss"].detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert float(metrics["accuracy"]) == float((logits.argmax(1) == targets.repeat(2)).float().mean())
    soft = method.classification(logits, (9 * torch.eye(3)[targets.repeat(2)] + torch.rand(12, 3)).softmax(1))
    assert soft["accuracy"] == metrics["accuracy"]


def test_regression_loss_is_on_standardised_values(tiny_vit, make_views):
    backbone = tiny_vit()
    mean, std = (1000.0, -3.0), (0.01, 0.1)
    values = torch.randn(6, 2) * torch.tensor(std) + torch.tensor(mean)
    targets = (Target(("theta_E",)), Target(("mass",)))
    method = methods.create("supervised", backbone, targets=targets, scaler=TargetScaler(mean, std))
    views = make_views(local=0, targets=values)
    raw = method.head(backbone(torch.cat(views.crops))).detach().double()
    scaled = (values.double().repeat(2, 1) - torch.tensor(mean)) / torch.tensor(std).double()
    apart = (raw - scaled).abs()
    metrics, expected = method(views), float(torch.where(apart < 1, 0.5 * apart**2, apart - 0.5).mean())
    assert float(metrics["loss"].detach()) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["mae"]) == pytest.approx(float((apart * torch.tensor(std)).mean()), rel=1e-2)


def test_target_scaler_round_trips_arrays_and_tensors():
    """Columns that do not vary, also by a digit, become small numbers."""
    values = np.random.default_rng(0).normal([1, -2e-23, 0, 0.1], [3, 1e-23, 0, 1e-17], (100, 4))
    scaler = TargetScaler.fit(values, tuple(Target((name,)) for name in "abcd"))
    z = scaler.transform(values)
    assert np.allclose(z.mean(0), 0, atol=1e-6)
    assert np.allclose(z.std(0), [1, 1, 0, 0], atol=1e-6)
    assert np.allclose(scaler.inverse(z), values, rtol=1e-12, atol=0)
    tensor = torch.from_numpy(values).float()
    assert torch.allclose(scaler.transform(tensor).double(), torch.from_numpy(z), atol=1e-4)


def test_the_scale_of_a_direction_rotates_with_the_image():
    targets = (Target(("dx", "dy"), "vector"), Target(("theta_E",)), Target(("gamma1", "gamma2"), "spin2"))
    values = np.random.default_rng(0).normal([1, -2, 5, 0, 0.3], [1, 2, 3, 4, 5], (200, 5))
    plain, scaler = TargetScaler.fit(values, targets), TargetScaler.fit(values, targets, equivariant=True)
    assert scaler.mean == (0, 0, plain.mean[2], 0, 0)
    assert scaler.std[0] == scaler.std[1] == pytest.approx(np.sqrt((values[:, :2] ** 2).mean()))
    assert scaler.std[2] == plain.std[2]
    assert scaler.std[3] == scaler.std[4]
    assert TargetScaler.fit(np.zeros((4, 2)), targets[:1], equivariant=True).std == (1, 1)
