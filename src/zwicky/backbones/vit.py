"""Vision transformers (arXiv:2010.11929) and BEiTs (arXiv:2106.08254) through timm, at any size the patch divides."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from zwicky.backbones.attention import (
    attention_weights,
    check_heads,
    forward_block,
    project_qkv,
    relative_position_index,
)
from zwicky.backbones.base import Features
from zwicky.backbones.patches import StageGrids, hide_patches
from zwicky.backbones.timm_backbone import TimmBackbone
from zwicky.errors import UserError


class PlainTransformer(TimmBackbone):
    """A transformer of one stage: what ViT and BEiT share, and the options of `backbones.create`."""

    net_class: type[torch.nn.Module]

    def __init__(
        self,
        timm_options: dict[str, Any],
        *,
        bands: int,
        image_size: int,
        patch_size: int = 8,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        pool: str = "cls",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        if pool not in ("cls", "mean"):
            raise UserError(f"backbone: pool is {pool!r}; choose cls or mean")
        self.dim, self.pool, self.grids = width, pool, StageGrids(patch_size)
        self.grid(image_size)
        options: dict[str, Any] = {
            "depth": depth,
            "num_heads": heads,
            "global_pool": "avg" if pool == "mean" else "token",
        }
        self._build(self.net_class, bands, image_size, patch_size, width, drop_path, **options, **timm_options)

    @abstractmethod
    def _embed(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Return prefix and patch tokens, [B, prefix + h·w, D]."""

    @abstractmethod
    def _pool(self, tokens: Tensor, n_prefix: int) -> tuple[Tensor, Tensor]:
        """Return pooled features [B, D] and normed patch tokens [B, N, D], from the last block's tokens."""

    def _bias(self, block: Any, side: int) -> Tensor | None:
        """Return the block's relative position bias [heads, N, N]."""
        return None

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        """Encode images; see `Backbone.forward`."""
        grid = self.grid(images.shape[-1])
        tokens = self._until_last(images, mask)
        cls_only = self.pool == "cls" and not patch_tokens  # the last block computes only what [CLS] needs
        last = self.net.blocks[-1]
        tokens = forward_block(last, tokens, self._bias(last, grid[0]), 1 if cls_only else None)
        pooled, patches = self._pool(tokens, 1 if cls_only else self.net.num_prefix_tokens)
        return Features(pooled, patches.unflatten(1, (0, 0) if cls_only else grid))

    def attention(self, images: Tensor) -> Tensor:
        """Return the attention of [CLS], or where patch tokens are averaged, the mean over their queries."""
        grid, last, n_prefix = self.grid(images.shape[-1]), self.net.blocks[-1], self.net.num_prefix_tokens
        q, k, _ = project_qkv(last.attn, last.norm1(self._until_last(images, None)))
        weights = attention_weights(q, k, self._bias(last, grid[0]))
        weights = (weights[:, :, 0] if self.pool == "cls" else weights[:, :, n_prefix:].mean(2))[..., n_prefix:]
        return (weights / weights.sum(-1, keepdim=True)).unflatten(2, grid)

    def _until_last(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Return the tokens that enter the last block."""
        tokens, side = self._embed(images, mask), self.grid(images.shape[-1])[0]
        for block in self.net.blocks[:-1]:
            tokens = forward_block(block, tokens, self._bias(block, side))
        return tokens


class ViT(PlainTransformer):
    """A ViT; its patch tokens are the normed tokens of the last block."""

    architecture, net_class = "vit_base_patch16_224", VisionTransformer

    def __init__(
        self, *, layer_scale: float = 0.0, registers: int = 0, stem: Sequence[int] = (), **options: Any
    ) -> None:
        # Registers take no position, as in timm's own networks; "avg" pools without a norm of its own.
        timm_options = {"init_values": layer_scale or None, "reg_tokens": registers, "no_embed_class": registers > 0}
        super().__init__({**timm_options, "fc_norm": False, "dynamic_img_size": True, "stem": stem}, **options)

    def _embed(self, images: Tensor, mask: Tensor | None) -> Tensor:
        patches = self.net.patch_embed(hide_patches(images, mask, self.stem_patch))  # [B, h, w, D]
        if mask is not None:
            patches = torch.where(mask[..., None], self.mask_token.to(patches.dtype), patches)
        return self.net._pos_embed(patches)

    def _pool(self, tokens: Tensor, n_prefix: int) -> tuple[Tensor, Tensor]:
        tokens = self.net.norm(tokens)
        patches = tokens[:, n_prefix:]
        return (tokens[:, 0] if self.pool == "cls" else patches.mean(1)), patches

    def visible(self, images: Tensor, kept: Tensor) -> Tensor:
        """Encode only the patches `kept` [B, K] (indices along rows), each with its position: [B, prefix + K, D].

        It is the encoder of MAE (arXiv:2111.06377); the tokens are normed.
        """
        mask = None
        if self.stem_patch:  # its patches overlap, so that the others must be hidden before it
            mask = torch.ones(
                len(images), images[0, 0].numel() // self.stem_patch**2, dtype=torch.bool, device=kept.device
            )
            mask = mask.scatter(1, kept, False).unflatten(1, self.grid(images.shape[-1]))
        prefix, patches = self._embed(images, mask).tensor_split([self.net.num_prefix_tokens], dim=1)
        tokens = torch.cat([prefix, patches.gather(1, kept[..., None].expand(-1, -1, self.dim))], 1)
        for block in self.net.blocks:
            tokens = forward_block(block, tokens)
        return self.net.norm(tokens)


class BEiT(PlainTransformer):
    """A ViT with LayerScale, and relative instead of absolute positions: a bias looked up by the offset of two patches.

    Offsets beyond the table, in images larger than the network was built for, share the entry at its edge. Pooling is
    as published: "mean", the norm of the patch tokens' mean, after fine-tuning; "cls", the normed [CLS] token, after
    masked image modelling alone.
    """

    architecture, net_class = "beit_base_patch16_224", Beit

    def __init__(self, **options: Any) -> None:
        # LayerScale as published for BEiT-B.
        super().__init__({"init_values": 0.1, "use_abs_pos_emb": False, "use_rel_pos_bias": True}, **options)

    def _embed(self, images: Tensor, mask: Tensor | None) -> Tensor:
        patches = self.net.patch_embed(images)  # [B, N, D]
        if mask is not None:
            patches = torch.where(mask.flatten(1)[..., None], self.mask_token.to(patches.dtype), patches)
        return torch.cat([self.net.cls_token.expand(patches.shape[0], -1, -1), patches], 1)

    def _pool(self, tokens: Tensor, n_prefix: int) -> tuple[Tensor, Tensor]:
        patches = tokens[:, n_prefix:]
        if self.pool == "mean":
            return self.net.fc_norm(patches.mean(1)), self.net.fc_norm(patches)
        return self.net.norm(tokens[:, 0]), self.net.norm(patches)

    def _bias(self, block: Any, side: int) -> Tensor:
        table = block.attn.relative_position_bias_table.float()
        return table[index_with_cls(int(block.attn.window_size[0]), side).to(table.device)].permute(2, 0, 1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def index_with_cls(window: int, side: int) -> Tensor:
    """Return `relative_position_index` with the last three entries of timm's table for [CLS], [1 + N, 1 + N]."""
    index = F.pad(relative_position_index(window, side), (1, 0, 1, 0))
    entries = (2 * window - 1) ** 2  # then [CLS] → patch, patch → [CLS], [CLS] → [CLS]
    index[0, :], index[:, 0], index[0, 0] = entries, entries + 1, entries + 2
    return index
