"""From frames back to pixels, equivariantly, for masked image modelling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zwicky.backbones.base import Features
from zwicky.backbones.d4.group import orbit
from zwicky.d4 import ORDER
from zwicky.errors import UserError


class D4PixelDecoder(nn.Module):
    """The lift transposed: pixels(n, x) = (1/8) Σ_g K(g⁻¹x)·F(n, g) + level(n).

    kernel: K, [C, bands, p, p]. level: one number a band from the invariants, so that their read-out learns as well.
    """

    def __init__(self, dim: int, bands: int, image_size: int, grid: int) -> None:
        super().__init__()
        if image_size % grid:
            raise UserError(
                f"backbone: {grid} regions do not divide {image_size} px, so pixels cannot be decoded; "
                f"take images of {image_size // grid * grid} px"
            )
        channels, cell = dim // ORDER, image_size // grid
        self.kernel = nn.Parameter(torch.empty(channels, bands, cell, cell))
        self.level = nn.Linear(dim, bands)
        nn.init.trunc_normal_(self.kernel, std=(ORDER / (3 * channels)) ** 0.5)

    def forward(self, features: Features) -> Tensor:
        """Frames [B, h, w, 8, C] and regions [B, h, w, D] → [B, bands, H, W]."""
        assert features.group_features is not None
        channels, bands, cell, _ = self.kernel.shape
        kernels = orbit(self.kernel).view(ORDER * channels, -1) / ORDER
        pixels = (features.group_features.flatten(3) @ kernels).unflatten(3, (bands, cell, cell))
        pixels = pixels + self.level(features.patch_tokens)[..., None, None]
        return pixels.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
