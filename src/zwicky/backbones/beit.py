"""BEiT through timm: a ViT with relative instead of absolute positions, and LayerScale; weights stay timm's.

The relative position bias is looked up by offset: two cells a step apart share an entry of the table on any grid.
Offsets beyond the table, on images larger than the network was built for, share the entry at its edge.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, cast

import torch
import torch.nn.functional as F
from timm.models.beit import Attention, Beit, Block
from torch import Tensor, nn

from zwicky.backbones.base import Backbone, Features
from zwicky.backbones.block import PatchProjection
from zwicky.backbones.grids import patch_grid
from zwicky.errors import UserError

LAYER_SCALE = 0.1  # at the start, as published for BEiT-B


class BEiT(Backbone):
    """Regions: the patch tokens, normed. Summary, by `pool`:

    mean: the norm of the patch tokens' mean, as published after fine-tuning; cls: the normed [CLS] token, as
    published after masked image modelling alone.
    """

    def __init__(
        self,
        *,
        bands: int,
        image_size: int,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        pool: Literal["mean", "cls"] = "mean",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"backbone: width {width} is not divisible by {heads} heads; take a multiple of {heads}")
        if pool not in ("mean", "cls"):
            raise UserError(f"backbone: pool is {pool!r}; choose mean or cls")
        self.patch_size, self.pool = patch_size, pool
        self.dim = width
        self.grid(image_size)
        self.net = Beit(
            img_size=image_size,
            patch_size=patch_size,
            in_chans=bands,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            global_pool="avg" if pool == "mean" else "token",
            drop_path_rate=drop_path,
            init_values=LAYER_SCALE,
            use_abs_pos_emb=False,
            use_rel_pos_bias=True,
        )
        self.net.patch_embed.proj = PatchProjection(bands, width, patch_size, patch_size)
        self.net.patch_embed.strict_img_size = False
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.set_trainable()

    def grid(self, size: int) -> tuple[int, int]:
        return patch_grid(size, self.patch_size)

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        side = self.grid(images.shape[-1])[0]
        tokens = self._embed(images, mask)
        for block in self._blocks():
            tokens = run(block, tokens, side)
        cells = tokens[:, 1:].unflatten(1, (side, side))
        if self.pool == "mean":
            summary, norm = self.net.fc_norm(tokens[:, 1:].mean(1)), self.net.fc_norm
        else:
            summary, norm = self.net.norm(tokens[:, 0]), self.net.norm
        return Features(summary, norm(cells) if patch_tokens else tokens.new_empty(tokens.shape[0], 0, 0, self.dim))

    def attention(self, images: Tensor) -> Tensor:
        """Of [CLS], or where the patch tokens are averaged the mean over their queries."""
        side = self.grid(images.shape[-1])[0]
        *blocks, last = self._blocks()
        tokens = self._embed(images, None)
        for block in blocks:
            tokens = run(block, tokens, side)
        q, k, _, bias = project(last.attn, last.norm1(tokens), side)
        weights = ((q @ k.transpose(2, 3)).float() * last.attn.scale + bias).softmax(-1)
        weights = weights[:, :, 1:].mean(2) if self.pool == "mean" else weights[:, :, 0]
        weights = weights[..., 1:]
        return (weights / weights.sum(-1, keepdim=True)).unflatten(2, (side, side))

    def _embed(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """[CLS] and the patches' tokens, [B, 1 + h·w, D]."""
        patches = self.net.patch_embed(images)
        if mask is not None:
            patches = torch.where(mask.flatten(1)[..., None], self.mask_token.to(patches.dtype), patches)
        return torch.cat([self.net.cls_token.expand(patches.shape[0], -1, -1), patches], 1)

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.net.blocks))

    def layer_groups(self) -> list[list[str]]:
        blocks: list[list[str]] = [[] for _ in self.net.blocks]
        first, last = [], []
        for name, _ in self.named_parameters():
            if name.startswith("net.blocks."):
                blocks[int(name.split(".")[2])].append(name)
            elif name.startswith(("net.norm.", "net.fc_norm.")):
                last.append(name)
            else:
                first.append(name)
        return [first, *blocks, last]

    def no_weight_decay(self) -> set[str]:
        return {"mask_token"} | {f"net.{name}" for name in self.net.no_weight_decay() if name != "pos_embed"}


def run(block: Block, tokens: Tensor, side: int) -> Tensor:
    """x ← x + γ₁·attention(norm x), then x ← x + γ₂·mlp(norm x); tokens [B, 1 + side², D]."""
    q, k, v, bias = project(block.attn, block.norm1(tokens), side)
    if tokens.device.type != "cpu":
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    else:  # softmax in float32, which CPUs do faster than bfloat16; torch's fused attention is slower here
        scores = (q @ k.transpose(2, 3)).float() * block.attn.scale + bias
        mixed = scores.softmax(-1).to(v.dtype) @ v
    mixed = block.attn.proj(mixed.transpose(1, 2).flatten(2))
    tokens = tokens + block.drop_path1(block.gamma_1 * mixed)
    return tokens + block.drop_path2(block.gamma_2 * block.mlp(block.norm2(tokens)))


def project(attn: Attention, tokens: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, heads, N, d], and the relative position bias [1, heads, N, N] in float32."""
    biases = torch.cat([attn.q_bias, cast(Tensor, attn.k_bias), attn.v_bias])
    qkv = F.linear(tokens, attn.qkv.weight, biases).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.contiguous().unbind(0)
    index = offsets(int(attn.window_size[0]), side).to(q.device)
    bias = attn.relative_position_bias_table.float()[index].unflatten(0, (side**2 + 1, side**2 + 1))
    return q, k, v, bias.permute(2, 0, 1)[None]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # else what an evaluation made could not be used in training
def offsets(window: int, side: int) -> Tensor:
    """Each pair of tokens' entry in a table made for `window`² cells, on a grid of `side`² and [CLS]; [N·N]."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    dy, dx = (
        (cells.flatten()[:, None] - cells.flatten()[None]).clamp(1 - window, window - 1) + window - 1
        for cells in (y, x)
    )
    entries = (2 * window - 1) ** 2  # then [CLS] → cell, cell → [CLS], [CLS] → [CLS]
    index = F.pad(dy * (2 * window - 1) + dx, (1, 0, 1, 0))
    index[0, :], index[:, 0], index[0, 0] = entries, entries + 1, entries + 2
    return index.flatten()
