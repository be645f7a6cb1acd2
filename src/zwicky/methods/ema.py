"""Momentum teachers: the exponential moving average of a student, and its schedule."""

import copy
import math
from typing import TypeVar

import torch
from timm.layers import DropPath
from torch import nn

from zwicky.methods.base import Method

M = TypeVar("M", bound=nn.Module)


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` at progress 0 to `end` at 1."""
    progress = min(max(progress, 0.0), 1.0)
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * progress))


def early_momentum(momentum: float, steps: int) -> float:
    """Return the momentum after this many steps: it rises from 0.1, so that an average forgets where it started."""
    return min(momentum, (1 + steps) / (10 + steps))


def make_teacher(student: M) -> M:
    """Copy the student, without gradients, drop path or dropout.

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
def ema_update(target: nn.Module, source: nn.Module, momentum: float, buffers: bool = False) -> None:
    """θ_t ← λ θ_t + (1 − λ) θ_s for parameters, with λ the momentum.

    With `buffers`, floating-point buffers are averaged and the others copied, for a target that sees no data. A teacher
    does: it keeps the BatchNorm statistics of its own activations, as in the papers.
    """
    torch._foreach_lerp_(list(target.parameters()), [p.detach() for p in source.parameters()], 1.0 - momentum)
    for buffer, new in zip(target.buffers(), source.buffers(), strict=True) if buffers else ():
        buffer.lerp_(new, 1.0 - momentum) if buffer.is_floating_point() else buffer.copy_(new)


class MomentumTeacher(Method):
    """A method with a teacher, the exponential moving average of its student; base of DINO and BYOL.

    `student` holds its "backbone" and heads, `teacher` the same modules averaged. The momentum λ follows a cosine to 1;
    the teacher averages over about 1/(1 − λ) steps, which should be a small part of the training.
    """

    backbone_prefix, teacher_prefix = "student.backbone", "teacher.backbone"
    student: nn.ModuleDict
    teacher: nn.ModuleDict
    momentum: float

    def after_step(self, progress: float) -> None:
        """Update the teacher with the momentum of this step."""
        momentum = cosine(self.momentum, 1.0, float(self.progress))
        super().after_step(progress)
        ema_update(self.teacher, self.student, momentum)
