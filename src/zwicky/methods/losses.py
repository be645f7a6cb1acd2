"""The losses self-distillation is made of; all in float32 whatever autocast says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zwicky.methods import processes
from zwicky.methods.pixels import masked_mean


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
def most_similar(student: Tensor, teacher: Tensor, seen: Tensor | None = None) -> Tensor:
    """j*(b, i) = argmax_j cos(z_bi, z_bj) by regions' features; [B, T_v, D], [B, T, D] → [B, T_v].

    seen: [B, T] bool, the regions j that may be matched; all unless given.
    """
    with torch.autocast(student.device.type, enabled=False):
        # The student's norm changes no argmax.
        cosines = student.float() @ F.normalize(teacher.float(), dim=-1).mT
        return (cosines if seen is None else cosines.masked_fill(~seen[:, None], -torch.inf)).argmax(-1)


def region_cross_entropy(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    matches: Sequence[Mapping[int, Tensor]],
    temperature: float,
    counted: Sequence[Tensor],
) -> Tensor:
    """EsViT's region-level loss.

    L = −(1/|P|) Σ_(v, g≠v) mean_(b, i) p_g[b, j*(i)] · log softmax(s_v[b, i] / τ_s)

    student: logits [B, T_v, K] of each view; teacher: probabilities [B, T, K] of each global view.
    matches: for each student view v, the [B, T_v] matched regions j* in every teacher view g it is compared with.
    counted: for each student view the [B, T_v] bool regions i of which the mean is taken.
    """
    loss, pairs = torch.zeros((), device=teacher[0].device), 0
    for logits, match, where in zip(student, matches, counted, strict=True):
        if match:
            target = matched(teacher, match)
            loss = loss + masked_mean(cross_entropy(logits, target, temperature, mass=len(match)), where)
            pairs += len(match)
    return loss / pairs


def region_entropy(
    teacher: Sequence[Tensor], matches: Sequence[Mapping[int, Tensor]], counted: Sequence[Tensor]
) -> Tensor:
    """Mean entropy of the targets of `region_cross_entropy`: the lowest value it can have."""
    entropies = [torch.special.entr(view).sum(-1) for view in teacher]
    some = zip(matches, counted, strict=True)
    sums = torch.stack([masked_mean(matched(entropies, match), where) for match, where in some if match])
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
