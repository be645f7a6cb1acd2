"""Vision transformers (arXiv:2010.11929) through timm, with a mask token and any image size that the patch divides."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from timm.models.vision_transformer import LayerScale, VisionTransformer
from torch import Tensor

from zwicky.backbones.attention import attention_weights, forward_block, project_qkv
from zwicky.backbones.base import Features, TimmBackbone, check_heads, patch_grid
from zwicky.errors import UserError


class PlainTransformer(TimmBackbone):
    """A transformer of one stage: what ViT and BEiT share. `net` is timm's and is built by the subclass."""

    def __init__(self, *, image_size: int, patch_size: int, width: int, heads: int, pool: str) -> None:
        super().__init__()
        check_heads(width, heads)
        if pool not in ("cls", "mean"):
            raise UserError(f"backbone: pool is {pool!r}; choose cls or mean")
        self.dim, self.patch_size, self.pool = width, patch_size, pool
        self.grid(image_size)

    def grid(self, size: int) -> tuple[int, int]:
        """Return (h, w) of the patch grid."""
        return patch_grid(size, self.patch_size)

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

    def _model_args(self) -> dict[str, Any] | None:
        depth, heads = len(self.net.blocks), self.net.blocks[0].attn.num_heads
        pool = {"mean": "avg", "cls": "token"}[self.pool]
        return {**(super()._model_args() or {}), "depth": depth, "num_heads": heads, "global_pool": pool}


class ViT(PlainTransformer):
    """A ViT; its patch tokens are the normed tokens of the last block.

    Args:
        bands: channels of the images.
        image_size: side in pixels of the square the position embeddings are made for.
        patch_size: side of a patch in pixels.
        width: D.
        depth: number of blocks.
        heads: of each block.
        pool: "cls" pools by the [CLS] token, "mean" by the mean of the patch tokens: masked image modelling does not
            train [CLS].
        layer_scale: initial value of LayerScale, 0 for none; DINOv2 (arXiv:2304.07193) has 1e-5 and a patch_size of 14.
        registers: additional tokens besides [CLS] (arXiv:2309.16588).
        drop_path: largest rate of stochastic depth.
    """

    architecture = "vit_base_patch16_224"

    def __init__(
        self,
        *,
        bands: int,
        image_size: int,
        patch_size: int = 8,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        pool: str = "cls",
        layer_scale: float = 0.0,
        registers: int = 0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(image_size=image_size, patch_size=patch_size, width=width, heads=heads, pool=pool)
        self.net = VisionTransformer(
            img_size=image_size,
            patch_size=patch_size,
            in_chans=bands,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            init_values=layer_scale or None,
            reg_tokens=registers,
            no_embed_class=registers > 0,  # as in timm's own networks with registers
            drop_path_rate=drop_path,
            dynamic_img_size=True,
        )
        self._adapt(bands, width, patch_size)

    def _embed(self, images: Tensor, mask: Tensor | None) -> Tensor:
        patches = self.net.patch_embed(images)  # [B, h, w, D]
        if mask is not None:
            patches = torch.where(mask[..., None], self.mask_token.to(patches.dtype), patches)
        return self.net._pos_embed(patches)

    def _pool(self, tokens: Tensor, n_prefix: int) -> tuple[Tensor, Tensor]:
        tokens = self.net.norm(tokens)
        patches = tokens[:, n_prefix:]
        return (tokens[:, 0] if self.pool == "cls" else patches.mean(1)), patches

    def visible(self, images: Tensor, kept: Tensor) -> Tensor:
        """Encode only some patches of each image, each with its position (MAE, arXiv:2111.06377).

        Args:
            images: [B, bands, H, W].
            kept: [B, K] indices of patches, along rows.

        Returns:
            Normed tokens [B, prefix + K, D].
        """
        prefix, patches = self._embed(images, None).tensor_split([self.net.num_prefix_tokens], dim=1)
        tokens = torch.cat([prefix, patches.gather(1, kept[..., None].expand(-1, -1, self.dim))], 1)
        for block in self.net.blocks:
            tokens = forward_block(block, tokens)
        return self.net.norm(tokens)

    def _model_args(self) -> dict[str, Any] | None:
        net, scaled = self.net, isinstance(self.net.blocks[0].ls1, LayerScale)
        return {
            **(super()._model_args() or {}),
            "fc_norm": False,
            "dynamic_img_size": True,
            "init_values": 1e-5 if scaled else None,
            "reg_tokens": net.num_reg_tokens,
            "no_embed_class": net.no_embed_class,
        }
