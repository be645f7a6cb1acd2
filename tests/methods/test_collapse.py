"""What the metrics say of collapses made by hand, and of collapses that happen."""

import math

import numpy as np
import pytest
import torch

from zwicky.errors import UserError
from zwicky.methods import losses
from zwicky.methods.collapse import diagnose, embedding_std, knn_predict, prototype_metrics, rankme

K, D = 64, 32


def synthetic_metrics(kind):
    """The metrics that DINO would report of a collapse of this kind."""
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
    loss = losses.view_loss(student.repeat(2, 1), teacher.repeat(2, 1), len(student), 0.1)
    metrics = {"loss": loss, **prototype_metrics(teacher, loss), "embedding_std": embedding_std(embeddings)}
    return {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize(
    ("kind", "message"),
    [("one prototype", "few prototypes"), ("uniform",) * 2, ("constant", "constant embeddings"), ("healthy", None)],
)
def test_diagnosis_of_made_collapses(kind, message):
    """One of patches alone is not called one of images."""
    made, healthy = synthetic_metrics(kind), synthetic_metrics("healthy")
    diagnosis = diagnose(made, dim=D, prototypes=K)
    assert diagnosis is None if message is None else message in diagnosis
    if kind in ("one prototype", "uniform"):
        assert "images" in diagnosis
        of_patches = {f"region_{name}": value for name, value in made.items()}
        diagnosis = diagnose(healthy | of_patches, dim=D, prototypes=K)
        assert message in diagnosis
        assert "patches" in diagnosis


@pytest.mark.parametrize(
    ("metric", "threshold", "message"),
    [
        ("marginal_entropy", 0.25 * math.log(K), "few prototypes"),
        ("teacher_kl", 0.02 * math.log(K), "uniform"),
        ("embedding_std", 0.015 / math.sqrt(D), "constant embeddings"),
    ],
)
def test_thresholds_are_those_of_the_documentation(metric, threshold, message):
    fine = {"marginal_entropy": math.log(K), "teacher_entropy": 0.99 * math.log(K), "teacher_kl": 1.0}
    assert message in diagnose(fine | {metric: 0.99 * threshold}, dim=D, prototypes=K)
    assert diagnose(fine | {metric: 1.01 * threshold}, dim=D, prototypes=K) is None
    agreed = fine | {"teacher_kl": 0.0, "teacher_entropy": 0.97 * math.log(K)}
    assert diagnose(agreed, dim=D, prototypes=K) is None


def test_spread_of_a_sphere_and_of_a_point():
    embeddings = torch.randn(20_000, D, generator=torch.Generator().manual_seed(1))
    assert float(embedding_std(embeddings)) == pytest.approx(1 / math.sqrt(D), rel=0.01)
    assert float(embedding_std(embeddings[:1].expand(50, D))) == pytest.approx(0, abs=1e-6)


def test_rankme_by_formula_and_its_invariances():
    random = np.random.default_rng(1)
    z = random.normal(size=(60, 5)) * [5, 3, 1, 0.5, 0.1]
    share = np.sqrt(np.linalg.eigvalsh(z.T @ z))
    share = share / share.sum()
    assert rankme(z) == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    rotation = np.linalg.qr(random.normal(size=(5, 5)))[0]
    assert rankme(7 * z[::-1] @ rotation) == pytest.approx(rankme(z))
    assert rankme(np.zeros((3, 2))) == 0
    z[:2, 1] = np.nan, np.inf
    with pytest.raises(UserError, match="2 of 60"):
        rankme(z)


def weighted_vote(train, labels, query, classes, k):
    """The vote of the k nearest of standardised features, weighted by exp(cos / 0.07)."""
    scaled = [(x - train.mean(0)) / train.std(0) for x in (train, query)]
    train, query = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in scaled)
    cosine = query @ train.T
    nearest = np.argsort(-cosine, axis=1)[:, :k]
    weights = np.exp(np.take_along_axis(cosine, nearest, 1) / 0.07)
    votes = (weights[..., None] * np.eye(classes)[labels[nearest]]).sum(1)
    return votes / votes.sum(1, keepdims=True)


@pytest.mark.parametrize("k", [1, 7, 500])
def test_knn_is_the_weighted_vote(k):
    random = np.random.default_rng(0)
    train, labels, query = random.normal(size=(50, 6)), random.integers(0, 3, 50), random.normal(size=(20, 6))
    probabilities = knn_predict(train, np.eye(4)[labels], query, k=k)
    np.testing.assert_allclose(probabilities, weighted_vote(train, labels, query, 4, k), atol=1e-5)
    assert (probabilities[:, 3] == 0).all()
