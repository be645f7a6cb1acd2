"""A vision transformer that is exactly equivariant under D4."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zwicky.backbones.attention import attend, attention_weights
from zwicky.backbones.base import Features, patch_grid
from zwicky.backbones.d4.heads import D4Backbone
from zwicky.backbones.d4.irreps import orbit
from zwicky.backbones.d4.layers import (
    MLP,
    Drop,
    GroupLinear,
    Lift,
    Norm,
    Readout,
    by_irreps,
    channels_of,
    constant,
    into_stream,
    mask_tokens,
    out_of_stream,
)


class Embed(nn.Module):
    """Patches lifted to the group, positions P(n, g) = p(g⁻¹n), masked patches, and [CLS] in front.

    Attributes:
        position: p, [C, h, w] at the size the network was built for, resampled for others.
        cls_token: [C].
    """

    def __init__(self, bands: int, channels: int, patch_size: int, side: int) -> None:
        super().__init__()
        self.lift = Lift(bands, channels, patch_size)
        self.position = nn.Parameter(torch.empty(channels, side, side))
        self.cls_token = nn.Parameter(torch.empty(channels))
        nn.init.trunc_normal_(self.position, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor, mask: Tensor | None, mask_token: Tensor, irreps: bool) -> Tensor:
        """Embed images [B, bands, H, W] as tokens [8, C, B, 1 + N]."""
        tokens = self.lift(images, irreps)  # [8, C, B, h, w]
        side = tokens.shape[-1]
        if mask is not None:
            tokens = mask_tokens(tokens, mask, mask_token, irreps)
        position: Tensor = self.position
        if side != position.shape[-1]:
            position = F.interpolate(position[None], (side, side), mode="bicubic", antialias=True)[0]
        tokens = tokens + into_stream(orbit(position), irreps)[:, :, None]
        # Not len(images), a plain number, which would tie an exported network to one batch size.
        cls = constant(self.cls_token, irreps)[:, :, None, None].expand(-1, -1, images.shape[0], 1)
        return torch.cat([cls.to(tokens.dtype), tokens.flatten(3)], 3)


class Block(nn.Module):
    """x ← x + attention(norm x), then x ← x + mlp(norm x); attention within each group element."""

    def __init__(self, channels: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv = Norm(channels), GroupLinear(channels, 3 * channels)
        self.proj = GroupLinear(channels, channels)
        self.norm2, self.mlp = Norm(channels), MLP(channels, 4 * channels)
        self.drop_path = Drop(drop_path)

    def forward(self, tokens: Tensor, irreps: bool, n_queries: int | None = None) -> Tensor:
        """Map tokens [8, C, B, N] to [8, C, B, n_queries or N]; see `attention.forward_block`."""
        q, k, v = self.project(tokens, irreps)
        mixed = attend(q[..., :n_queries, :], k, v).permute(0, 1, 4, 2, 3).flatten(1, 2)  # [8, C, B, n]
        tokens = tokens[..., :n_queries] + self.drop_path(self.proj(into_stream(mixed, irreps), irreps))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens, irreps), irreps))

    def project(self, tokens: Tensor, irreps: bool) -> tuple[Tensor, ...]:
        """Return queries, keys and values in the regular representation, each [8, heads, B, N, d]."""
        qkv = out_of_stream(self.qkv(self.norm1(tokens, irreps), irreps), irreps)
        qkv = qkv.unflatten(1, (3, self.heads, -1)).permute(1, 0, 2, 4, 3, 5).contiguous()  # [3, 8, heads, B, d, N]
        return qkv.transpose(-1, -2).unbind(0)


class D4ViT(D4Backbone):
    """Pooled features and patch tokens are invariants, read from [CLS] and from the patch tokens.

    Args:
        bands: channels of the images.
        image_size: side in pixels of the square the position embeddings are made for.
        patch_size: side of a patch in pixels.
        width: D = 8C, comparable with a plain ViT of that width, whose linear layers have eight times the parameters
            and 5.33 times the work.
        depth: number of blocks.
        heads: of each of the eight group elements; they split C. Few are fast: 16 channels or more each.
        drop_path: largest rate of stochastic depth.
    """

    def __init__(
        self,
        *,
        bands: int,
        image_size: int,
        patch_size: int = 8,
        width: int = 192,
        depth: int = 12,
        heads: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        channels = channels_of(width, heads)
        self.patch_size, self.dim = patch_size, width
        drops = torch.linspace(0, drop_path, depth).tolist()
        self.net = nn.ModuleDict(
            {
                "embed": Embed(bands, channels, patch_size, self.grid(image_size)[0]),
                "blocks": nn.ModuleList(Block(channels, heads, drop) for drop in drops),
                "norm": Norm(channels),
                "readout": Readout(channels),
            }
        )
        self.mask_token = nn.Parameter(torch.zeros(channels))
        self.set_trainable()

    def grid(self, size: int) -> tuple[int, int]:
        """Return (h, w) of the patch grid."""
        return patch_grid(size, self.patch_size)

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        """Encode images; see `Backbone.forward`."""
        grid, irreps = self.grid(images.shape[-1]), by_irreps(images.device, self.dim)
        tokens = self._blocks[-1](self._until_last(images, mask, irreps), irreps, None if patch_tokens else 1)
        tokens = self.net["norm"](tokens, irreps)
        invariant = self.net["readout"](tokens, irreps)  # [B, 1 + N, D]
        pooled, patches = invariant[:, 0], invariant[:, 1:]
        if not patch_tokens:
            return Features(pooled, patches.unflatten(1, (0, 0)))
        group_features = out_of_stream(tokens[..., 1:], irreps).permute(2, 3, 0, 1)
        return Features(pooled, patches.unflatten(1, grid), group_features.unflatten(1, grid))

    def attention(self, images: Tensor) -> Tensor:
        """Return the attention from [CLS] to the patches, the mean over the group, which makes it equivariant."""
        irreps = by_irreps(images.device, self.dim)
        q, k, _ = self._blocks[-1].project(self._until_last(images, None, irreps), irreps)
        weights = attention_weights(q[..., :1, :], k)[..., 0, 1:].mean(0).transpose(0, 1)  # [B, heads, N]
        return (weights / weights.sum(-1, keepdim=True)).unflatten(2, self.grid(images.shape[-1]))

    def _until_last(self, images: Tensor, mask: Tensor | None, irreps: bool) -> Tensor:
        tokens = self.net["embed"](images, mask, self.mask_token, irreps)
        for block in self._blocks[:-1]:
            tokens = block(tokens, irreps)
        return tokens

    @property
    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.net["blocks"]))

    def group_matcher(self) -> dict[str, Any]:
        """Return the patterns of the layers; norm and read-out are the last."""
        return {"stem": r"^embed\.", "blocks": r"^blocks\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Return the names of tokens and positions."""
        return super().no_weight_decay() | {"net.embed.cls_token", "net.embed.position"}
