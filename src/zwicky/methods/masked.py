"""Masked image modelling: MaskedMethod, and the methods that reconstruct pixels, SimMIM and MAE."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from zwicky.augment.views import Masking, Views, ViewsNeeded
from zwicky.backbones.attention import forward_block
from zwicky.backbones.base import Backbone
from zwicky.backbones.patches import patchify
from zwicky.errors import UserError
from zwicky.methods.base import Method
from zwicky.methods.losses import masked_mean


class MaskedMethod(Method):
    """Predict the masked patches of one global crop from the visible ones."""

    # The prediction that has the loss `constant_loss`, and what to try when the method is no better.
    trivial = "predicting one value everywhere: train longer, raise the learning rate, or hide less (mask_ratio)"

    def __init__(self, name: str, backbone: Backbone, ratio: float, *, blocks: bool = False, preview: int = 0) -> None:
        super().__init__()
        require_masking(name, backbone)
        self.grid = backbone.grid(backbone.image_size)
        count = self.grid[0] * self.grid[1]
        if not 0 < round(ratio * count) < count:
            raise UserError(
                f"{name}: mask_ratio {ratio} hides none or all of the {self.grid[0]} × {self.grid[1]} patches; "
                "take a ratio between 0 and 1, larger crops or smaller patches"
            )
        self.needs = ViewsNeeded(1, masking=Masking(self.grid, (ratio, ratio), blocks=blocks), preview=preview)
        self.encoder = backbone
        backbone.set_trainable(masked=True)

    def patches(self, views: Views) -> tuple[Tensor, Tensor]:
        """Return the pixels of the patches, [B, h, w, pixels], and which of them are valid."""
        valid = self.encoder.canvas(views.valid[0].float(), views.crops[0]) > 0.999
        return patchify(self.encoder.canvas(views.crops[0]), self.grid), patchify(valid, self.grid)

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Compare the loss with that of a trivial prediction, then look for collapse."""
        if metrics["loss"] > 0.98 * metrics["constant_loss"]:
            return f"no better than {self.trivial}"
        return super().diagnose(metrics)


class SimMIM(MaskedMethod):
    """SimMIM (Xie et al. 2022): L1 loss over masked, valid pixels of reconstruction y and input x.

    Eq. 1 of arXiv:2111.09886:

        L = ‖y_M − x_M‖₁ / Ω(x_M),  y = decoder(encoder(x, mask))

    Args:
        mask_ratio: share of the patches masked at random, 0.6 in the paper, where a masked patch is 32 px of 192.
    """

    def __init__(self, backbone: Backbone, *, mask_ratio: float = 0.6) -> None:
        super().__init__("simmim", backbone, mask_ratio)
        self.decoder = backbone.pixel_decoder()

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss, and that of the best constant prediction."""
        mask, (x, valid) = views.masks[0], self.patches(views)  # [B, h, w], [B, h, w, pixels]
        masked = mask[..., None] & valid
        y = patchify(self.decoder(self.encoder(views.crops[0], mask=mask)), self.grid)
        loss = masked_mean((y.float() - x).abs(), masked)
        with torch.no_grad():
            median = x.masked_fill(~masked, torch.nan).nanmedian()
            return {"loss": loss, "constant_loss": masked_mean((x - median).abs(), masked)}


class MAE(MaskedMethod):
    """MAE (He et al. 2022): encode only the visible patches; reconstruct the masked ones (Sec. 3 of arXiv:2111.06377).

        L = mean (y − x̄)² over masked, valid pixels,  x̄ = (x − μ)/√(σ² + σ_sky²) with μ, σ² of each patch

    A light decoder sees the encoded patches and mask tokens. The paper has 10⁻⁶ in place of σ_sky², which would blow up
    the noise of empty sky to variance 1; σ_sky² is the lower quartile of the patches' variances.

    Args:
        mask_ratio: share of the patches that are masked, at random; 0.75 as in the paper.
        decoder_width: of the decoder; the paper has width 512, depth 8 and 16 heads.
    """

    trivial = "predicting each patch's mean: train longer, raise the learning rate, lower mask_ratio or crop tighter"
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
        super().__init__("mae", backbone, mask_ratio, preview=256)
        self.register_buffer("sky_variance", torch.zeros(()))
        shape = backbone.patch_pixels, decoder_width, decoder_depth, decoder_heads
        self.decoder = Decoder(backbone.dim, self.grid, *shape)
        backbone.set_trainable()  # without the mask token, which is the decoder's here

    def prepare(self, views: Views) -> None:
        """Estimate the variance of empty sky from the patches that are valid throughout."""
        patches, valid = self.patches(views)
        patches = patches[valid.all(-1)]
        if len(patches):
            self.sky_variance.copy_(patches.var(-1).quantile(0.25))

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss, and that of predicting each patch's mean."""
        mask, (x, valid) = views.masks[0], self.patches(views)
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
            needed = f"a multiple of 4 and of {heads} decoder_heads"
            raise UserError(f"mae: decoder_width {width} is not {needed}; take {32 * heads}")
        self.grid = grid
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.register_buffer("position", build_sincos2d_pos_embed(list(grid), width))  # [h · w, width]
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.to_pixels = nn.Linear(width, pixels)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Map tokens [B, P + K, D], P of them [CLS], of the `visible` patches [B, K] to [B, h, w, pixels] of all."""
        tokens = self.embed(tokens)
        prefix, kept = tokens.tensor_split([tokens.shape[1] - visible.shape[1]], dim=1)
        index = visible[..., None].expand_as(kept)
        patches = self.mask_token.to(tokens.dtype).expand(len(visible), len(self.position), -1).scatter(1, index, kept)
        tokens = torch.cat([prefix, patches + self.position.to(tokens.dtype)], 1)
        for each in self.blocks:
            tokens = forward_block(cast(Block, each), tokens)
        return self.to_pixels(self.norm(tokens[:, prefix.shape[1] :])).unflatten(1, self.grid)


def require_masking(name: str, backbone: Backbone) -> None:
    """Raise UserError unless the backbone can replace patches by a mask token."""
    if not backbone.supports_masking:
        raise UserError(
            f"{name}: {backbone.config['name']} has no tokens, so no patch can be masked; take a vit or a swin"
        )


def normalise_patches(x: Tensor, valid: Tensor, sky_variance: Tensor | float = 0.0) -> Tensor:
    """Return (x − μ) / √(σ² + σ_sky²) with mean and unbiased variance of each patch's valid pixels; 0 where not valid.

    x and valid are [..., pixels]; σ_sky² is taken to be at least 10⁻⁶.
    """
    x = x.float().masked_fill(~valid, 0.0)
    count = valid.sum(-1, keepdim=True)
    residual = (x - x.sum(-1, keepdim=True) / count.clamp(min=1)).masked_fill(~valid, 0.0)
    variance = residual.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return residual / (variance + torch.as_tensor(sky_variance).clamp(min=1e-6)).sqrt()
