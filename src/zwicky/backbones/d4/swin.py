"""A Swin transformer that is exactly equivariant under D4.

What a plain Swin does that is not equivariant, and what is done here: windows are shifted by exactly half of an even
window; the relative position bias is B(g⁻¹Δ) for group element g; merging is a group convolution; nothing is padded.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zwicky.backbones.attention import attend, attention_weights, window_layout
from zwicky.backbones.base import Features
from zwicky.backbones.d4 import layers
from zwicky.backbones.d4.heads import D4Backbone
from zwicky.backbones.d4.irreps import orbit
from zwicky.backbones.d4.vit import Block
from zwicky.backbones.patches import StageGrids, hide_patches
from zwicky.backbones.swin import cut_stages
from zwicky.d4 import INVERSE, ORDER
from zwicky.errors import UserError


class WindowBlock(Block):
    """A block on maps [8, C, B, h, w] with attention within windows of M × M cells, M = `window`.

    If `shifted`, the windows are shifted by M/2. A map no larger than the window is one window, unshifted.
    """

    def __init__(self, channels: int, heads: int, window: int, shifted: bool, drop_path: float) -> None:
        super().__init__(channels, heads, drop_path, window)
        self.shifted = shifted

    def attend(self, qkv: Tensor, n_queries: int | None = None) -> Tensor:
        """Return the values mixed by attention, [8, heads, d, B, h, w]."""
        q, k, v, bias, shift = self._windows(qkv)
        return join_windows(attend(q, k, v, bias), qkv.shape[-1], shift)

    def attention_received(self, x: Tensor, irreps: bool) -> Tensor:
        """Return the attention each cell receives, the mean over queries and the group, [B, heads, h, w]."""
        q, k, _, bias, shift = self._windows(self.project(x, irreps))
        weights = attention_weights(q, k, bias).mean(-2)[..., None]  # [8, heads, B, windows, M², 1]
        return join_windows(weights, x.shape[-1], shift)[:, :, 0].mean(0).transpose(0, 1) / weights.shape[3]

    def _windows(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Return q, k, v [8, heads, B, windows, M², d], the bias of their cells, and the shift in cells."""
        size, shift, index, mask = window_layout(self.window, qkv.shape[-1], self.shifted)
        q, k, v = split_windows(qkv, size, shift).unbind(0)
        bias = orbit(self.bias).flatten(2)[:, :, index.to(qkv.device)][:, :, None, None]  # [8, heads, 1, 1, M², M²]
        if mask is not None:
            bias = bias.masked_fill(mask.to(qkv.device), -torch.inf)
        return q, k, v, bias, shift


def split_windows(maps: Tensor, size: int, shift: int) -> Tensor:
    """Roll [8, 3, heads, d, B, h, w] up and left by `shift` and cut it: [3, 8, heads, B, windows, M², d]."""
    if shift:
        maps = maps.roll((-shift, -shift), (-2, -1))
    maps = maps.unflatten(6, (-1, size)).unflatten(5, (-1, size))  # [8, 3, heads, d, B, wy, y, wx, x]
    return maps.permute(1, 0, 2, 4, 5, 7, 3, 6, 8).flatten(7, 8).flatten(4, 5).contiguous().transpose(-1, -2)


