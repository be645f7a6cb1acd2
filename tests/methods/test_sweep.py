"""Every method on every backbone: a step runs, everything that learns gets a gradient, nothing else does."""

from __future__ import annotations

import pytest
import torch

from zwicky import methods
from zwicky.augment.views import Target
from zwicky.backbones.registry import BACKBONES
from zwicky.backbones.vit import ViT
from zwicky.errors import UserError
from zwicky.methods.registry import METHODS
from zwicky.methods.supervised import TargetScaler

HEADS = {"head", "projector", "predictor", "decoder"}
OPTIONS = {
    "dino": {"prototypes": 16, "hidden": 16, "bottleneck": 8},
    "supervised": {"classes": 3},
    "beit": {"tokens": 4},
}


def refused(method_name, backbone):
    """Pairs that make no sense, which a method refuses by name."""
    if method_name == "mae":
        return not isinstance(backbone, ViT)
    return method_name in {"ibot", "simmim", "beit"} and not backbone.supports_masking


@pytest.mark.parametrize("method_name", METHODS)
@pytest.mark.parametrize("backbone_name", BACKBONES)
def test_each_step_reaches_every_parameter(method_name, backbone_name, make_views, small_backbone):
    backbone = small_backbone(backbone_name)
    if refused(method_name, backbone):
        with pytest.raises(UserError, match=f"{method_name}: {backbone_name}"):
            methods.create(method_name, backbone, **OPTIONS.get(method_name, {}))
        return
    method = methods.create(method_name, backbone, **OPTIONS.get(method_name, {}))
    method.prepare(make_views(batch=8))
    learning = [p for p in method.parameters() if p.requires_grad]
    for step in range(2):
        targets = torch.tensor([0, 1, 2, 0]) if method.needs.targets else None
        local, masking = 2 if method.needs.local_crops else 0, method.needs.masking
        views = make_views(batch=4, local=local, seed=step, targets=targets, masking=masking)
        gauges = method(views)
        gauges["loss"].backward()
        assert torch.isfinite(gauges["loss"])
        assert all(value.ndim == 0 for value in gauges.values())
        without = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []
        assert all(p.grad is None for p in method.parameters() if not p.requires_grad)
        method.zero_grad()
        method.after_step((step + 1) / 2)
    assert learning
    assert method.backbone.dim == backbone.dim


@pytest.mark.parametrize("method_name", METHODS)
def test_names_for_the_optimiser_exist(method_name, tiny_vit):
    method = methods.create(method_name, tiny_vit(), **OPTIONS.get(method_name, {}))
    known = {name for name, _ in method.named_parameters()}
    learning = {name for name, p in method.named_parameters() if p.requires_grad}
    grouped = [name for group in method.layer_groups() for name in group]
    assert set(grouped) <= known
    assert len(grouped) == len(set(grouped))
    assert method.no_weight_decay() <= known
    head = learning - set(grouped)
    assert head
    assert all(any(word in name for word in HEADS) for name in head)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dinosaur", {}, "dino"),
        ("dino", {"protoypes": 3}, "protoypes"),
        ("supervised", {}, "two or more classes"),
        ("supervised", {"classes": 1}, "two or more classes"),
        ("supervised", {"classes": 2, "targets": (Target(("theta_E",)),)}, "two or more classes"),
    ],
)
def test_a_wrong_method_is_one_line(name, options, words, tiny_vit):
    with pytest.raises(UserError, match=words) as caught:
        methods.create(name, tiny_vit(), **options)
    assert "\n" not in str(caught.value)


def test_supervised_losses_are_torchs(tiny_vit, make_views):
    backbone = tiny_vit()
    targets = torch.tensor([0, 2, 1, 1, 0, 2])
    method = methods.create("supervised", backbone, classes=3, label_smoothing=0.1)
    views = make_views(local=0, targets=targets)
    logits = torch.cat([method.head(backbone(crop).pooled) for crop in views.crops]).double()
    smooth = 0.9 * torch.eye(3)[targets.repeat(2)] + 0.1 / 3
    expected = -(smooth * logits.log_softmax(-1)).sum(-1).mean()
    assert float(method(views)["loss"].detach()) == pytest.approx(float(expected.detach()), abs=1e-6)


def test_regression_loss_is_on_the_scale_of_the_labels(tiny_vit, make_views):
    backbone = tiny_vit()
    values = torch.randn(6, 2) * torch.tensor([5.0, 0.1]) + torch.tensor([100.0, -3.0])
    mean, std = (100.0, -3.0), (5.0, 0.1)
    targets = (Target(("theta_E",)), Target(("mass",)))
    method = methods.create("supervised", backbone, targets=targets, scaler=TargetScaler(mean, std))
    views = make_views(local=0, targets=values)
    raw = torch.cat([method.head(backbone(crop).pooled) for crop in views.crops])
    scaled = (values.repeat(2, 1) - torch.tensor(mean)) / torch.tensor(std)
    apart = (raw - scaled).abs()
    expected = torch.where(apart < 1, 0.5 * apart**2, apart - 0.5).mean()
    gauges = method(views)
    assert float(gauges["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert float(gauges["mae"]) == pytest.approx(float((apart * torch.tensor(std)).mean().detach()), rel=1e-4)
