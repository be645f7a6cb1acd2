"""Random masks on the patch grid: single patches (arXiv:2111.09886) or blocks (Algorithm 1 of arXiv:2106.08254)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

N_BLOCKS = 10  # blocks tried per image before single patches complete the mask


@dataclass(frozen=True)
class Masking:
    """How global crops are masked.

    Attributes:
        grid: (h, w) patches.
        ratio: range of the masked fraction of an image's patches, uniform.
        probability: fraction of the images that are masked at all.
        blocks: mask rectangles rather than single patches.
        aspect: range of height over width of a rectangle, log-uniform.
    """

    grid: tuple[int, int]
    ratio: tuple[float, float]
    probability: float = 1.0
    blocks: bool = False
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return masks [count, h, w] bool, True where masked.

        Each image draws its own ratio s and masks exactly round(s · h · w) patches, or none.
        """
        height, width = self.grid
        u = torch.rand(count, 2, generator=generator)
        # In float64: float32 turns a fraction of exactly half a patch into more than half of one.
        ratio = self.ratio[0] + (self.ratio[1] - self.ratio[0]) * u[:, 0].double()
        n_masked = (ratio * height * width).round().long() * (u[:, 1] < self.probability)
        mask = torch.zeros(count, height, width, dtype=torch.bool)
        for _ in range(N_BLOCKS if self.blocks else 0):
            block = self._block(n_masked - mask.sum((1, 2)), torch.rand(count, 4, generator=generator))
            fits = (mask | block).sum((1, 2)) <= n_masked
            mask |= block & fits[:, None, None]
        # The patches still missing are those with the lowest random numbers among the visible ones.
        order = torch.rand(count, height * width, generator=generator).masked_fill_(mask.flatten(1), -1).argsort(1)
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(height * width).expand_as(order))
        return (rank < n_masked[:, None]).unflatten(1, (height, width))

    def _block(self, n_left: Tensor, u: Tensor) -> Tensor:
        """Draw one rectangle per image of at most about `n_left` [count] patches, as a mask [count, h, w]."""
        height, width = self.grid
        smallest = max((min(height, width) // 3) ** 2, 1)  # as in iBOT's code, and BEiT's on its 14 × 14 patches
        area = (smallest + u[:, 0] * (n_left - smallest)).clamp(min=1)
        low, high = (math.log(value) for value in self.aspect)
        aspect = torch.exp(low + (high - low) * u[:, 1])
        h = (area * aspect).sqrt().round().clamp(1, height)
        w = (area / aspect).sqrt().round().clamp(1, width)
        top, left = (u[:, 2] * (height - h + 1)).floor(), (u[:, 3] * (width - w + 1)).floor()
        y, x = torch.arange(height), torch.arange(width)
        rows = (y >= top[:, None]) & (y < (top + h)[:, None])
        columns = (x >= left[:, None]) & (x < (left + w)[:, None])
        return rows[:, :, None] & columns[:, None, :] & (n_left > 0)[:, None, None]
