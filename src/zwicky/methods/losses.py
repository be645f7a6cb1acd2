"""The losses self-distillation is made of; all in float32 whatever autocast says."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def teacher_probabilities(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """p_t = softmax((logits − c) / τ_t); logits [..., K]."""
    return torch.softmax((logits.float() - center) / temperature, dim=-1)


def view_cross_entropy(student: list[Tensor], teacher: list[Tensor], temperature: float) -> Tensor:
    """DINO's view-level loss.

    L = −(1/|P|) Σ_(v, g≠v) (1/B) Σ_b p_g · log softmax(s_v / τ_s), over pairs of a student view v and a teacher view g
    of another crop. The first len(teacher) student views are the same crops as the teacher's.

    student: logits [B, K] of each view; teacher: probabilities [B, K] of each global view.
    The cross-entropy is linear in the target, so targets are summed per student view first.
    """
    total = torch.stack(teacher).sum(0)
    loss, pairs = torch.zeros((), device=total.device), 0
    for position, logits in enumerate(student):
        target, count = total, len(teacher)
        if position < len(teacher):
            target, count = total - teacher[position], len(teacher) - 1
        if count == 0:
            continue
        scaled = logits.float() / temperature
        # −t · log softmax(s) = (Σ t) logsumexp(s) − t · s, and each summed target has Σ t = count.
        loss = loss + (count * torch.logsumexp(scaled, -1) - (target * scaled).sum(-1)).mean()
        pairs += count
    return loss / pairs


@torch.no_grad()
def update_center(center: Tensor, batch_mean: Tensor, momentum: float) -> None:
    """c ← m c + (1 − m) · mean of the teacher's logits over the batch of all processes. batch_mean: [K]."""
    if dist.is_available() and dist.is_initialized():
        batch_mean = batch_mean.clone()
        dist.all_reduce(batch_mean)
        batch_mean /= dist.get_world_size()
    center.lerp_(batch_mean.to(center.dtype), 1.0 - momentum)


def entropy(probabilities: Tensor) -> Tensor:
    """Mean Shannon entropy in nats of [..., K] probabilities."""
    return torch.special.entr(probabilities).sum(-1).mean()
