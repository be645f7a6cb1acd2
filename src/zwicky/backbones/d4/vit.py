"""A vision transformer that is exactly equivariant under D4."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zwicky.backbones.attention import attend, attention_weights
from zwicky.backbones.base import Features
from zwicky.backbones.d4 import layers
from zwicky.backbones.d4.heads import D4Backbone
from zwicky.backbones.d4.irreps import orbit
from zwicky.backbones.patches import StageGrids, hide_patches


class Embed(nn.Module):
    """Patches lifted to the group, positions P(n, g) = p(g⁻¹n), masked patches, and [CLS] in front.

    The `position` p is [C, h, w] at the size the network was built for, and resampled for others.
    """

    def __init__(self, bands: int, channels: int, patch_size: int, side: int, stem: Sequence[int] = ()) -> None:
        super().__init__()
        self.lift = layers.make_lift(bands, channels, patch_size, stem)
        self.position = nn.Parameter(torch.empty(channels, side, side))
        self.cls_token = nn.Parameter(torch.empty(channels))
        nn.init.trunc_normal_(self.position, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor, mask: Tensor | None, mask_token: Tensor, irreps: bool) -> Tensor:
        """Embed images [B, bands, H, W] as tokens [8, C, B, 1 + N]."""
        tokens = self.lift(hide_patches(images, mask), irreps)  # [8, C, B, h, w]
        tokens, side = layers.mask_tokens(tokens, mask, mask_token, irreps), tokens.shape[-1]
        position: Tensor = self.position
        if side != position.shape[-1]:
            position = F.interpolate(position[None], (side, side), mode="bicubic", antialias=True)[0]
        tokens = tokens + layers.into_stream(orbit(position), irreps)[:, :, None]
        # Not len(images), a plain number, which would tie an exported network to one batch size.
        cls = layers.constant(self.cls_token, irreps)[:, :, None, None].expand(-1, -1, images.shape[0], 1)
        return torch.cat([cls.to(tokens.dtype), tokens.flatten(3)], 3)


class Block(nn.Module):
    """x ← x + attention(norm x), then x ← x + mlp(norm x); attention within each group element.

    With a `window` it has the `bias` of relative positions, [heads, 2 · window − 1, 2 · window − 1], for `WindowBlock`.
    """

    def __init__(self, channels: int, heads: int, drop_path: float, window: int = 0) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm1, self.qkv = layers.Norm(channels), layers.GroupLinear(channels, 3 * channels)
        if window:
            self.bias = nn.Parameter(torch.empty(heads, 2 * window - 1, 2 * window - 1))
            nn.init.trunc_normal_(self.bias, std=0.02)
        self.proj = layers.GroupLinear(channels, channels)
        self.norm2, self.mlp = layers.Norm(channels), layers.MLP(channels, 4 * channels)
        self.drop_path = layers.Drop(drop_path)

    def forward(self, tokens: Tensor, irreps: bool, n_queries: int | None = None) -> Tensor:
        """Map tokens [8, C, B, N] to [8, C, B, n_queries or N]; see `attention.forward_block`."""
        mixed = self.attend(self.project(tokens, irreps), n_queries).flatten(1, 2)  # [8, C, B, n]
        tokens = tokens[..., :n_queries] + self.drop_path(self.proj(layers.into_stream(mixed, irreps), irreps))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens, irreps), irreps))

    def project(self, tokens: Tensor, irreps: bool) -> Tensor:
        """Return queries, keys and values in the regular representation, [8, 3, heads, d, B, …tokens]."""
        qkv = layers.out_of_stream(self.qkv(self.norm1(tokens, irreps), irreps), irreps)
        return qkv.unflatten(1, (3, self.heads, -1))

    def attend(self, qkv: Tensor, n_queries: int | None) -> Tensor:
        """Return the values mixed by attention, [8, heads, d, B, n]."""
        q, k, v = by_token(qkv)
        return attend(q[..., :n_queries, :], k, v).permute(0, 1, 4, 2, 3)


def by_token(qkv: Tensor) -> tuple[Tensor, ...]:
    """Return queries, keys and values [8, heads, B, N, d] of [8, 3, heads, d, B, N], contiguous along the tokens."""
    return qkv.permute(1, 0, 2, 4, 3, 5).contiguous().transpose(-1, -2).unbind(0)


class D4ViT(D4Backbone):
    """Pooled features and patch tokens are invariants, read from [CLS] and from the patch tokens.

    Options as in `backbones.create`. The width D = 8C is comparable with that of a plain ViT, whose linear layers have
    eight times the parameters and 5.33 times the work; the heads of each of the eight group elements split C. Few are
    fast: 16 channels or more each.
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
        stem: Sequence[int] = (),
    ) -> None:
        super().__init__()
        channels = layers.channels_of(width, heads)
        self.dim, self.grids = width, StageGrids(patch_size)
        drops = torch.linspace(0, drop_path, depth).tolist()
        self.net = nn.ModuleDict(
            {
                "embed": Embed(bands, channels, patch_size, self.grid(image_size)[0], stem),
                "blocks": nn.ModuleList(Block(channels, heads, drop) for drop in drops),
                "norm": layers.Norm(channels),
                "readout": layers.Readout(channels),
            }
        )
        self.mask_token = nn.Parameter(torch.zeros(channels))

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        """Encode images; see `Backbone.forward`."""
        grid, (tokens, irreps) = self.grid(images.shape[-1]), self._until_last(images, mask)
        tokens = self.net["norm"](self._blocks[-1](tokens, irreps, None if patch_tokens else 1), irreps)
        invariant = self.net["readout"](tokens, irreps)  # [B, 1 + N, D]
        pooled, patches = invariant[:, 0], invariant[:, 1:]
        if not patch_tokens:
            return Features(pooled, patches.unflatten(1, (0, 0)))
        group_features = layers.out_of_stream(tokens[..., 1:], irreps).permute(2, 3, 0, 1)
        return Features(pooled, patches.unflatten(1, grid), group_features.unflatten(1, grid))

    def attention(self, images: Tensor) -> Tensor:
        """Return the attention from [CLS] to the patches, the mean over the group, which makes it equivariant."""
        q, k, _ = by_token(self._blocks[-1].project(*self._until_last(images, None)))
        weights = attention_weights(q[..., :1, :], k)[..., 0, 1:].mean(0).transpose(0, 1)  # [B, heads, N]
        return (weights / weights.sum(-1, keepdim=True)).unflatten(2, self.grid(images.shape[-1]))

    def _embed(self, images: Tensor, mask: Tensor | None, irreps: bool) -> Tensor:
        return self.net["embed"](images, mask, self.mask_token, irreps)

    @property
    def _blocks(self) -> list[Any]:
        return list(self.net["blocks"])
