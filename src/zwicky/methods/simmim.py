"""SimMIM: hide regions of an image behind a token and regress their pixels (Xie et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.errors import UserError
from zwicky.methods.base import Method, ViewsNeeded
from zwicky.methods.collapse import diagnose
from zwicky.methods.pixels import cells, hide, masked_mean


class SimMIM(Method):
    """L = mean |y − x| over hidden pixels x and what the decoder makes of them, y; pixels not valid do not count.

    mask_ratio: share of the regions hidden, drawn alone; 0.6 as in the paper. There a hidden cell is 32 px of 192;
    here it is one region of the backbone.
    """

    def __init__(self, backbone: Backbone, *, mask_ratio: float = 0.6) -> None:
        super().__init__()
        if not backbone.supports_masking:
            raise UserError(
                f"simmim: {backbone.config['name']} has no tokens, so no region can be hidden; take a vit or a swin"
            )
        self.grid = backbone.grid(backbone.image_size)
        self.needs = ViewsNeeded(global_crops=1, masking=hide("simmim", self.grid, mask_ratio))
        self.encoder = backbone
        self.decoder = backbone.pixel_decoder()
        backbone.set_trainable(masked=True)

    @property
    def backbone(self) -> Backbone:
        return self.encoder

    def forward(self, views: Views) -> dict[str, Tensor]:
        assert views.masks is not None, "views for SimMIM carry masks"
        x, mask = views.crops[0], views.masks[0]
        y = self.decoder(self.encoder(x, mask=mask))
        x, y = cells(x, self.grid), cells(y, self.grid)  # [B, h, w, bands · cell²]
        learn = mask[..., None] & cells(views.valid[0], self.grid)
        loss = masked_mean((y.float() - x).abs(), learn)
        with torch.no_grad():
            constant = x.masked_fill(~learn, torch.nan).nanmedian()  # the one value with the lowest loss
            return {"loss": loss, "constant_loss": masked_mean((x - constant).abs(), learn)}

    def diagnose(self, gauges: Mapping[str, float]) -> str | None:
        if gauges["loss"] > 0.98 * gauges["constant_loss"]:
            return (
                "no better than predicting one value everywhere: train longer, raise the learning rate, "
                "or hide less (mask_ratio)"
            )
        return diagnose(gauges, dim=self.encoder.dim, prototypes=None)

    def layer_groups(self) -> list[list[str]]:
        return [[f"encoder.{name}" for name in group] for group in self.encoder.layer_groups()]

    def no_weight_decay(self) -> set[str]:
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}
