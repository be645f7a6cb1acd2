"""What holds for every method, on every backbone."""

import pytest
import torch

from zwicky import methods
from zwicky.backbones import BACKBONES
from zwicky.errors import UserError
from zwicky.methods import METHODS
from zwicky.methods.base import Method

HEADS = {"head", "projector", "predictor", "decoder"}
every = pytest.mark.parametrize("method_name", METHODS)


def suits(method_name, backbone):
    if method_name == "mae":
        return hasattr(backbone, "visible")
    return backbone.supports_masking or method_name not in ("ibot", "simmim", "beit")


@pytest.fixture
def make(small_method, tiny_vit, make_views):
    """A function that builds a method on a small ViT, ready to train."""

    def build(name, **options):
        method = small_method(name, tiny_vit(), **options)
        method.prepare(make_views(batch=8, seed=9))
        return method

    return build


@every
@pytest.mark.parametrize("backbone_name", BACKBONES)
def test_each_step_reaches_every_parameter(method_name, backbone_name, small_method, views_for, small_backbone):
    backbone = small_backbone(backbone_name)
    if not suits(method_name, backbone):
        with pytest.raises(UserError, match=f"{method_name}: {backbone_name}.*take a vit"):
            small_method(method_name, backbone)
        return
    method = small_method(method_name, backbone)
    method.prepare(views_for(method))
    for step in range(2):
        metrics = method(views_for(method, batch=4, seed=step))
        metrics["loss"].backward()
        assert torch.isfinite(metrics["loss"])
        assert all(value.ndim == 0 for value in metrics.values())
        assert not any(value.requires_grad for name, value in metrics.items() if name != "loss")
        assert [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None] == []
        assert all(p.grad is None for p in method.parameters() if not p.requires_grad)
        method.zero_grad()
        method.after_step((step + 1) / 2)
    assert method.backbone.dim == backbone.dim


@every
def test_parameter_names_for_the_optimiser_exist(method_name, make):
    method = make(method_name)
    names = {name for name, _ in method.named_parameters()}
    trainable = {name for name, p in method.named_parameters() if p.requires_grad}
    grouped = [name for group in method.layer_groups() for name in group]
    assert set(grouped) <= names
    assert len(grouped) == len(set(grouped))
    assert method.no_weight_decay() <= names
    constant = {name for name in names if name.startswith("predictor.")} if method_name == "simsiam" else set()
    assert method.constant_lr() == constant
    head = trainable - set(grouped)
    assert head
    assert all(any(word in name for word in HEADS) for name in head)


@every
def test_what_a_method_prepares_it_asks_images_for(method_name, make):
    method = make(method_name)
    assert (method.needs.preview > 0) == (type(method).prepare is not Method.prepare)


@every
def test_all_state_is_in_the_state_dict(method_name, make, views_for):
    """A method restored from its state dict in the middle of training continues with the same numbers."""
    method = make(method_name)
    views = views_for(method)
    method(views)["loss"].backward()
    with torch.no_grad():  # in place of an optimiser's step
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    method.after_step(0.4)
    other = make(method_name)
    other.load_state_dict(method.state_dict())
    for step in range(2):
        assert torch.equal(method(views)["loss"], other(views)["loss"])
        for each in (method, other):
            each.after_step(0.5 + 0.1 * step)


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("simmim", {"loss": 0.7, "constant_loss": 1.0}),
        ("mae", {"loss": 0.7, "constant_loss": 1.0}),
        ("beit", {"loss": 0.7, "token_entropy": 1.0, "majority_share": 0.2}),
    ],
)
def test_a_masked_method_no_better_than_a_trivial_prediction_is_reported(name, metrics, make):
    method = make(name)
    assert method.diagnose(metrics) is None
    assert "no better than predicting" in method.diagnose(metrics | {"loss": 0.99})
    assert "not finite" in method.diagnose(metrics | {"loss": float("nan")})
    if name == "beit":
        assert "one token covers 97%" in method.diagnose(metrics | {"majority_share": 0.97})


def test_defaults_are_those_of_the_papers(tiny_vit):
    dino, byol, lejepa = (methods.create(name, tiny_vit()) for name in ("dino", "byol", "lejepa"))
    assert (dino.student_temperature, dino.teacher_temperature, dino.momentum) == (0.1, 0.04, 0.996)
    assert (dino.center.momentum, dino.freeze_prototypes) == (0.9, 0.01)  # one epoch of a hundred
    assert (byol.momentum, lejepa.sigreg) == (0.996, 0.02)


OUT_OF_RANGE = [
    *[("dino", "student_temperature", 0.0), ("dino", "teacher_temperature_end", -0.04), ("dino", "momentum", 1.1)],
    *[("ibot", "center_momentum", -0.1), ("ibot", "prototypes", 0), ("esvit", "region_weight", 1.5)],
    *[("byol", "momentum", float("nan")), ("simsiam", "width", 0), ("lejepa", "sigreg", 2.0)],
    ("mae", "decoder_depth", 0),
]


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("dinosaur", {}, "dino"),
        ("dino", {"protoypes": 3}, "protoypes"),
        ("supervised", {"classes": 1}, "two or more classes"),
        ("simmim", {"mask_ratio": 0.02}, "mask_ratio"),
        ("simmim", {"mask_ratio": 0.98}, "mask_ratio"),
        ("mae", {"decoder_width": 18}, "decoder_width 18"),
        ("mae", {"decoder_width": 16, "decoder_heads": 3}, "decoder_heads"),
        *[(name, {key: value}, f"method: {name}'s {key} is .*; choose from") for name, key, value in OUT_OF_RANGE],
    ],
)
def test_a_wrong_method_is_one_line(name, options, match, tiny_vit):
    with pytest.raises(UserError, match=match):
        methods.create(name, tiny_vit(), **options)
