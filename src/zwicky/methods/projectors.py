"""The small networks with BatchNorm that SimSiam, BYOL and LeJEPA put behind the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from zwicky.errors import UserError


class MLP(nn.Sequential):
    """Linear layers of `widths`, with BatchNorm and ReLU after each but the last; [B, widths[0]] → [B, widths[-1]].

    last_norm: BatchNorm without affine parameters after the last layer as well, which then needs no bias.
    """

    def __init__(self, widths: Sequence[int], last_norm: bool = False) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths[:-1]):
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
        layers.append(nn.Linear(widths[-2], widths[-1], bias=not last_norm))
        super().__init__(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if last_norm else []))

    def forward(self, features: Tensor) -> Tensor:
        if self.training and len(features) < 2:
            raise UserError("train.batch_size: BatchNorm needs at least two images a process; raise it")
        return super().forward(features)
