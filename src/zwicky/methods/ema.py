"""The teacher of self-distillation: a copy of the student that follows it slowly and gets no gradient."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from timm.layers import DropPath
from torch import nn

M = TypeVar("M", bound=nn.Module)


def make_teacher(student: M) -> M:
    """A copy of the student, without gradients, drop path or dropout.

    It stays in training mode, as in the original methods: where it has BatchNorm it uses batch statistics.
    """
    teacher = copy.deepcopy(student).requires_grad_(False)
    for module in teacher.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    return teacher


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """θ_t ← λ θ_t + (1 − λ) θ_s for parameters; buffers (BatchNorm statistics) are copied."""
    torch._foreach_lerp_(list(teacher.parameters()), [p.detach() for p in student.parameters()], 1.0 - momentum)
    for mine, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
        mine.copy_(theirs)
