"""Diagnostics of representations: is a flat loss a collapse?"""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from torch import Tensor

from zwicky.errors import UserError
from zwicky.methods import losses

MIN_MARGINAL = 0.25  # of ln K; a head with BatchNorm keeps two or three of 64 prototypes where one without keeps one
TEMPERATURE = 0.07  # τ of the kNN classifier
MIN_SPREAD = 0.015  # of the spread of an isotropic cloud; healthy backbones on similar cutouts fall to 0.02


def embedding_std(embeddings: Tensor) -> Tensor:
    """Return the standard deviation of the L2-normalised embeddings [B, D], averaged over D.

    About 1/√D if they fill the sphere, 0 after collapse (Sec. 4.1 of arXiv:2011.10566).
    """
    return F.normalize(embeddings.detach().float(), dim=-1).std(0, correction=0).mean()


@torch.no_grad()
def prototype_metrics(
    probabilities: Tensor, cross_entropy: Tensor, level: str = "", entropy: Tensor | None = None
) -> dict[str, Tensor]:
    """Return teacher entropy, KL(teacher, student) and the entropy of the mean assignment, named with prefix `level`.

    `probabilities` [N, K] are the teacher's; `entropy` is its mean if the mean `cross_entropy` weighs rows differently.
    """
    entropy = losses.entropy(probabilities) if entropy is None else entropy
    return {
        f"{level}teacher_entropy": entropy,
        f"{level}teacher_kl": cross_entropy.detach() - entropy,
        f"{level}marginal_entropy": losses.entropy(probabilities.mean(0)),
    }


def diagnose(metrics: Mapping[str, float], *, dim: int, prototypes: int | None) -> str | None:
    """Return one line on the failure these metrics show and what to try, or None; `dim` is that of the embeddings."""
    if any(not math.isfinite(value) for value in metrics.values()):
        return "the loss or a metric is not finite: lower the learning rate, or run `zwicky audit` for extreme pixels"
    for level, objects in (("", "images"), ("region_", "patches")):
        if prototypes is None or f"{level}teacher_entropy" not in metrics:
            continue
        top, marginal = math.log(prototypes), metrics[f"{level}marginal_entropy"]
        if marginal < MIN_MARGINAL * top:
            hint = "set center_momentum to 0.9, lower the learning rate, or use larger batches"
            return f"collapse onto few prototypes: all {objects} have about {math.exp(marginal):.0f} of them; {hint}"
        if metrics[f"{level}teacher_entropy"] > 0.98 * top and metrics[f"{level}teacher_kl"] < 0.02 * top:
            hint = "lower teacher_temperature or prototypes, or train longer"
            return f"collapse to uniform: the teacher's entropy on {objects} stays near ln K = {top:.2f}; {hint}"
    std = metrics.get("embedding_std")
    if std is not None and std < MIN_SPREAD / math.sqrt(dim):
        spread, hint = std * math.sqrt(dim), "lower the learning rate, use larger batches or milder crops"
        return f"constant embeddings: their spread is {spread:.2f} of an isotropic one; {hint}"
    return None


def rankme(embeddings: np.ndarray) -> float:
    """Return the effective rank of embeddings [N, D], from 1 (all on one line) to min(N, D); 0 if all are 0.

    exp(−Σ p_k ln p_k) with p_k = σ_k / Σσ of the singular values (Eq. 1 of arXiv:2210.02885).
    """
    if bad := int((~np.isfinite(embeddings)).any(axis=1).sum()):
        raise UserError(f"{bad} of {len(embeddings)} embeddings are not finite; look for divergence or bad pixels")
    values = np.linalg.svd(embeddings, compute_uv=False)
    p = values[values > 0] / max(values.sum(), np.finfo(values.dtype).tiny)
    return float(np.exp(-np.sum(p * np.log(p)))) if len(p) else 0.0


def knn_predict(train: np.ndarray, values: np.ndarray, query: np.ndarray, k: int = 20) -> np.ndarray:
    """Average the values [N, K] of the k nearest training features by exp(cos / τ) (arXiv:1805.01978), [M, K].

    Features [N, D] and [M, D] are standardised: of raw ones that all point the same way, the cosines hardly differ.
    """
    # Of unit vectors, ‖a − b‖² = 2 − 2 cos.
    knn = KNeighborsRegressor(min(k, len(train)), weights=lambda d: np.exp(-(d**2) / (2 * TEMPERATURE)))
    return make_pipeline(StandardScaler(), Normalizer(), knn).fit(train, values).predict(query)
