"""The losses the methods are made of, in float32 under any autocast, and means over all processes."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
import torch.nn.functional as F
from torch import Tensor

Regions = Sequence[tuple[Tensor, Tensor]]


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_ranks(value: Tensor) -> Tensor:
    """Average a float tensor over all processes; gradients pass."""
    return value if world_size() == 1 else dist_nn.all_reduce(value.clone()) / world_size()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average `values` [*S, …] over S where `mask` [*S] is True, in float32; exactly 0 if it is nowhere.

    The mean of this over processes is the mean over the values of all: each divides by the mean of the counts.
    """
    index = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
    total = values.float().masked_fill(~index, 0.0).flatten(0, mask.ndim - 1).sum(0)
    return total / mean_over_ranks(mask.sum().float()).clamp(min=1 / world_size())


def entropy(probabilities: Tensor) -> Tensor:
    """Return the mean Shannon entropy in nats of probabilities [..., K]."""
    return torch.special.entr(probabilities).sum(-1).mean()


def cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return H(p_t, p_s) = −p_t · log softmax(s / τ_s) of each row; the student's s and the teacher's p_t [..., K]."""
    return -(teacher * F.log_softmax(student.float() / temperature, dim=-1)).sum(-1)


def view_loss(student: Tensor, teacher: Tensor, batch: int, temperature: float) -> Tensor:
    """DINO's multi-crop loss, Eq. 3 of arXiv:2104.14294: the mean of H(p_g, p_v) over the pairs g ≠ v.

    `student` has logits [V·B, K], view by view, the G global ones first; `teacher` has probabilities [G·B, K] of these.
    """
    log_p = F.log_softmax(student.float() / temperature, dim=-1).unflatten(0, (-1, batch))
    with torch.autocast(student.device.type, enabled=False):
        pairs = -torch.einsum("gbk,vbk->gv", teacher.unflatten(0, (-1, batch)), log_p) / batch
    same = torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs.masked_fill(same, 0.0).sum() / (~same).sum()


def patch_weights(mask: Tensor) -> Tensor:
    """Return the weights 1/(B · max(1, |M_b|)) of iBOT's L_MIM (Sec. 3.1 of arXiv:2111.07832), mask [B, h, w] bool."""
    return mask / mask.sum((1, 2), keepdim=True).clamp(min=1) / len(mask)


def region_loss(student: Regions, teacher: Regions, valid: list[Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    """EsViT's region-level loss (Sec. 3.2 of arXiv:2106.09785) over pairs g ≠ v, and the mean entropy of its targets.

    Each region i of the student's view v matches the distribution of region j*(i) = argmax_j cos(z_i, z_j) of the
    teacher's view g. Regions that are not valid, or have none to match, do not count.

    `student` has (features [B, T_v, D], logits [B, T_v, K]) of each view v, `teacher` (features, probabilities) of each
    global view g, and `valid` is [B, T_v] bool of each view.
    """
    losses, entropies = [], []
    for v, (z_s, logits) in enumerate(student):
        for g, (z_t, p_t) in enumerate(teacher):
            if g == v:
                continue
            with torch.no_grad(), torch.autocast(z_s.device.type, enabled=False):
                cosine = z_s.float() @ F.normalize(z_t.float(), dim=-1).mT  # the norm of z_s changes no argmax
                match = cosine.masked_fill(~valid[g][:, None], -torch.inf).argmax(-1)  # [B, T_v]
            target = p_t.take_along_dim(match[..., None], 1)  # [B, T_v, K]
            counted = valid[v] & valid[g].any(1, keepdim=True)
            losses.append(masked_mean(cross_entropy(logits, target, temperature), counted))
            entropies.append(masked_mean(torch.special.entr(target).sum(-1), counted))
    return torch.stack(losses).mean(), torch.stack(entropies).mean()


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Return −⟨p/‖p‖, z/‖z‖⟩, mean over the batch; p, z [B, D]."""
    return -F.cosine_similarity(p.float(), z.float(), dim=-1).mean()
