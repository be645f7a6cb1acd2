import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from zwicky.errors import UserError
from zwicky.metrics import embeddings as e


def test_rankme_counts_equal_directions():
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 8)))[0]
    for rank in (1, 3, 8):
        assert e.rankme(basis[:, :rank] @ np.eye(8)[:rank]) == pytest.approx(rank)
    assert e.rankme(np.zeros((5, 3))) == 0


def test_rankme_by_formula_and_its_invariances():
    random = np.random.default_rng(1)
    z = random.normal(size=(60, 5)) * [5, 3, 1, 0.5, 0.1]
    share = np.sqrt(np.linalg.eigvalsh(z.T @ z))
    share = share / share.sum()
    assert e.rankme(z) == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    rotation = np.linalg.qr(random.normal(size=(5, 5)))[0]
    assert e.rankme(7 * z[::-1] @ rotation) == pytest.approx(e.rankme(z))


def test_normalised_std_of_health_and_collapse():
    random = np.random.default_rng(0)
    assert e.normalised_std(random.normal(size=(5000, 64))) == pytest.approx(1 / 8, rel=0.02)
    assert e.normalised_std(np.outer(random.uniform(1, 2, 100), np.ones(64))) == pytest.approx(0, abs=1e-9)


def literal_knn(train, labels, query, classes, k, temperature):
    votes = np.zeros((len(query), classes))
    for row, one in enumerate(query):
        cosine = [one @ other / np.linalg.norm(one) / np.linalg.norm(other) for other in train]
        for index in np.argsort(cosine)[::-1][:k]:
            votes[row, labels[index]] += np.exp(cosine[index] / temperature)
    return votes / votes.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 7, 500])
def test_knn_matches_a_literal_loop(k, monkeypatch):
    monkeypatch.setattr(e, "BLOCK", 170)  # several blocks, the last one short
    random = np.random.default_rng(0)
    train, labels, query = random.normal(size=(50, 6)), random.integers(0, 3, 50), random.normal(size=(20, 6))
    found = e.knn_probabilities(train, labels, query, classes=4, k=k)
    np.testing.assert_allclose(found, literal_knn(train, labels, query, 4, k, 0.07), atol=1e-5)
    assert (found[:, 3] == 0).all()


def test_knn_matches_sklearn():
    random = np.random.default_rng(2)
    train, labels, query = random.normal(size=(200, 8)), random.integers(0, 2, 200), random.normal(size=(40, 8))
    unweighted = KNeighborsClassifier(20, metric="cosine").fit(train, labels).predict_proba(query)
    np.testing.assert_allclose(e.knn_probabilities(train, labels, query, 2, temperature=1e6), unweighted, atol=1e-5)


def test_knn_survives_a_tiny_temperature_and_a_zero_vector():
    train, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
    found = e.knn_probabilities(train, labels, np.array([[0.1, 1.0], [0.0, 0.0]]), 2, temperature=1e-4)
    np.testing.assert_allclose(found, [[0, 1], [0.5, 0.5]])


def test_bad_embeddings_are_refused():
    good, bad = np.ones((3, 2)), np.array([[1.0, np.nan]])
    for gauge in (e.rankme, e.normalised_std):
        with pytest.raises(UserError, match="1 of 1 embeddings"):
            gauge(bad)
        with pytest.raises(UserError, match="not empty"):
            gauge(np.zeros((0, 2)))
    with pytest.raises(UserError, match="one label each"):
        e.knn_probabilities(good, np.zeros(2, int), good, 2)
    with pytest.raises(UserError, match="outside"):
        e.knn_probabilities(good, np.array([0, 1, 2]), good, 2)
