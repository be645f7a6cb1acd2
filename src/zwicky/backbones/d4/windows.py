"""Attention within windows of a map, in eight frames; every step commutes with D4.

What a plain Swin does that is no symmetry, and what is done here: windows are shifted by exactly half of an even
window; the relative position bias is B(g⁻¹Δ) in frame g; nothing is padded.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from zwicky.backbones.d4.group import orbit
from zwicky.backbones.d4.layers import MLP, Drop, Norm, attend, enter, leave, weights_of
from zwicky.backbones.d4.linear import GroupLinear


class WindowBlock(nn.Module):
    """x ← x + attention(norm x) within windows, then x ← x + mlp(norm x); maps [8, C, B, h, w].

    shifted: whether the windows stand half a window further. A map no larger than the window is one window, unshifted.
    bias: B, [heads, 2M − 1, 2M − 1], by offset (y, x) between two cells of a window of M × M.
    """

    def __init__(self, channels: int, heads: int, window: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.heads, self.window, self.shifted = heads, window, shifted
        self.norm1, self.qkv = Norm(channels), GroupLinear(channels, 3 * channels)
        self.bias = nn.Parameter(torch.empty(heads, 2 * window - 1, 2 * window - 1))
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.proj = GroupLinear(channels, channels)
        self.norm2, self.mlp = Norm(channels), MLP(channels, 4 * channels)
        self.drop_path = Drop(drop_path)

    def forward(self, x: Tensor, irreps: bool) -> Tensor:
        q, k, v, bias, shift = self.project(x, irreps)
        mixed = join(attend(q, k, v, bias), x.shape[-1], shift).flatten(1, 2)  # [8, C, B, h, w]
        x = x + self.drop_path(self.proj(enter(mixed, irreps), irreps))
        return x + self.drop_path(self.mlp(self.norm2(x, irreps), irreps))

    def project(self, x: Tensor, irreps: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Queries, keys and values [8, heads, B, windows, d, M²], their bias, and the shift in cells."""
        side = x.shape[-1]
        size, shift = self.standing(side)
        qkv = leave(self.qkv(self.norm1(x, irreps), irreps), irreps).unflatten(1, (3, self.heads, -1))
        q, k, v = split(qkv, size, shift).unbind(0)
        return q, k, v, self._bias(side, size, shift), shift

    def standing(self, side: int) -> tuple[int, int]:
        """(window, shift) in cells on a map of side × side."""
        size = min(self.window, side)
        return size, size // 2 if self.shifted and side > size else 0

    def _bias(self, side: int, size: int, shift: int) -> Tensor:
        """B(g⁻¹Δ), −∞ between cells that only the shift brought together; [8, heads, 1, 1 or windows, M², M²]."""
        index, apart = layout(self.window, side, size, shift)
        frames = orbit(self.bias).flatten(2)[:, :, index.to(self.bias.device)][:, :, None, None]
        return frames if apart is None else frames.masked_fill(apart.to(frames.device), -torch.inf)


def split(maps: Tensor, size: int, shift: int) -> Tensor:
    """[8, 3, heads, d, B, h, w], moved up and left by `shift`, → [3, 8, heads, B, windows, d, M²]."""
    if shift:
        maps = maps.roll((-shift, -shift), (-2, -1))
    maps = maps.unflatten(6, (-1, size)).unflatten(5, (-1, size))  # [8, 3, heads, d, B, wy, y, wx, x]
    return maps.permute(1, 0, 2, 4, 5, 7, 3, 6, 8).flatten(7, 8).flatten(4, 5).contiguous()


def join(windows: Tensor, side: int, shift: int) -> Tensor:
    """[8, heads, B, windows, d, M²] → [8, heads, d, B, h, w], undoing `split`."""
    size = round(windows.shape[-1] ** 0.5)
    maps = windows.unflatten(5, (size, size)).unflatten(3, (side // size, -1))  # [8, heads, B, wy, wx, d, y, x]
    maps = maps.permute(0, 1, 5, 2, 3, 6, 4, 7).flatten(6, 7).flatten(4, 5)
    return maps.roll((shift, shift), (-2, -1)) if shift else maps


def received(block: WindowBlock, x: Tensor, irreps: bool) -> Tensor:
    """Attention each cell receives, the mean over the queries of its window and over the frames; [B, heads, h, w]."""
    q, k, _, bias, shift = block.project(x, irreps)
    looked = weights_of(q, k, bias).mean(-2)[..., None, :]  # [8, heads, B, windows, 1, M²]
    return join(looked, x.shape[-1], shift)[:, :, 0].mean(0).transpose(0, 1) / looked.shape[3]


@lru_cache(maxsize=64)
def layout(window: int, side: int, size: int, shift: int) -> tuple[Tensor, Tensor | None]:
    """(entry of the flat (2·window − 1)² table for each pair [M², M²], pairs kept apart [windows, M², M²] or None)."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    dy, dx = (cells.flatten()[:, None] - cells.flatten()[None] + window - 1 for cells in (y, x))
    index = dy * (2 * window - 1) + dx
    if not shift:
        return index, None
    far = torch.arange(side) >= side - shift  # came round from the other side
    piece = (2 * far[:, None] + far[None]).unflatten(1, (-1, size)).unflatten(0, (-1, size))
    piece = piece.permute(0, 2, 1, 3).reshape(-1, size**2)
    return index, piece[:, :, None] != piece[:, None]
