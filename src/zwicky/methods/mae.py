"""MAE (He et al. 2022, arXiv:2111.06377): encode only the visible patches; reconstruct the masked ones."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from zwicky.augment.views import Views
from zwicky.backbones.attention import forward_block
from zwicky.backbones.base import Backbone
from zwicky.errors import UserError
from zwicky.methods.base import MaskedMethod
from zwicky.methods.losses import masked_mean

PREVIEW = 256  # images from which the noise of the sky is estimated


class MAE(MaskedMethod):
    """Mean squared error between decoder output y and normalised pixels x̄ of masked patches (arXiv:2111.06377).

    Sec. 3: L = mean (y − x̄)² over masked, valid pixels, x̄ = (x − μ)/√(σ² + σ_sky²) with μ, σ² of each patch. Only
    visible patches pass the encoder; a light decoder sees them and mask tokens. The paper has 10⁻⁶ in place of σ_sky²,
    which would blow up the noise of empty sky to variance 1; σ_sky² is the lower quartile of the patches' variances.

    Args:
        mask_ratio: share of the patches that are masked, at random; 0.75 as in the paper.
        decoder_width: of the decoder; it has 512, depth 8 and 16 heads in the paper.
        decoder_depth: number of its blocks.
        decoder_heads: attention heads of each.
    """

    trivial = (
        "predicting each patch's mean: train longer, raise the learning rate, hide less (mask_ratio), or take a "
        "tighter views.crop if most patches are sky"
    )
    encoder: Any
    sky_variance: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        mask_ratio: float = 0.75,
        decoder_width: int = 128,
        decoder_depth: int = 2,
        decoder_heads: int = 4,
    ) -> None:
        if not hasattr(backbone, "visible"):
            raise UserError(
                f"mae: {backbone.config['name']} cannot leave out masked patches; take a vit, or the method simmim"
            )
        super().__init__("mae", backbone, mask_ratio, preview=PREVIEW)
        self.register_buffer("sky_variance", torch.zeros(()))
        pixels = backbone.patch_pixels
        self.decoder = Decoder(backbone.dim, self.grid, pixels, decoder_width, decoder_depth, decoder_heads)
        backbone.set_trainable()  # without the mask token, which is the decoder's here

    def prepare(self, views: Views) -> None:
        """Estimate the variance of empty sky from the patches that are valid throughout."""
        patches, valid = self.patches(views)
        patches = patches[valid.all(-1)]
        if len(patches):
            self.sky_variance.copy_(torch.from_numpy(np.quantile(patches.var(-1).cpu().numpy(), [0.25]))[0])

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss, and that of predicting each patch's mean."""
        mask, (x, valid) = self.mask(views), self.patches(views)
        # Every image masks as many patches as the others, so the visible ones form a rectangle [B, K].
        visible = (~mask).flatten(1).nonzero()[:, 1].unflatten(0, (len(x), -1))
        y = self.decoder(self.encoder.visible(views.crops[0], visible), visible)  # [B, h, w, pixels]
        target, masked = normalise_patches(x, valid, self.sky_variance), mask[..., None] & valid
        loss = masked_mean((y.float() - target).square(), masked)
        return {"loss": loss, "constant_loss": masked_mean(target.square(), masked)}


class Decoder(nn.Module):
    """A small transformer with fixed sine-cosine position embeddings, as in the paper."""

    position: Tensor

    def __init__(self, dim: int, grid: tuple[int, int], pixels: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if width % 4 or width % heads:
            raise UserError(
                f"mae: decoder_width {width} is not a multiple of 4 and of {heads} decoder_heads; take {32 * heads}"
            )
        self.grid = grid
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.register_buffer("position", build_sincos2d_pos_embed(list(grid), width))  # [h · w, width]
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.to_pixels = nn.Linear(width, pixels)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Reconstruct all patches.

        Args:
            tokens: [B, P + K, D] of the encoder; the first P have no position ([CLS]).
            visible: [B, K] indices of the visible patches.

        Returns:
            [B, h, w, pixels].
        """
        tokens = self.embed(tokens)
        prefix, kept = tokens.tensor_split([tokens.shape[1] - visible.shape[1]], dim=1)
        index = visible[..., None].expand_as(kept)
        patches = self.mask_token.to(tokens.dtype).expand(len(visible), len(self.position), -1).scatter(1, index, kept)
        tokens = torch.cat([prefix, patches + self.position.to(tokens.dtype)], 1)
        for each in self.blocks:
            tokens = forward_block(cast(Block, each), tokens)
        return self.to_pixels(self.norm(tokens[:, prefix.shape[1] :])).unflatten(1, self.grid)


def normalise_patches(x: Tensor, valid: Tensor, sky_variance: Tensor | float = 0.0) -> Tensor:
    """Return (x − μ) / √(σ² + σ_sky²) with mean and unbiased variance of each patch's valid pixels; 0 where not valid.

    Args:
        x: [..., pixels].
        valid: [..., pixels] bool.
        sky_variance: σ_sky²; at least 10⁻⁶ is added.
    """
    x = x.float().masked_fill(~valid, 0.0)
    count = valid.sum(-1, keepdim=True)
    residual = (x - x.sum(-1, keepdim=True) / count.clamp(min=1)).masked_fill(~valid, 0.0)
    variance = residual.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return residual / (variance + torch.as_tensor(sky_variance).clamp(min=1e-6)).sqrt()
