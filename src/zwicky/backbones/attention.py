"""Attention (arXiv:1706.03762) as all transformers here compute it, with relative positions and shifted windows.

The values are those of timm's blocks up to rounding. What differs: heads are laid out contiguously once, so that no
product copies them again; on CPUs the softmax runs in float32, which they do faster than bfloat16, and torch's fused
attention, several times slower at the token counts of small images, is avoided.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zwicky.errors import UserError


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute softmax(q·kᵀ/√d + bias)·v, Eq. 1 of arXiv:1706.03762, of q [..., n, d] and k, v [..., N, d].

    The bias is broadcast to [..., n, N], float32, −∞ where a query must not attend.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    return attention_weights(q, k, bias).to(v.dtype) @ v


def attention_weights(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute softmax(q·kᵀ/√d + bias), [..., n, N], in float32 or wider; arguments as for `attend`."""
    scores = q @ k.transpose(-2, -1)
    scores, scale = scores.to(torch.promote_types(scores.dtype, torch.float32)), q.shape[-1] ** -0.5
    return (scores * scale if bias is None else torch.addcmul(bias, scores, scores.new_tensor(scale))).softmax(-1)


def project_qkv(attn: Any, tokens: Tensor) -> tuple[Tensor, ...]:
    """Apply the projection of a timm ViT's or BEiT's attention to [B, N, D]: q, k and v, [B, heads, N, d] each."""
    if getattr(attn, "q_bias", None) is None:
        qkv = attn.qkv(tokens)
    else:  # of a BEiT, whose keys have no bias
        qkv = F.linear(tokens, attn.qkv.weight, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias]))
    qkv = qkv.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return (qkv.contiguous() if tokens.device.type == "cpu" else qkv).unbind(0)


def forward_block(block: Any, tokens: Tensor, bias: Tensor | None = None, n_queries: int | None = None) -> Tensor:
    """Run a block of a timm ViT or BEiT: x ← x + γ₁·attention(norm x), then x ← x + γ₂·mlp(norm x).

    All tokens [B, N, D] give keys and values; the output has the first `n_queries` of them (None: all). The bias of
    relative positions is [heads, N, N].
    """
    q, k, v = project_qkv(block.attn, block.norm1(tokens))
    mixed = attend(q[:, :, :n_queries], k, v, None if bias is None else bias[:, :n_queries])
    tokens = tokens[:, :n_queries]
    tokens = tokens + block.drop_path1(_scaled(block, 1, block.attn.proj(mixed.transpose(1, 2).flatten(2))))
    return tokens + block.drop_path2(_scaled(block, 2, block.mlp(block.norm2(tokens))))


def _scaled(block: Any, branch: int, x: Tensor) -> Tensor:
    """Apply LayerScale, a module of timm's ViT and a parameter of its BEiT."""
    gamma = getattr(block, f"gamma_{branch}", None)
    return getattr(block, f"ls{branch}")(x) if gamma is None else gamma * x


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # tensors made during an evaluation could not be used in training
def relative_position_index(window: int, side: int) -> Tensor:
    """Return the entry of a bias table for each pair of cells of a grid of side × side, [side², side²].

    The flat table has (2·window − 1)² entries, one per offset (y, x) between query and key; offsets beyond it share
    the entry at its edge.
    """
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    dy, dx = ((cells[:, None] - cells).clamp(1 - window, window - 1) + window - 1).unbind(-1)
    return dy * (2 * window - 1) + dx


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def shifted_window_mask(side: int, window: int, shift: int) -> Tensor:
    """Return which pairs of cells share a window only because the shift wrapped around, [windows, window², window²].

    It is the mask of Sect. 3.2 of arXiv:2103.14030, for a map of side × side rolled up and left by `shift`.
    """
    wrapped = torch.arange(side) >= side - shift
    region = (2 * wrapped[:, None] + wrapped[None]).unflatten(1, (-1, window)).unflatten(0, (-1, window))
    region = region.permute(0, 2, 1, 3).reshape(-1, window**2)
    return region[:, :, None] != region[:, None]


def window_layout(window: int, side: int, shifted: bool) -> tuple[int, int, Tensor, Tensor | None]:
    """Return size and shift of the windows of a map of side × side, in cells, their index and, if shifted, their mask.

    A map no larger than the window is one window. See `relative_position_index` and `shifted_window_mask`.
    """
    size = min(window, side)
    shift = size // 2 if shifted and side > size else 0
    return size, shift, relative_position_index(window, size), shifted_window_mask(side, size, shift) if shift else None


def check_heads(width: int, heads: int, suffix: str = "") -> None:
    """Raise UserError unless `heads` divide the width."""
    if width % heads:
        raise UserError(
            f"backbone: width {width}{suffix} is not divisible by {heads} heads; take a multiple of {heads}"
        )
