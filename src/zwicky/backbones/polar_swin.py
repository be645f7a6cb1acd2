"""A multi-stage transformer on polar coordinates: attention within sectors, which wrap around the circle.

A window is a sector: all radii of some neighbouring angles. Every other block shifts the sectors by half of one, and
nothing is padded or masked since angles are circular. Sectors tile a quarter of the circle, or are the whole circle
where a stage has too few angles, so that a quarter turn still shifts the grid by whole sectors.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from zwicky.backbones.attention import attend, attention_weights, check_heads, project_qkv
from zwicky.backbones.base import Features
from zwicky.backbones.polar import PolarBackbone, PolarConv2d
from zwicky.backbones.swin import cut_stages
from zwicky.errors import UserError


class SectorBlock(Block):
    """A transformer block on maps [B, h, w, D] of (radius, angle) with attention within sectors of some angles.

    The bias of relative positions, [heads, 2h − 1, distances], depends on the offset in radius and the distance in
    angle, so that reflections change nothing.
    """

    index: Tensor  # [2, h · sector, h · sector], of the bias table by query and key
    attn: Any

    def __init__(self, width: int, heads: int, grid: tuple[int, int], sector: int, shifted: bool, drop: float) -> None:
        super().__init__(width, heads, qkv_bias=True, drop_path=drop)
        self.sector = sector if grid[1] // 4 % sector == 0 else grid[1]
        self.shift = self.sector // 2 if shifted and self.sector < grid[1] else 0
        radius, angle = torch.meshgrid(torch.arange(grid[0]), torch.arange(self.sector), indexing="ij")
        distance = (angle.flatten()[:, None] - angle.flatten()).abs()
        if self.sector == grid[1]:
            distance = torch.minimum(distance, grid[1] - distance)
        index = torch.stack([radius.flatten()[:, None] - radius.flatten() + grid[0] - 1, distance])
        self.register_buffer("index", index, persistent=False)
        self.bias = nn.Parameter(torch.empty(heads, 2 * grid[0] - 1, int(distance.max()) + 1))
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, maps: Tensor) -> Tensor:  # type: ignore[override]
        """Compute x ← x + attention(norm x), then x ← x + mlp(norm x)."""
        q, k, v, bias = self._project(self.norm1(maps))
        mixed = self._join(attend(q, k, v, bias), maps.shape[2]).roll(self.shift, 2)
        maps = maps + self.drop_path1(self.attn.proj(mixed))
        return maps + self.drop_path2(self.mlp(self.norm2(maps)))

    def attention_received(self, maps: Tensor) -> Tensor:
        """Return the mean attention of all queries of its sector that each cell receives, [B, heads, h, w]."""
        q, k, _, bias = self._project(self.norm1(maps))
        weights = attention_weights(q, k, bias).mean(2)[..., None]
        received = self._join(weights, maps.shape[2]).roll(self.shift, 2).permute(0, 3, 1, 2)
        return received * self.sector / maps.shape[2]

    def _project(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return q, k, v [B · sectors, heads, h · sector, d] of normed maps, and the bias."""
        sectors = maps.roll(-self.shift, 2).unflatten(2, (-1, self.sector)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
        q, k, v = project_qkv(self.attn, sectors)
        return q, k, v, self.bias.float()[:, self.index[0], self.index[1]]

    def _join(self, sectors: Tensor, angles: int) -> Tensor:
        """Join [B · sectors, heads, h · sector, d] into maps [B, h, w, heads · d]."""
        maps = sectors.transpose(1, 2).flatten(2).unflatten(1, (-1, self.sector))
        return maps.unflatten(0, (-1, angles // self.sector)).transpose(1, 2).flatten(2, 3)


class Merge(nn.Module):
    """LayerNorm and a convolution that halves radius and angle, mirror-symmetric where the network is."""

    def __init__(self, width: int, mirror: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.reduction = PolarConv2d(width, 2 * width, (3, 4), mirror=mirror, stride=(2, 2))

    def forward(self, maps: Tensor) -> Tensor:
        """Merge [B, h, w, D] to [B, h/2, w/2, 2D]."""
        return self.reduction(self.norm(maps).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PolarSwin(PolarBackbone):
    """Patch tokens are the normed cells of the last stage, pooled features their mean.

    Each stage after the first has half the grid and twice the width; the window is the number of angles of a sector,
    in cells. Options as in `backbones.create`, and those of `PolarBackbone`.
    """

    def __init__(
        self,
        *,
        bands: int,
        image_size: int,
        width: int = 80,
        depths: Sequence[int] = (2, 2),
        heads: Sequence[int] = (2, 4),
        stages: int = 0,
        window: int = 4,
        drop_path: float = 0.0,
        stem: Sequence[int] = (32, 64),
        **options: Any,
    ) -> None:
        depths, heads = cut_stages(depths, heads, stages)
        halvings = len(depths) - 1
        if window < 2 or window % 2:
            raise UserError(f"backbone: sectors of {window} cells cannot be shifted by half; take {max(window - 1, 2)}")
        super().__init__(bands=bands, width=width, dim=width << halvings, halvings=halvings, stem=stem, **options)
        rates, last = iter(torch.linspace(0, drop_path, sum(depths)).tolist()), self.grid(image_size)
        self.net.stages = nn.ModuleList()
        for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            wide, grid = width << stage, (last[0] << halvings - stage, last[1] << halvings - stage)
            check_heads(wide, count, f" of stage {stage + 1}")
            blocks = [SectorBlock(wide, count, grid, window, i % 2 == 1, next(rates)) for i in range(depth)]
            merge = [Merge(wide // 2, self.invariant)] if stage else []
            self.net.stages.append(nn.ModuleDict({"merge": nn.ModuleList(merge), "blocks": nn.ModuleList(blocks)}))
        self.net.norm = nn.LayerNorm(self.dim, eps=1e-6)

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        """Encode images; masked patches are hidden before the stem. See `Backbone.forward`."""
        maps = self._stem(images, mask)
        for layer in self._layers:
            maps = layer(maps)
        maps = self.net.norm(maps)
        return Features(maps.mean((1, 2)), maps)

    def attention(self, images: Tensor) -> Tensor:
        """Return the mean attention of the queries of each sector of the last block, [B, heads, h, w]."""
        maps = self._stem(images, None)
        for layer in self._layers[:-1]:
            maps = layer(maps)
        return self._layers[-1].attention_received(maps)

    @property
    def _layers(self) -> list[Any]:
        return [layer for stage in self.net.stages for part in stage.values() for layer in part]
