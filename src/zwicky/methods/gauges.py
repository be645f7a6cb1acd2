"""Is my flat loss fine? Gauges of collapse, and what they mean in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor


def normalised_std(embeddings: Tensor) -> Tensor:
    """Standard deviation of the L2-normalised embeddings [B, D], averaged over D. Healthy ≈ 1/√D; collapse → 0."""
    return F.normalize(embeddings.float(), dim=-1).std(0, correction=0).mean()


def diagnose(gauges: Mapping[str, float], *, dim: int, prototypes: int | None) -> str | None:
    """One line on the failure the gauges show and what to try, or None when they look healthy.

    gauges: the last epoch's means. dim: width of the embeddings. prototypes: K, for methods that have them.
    """
    if any(not math.isfinite(value) for value in gauges.values()):
        return (
            "the loss or a gauge is not finite: lower the learning rate, or look for extreme pixels with `zwicky audit`"
        )
    if prototypes is not None and "teacher_entropy" in gauges:
        top = math.log(prototypes)
        if gauges["usage_entropy"] < 0.05 * top:
            return (
                "collapse onto one prototype: the teacher gives all images the same answer; "
                "set center_momentum to 0.9, lower the learning rate, or use larger batches"
            )
        if gauges["teacher_entropy"] > 0.98 * top and gauges["teacher_kl"] < 0.02 * top:
            return (
                f"collapse to uniform: the loss stands near ln K = {top:.2f} and the teacher is undecided; "
                "lower teacher_temperature or prototypes, or train longer"
            )
    std = gauges.get("embedding_std")
    if std is not None and std < 0.1 / math.sqrt(dim):
        return (
            f"constant embeddings: their spread is {std * math.sqrt(dim):.2f} of a healthy one; "
            "lower the learning rate, use larger batches or milder crops"
        )
    return None
