"""Projection and prediction heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zwicky.errors import UserError


class PrototypeHead(nn.Module):
    """The head of DINO, iBOT and EsViT: a 3-layer GELU MLP, an L2-normalised bottleneck, and K prototypes.

    The last layer is weight-normalised with its norm fixed to 1, so that it takes the cosine with each prototype:
    logits_k = ⟨z/‖z‖, w_k/‖w_k‖⟩ (Sec. 3.1 of arXiv:2104.14294). It computes in float32.
    """

    def __init__(
        self, dim: int, prototypes: int, hidden: int = 2048, bottleneck: int = 256, batch_norm: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (dim, hidden):
            layers += [nn.Linear(width, hidden), *([nn.BatchNorm1d(hidden)] if batch_norm else []), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.uniform_(self.prototypes, -(bottleneck**-0.5), bottleneck**-0.5)  # nn.Linear's, as in DINO's code

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, D] to logits [N, K] in float32."""
        z = F.normalize(self.mlp(features).float(), dim=-1)
        # Divided by temperatures of some hundredths, logits rounded to bfloat16 would be off by tenths.
        with torch.autocast(z.device.type, enabled=False):
            return z @ F.normalize(self.prototypes.float(), dim=-1).T


class MLP(nn.Sequential):
    """Linear layers with BatchNorm and ReLU between them: the projectors and predictors of SimSiam, BYOL and LeJEPA.

    Args:
        widths: width of the input, of each hidden layer and of the output.
        last_norm: whether BatchNorm without affine parameters follows the last layer, which then has no bias.
    """

    def __init__(self, widths: Sequence[int], last_norm: bool = False) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths[:-1]):
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
        layers.append(nn.Linear(widths[-2], widths[-1], bias=not last_norm))
        super().__init__(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if last_norm else []))

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, widths[0]] to [B, widths[-1]]."""
        if self.training and len(features) < 2:
            raise UserError("train.batch_size: BatchNorm needs at least two images per process; raise it")
        return super().forward(features)
