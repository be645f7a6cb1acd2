"""A vision transformer that is exactly equivariant under D4."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zwicky.backbones.base import Backbone, Features
from zwicky.backbones.d4.decoder import D4PixelDecoder
from zwicky.backbones.d4.group import orbit
from zwicky.backbones.d4.layers import (
    MLP,
    Drop,
    Lift,
    Norm,
    Readout,
    attend,
    by_irreps,
    constant,
    enter,
    leave,
    weights_of,
)
from zwicky.backbones.d4.linear import GroupLinear
from zwicky.backbones.grids import patch_grid
from zwicky.d4 import ORDER
from zwicky.errors import UserError


def channels_of(width: int, heads: int, where: str = "") -> int:
    """C = D / 8; a width or a number of heads that does not divide raises UserError."""
    if width % (ORDER * heads) or width < 1:
        unit = ORDER * heads
        better = max(round(width / unit), 1) * unit
        raise UserError(f"backbone: width {width}{where} does not divide into 8 frames of {heads} heads; take {better}")
    return width // ORDER


class Embed(nn.Module):
    """Patches lifted to the group, positions P(n, g) = p(g⁻¹n), masked cells, and [CLS] in front.

    position: p, [C, h, w] at the size the network was built for, resampled for others. cls_token: [C].
    """

    def __init__(self, bands: int, channels: int, patch_size: int, side: int) -> None:
        super().__init__()
        self.lift = Lift(bands, channels, patch_size)
        self.position = nn.Parameter(torch.empty(channels, side, side))
        self.cls_token = nn.Parameter(torch.empty(channels))
        nn.init.trunc_normal_(self.position, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor, mask: Tensor | None, mask_token: Tensor, irreps: bool) -> Tensor:
        """→ [8, C, B, 1 + N]."""
        tokens = self.lift(images, irreps)  # [8, C, B, h, w]
        side = tokens.shape[-1]
        if mask is not None:
            hidden = constant(mask_token, irreps)[:, :, None, None, None].to(tokens.dtype)
            tokens = torch.where(mask, hidden, tokens)
        position: Tensor = self.position
        if side != position.shape[-1]:
            position = F.interpolate(position[None], (side, side), mode="bicubic", antialias=True)[0]
        tokens = tokens + enter(orbit(position), irreps)[:, :, None]
        # Not len(images), a plain number, which would tie an exported network to one batch size.
        cls = constant(self.cls_token, irreps)[:, :, None, None].expand(-1, -1, images.shape[0], 1)
        return torch.cat([cls.to(tokens.dtype), tokens.flatten(3)], 3)


class Block(nn.Module):
    """x ← x + attention(norm x), then x ← x + mlp(norm x); attention within each frame."""

    def __init__(self, channels: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv = Norm(channels), GroupLinear(channels, 3 * channels)
        self.proj = GroupLinear(channels, channels)
        self.norm2, self.mlp = Norm(channels), MLP(channels, 4 * channels)
        self.drop_path = Drop(drop_path)

    def forward(self, tokens: Tensor, irreps: bool, kept: int | None = None) -> Tensor:
        """[8, C, B, N] → [8, C, B, kept or N]; see `zwicky.backbones.block.run`."""
        q, k, v = self.project(tokens, irreps)
        mixed = attend(q[..., :kept], k, v).permute(0, 1, 3, 2, 4).flatten(1, 2)  # [8, C, B, kept]
        tokens = tokens[..., :kept] + self.drop_path(self.proj(enter(mixed, irreps), irreps))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens, irreps), irreps))

    def project(self, tokens: Tensor, irreps: bool) -> tuple[Tensor, ...]:
        """Queries, keys and values in the frames, each [8, heads, B, d, N]."""
        qkv = leave(self.qkv(self.norm1(tokens, irreps), irreps), irreps).unflatten(1, (3, self.heads, -1))
        return qkv.permute(1, 0, 2, 4, 3, 5).contiguous().unbind(0)


class D4ViT(Backbone):
    """Summary and regions are invariants read from [CLS] and from the patch tokens; frames are the patch tokens.

    width: D = 8C, to be compared with a plain ViT of that width, whose linear layers have eight times the parameters
    and 5.33 times the work. heads: of each of the eight frames; they split C, and
    few are fast: leave each 16 channels or more.
    """

    invariant = True

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
        return patch_grid(size, self.patch_size)

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        height, width = self.grid(images.shape[-1])
        irreps = by_irreps(images.device, self.dim)
        tokens = self._until_last(images, mask, irreps)
        tokens = self.net["norm"](self._blocks()[-1](tokens, irreps, None if patch_tokens else 1), irreps)
        invariant = self.net["readout"](tokens, irreps)  # [B, 1 + N, D]
        summary, cells = invariant[:, 0], invariant[:, 1:]
        if not patch_tokens:
            return Features(summary, cells.unflatten(1, (0, 0)))
        frames = leave(tokens[..., 1:], irreps).permute(2, 3, 0, 1)
        return Features(summary, cells.unflatten(1, (height, width)), frames.unflatten(1, (height, width)))

    def attention(self, images: Tensor) -> Tensor:
        """From [CLS] to the patches, the mean over the frames, so that the maps turn with the image."""
        irreps = by_irreps(images.device, self.dim)
        q, k, _ = self._blocks()[-1].project(self._until_last(images, None, irreps), irreps)
        looked = weights_of(q[..., :1], k)[..., 0, 1:].mean(0).transpose(0, 1)  # [B, heads, N]
        return (looked / looked.sum(-1, keepdim=True)).unflatten(2, self.grid(images.shape[-1]))

    def _until_last(self, images: Tensor, mask: Tensor | None, irreps: bool) -> Tensor:
        tokens = self.net["embed"](images, mask, self.mask_token, irreps)
        for block in self._blocks()[:-1]:
            tokens = block(tokens, irreps)
        return tokens

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(cast(nn.ModuleList, self.net["blocks"])))

    def pixel_decoder(self) -> nn.Module:
        return D4PixelDecoder(self.dim, self.config["bands"], self.image_size, self.grid(self.image_size)[0])

    def layer_groups(self) -> list[list[str]]:
        names = [name for name, _ in self.named_parameters()]
        first = [name for name in names if name.startswith(("net.embed.", "mask_token"))]
        blocks = [[name for name in names if name.startswith(f"net.blocks.{i}.")] for i in range(len(self._blocks()))]
        return [first, *blocks, [name for name in names if name.startswith(("net.norm.", "net.readout."))]]

    def no_weight_decay(self) -> set[str]:
        return {"mask_token", "net.embed.cls_token", "net.embed.position"}
