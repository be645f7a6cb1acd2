"""One block of a timm ViT, and its patch embedding, computed in a way that is fast on CPUs too; weights stay timm's.

The values are those of `block(tokens)` up to rounding. What differs: heads are laid out one after the other once, so
that no product copies them again; the softmax runs in float32, which CPUs do faster than bfloat16; and the block can
compute the first tokens alone, for losses that look at nothing but [CLS].
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def run(block: Block, tokens: Tensor, kept: int | None = None) -> Tensor:
    """x ← x + attention(norm x), then x ← x + mlp(norm x); tokens [B, N, D] → [B, kept or N, D].

    kept: how many tokens, from the first on, are wanted of the output. All N still give keys and values.
    """
    assert isinstance(block.attn, Attention)
    tokens_kept = tokens[:, :kept]
    attended = attention(block.attn, block.norm1(tokens), kept)
    tokens_kept = tokens_kept + block.drop_path1(block.ls1(attended))
    return tokens_kept + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens_kept))))


def attention(attn: Attention, tokens: Tensor, kept: int | None) -> Tensor:
    """proj(softmax(q·kᵀ/√d)·v) by head; [B, N, D] → [B, kept or N, D]."""
    qkv = attn.qkv(tokens).unflatten(2, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
    if tokens.device.type != "cpu":
        q, k, v = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(q[:, :, :kept], k, v)
    else:  # torch's fused attention is several times slower here at the token counts of small images
        q, k, v = qkv.contiguous().unbind(0)  # [B, heads, N, d]
        scores = (q[:, :, :kept] @ k.transpose(2, 3)).float() * attn.scale
        mixed = scores.softmax(-1).to(v.dtype) @ v
    return attn.proj(mixed.transpose(1, 2).flatten(2))


class PatchProjection(nn.Conv2d):
    """The patch embedding's convolution as one matrix product, images [B, bands, H, W] → [B, D, h, w].

    Patches do not overlap, so it is the same sum; the gradient of the convolution is slow on CPUs, and a hundred times
    slower once torch.compile has chosen its memory layout.
    """

    def forward(self, images: Tensor) -> Tensor:
        size = self.kernel_size[0]
        patches = images.unflatten(3, (-1, size)).unflatten(2, (-1, size)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
