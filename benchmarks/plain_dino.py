"""DINO written down as the paper's pseudo-code has it, on a plain timm ViT: what one would write in an afternoon.

One forward pass a crop size, every pair of views in a double loop, a deep copy as teacher, a loop over the parameters
for its average, AdamW as it comes. bf16 autocast where asked for, as `zwicky pretrain` does.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE, MOMENTUM, CENTER_MOMENTUM = 0.1, 0.04, 0.996, 0.9


class Head(nn.Module):
    """MLP, L2-normalised bottleneck, weight-normed prototypes."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.last = weight_norm(nn.Linear(bottleneck, prototypes, bias=False))
        self.last.parametrizations.weight.original0.data.fill_(1)
        self.last.parametrizations.weight.original0.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.normalize(self.mlp(x), dim=-1))


class PlainDino:
    """`step(crops)` does one optimiser step; the first two crops are the global ones."""

    def __init__(
        self, net: VisionTransformer, head: Head, *, autocast: bool, fused_attention: bool, compiled: bool
    ) -> None:
        for block in net.blocks:
            block.attn.fused_attn = fused_attention
        self.student, self.head = net, head
        self.teacher, self.teacher_head = copy.deepcopy(net), copy.deepcopy(head)
        self.teacher.requires_grad_(False)
        self.teacher_head.requires_grad_(False)
        self.student_parameters = [*net.parameters(), *head.parameters()]
        self.teacher_parameters = [*self.teacher.parameters(), *self.teacher_head.parameters()]
        self.optimizer = torch.optim.AdamW([p for p in self.student_parameters if p.requires_grad], lr=1e-4)
        self.center = torch.zeros(head.last.out_features)
        self.autocast = autocast
        self.forward_student, self.forward_teacher = net, self.teacher
        if compiled:
            # One graph a crop size: left to itself, torch.compile makes slower code for any size after the second.
            self.forward_student = torch.compile(net, dynamic=False)
            self.forward_teacher = torch.compile(self.teacher, dynamic=False)

    def loss(self, crops: list[Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            large, small = torch.cat(crops[:2]), crops[2:]
            with torch.no_grad():
                targets = self.teacher_head(self.forward_teacher(large))
            features = [self.forward_student(large)]
            if small:
                features.append(self.forward_student(torch.cat(small)))
            predictions = self.head(torch.cat(features))
        student = (predictions.float() / STUDENT_TEMPERATURE).chunk(len(crops))
        teacher = F.softmax((targets.float() - self.center) / TEACHER_TEMPERATURE, dim=-1).chunk(2)
        total, pairs = torch.zeros(()), 0
        for g, p in enumerate(teacher):
            for v, logits in enumerate(student):
                if v != g:
                    total = total + torch.sum(-p * F.log_softmax(logits, dim=-1), dim=-1).mean()
                    pairs += 1
        self.center = CENTER_MOMENTUM * self.center + (1 - CENTER_MOMENTUM) * targets.float().mean(0)
        return total / pairs

    def step(self, crops: list[Tensor]) -> None:
        self.optimizer.zero_grad()
        self.loss(crops).backward()
        torch.nn.utils.clip_grad_norm_(self.student_parameters, 3.0)
        self.optimizer.step()
        with torch.no_grad():
            for theirs, mine in zip(self.student_parameters, self.teacher_parameters, strict=True):
                mine.mul_(MOMENTUM).add_((1 - MOMENTUM) * theirs)
