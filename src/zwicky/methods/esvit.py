"""EsViT (Li et al. 2022, arXiv:2106.09785): DINO with a region-level loss, for multi-stage transformers."""

from typing import Any

import torch
from torch import Tensor, nn

from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.methods import losses
from zwicky.methods.collapse import prototype_metrics
from zwicky.methods.dino import DINO, Center, encode, require_several_regions


class EsViT(DINO):
    """Views match views as in DINO, and each region matches the most similar region of another view.

    Sec. 3.2 of arXiv:2106.09785, with P the pairs of a teacher's view t and another view s of the student:

        L_V = −1/|P| Σ_(s,t) p_t · log p_s
        L_R = −1/|P| Σ_(s,t) 1/T Σ_i p_j* · log p_i,  j* = argmax_j cos(z_i, z_j)
        L = (1 − w) L_V + w L_R

    The regions i of s and j of t are the tokens of the last stage, z their features before the head; L_R has a head
    and a centre of its own, and without it the method is `dino`. Regions with more than half of their pixels invalid
    are neither students nor targets.

    Args:
        region_weight: w, ½ in the authors' code. If most regions look alike, as those of the sky do, it can pull all
            features together (the metrics show it); 0.1 did not.
    """

    region_center: Center

    def __init__(self, backbone: Backbone, *, region_weight: float = 0.5, **options: Any) -> None:
        require_several_regions("esvit", backbone)
        super().__init__(backbone, **options)
        self.region_weight = region_weight
        self.add_region_level(own_head=True)

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss and the metrics of collapse, those of the regions with the prefix region_."""
        count = views.global_count
        student = encode(self.student["backbone"], views.crops, patch_tokens=True)
        with torch.no_grad():
            teacher = encode(self.teacher["backbone"], views.crops[:count], patch_tokens=True)
        metrics = self.view_loss(student, teacher, len(views))

        pairs = zip(views.crops, views.valid, strict=True)
        valid = [self.backbone.valid_patches(*pair).flatten(1) for pair in pairs]  # [B, T_v] each
        regions_s, regions_t = ([crop.patch_tokens.flatten(1, 2) for crop in crops] for crops in (student, teacher))
        with torch.no_grad():
            t = on_regions(self.teacher["region_head"], regions_t)
            p = [self.region_center(logits, self.teacher_temperature) for logits in t]
            self.region_center.update(torch.cat(t, 1).flatten(0, 1), torch.cat(valid[:count], 1).flatten())
        s = on_regions(self.student["region_head"], regions_s)
        pairs_s, pairs_t = list(zip(regions_s, s, strict=True)), list(zip(regions_t, p, strict=True))
        region_loss, entropy = losses.region_loss(pairs_s, pairs_t, valid, self.student_temperature)
        loss = (1 - self.region_weight) * metrics["loss"] + self.region_weight * region_loss
        region_metrics = prototype_metrics(torch.cat(p, 1).flatten(0, 1), region_loss, "region_", entropy)
        return {**metrics, **region_metrics, "loss": loss}


def on_regions(head: nn.Module, regions: list[Tensor]) -> list[Tensor]:
    """Apply a head to the regions [B, T_v, D] of all views at once: [B, T_v, K] of each view."""
    logits = head(torch.cat(regions, 1).flatten(0, 1)).unflatten(0, (len(regions[0]), -1))
    return list(logits.split([view.shape[1] for view in regions], 1))
