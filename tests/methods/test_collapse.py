"""What the gauges say of collapses made by hand, and of collapses that happen."""

from __future__ import annotations

import math

import pytest
import torch

from zwicky import methods
from zwicky.methods import losses
from zwicky.methods.collapse import diagnose, normalised_std, teacher_gauges

K, D = 64, 32


def gauges_of(teacher, student, embeddings):
    """The gauges DINO would report of these probabilities [B, K] and logits."""
    loss = losses.view_cross_entropy([student, student], [teacher, teacher], 0.1)
    gauges = {"loss": loss, **teacher_gauges(teacher, loss), "embedding_std": normalised_std(embeddings)}
    return {name: float(value) for name, value in gauges.items()}


def made(kind):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(256, D, generator=generator)
    student = torch.randn(256, K, generator=generator) * 0.1
    if kind == "one prototype":
        teacher = torch.eye(K)[:1].expand(256, K)
        student = 10 * teacher
    elif kind == "uniform":
        teacher, student = torch.full((256, K), 1 / K), torch.zeros(256, K)
    else:
        teacher = torch.softmax(torch.randn(256, K, generator=generator) * 3, -1)
    if kind == "constant":
        embeddings = embeddings[:1] + 1e-4 * embeddings
    return gauges_of(teacher, student, embeddings)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("one prototype", "few prototypes"), ("uniform",) * 2, ("constant", "constant embeddings"), ("healthy", None)],
)
def test_diagnosis_of_made_collapses(kind, words):
    found = diagnose(made(kind), dim=D, prototypes=K)
    if words is None:
        assert found is None
    else:
        assert words in found
        assert "\n" not in found


@pytest.mark.parametrize("kind", ["one prototype", "uniform"])
def test_a_collapse_of_regions_alone_is_told_from_one_of_images(kind):
    regions = {f"region_{name}": value for name, value in made(kind).items() if name.endswith(("entropy", "kl"))}
    found = diagnose({**made("healthy"), **regions}, dim=D, prototypes=K)
    assert {"one prototype": "few prototypes", "uniform": "uniform"}[kind] in found
    assert "regions" in found
    assert "images" in diagnose({**made(kind)}, dim=D, prototypes=K)


def test_not_finite_is_said_first():
    assert "not finite" in diagnose({**made("healthy"), "loss": math.nan}, dim=D, prototypes=K)


def test_teacher_gauges_of_known_answers():
    half = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    gauges = teacher_gauges(half, torch.tensor(1.0, requires_grad=True), "region_")
    expected = {"teacher_entropy": math.log(2), "teacher_kl": 1 - math.log(2), "usage_entropy": math.log(4)}
    assert {name: float(value) for name, value in gauges.items()} == pytest.approx(
        {f"region_{name}": value for name, value in expected.items()}
    )
    assert not any(value.requires_grad for value in gauges.values())


def test_spread_of_a_sphere_and_of_a_point():
    embeddings = torch.randn(20_000, D, generator=torch.Generator().manual_seed(1))
    assert float(normalised_std(embeddings)) == pytest.approx(1 / math.sqrt(D), rel=0.01)
    assert float(normalised_std(embeddings[:1].expand(50, D))) == pytest.approx(0, abs=1e-6)


def train(tiny_vit, make_views, steps=60, **options):
    method = methods.create("dino", tiny_vit(), prototypes=K, hidden=64, bottleneck=16, **options)
    optimizer = torch.optim.AdamW((p for p in method.parameters() if p.requires_grad), lr=2e-3)
    for step in range(steps):
        gauges = method(make_views(batch=32, local=0, seed=step))
        optimizer.zero_grad()
        gauges["loss"].backward()
        optimizer.step()
        method.after_step((step + 1) / (2 * steps))
    return method, {name: float(value.detach()) for name, value in gauges.items()}


def test_drill_no_centering_collapses_onto_one_prototype(tiny_vit, make_views):
    """Sharpening alone: without the centre (its momentum is 1, so it stays 0) one prototype wins."""
    method, gauges = train(
        tiny_vit, make_views, center_momentum=1.0, teacher_temperature=0.01, teacher_temperature_end=0.01, momentum=0.5
    )
    assert not method.center.any()
    assert "few prototypes" in method.diagnose(gauges), gauges


def test_drill_no_sharpening_collapses_to_uniform(tiny_vit, make_views):
    """Centring alone: a teacher softer than the student is undecided, and the loss is ln K."""
    method, gauges = train(tiny_vit, make_views, teacher_temperature=1.0, teacher_temperature_end=1.0, momentum=0.9)
    assert gauges["loss"] == pytest.approx(math.log(K), rel=0.02)
    assert "uniform" in method.diagnose(gauges), gauges
