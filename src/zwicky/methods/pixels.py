"""Pixels cell by cell, for the methods that hide regions of an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from zwicky.augment.masking import Masking
from zwicky.errors import UserError
from zwicky.methods import processes


def cells(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, bands, H, W] of any type → [B, h, w, bands · H/h · W/w]: what lies in each cell of an h × w grid."""
    height, width = grid
    split = images.unflatten(3, (width, -1)).unflatten(2, (height, -1))  # [B, bands, h, c, w, c]
    return split.permute(0, 2, 4, 1, 3, 5).flatten(3)


def seen(valid: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which regions are at least half valid, over all bands: [B, bands, H, W] bool → [B, h, w] bool."""
    bands = valid.sum(1, keepdim=True).float()
    return F.adaptive_avg_pool2d(bands, grid)[:, 0] >= valid.shape[1] / 2


def masked_mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` where `where` is True; exactly 0 if it is nowhere. Same shapes; float32.

    With several processes their mean is that of all values: each divides by the mean of the counts.
    """
    return values.float().masked_fill(~where, 0.0).sum() / _count(where)


def mean_row(rows: Tensor, where: Tensor) -> Tensor:
    """Mean of the rows [N, K] where `where` [N] is True, as `masked_mean`."""
    return rows.float().masked_fill(~where[:, None], 0.0).sum(0) / _count(where)


def _count(where: Tensor) -> Tensor:
    return processes.average(where.sum().float()).clamp(min=1 / processes.count())


def hide(name: str, grid: tuple[int, int], ratio: float, blocks: bool = False) -> Masking:
    """Masks that hide round(ratio · h · w) cells of every image; refused where that is none of them or all."""
    count = grid[0] * grid[1]
    if not 0 < round(ratio * count) < count:
        raise UserError(
            f"{name}: mask_ratio {ratio} hides none or all of the {grid[0]} × {grid[1]} regions; "
            "take a ratio between 0 and 1, larger crops or smaller patches"
        )
    return Masking(grid=grid, ratio=(ratio, ratio), blocks=blocks)