def join_windows(windows: Tensor, side: int, shift: int) -> Tensor:
    """Invert `split_windows`: [8, heads, B, windows, M², d] → [8, heads, d, B, h, w]."""
    size = round(windows.shape[-2] ** 0.5)
    maps = windows.unflatten(4, (size, size)).unflatten(3, (side // size, -1))  # [8, heads, B, wy, wx, y, x, d]
    maps = maps.permute(0, 1, 7, 2, 3, 5, 4, 6).flatten(6, 7).flatten(4, 5)
    return maps.roll((shift, shift), (-2, -1)) if shift else maps


class Merge(nn.Module):
    """A group convolution over 2 × 2 cells: y(n, g) = Σ_k Σ_δ W(g⁻¹k, g⁻¹δ) x(2n + δ, k), δ one of the four corners.

    For each group element k the corners are named as seen from k, δ = k δ'. Then the sum over δ' is over channels, and
    the rest is the group's linear layer from 4C to 2C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.reduction = layers.Norm(4 * channels), layers.GroupLinear(4 * channels, 2 * channels)

    def forward(self, x: Tensor, irreps: bool) -> Tensor:
        """Merge [8, C, B, h, w] to [8, 2C, B, h/2, w/2]."""
        maps = layers.out_of_stream(x, irreps)
        corners = maps.unflatten(4, (-1, 2)).unflatten(3, (-1, 2))  # [8, C, B, h/2, y, w/2, x]
        corners = corners.permute(0, 4, 6, 1, 2, 3, 5).flatten(1, 2)
        # Corner δ' of element k lies at k δ', where the inverse of k finds δ' in a map of corners.
        index = orbit(torch.arange(4).view(2, 2))[INVERSE].flatten(1).to(x.device)  # [8, 4]
        named = corners[torch.arange(ORDER, device=x.device)[:, None], index].flatten(1, 2)  # [8, 4C, B, h/2, w/2]
        return self.reduction(self.norm(layers.into_stream(named, irreps), irreps), irreps)


class D4Swin(D4Backbone):
    """Patch tokens are invariants read from each cell of the last stage, pooled features their mean.

    Options are those of `backbones.create`; the window is even, the width is 8C of the first stage (each stage after it
    has half the grid and twice the width), and the heads are those of each of the eight group elements.
    """

    def __init__(
        self,
        *,
        bands: int,
        image_size: int,
        patch_size: int = 4,
        window: int = 4,
        width: int = 192,
        depths: Sequence[int] = (2, 6, 2),
        heads: Sequence[int] = (1, 2, 4),
        stages: int = 0,
        drop_path: float = 0.0,
        stem: Sequence[int] = (),
    ) -> None:
        super().__init__()
        depths, heads = cut_stages(depths, heads, stages)
        if window % 2 or window < 2:
            raise UserError(f"backbone: windows of {window} cells cannot be shifted by half; take {max(window - 1, 2)}")
        channels = [layers.channels_of(width << k, count, f" of stage {k + 1}") for k, count in enumerate(heads)]
        self.grids, self.dim = StageGrids(patch_size, window, len(depths)), ORDER * channels[-1]
        self.grid(image_size)
        drops = iter(torch.linspace(0, drop_path, sum(depths)).tolist())
        stage_layers = []
        for stage, (wide, depth, count) in enumerate(zip(channels, depths, heads, strict=True)):
            blocks = [WindowBlock(wide, count, window, i % 2 == 1, next(drops)) for i in range(depth)]
            merge = [Merge(channels[stage - 1])] if stage else []
            stage_layers.append(nn.ModuleDict({"merge": nn.ModuleList(merge), "blocks": nn.ModuleList(blocks)}))
        self.net = nn.ModuleDict(
            {
                "lift": layers.make_lift(bands, channels[0], patch_size, stem),
                "norm1": layers.Norm(channels[0]),
                "layers": nn.ModuleList(stage_layers),
                "norm": layers.Norm(channels[-1]),
                "readout": layers.Readout(channels[-1]),
            }
        )
        self.mask_token = nn.Parameter(torch.zeros(channels[0]))

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        """Encode images; see `Backbone.forward`."""
        tokens, irreps = self._until_last(images, mask)
        tokens = self.net["norm"](self._blocks[-1](tokens, irreps), irreps)
        invariant = self.net["readout"](tokens, irreps)  # [B, h, w, D]
        return Features(invariant.mean((1, 2)), invariant, layers.out_of_stream(tokens, irreps).permute(2, 3, 4, 0, 1))

    def attention(self, images: Tensor) -> Tensor:
        """Return the mean over the queries of each window of the last block, and over the group."""
        return self._blocks[-1].attention_received(*self._until_last(images, None))

    def _embed(self, images: Tensor, mask: Tensor | None, irreps: bool) -> Tensor:
        self.grid(images.shape[-1])
        tokens = self.net["norm1"](self.net["lift"](hide_patches(images, mask), irreps), irreps)
        return layers.mask_tokens(tokens, mask, self.mask_token, irreps)

    @property
    def _blocks(self) -> list[Any]:
        """All blocks, and the merging before those of each stage after the first."""
        return [block for layer in self.net["layers"] for part in layer.values() for block in part]
