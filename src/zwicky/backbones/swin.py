"""Swin transformers through timm: several stages, any patch, window and number of stages, and no padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.layers import PatchEmbed
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, SwinTransformerStage
from torch import Tensor, nn

from zwicky.backbones import windows
from zwicky.backbones.base import Backbone, Features
from zwicky.backbones.block import PatchProjection
from zwicky.backbones.grids import StageGrids
from zwicky.errors import UserError

# width of the first stage, depths, heads
SIZES: dict[str, dict[str, Any]] = {
    "swin_tiny": {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)},
    "swin_small": {"width": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)},
}


class Swin(Backbone):
    """Regions: the normed tokens of the last stage; summary: their mean. D = width · 2^(stages − 1).

    Each stage after the first has half the grid and twice the width. Attention stays within windows of `window`
    cells, which every other block shifts by half a window. A stage whose grid is no larger than the window is one
    window, unshifted.

    stages: keep only so many of `depths` and `heads`, from the first on; 0 keeps all.
    """

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
    ) -> None:
        super().__init__()
        depths, heads = tuple(depths)[: stages or None], tuple(heads)[: stages or None]
        if len(depths) != len(heads) or not depths:
            raise UserError(f"backbone: {len(depths)} depths and {len(heads)} heads; give one of each a stage")
        for stage, count in enumerate(heads):
            if width * 2**stage % count:
                raise UserError(
                    f"backbone: width {width * 2**stage} of stage {stage + 1} is not divisible by {count} heads; "
                    "take others"
                )
        self.grids, self.stages = StageGrids(patch_size, window, len(depths)), len(depths)
        self.dim = width * 2 ** (len(depths) - 1)
        if self.grid(image_size)[0] < 2:
            works = self.grids.nearest(image_size, least=2)
            raise UserError(
                f"backbone: {image_size} px leave one region after {self.stages} stages of patch {patch_size}; "
                f"take {works} px, a smaller patch_size or fewer stages"
            )
        self.net = SwinTransformer(
            img_size=image_size,
            patch_size=patch_size,
            in_chans=bands,
            embed_dim=width,
            depths=depths,
            num_heads=heads,
            window_size=window,
            num_classes=0,
            drop_path_rate=drop_path,
        )
        cast(PatchEmbed, self.net.patch_embed).strict_img_size = False
        cast(PatchEmbed, self.net.patch_embed).proj = PatchProjection(bands, width, patch_size, patch_size)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.set_trainable()

    def grid(self, size: int) -> tuple[int, int]:
        return self.grids.last(size)

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        tokens = self._embed(images, mask)
        for stage in self._stages():
            tokens = self._stage(stage, tokens)
        tokens = self.net.norm(tokens)
        return Features(tokens.mean((1, 2)), tokens)

    def attention(self, images: Tensor) -> Tensor:
        """Mean over the queries of each window of the last layer."""
        *stages, last = self._stages()
        tokens = self._embed(images, None)
        for stage in stages:
            tokens = self._stage(stage, tokens)
        tokens = self._stage(last, tokens, leave=1)
        return windows.received(cast(SwinTransformerBlock, last.blocks[-1]), tokens)

    def _embed(self, images: Tensor, mask: Tensor | None) -> Tensor:
        self.grid(images.shape[-1])
        tokens = self.net.patch_embed(images)  # [B, h, w, width]
        if mask is not None:
            coarse = 1 << (self.stages - 1)
            fine = mask.repeat_interleave(coarse, 1).repeat_interleave(coarse, 2)
            tokens = torch.where(fine[..., None], self.mask_token.to(tokens.dtype), tokens)
        return tokens

    def _stages(self) -> list[SwinTransformerStage]:
        return cast(list[SwinTransformerStage], list(self.net.layers))

    def _stage(self, stage: SwinTransformerStage, tokens: Tensor, leave: int = 0) -> Tensor:
        """One stage; `leave` that many of its last blocks out."""
        tokens = stage.downsample(tokens)
        for block in list(stage.blocks)[: len(stage.blocks) - leave]:
            tokens = windows.run(cast(SwinTransformerBlock, block), tokens)
        return tokens

    def layer_groups(self) -> list[list[str]]:
        groups: dict[str, list[str]] = {"first": []}
        for stage, layer in enumerate(self._stages()):
            groups |= {f"{stage}.{position}": [] for position in range(len(layer.blocks))}
        groups["last"] = []
        for name, _ in self.named_parameters():
            parts = name.split(".")
            if name.startswith("net.layers."):  # a stage's merging of patches goes with its first block
                groups[f"{parts[2]}.{parts[4] if parts[3] == 'blocks' else 0}"].append(name)
            else:
                groups["last" if name.startswith("net.norm.") else "first"].append(name)
        return list(groups.values())

    def no_weight_decay(self) -> set[str]:
        return {"mask_token"} | {
            name for name, _ in self.named_parameters() if name.endswith("relative_position_bias_table")
        }
