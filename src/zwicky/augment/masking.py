"""Masks on the grid of regions, for methods that hide parts of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 10  # blocks tried an image before single cells make up its number


@dataclass(frozen=True)
class Masking:
    """How global crops are masked.

    grid: (h, w) of the regions. ratio: range of the share of an image's cells that is hidden. probability: share of
    the images that are masked at all. blocks: hide rectangles rather than cells drawn alone. aspect: range of height
    over width of a rectangle.
    """

    grid: tuple[int, int]
    ratio: tuple[float, float]
    probability: float = 1.0
    blocks: bool = False
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Masks [count, h, w] bool, True where hidden.

        Each image draws its own share s of `ratio` and hides round(s · h · w) cells exactly, or none.
        """
        height, width = self.grid
        u = torch.rand(count, 2, generator=generator)
        # In float64: float32 turns a share of exactly half a cell into more than half of one.
        share = self.ratio[0] + (self.ratio[1] - self.ratio[0]) * u[:, 0].double()
        wanted = (share * height * width).round().long() * (u[:, 1] < self.probability)
        mask = torch.zeros(count, height, width, dtype=torch.bool)
        for _ in range(ROUNDS if self.blocks else 0):
            block = self._block(wanted - mask.sum((1, 2)), torch.rand(count, 4, generator=generator))
            fits = (mask | block).sum((1, 2)) <= wanted
            mask |= block & fits[:, None, None]
        # The cells still missing are those with the lowest random numbers among the visible ones.
        order = torch.rand(count, height * width, generator=generator).masked_fill_(mask.flatten(1), -1).argsort(1)
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(height * width).expand_as(order))
        return (rank < wanted[:, None]).unflatten(1, (height, width))

    def _block(self, room: Tensor, u: Tensor) -> Tensor:
        """One rectangle an image of at most about `room` [count] cells, as a mask [count, h, w]."""
        height, width = self.grid
        area = 1 + u[:, 0] * (room - 1).clamp(min=0)
        low, high = (math.log(value) for value in self.aspect)
        aspect = torch.exp(low + (high - low) * u[:, 1])
        h = (area * aspect).sqrt().round().clamp(1, height)
        w = (area / aspect).sqrt().round().clamp(1, width)
        top, left = (u[:, 2] * (height - h + 1)).floor(), (u[:, 3] * (width - w + 1)).floor()
        y, x = torch.arange(height), torch.arange(width)
        rows = (y >= top[:, None]) & (y < (top + h)[:, None])
        columns = (x >= left[:, None]) & (x < (left + w)[:, None])
        return rows[:, :, None] & columns[:, None, :] & (room > 0)[:, None, None]
