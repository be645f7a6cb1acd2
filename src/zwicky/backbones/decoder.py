"""From regions back to pixels, for masked image modelling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from zwicky.errors import UserError

if TYPE_CHECKING:
    from zwicky.backbones.base import Features


class PixelDecoder(nn.Module):
    """One linear layer: each region gives the pixels of its own cell (SimMIM's head).

    dim: D. image_size: side of the images in pixels; grid: cells along it.
    """

    def __init__(self, dim: int, bands: int, image_size: int, grid: int) -> None:
        super().__init__()
        if image_size % grid:
            raise UserError(
                f"backbone: {grid} regions do not divide {image_size} px, so pixels cannot be decoded; "
                f"take images of {image_size // grid * grid} px"
            )
        self.bands, self.cell = bands, image_size // grid
        self.linear = nn.Linear(dim, bands * self.cell**2)

    def forward(self, features: Features) -> Tensor:
        """Regions [B, h, w, D] → [B, bands, H, W]."""
        pixels = self.linear(features.patch_tokens).unflatten(3, (self.bands, self.cell, self.cell))
        return pixels.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
