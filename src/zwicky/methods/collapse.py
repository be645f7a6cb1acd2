"""Is my flat loss fine? Gauges of collapse, and what they mean in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from zwicky.methods import losses

FEW = 0.2  # of ln K; a head with BatchNorm keeps two or three prototypes where one without keeps one
NARROW = 0.05  # of the spread of a normal cloud; healthy backbones on cutouts that look alike were seen at 0.1


def normalised_std(embeddings: Tensor) -> Tensor:
    """Standard deviation of the L2-normalised embeddings [B, D], averaged over D. Healthy ≈ 1/√D; collapse → 0."""
    return F.normalize(embeddings.float(), dim=-1).std(0, correction=0).mean()


@torch.no_grad()
def teacher_gauges(
    probabilities: Tensor, cross_entropy: Tensor, level: str = "", entropy: Tensor | None = None
) -> dict[str, Tensor]:
    """How decided the teacher is, how far the student from it, and how many prototypes share the answers.

    probabilities: the teacher's, [N, K]. cross_entropy: the student's mean to them. level: put before the names.
    entropy: the teacher's mean entropy where the cross-entropy weighs the rows differently.
    """
    entropy = losses.entropy(probabilities) if entropy is None else entropy
    return {
        f"{level}teacher_entropy": entropy,
        f"{level}teacher_kl": cross_entropy.detach() - entropy,
        f"{level}usage_entropy": losses.entropy(probabilities.mean(0)),
    }


def diagnose(gauges: Mapping[str, float], *, dim: int, prototypes: int | None) -> str | None:
    """One line on the failure the gauges show and what to try, or None when they look healthy.

    gauges: the last epoch's means. dim: width of the embeddings. prototypes: K, for methods that have them.
    """
    if any(not math.isfinite(value) for value in gauges.values()):
        return (
            "the loss or a gauge is not finite: lower the learning rate, or look for extreme pixels with `zwicky audit`"
        )
    for level, whose in (("", "images"), ("region_", "regions")):
        if prototypes is None or f"{level}teacher_entropy" not in gauges:
            continue
        top = math.log(prototypes)
        if gauges[f"{level}usage_entropy"] < FEW * top:
            return (
                f"collapse onto few prototypes: the teacher gives all {whose} one of about "
                f"{math.exp(gauges[f'{level}usage_entropy']):.0f} answers; "
                "set center_momentum to 0.9, lower the learning rate, or use larger batches"
            )
        if gauges[f"{level}teacher_entropy"] > 0.98 * top and gauges[f"{level}teacher_kl"] < 0.02 * top:
            return (
                f"collapse to uniform: the loss on {whose} stands near ln K = {top:.2f} and the teacher is undecided; "
                "lower teacher_temperature or prototypes, or train longer"
            )
    std = gauges.get("embedding_std")
    if std is not None and std < NARROW / math.sqrt(dim):
        return (
            f"constant embeddings: their spread is {std * math.sqrt(dim):.2f} of a healthy one; "
            "lower the learning rate, use larger batches or milder crops"
        )
    return None
