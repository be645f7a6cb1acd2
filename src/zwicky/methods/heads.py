"""Projection heads. Everything from the normalised bottleneck on runs in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PrototypeHead(nn.Module):
    """DINO's head: a 3-layer GELU network, an L2-normalised bottleneck, and a linear layer onto K prototypes.

    The last layer is weight-normed with its norm frozen to 1, that is, it takes the cosine with each prototype:
    logits_k = ⟨z/‖z‖, w_k/‖w_k‖⟩.

    batch_norm: BatchNorm after both hidden layers. Cutouts of one kind look so alike that a new network answers all
    of them almost the same; BatchNorm brings out the differences, which otherwise take many epochs to grow.
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
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, features: Tensor, frozen: bool = False) -> Tensor:
        """features [..., D] → logits [..., K] in float32; `frozen` keeps gradients from the prototypes."""
        return self.logits(self.embed(features), frozen)

    def embed(self, features: Tensor) -> Tensor:
        """features [..., D] → z/‖z‖ [..., bottleneck] in float32."""
        return F.normalize(self.mlp(features).float(), dim=-1)

    def logits(self, embedded: Tensor, frozen: bool = False) -> Tensor:
        """z/‖z‖ [..., bottleneck] → logits [..., K], linear in z/‖z‖."""
        # Divided by temperatures of some hundredths, logits rounded to bfloat16 would be off by tenths.
        with torch.autocast(embedded.device.type, enabled=False):
            prototypes = F.normalize(self.prototypes.float(), dim=-1)
            if frozen:
                # Zero gradient rather than none: every trainable parameter takes part in each step, as DDP asks.
                prototypes = prototypes.detach() + 0.0 * prototypes
            return embedded @ prototypes.T
