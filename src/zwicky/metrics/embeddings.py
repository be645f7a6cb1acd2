"""Gauges of embeddings, and the k-nearest-neighbour classifier on them."""

from __future__ import annotations

import numpy as np

from zwicky.errors import UserError

BLOCK = 2**22  # similarities held at once by the kNN: 16 MB


def rankme(embeddings: np.ndarray) -> float:
    """Effective rank of embeddings [N, D]: exp(−Σ p_k ln p_k), p_k = σ_k / Σσ of the singular values.

    From 1 (all on one line) to min(N, D); 0 if all embeddings are 0. Garrido et al. (2023), RankMe.
    """
    values = np.linalg.svd(_finite(embeddings), compute_uv=False)
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-np.sum(shares * np.log(shares))))


def normalised_std(embeddings: np.ndarray) -> float:
    """Standard deviation over objects of the L2-normalised embeddings [N, D], averaged over dimensions.

    About 1/√D where embeddings fill the sphere, 0 where all point one way (Chen & He 2021, SimSiam).
    """
    return float(np.mean(np.std(_unit(embeddings), axis=0)))


def knn_probabilities(
    train: np.ndarray,
    train_labels: np.ndarray,
    query: np.ndarray,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> np.ndarray:
    """[M, classes]: the vote of the k training embeddings nearest in cosine, weighted by exp(cos / temperature).

    train [N, D], train_labels [N] int, query [M, D]. With fewer than k training embeddings all vote. Wu et al. (2018).
    The queries go through in blocks, so memory beyond the inputs is about N·D + 2²² numbers.
    """
    train_labels = np.asarray(train_labels)
    if len(train) != len(train_labels) or not len(train):
        raise UserError(
            f"{len(train)} training embeddings but {len(train_labels)} labels; give one label each, one at least"
        )
    if train_labels.min() < 0 or train_labels.max() >= classes:
        raise UserError(f"a training label lies outside 0 … {classes - 1}; give the number of classes")
    train, query = _unit(train).astype(np.float32), _unit(query).astype(np.float32)
    k = min(k, len(train))
    votes = np.zeros((len(query), classes))
    step = max(1, BLOCK // len(train))
    for start in range(0, len(query), step):
        similarity = query[start : start + step] @ train.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(similarity, nearest, axis=1).astype(np.float64)
        weight = np.exp((near - near.max(axis=1, keepdims=True)) / temperature)  # the shift cancels in the shares
        rows = np.repeat(np.arange(start, start + len(near)), k)
        np.add.at(votes, (rows, train_labels[nearest].ravel()), weight.ravel())
    return votes / votes.sum(axis=1, keepdims=True)


def _unit(embeddings: np.ndarray) -> np.ndarray:
    """Each row divided by its length; a row of zeros stays."""
    embeddings = _finite(embeddings)
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.finfo(embeddings.dtype).tiny)


def _finite(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings)
    embeddings = embeddings.astype(np.float32) if embeddings.dtype == np.float16 else embeddings
    embeddings = embeddings if embeddings.dtype.kind == "f" else embeddings.astype(np.float64)
    if embeddings.ndim != 2 or not embeddings.size:
        raise UserError(f"embeddings must be [N, D] and not empty, not {list(embeddings.shape)}")
    if not np.isfinite(embeddings).all():
        rows = int((~np.isfinite(embeddings)).any(axis=1).sum())
        raise UserError(
            f"{rows} of {len(embeddings)} embeddings hold NaN or infinity; look for a diverged training or bad pixels"
        )
    return embeddings
