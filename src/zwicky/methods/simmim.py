"""SimMIM (Xie et al. 2022, arXiv:2111.09886): regress the pixels of masked patches."""

from __future__ import annotations

import torch
from torch import Tensor

from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.methods.base import MaskedMethod, patchify
from zwicky.methods.losses import masked_mean


class SimMIM(MaskedMethod):
    """L1 loss between reconstruction y and input x, averaged over masked, valid pixels (Eq. 1 of arXiv:2111.09886).

        L = ‖y_M − x_M‖₁ / Ω(x_M),  y = decoder(encoder(x, mask))

    Args:
        mask_ratio: share of the patches that are masked, at random; 0.6 as in the paper. There a masked patch is 32 px
            of 192; here it is one patch of the backbone.
    """

    def __init__(self, backbone: Backbone, *, mask_ratio: float = 0.6) -> None:
        super().__init__("simmim", backbone, mask_ratio)
        self.decoder = backbone.pixel_decoder()

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss, and that of the best constant prediction."""
        mask, (x, valid) = self.mask(views), self.patches(views)  # [B, h, w], [B, h, w, pixels]
        masked = mask[..., None] & valid
        y = patchify(self.decoder(self.encoder(views.crops[0], mask=mask)), self.grid)
        loss = masked_mean((y.float() - x).abs(), masked)
        with torch.no_grad():
            median = x.masked_fill(~masked, torch.nan).nanmedian()
            return {"loss": loss, "constant_loss": masked_mean((x - median).abs(), masked)}
