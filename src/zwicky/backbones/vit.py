"""Vision transformers through timm, with a mask token and any image size that the patch divides."""

from __future__ import annotations

from typing import cast

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from zwicky.backbones import block
from zwicky.backbones.base import Backbone, Features
from zwicky.backbones.grids import patch_grid
from zwicky.errors import UserError

# width, depth, heads
SIZES = {"vit_tiny": (192, 12, 3), "vit_small": (384, 12, 6), "vit_base": (768, 12, 12)}


class ViT(Backbone):
    """A ViT whose summary is the normed [CLS] token and whose regions are the normed patch tokens.

    pool: "cls", or "mean" for the regions' mean as summary: masked image modelling teaches the [CLS] token nothing.
    layer_scale: where LayerScale starts, 0 for none; registers: tokens beside [CLS] that stand for nothing. DINOv2
    has a patch_size of 14, a layer_scale of 1e-5, and 0 or 4 registers.
    """

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
        super().__init__()
        if width % heads:
            raise UserError(f"backbone: width {width} is not divisible by {heads} heads; take a multiple of {heads}")
        if pool not in ("cls", "mean"):
            raise UserError(f"backbone: pool is {pool!r}; choose cls or mean")
        self.patch_size, self.pool = patch_size, pool
        self.dim = width
        self.grid(image_size)
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
            no_embed_class=registers > 0,  # timm's way with registers: no prefix token has a position
            drop_path_rate=drop_path,
            dynamic_img_size=True,
        )
        self.net.patch_embed.proj = block.PatchProjection(bands, width, patch_size, patch_size)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.set_trainable()

    def grid(self, size: int) -> tuple[int, int]:
        return patch_grid(size, self.patch_size)

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        net = self.net
        patches = net.patch_embed(images)  # [B, h, w, D]
        height, width = patches.shape[1:3]
        if mask is not None:
            patches = torch.where(mask[..., None], self.mask_token.to(patches.dtype), patches)
        tokens = net._pos_embed(patches)
        *blocks, last = cast(list[Block], list(net.blocks))
        for each in blocks:
            tokens = block.run(each, tokens)
        if self.pool == "cls" and not patch_tokens:  # the last block computes what [CLS] needs and no more
            summary = net.norm(block.run(last, tokens, kept=1))[:, 0]
            return Features(summary, summary.new_empty(summary.shape[0], 0, 0, self.dim))
        tokens = net.norm(block.run(last, tokens))
        patches = tokens[:, net.num_prefix_tokens :]
        summary = tokens[:, 0] if self.pool == "cls" else patches.mean(1)
        return Features(summary, patches.unflatten(1, (height, width)))

    def attention(self, images: Tensor) -> Tensor:
        """How much [CLS] looks at each patch."""
        net = self.net
        patches = net.patch_embed(images)
        tokens = net._pos_embed(patches)
        *blocks, last = cast(list[Block], list(net.blocks))
        for each in blocks:
            tokens = block.run(each, tokens)
        attn = cast(Attention, last.attn)
        q, k, _ = attn.qkv(last.norm1(tokens)).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q[:, :, :1] @ k[:, :, net.num_prefix_tokens :].transpose(2, 3)).float() * attn.scale
        # A softmax over the patches alone is the softmax over all tokens, renormalised.
        return scores.softmax(-1)[:, :, 0].unflatten(2, patches.shape[1:3])

    def visible(self, images: Tensor, kept: Tensor) -> Tensor:
        """Encode the patches `kept` [B, K] of each image alone, K indices along rows: [B, prefix + K, D], normed.

        Each keeps its position. What is not kept has no influence.
        """
        tokens = self.net._pos_embed(self.net.patch_embed(images))
        prefix, patches = tokens.tensor_split([self.net.num_prefix_tokens], dim=1)
        tokens = torch.cat([prefix, patches.gather(1, kept[..., None].expand(-1, -1, self.dim))], 1)
        for each in cast(list[Block], list(self.net.blocks)):
            tokens = block.run(each, tokens)
        return self.net.norm(tokens)

    def layer_groups(self) -> list[list[str]]:
        names = [name for name, _ in self.named_parameters()]
        blocks: list[list[str]] = [[] for _ in self.net.blocks]
        first, last = [], []
        for name in names:
            if name.startswith("net.blocks."):
                blocks[int(name.split(".")[2])].append(name)
            elif name.startswith("net.norm."):
                last.append(name)
            else:
                first.append(name)
        return [first, *blocks, last]

    def no_weight_decay(self) -> set[str]:
        tokens = {"mask_token", "net.cls_token", "net.pos_embed"}
        return tokens | {"net.reg_token"} if self.net.num_reg_tokens else tokens
