"""One block of a timm Swin on a map of any size that its windows divide; weights stay timm's.

Where the map is no larger than the window, the map is the window: nothing is padded or shifted, and the relative
position bias is looked up by offset, so that two cells a step apart always share their entry.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from torch import Tensor


def run(block: SwinTransformerBlock, tokens: Tensor) -> Tensor:
    """x ← x + attention(norm x) within windows, then x ← x + mlp(norm x); tokens [B, h, w, D]."""
    tokens = tokens + block.drop_path1(attention(block, block.norm1(tokens)))
    return tokens + block.drop_path2(block.mlp(block.norm2(tokens)))


def attention(block: SwinTransformerBlock, tokens: Tensor) -> Tensor:
    """proj(softmax(q·kᵀ/√d + bias)·v) by window and head; normed tokens [B, h, w, D] → [B, h, w, D]."""
    attn = cast(WindowAttention, block.attn)
    batch, side = tokens.shape[:2]
    size, shift = window_of(block, side)
    q, k, v = _project(attn, tokens, size, shift)  # [B, windows, heads, N, d]
    bias = _bias(attn, side, size, shift)
    if tokens.device.type != "cpu":
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    else:  # softmax in float32, which CPUs do faster than bfloat16; torch's fused attention is slower here
        scores = torch.addcmul(bias, (q @ k.transpose(-2, -1)).float(), bias.new_tensor(attn.scale))
        mixed = scores.softmax(-1).to(v.dtype) @ v
    along = side // size
    mixed = mixed.unflatten(3, (size, size)).unflatten(1, (along, along))  # [B, wy, wx, heads, y, x, d]
    mixed = mixed.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, side, side, -1)
    mixed = attn.proj(mixed)
    return mixed.roll((shift, shift), (1, 2)) if shift else mixed


def received(block: SwinTransformerBlock, tokens: Tensor) -> Tensor:
    """Attention each cell receives, the mean over the queries of its window: tokens [B, h, w, D] → [B, heads, h, w]."""
    attn = cast(WindowAttention, block.attn)
    side = tokens.shape[1]
    size, shift = window_of(block, side)
    q, k, _ = _project(attn, block.norm1(tokens), size, shift)
    weights = ((q @ k.transpose(-2, -1)).float() * attn.scale + _bias(attn, side, size, shift)).softmax(-1).mean(3)
    along = side // size
    cells = weights.unflatten(3, (size, size)).unflatten(1, (along, along)).permute(0, 3, 1, 4, 2, 5)
    cells = cells.reshape(len(tokens), -1, side, side) / along**2
    return cells.roll((shift, shift), (2, 3)) if shift else cells


def window_of(block: SwinTransformerBlock, side: int) -> tuple[int, int]:
    """(window, shift) in cells on a map of side × side."""
    size = min(int(block.window_size[0]), side)
    shifts = any(cast(tuple[int, int], block.target_shift_size))
    return size, size // 2 if shifts and side > size else 0


def _project(attn: WindowAttention, tokens: Tensor, size: int, shift: int) -> tuple[Tensor, ...]:
    """Queries, keys and values, each [B, windows, heads, N, d], of the map shifted up and left by `shift`."""
    along, heads = tokens.shape[1] // size, attn.num_heads
    if shift:
        tokens = tokens.roll((-shift, -shift), (1, 2))
    qkv = attn.qkv(tokens).unflatten(3, (3, heads, -1)).unflatten(2, (along, size)).unflatten(1, (along, size))
    # [B, wy, y, wx, x, 3, heads, d]: one copy cuts the windows and lays out the heads.
    qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, tokens.shape[0], along**2, heads, size**2, -1)
    return qkv.unbind(0)


def _bias(attn: WindowAttention, side: int, size: int, shift: int) -> Tensor:
    """Relative position bias, −∞ between cells that only the shift brought together; [1 or windows, heads, N, N]."""
    index, apart = _layout(int(attn.window_size[0]), side, size, shift)
    table = attn.relative_position_bias_table.float()
    bias = table[index.to(table.device)].unflatten(0, (size**2, size**2)).permute(2, 0, 1)[None]
    return bias if apart is None else bias.masked_fill(apart.to(table.device)[:, None], -torch.inf)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # else what an evaluation made could not be used in training
def _layout(table: int, side: int, size: int, shift: int) -> tuple[Tensor, Tensor | None]:
    """(index [N·N], apart [windows, N, N] or None) for windows of `size`, N = size².

    index: each pair of cells' entry in a bias table made for windows of `table` cells. apart: pairs that must not meet.
    """
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    dy, dx = (cells.flatten()[:, None] - cells.flatten()[None] + table - 1 for cells in (y, x))
    index = (dy * (2 * table - 1) + dx).flatten()
    if not shift:
        return index, None
    # After the shift, the last `shift` rows and columns are those from the far side.
    far = torch.arange(side) >= side - shift
    piece = (2 * far[:, None] + far[None]).unflatten(1, (-1, size)).unflatten(0, (-1, size))
    piece = piece.permute(0, 2, 1, 3).reshape(-1, size**2)
    return index, piece[:, :, None] != piece[:, None]
