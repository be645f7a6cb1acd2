"""The losses self-distillation is made of; all in float32 whatever autocast says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zwicky.methods import processes


def teacher_probabilities(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """p_t = softmax((logits − c) / τ_t); logits [..., K]."""
    return torch.softmax((logits.float() - center) / temperature, dim=-1)


def cross_entropy(logits: Tensor, target: Tensor, temperature: float, mass: int = 1) -> Tensor:
    """−target · log softmax(logits / τ_s); logits and target [..., K] → [...]. mass: the sum of each target."""
    scaled = logits.float() / temperature
    # −t · log softmax(s) = (Σ t) logsumexp(s) − t · s
    return mass * torch.logsumexp(scaled, -1) - (target * scaled).sum(-1)


def view_cross_entropy(student: Sequence[Tensor], teacher: Sequence[Tensor], temperature: float) -> Tensor:
    """DINO's view-level loss.

    L = −(1/|P|) Σ_(v, g≠v) (1/B) Σ_b p_g · log softmax(s_v / τ_s), over pairs of a student view v and a teacher view g
    of another crop. The first len(teacher) student views are the same crops as the teacher's.

    student: logits [B, K] of each view; teacher: probabilities [B, K] of each global view.
    The cross-entropy is linear in the target, so targets are summed per student view first.
    """
    total = torch.stack(list(teacher)).sum(0)
    loss, pairs = torch.zeros((), device=total.device), 0
    for position, logits in enumerate(student):
        target, count = total, len(teacher)
        if position < len(teacher):
            target, count = total - teacher[position], len(teacher) - 1
        if count == 0:
            continue
        loss = loss + cross_entropy(logits, target, temperature, mass=count).mean()
        pairs += count
    return loss / pairs


def mask_weights(mask: Tensor) -> Tensor:
    """iBOT's weight of each token in L_MIM = −(1/B) Σ_b (1/max(1, |M_b|)) Σ_(i∈M_b) p_t · log p_s.

    mask: [B, h, w] bool → [B, h, w] float32, 0 where not masked.
    """
    return mask / mask.sum((1, 2), keepdim=True).clamp(min=1) / len(mask)


@torch.no_grad()
def most_similar(student: Tensor, teacher: Tensor) -> Tensor:
    """j*(b, i) = argmax_j cos(z_bi, z_bj) by regions' features; [B, T_v, D], [B, T, D] → [B, T_v]."""
    with torch.autocast(student.device.type, enabled=False):
        # The student's norm changes no argmax.
        return (student.float() @ F.normalize(teacher.float(), dim=-1).mT).argmax(-1)


def region_cross_entropy(
    student: Sequence[Tensor], teacher: Sequence[Tensor], matches: Sequence[Mapping[int, Tensor]], temperature: float
) -> Tensor:
    """EsViT's region-level loss.

    L = −(1/|P|) Σ_(v, g≠v) (1/B) Σ_b (1/T_v) Σ_i p_g[b, j*(i)] · log softmax(s_v[b, i] / τ_s)

    student: logits [B, T_v, K] of each view; teacher: probabilities [B, T, K] of each global view.
    matches: for each student view v, the [B, T_v] matched regions j* in every teacher view g it is compared with.
    """
    loss, pairs = torch.zeros((), device=teacher[0].device), 0
    for logits, match in zip(student, matches, strict=True):
        if match:
            target = matched(teacher, match)
            loss = loss + cross_entropy(logits, target, temperature, mass=len(match)).mean()
            pairs += len(match)
    return loss / pairs


def region_entropy(teacher: Sequence[Tensor], matches: Sequence[Mapping[int, Tensor]]) -> Tensor:
    """Mean entropy of the targets of `region_cross_entropy`: the lowest value it can have."""
    entropies = [torch.special.entr(view).sum(-1) for view in teacher]
    sums = torch.stack([matched(entropies, match).mean() for match in matches if match])
    return sums.sum() / sum(len(match) for match in matches)


def matched(values: Sequence[Tensor], match: Mapping[int, Tensor]) -> Tensor:
    """Σ_g values[g][b, j*(b, i)]: values [B, T, …] of each teacher view → [B, T_v, …]."""
    return torch.stack([values[g][torch.arange(len(j), device=j.device)[:, None], j] for g, j in match.items()]).sum(0)


@torch.no_grad()
def update_center(center: Tensor, batch_mean: Tensor, momentum: float) -> None:
    """c ← m c + (1 − m) · mean of the teacher's logits over the batch of all processes. batch_mean: [K]."""
    center.lerp_(processes.average(batch_mean.to(center.dtype)), 1.0 - momentum)


def entropy(probabilities: Tensor) -> Tensor:
    """Mean Shannon entropy in nats of [..., K] probabilities."""
    return torch.special.entr(probabilities).sum(-1).mean()
