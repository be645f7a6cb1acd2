"""Predictions that turn with the image, from the frames of an equivariant backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zwicky.augment.views import Target
from zwicky.backbones.base import Features
from zwicky.backbones.d4.group import to_irreps
from zwicky.d4 import ORDER

# The irreps of `group.CHANGE` that each kind of target is made of.
VECTOR, SPIN2 = slice(4, 8), slice(2, 4)


class TargetHead(nn.Module):
    """Regression targets, each of its own type: turning the image turns the predictions as `transform_targets` does.

    The mean of the frames over the regions is split into irreps. A vector (x, y) is linear in E, whose two rows turn
    as x and y do; a spin-2 pair is linear in B1 (its first number, x² − y²) and B2 (its second, 2xy); a scalar is
    linear in the invariant summary. The summary also says how much each channel counts, by a factor 1 + a(summary).
    No direction has a bias.
    """

    def __init__(self, dim: int, targets: Sequence[Target]) -> None:
        super().__init__()
        channels = dim // ORDER
        self.kinds = [target.kind for target in targets]
        # By target: the weights of [2C] channels, and what scales them.
        wide = [1 if kind == "scalar" else 2 * channels for kind in self.kinds]
        gates = [nn.Linear(dim, width) for width in wide]
        self.gates = nn.ModuleList(gates)
        directed = [kind for kind in self.kinds if kind != "scalar"]
        self.weight = nn.Parameter(torch.empty(len(directed), 2, channels))
        nn.init.trunc_normal_(self.weight, std=0.02)
        for gate in gates:
            nn.init.trunc_normal_(gate.weight, std=0.02)
            nn.init.zeros_(gate.bias)

    def forward(self, features: Features) -> Tensor:
        """Features with frames → [B, columns]."""
        assert features.group_features is not None, "the backbone is equivariant"
        irreps = to_irreps(features.group_features.mean((1, 2)).transpose(0, 1))  # [8, B, C]
        columns, directed = [], iter(self.weight)
        for kind, gate in zip(self.kinds, self.gates, strict=True):
            scalars = gate(features.pooled)
            if kind == "scalar":
                columns.append(scalars)
                continue
            weight = next(directed) * (1 + scalars.unflatten(1, (2, -1)))  # [B, 2, C]
            if kind == "vector":
                pairs = irreps[VECTOR].unflatten(0, (2, 2))  # [x or y, 2, B, C]
                columns.append(torch.einsum("ijbc,bjc->bi", pairs, weight))
            else:
                columns.append(torch.einsum("jbc,bjc->bj", irreps[SPIN2], weight))
        return torch.cat(columns, 1)
