"""Swin transformers (arXiv:2103.14030) through timm: any patch, window and number of stages, and no padding.

Where a map is no larger than the window, the map is the window: nothing is padded or shifted, and the relative position
bias is looked up by offset, so that two cells one step apart always share their entry.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from zwicky.backbones.attention import attend, attention_weights, check_heads, window_layout
from zwicky.backbones.base import Features
from zwicky.backbones.patches import StageGrids
from zwicky.backbones.timm_backbone import TimmBackbone
from zwicky.errors import UserError


def cut_stages(depths: Sequence[int], heads: Sequence[int], stages: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Keep the first `stages` (0: all) of depths and heads; raises UserError unless there is one of each per stage."""
    depths, heads = tuple(depths)[: stages or None], tuple(heads)[: stages or None]
    if len(depths) != len(heads) or not depths:
        raise UserError(f"backbone: {len(depths)} depths and {len(heads)} heads; give one of each per stage")
    return depths, heads


class Swin(TimmBackbone):
    """A Swin; patch tokens are the normed tokens of the last stage, pooled features their mean.

    Each stage after the first has half the grid and twice the width: D = width · 2^(stages − 1). Options as in
    `backbones.create`.
    """

    architecture, classifier = "swin_tiny_patch4_window7_224", "head.fc"

    def __init__(
        self,
        *,
        bands: int,
        image_size: int,
        patch_size: int = 4,
        window: int = 4,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        stages: int = 0,
        drop_path: float = 0.0,
        stem: Sequence[int] = (),
    ) -> None:
        super().__init__()
        depths, heads = cut_stages(depths, heads, stages)
        for stage, count in enumerate(heads):
            check_heads(width * 2**stage, count, f" of stage {stage + 1}")
        self.grids = StageGrids(patch_size, window, len(depths))
        self.dim = width * 2 ** (len(depths) - 1)
        if self.grid(image_size)[0] < 2:
            raise UserError(
                f"backbone: {image_size} px leave one patch token after {len(depths)} stages of patch {patch_size}; "
                f"take {self.grids.nearest(image_size, least=2)} px, a smaller patch_size or fewer stages"
            )
        options = {"depths": depths, "num_heads": heads, "window_size": window}
        self._build(SwinTransformer, bands, image_size, patch_size, width, drop_path, stem, **options)

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        """Encode images; see `Backbone.forward`."""
        tokens = self.net.norm(forward_window_block(self._last, self._until_last(images, mask)))
        return Features(tokens.mean((1, 2)), tokens)

    def attention(self, images: Tensor) -> Tensor:
        """Return the mean over the queries of each window of the last block."""
        return attention_received(self._last, self._until_last(images, None))

    @property
    def _last(self) -> Any:
        return self.net.layers[-1].blocks[-1]

    def _until_last(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Return the tokens that enter the last block, [B, h, w, D]."""
        tokens = self._patches(images, mask)
        for stage in self.net.layers:
            tokens = stage.downsample(tokens)
            for block in stage.blocks[: -1 if stage is self.net.layers[-1] else None]:
                tokens = forward_window_block(block, tokens)
        return tokens


def forward_window_block(block: Any, tokens: Tensor) -> Tensor:
    """Run a timm Swin block on [B, h, w, D]: x ← x + attention(norm x) within windows, then x ← x + mlp(norm x)."""
    tokens = tokens + block.drop_path1(window_attention(block, block.norm1(tokens)))
    return tokens + block.drop_path2(block.mlp(block.norm2(tokens)))


def window_attention(block: Any, tokens: Tensor) -> Tensor:
    """Attend within the block's windows; normed tokens [B, h, w, D] → [B, h, w, D]."""
    q, k, v, bias, shift = _project(block, tokens)
    mixed = block.attn.proj(_join(attend(q, k, v, bias), tokens.shape[1]))
    return mixed.roll((shift, shift), (1, 2)) if shift else mixed


def attention_received(block: Any, tokens: Tensor) -> Tensor:
    """Return the attention each cell receives, the mean over the queries of its window: [B, heads, h, w]."""
    q, k, _, bias, shift = _project(block, block.norm1(tokens))
    weights = attention_weights(q, k, bias).mean(3)[..., None]  # [B, windows, heads, N, 1]
    return _join(weights, tokens.shape[1]).roll((shift, shift), (1, 2)).permute(0, 3, 1, 2) / weights.shape[1]


def _project(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Return queries, keys, values [B, windows, heads, N, d], bias [1 or windows, heads, N, N] and shift in cells."""
    attn, side, window = block.attn, tokens.shape[1], int(block.window_size[0])
    size, shift, index, mask = window_layout(window, side, any(block.target_shift_size))
    along = side // size
    if shift:
        tokens = tokens.roll((-shift, -shift), (1, 2))
    qkv = attn.qkv(tokens).unflatten(3, (3, attn.num_heads, -1)).unflatten(2, (along, size)).unflatten(1, (along, size))
    # [B, wy, y, wx, x, 3, heads, d]: one copy cuts the windows and lays out the heads.
    qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, tokens.shape[0], along**2, attn.num_heads, size**2, -1)
    table = attn.relative_position_bias_table.float()
    bias = table[index.to(table.device)].permute(2, 0, 1)[None]
    if mask is not None:
        bias = bias.masked_fill(mask.to(table.device)[:, None], -torch.inf)
    return (*qkv.unbind(0), bias, shift)


def _join(windows: Tensor, side: int) -> Tensor:
    """Join windows [B, windows, heads, N, d] into a map [B, side, side, heads · d], still shifted."""
    size = round(windows.shape[3] ** 0.5)
    maps = windows.unflatten(3, (size, size)).unflatten(1, (side // size, side // size))  # [B, wy, wx, heads, y, x, d]
    return maps.permute(0, 1, 4, 2, 5, 3, 6).reshape(windows.shape[0], side, side, -1)
