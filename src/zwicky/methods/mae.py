"""MAE: encode the visible patches of an image alone and draw the hidden ones (He et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from zwicky.augment.views import Views
from zwicky.backbones import block
from zwicky.backbones.base import Backbone
from zwicky.backbones.vit import ViT
from zwicky.errors import UserError
from zwicky.methods.base import Method, ViewsNeeded
from zwicky.methods.collapse import diagnose
from zwicky.methods.pixels import cells, hide, masked_mean


class MAE(Method):
    """L = mean (y − x̄)² over hidden pixels, x̄ the pixels with mean 0 and variance 1 in each patch, y what the decoder
    draws; pixels not valid do not count. Options:

    mask_ratio: share of the patches hidden, drawn alone; 0.75 as in the paper. decoder_width, decoder_depth,
    decoder_heads: of the decoder, 512, 8 and 16 in the paper.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        mask_ratio: float = 0.75,
        decoder_width: int = 128,
        decoder_depth: int = 2,
        decoder_heads: int = 4,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, ViT):
            raise UserError(
                f"mae: {backbone.config['name']} cannot leave out hidden patches; take a vit, or the method simmim"
            )
        self.grid = backbone.grid(backbone.image_size)
        self.needs = ViewsNeeded(global_crops=1, masking=hide("mae", self.grid, mask_ratio))
        pixels = backbone.config["bands"] * backbone.patch_size**2
        self.encoder = backbone
        self.decoder = Decoder(backbone.dim, self.grid, pixels, decoder_width, decoder_depth, decoder_heads)
        backbone.set_trainable()  # without the mask token, which is the decoder's here

    @property
    def backbone(self) -> Backbone:
        return self.encoder

    def forward(self, views: Views) -> dict[str, Tensor]:
        assert views.masks is not None, "views for MAE carry masks"
        x, mask, valid = views.crops[0], views.masks[0], cells(views.valid[0], self.grid)
        # Every image hides as many patches as the others, so those kept form a rectangle [B, K].
        kept = (~mask).flatten(1).nonzero()[:, 1].unflatten(0, (len(x), -1))
        y = self.decoder(self.encoder.visible(x, kept), kept)  # [B, h, w, pixels]
        target = normalised(cells(x, self.grid), valid)
        learn = mask[..., None] & valid
        loss = masked_mean((y.float() - target).square(), learn)
        return {"loss": loss, "constant_loss": masked_mean(target.square(), learn)}

    def diagnose(self, gauges: Mapping[str, float]) -> str | None:
        if gauges["loss"] > 0.98 * gauges["constant_loss"]:
            return (
                "no better than predicting each patch's mean: train longer, raise the learning rate, "
                "hide less (mask_ratio), or take a tighter views.crop if most patches are sky"
            )
        return diagnose(gauges, dim=self.encoder.dim, prototypes=None)

    def layer_groups(self) -> list[list[str]]:
        return [[f"encoder.{name}" for name in group] for group in self.encoder.layer_groups()]

    def no_weight_decay(self) -> set[str]:
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}


class Decoder(nn.Module):
    """A small transformer: visible tokens [B, P + K, D], of which `kept` [B, K] says the places → [B, h, w, pixels].

    The first P tokens ([CLS]) stand nowhere. Places are told by fixed sines and cosines, as in the paper.
    """

    places: Tensor

    def __init__(self, dim: int, grid: tuple[int, int], pixels: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if width % 4 or width % heads:
            raise UserError(
                f"mae: decoder_width {width} is not a multiple of 4 and of {heads} decoder_heads; take {32 * heads}"
            )
        self.grid = grid
        self.enter = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.register_buffer("places", build_sincos2d_pos_embed(list(grid), width))  # [h · w, width]
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, pixels)

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        tokens = self.enter(tokens)
        prefix, seen = tokens.tensor_split([tokens.shape[1] - kept.shape[1]], dim=1)
        index = kept[..., None].expand_as(seen)
        patches = self.mask_token.to(tokens.dtype).expand(len(kept), len(self.places), -1).scatter(1, index, seen)
        tokens = torch.cat([prefix, patches + self.places.to(tokens.dtype)], 1)
        for each in self.blocks:
            tokens = block.run(cast(Block, each), tokens)
        return self.leave(self.norm(tokens[:, prefix.shape[1] :])).unflatten(1, self.grid)


def normalised(x: Tensor, valid: Tensor) -> Tensor:
    """(x − μ) / √(σ² + 10⁻⁶) with mean and (unbiased) variance of the valid pixels of each cell; x [..., pixels]."""
    x = x.float().masked_fill(~valid, 0.0)
    count = valid.sum(-1, keepdim=True)
    apart = (x - x.sum(-1, keepdim=True) / count.clamp(min=1)).masked_fill(~valid, 0.0)
    return apart / (apart.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1) + 1e-6).sqrt()
