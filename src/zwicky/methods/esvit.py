"""EsViT: DINO on a multi-stage transformer, between views and between their regions (Li et al. 2022).

L = (1 − w) L_V + w L_R, w = ½. Every region of a student's crop learns the prototypes of the teacher's region of
another crop that looks most like it, wherever that lies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.methods import losses
from zwicky.methods.collapse import normalised_std, teacher_gauges
from zwicky.methods.distillation import Distillation, encode, refuse_single_region
from zwicky.methods.pixels import mean_row, seen


class EsViT(Distillation):
    """Options besides those of `Distillation`:

    region_loss: with it off, L = L_V. region_weight: w, ½ in the authors' code. Where most regions look alike, as sky
    does, that can drag all features to one; the gauges say so, and 0.1 held.

    Regions have a head and a centre of their own. They are matched by the backbone's features, before the head. Regions
    most of whose pixels are not valid neither learn nor teach.
    """

    region_center: Tensor

    def __init__(
        self, backbone: Backbone, *, region_loss: bool = True, region_weight: float = 0.5, **options: Any
    ) -> None:
        if region_loss:
            refuse_single_region("esvit", backbone)
        super().__init__(backbone, **options)
        self.region_loss, self.region_weight = region_loss, region_weight
        if region_loss:
            self.add_region_level(own_head=True)

    def forward(self, views: Views) -> dict[str, Tensor]:
        views = views.interleave_partner()
        temperature, frozen = self.schedule()
        batch, global_crops = len(views), views.crops[: views.global_count]

        with torch.no_grad():
            t = encode(self.teacher["backbone"], global_crops, patch_tokens=self.region_loss)
            z_t = torch.cat([crop.pooled for crop in t])
            p_t = self.targets(self.teacher["head"](z_t), temperature)

        s = encode(self.student["backbone"], views.crops, patch_tokens=self.region_loss)
        logits = self.student["head"](torch.cat([crop.pooled for crop in s]), frozen)
        view_loss = losses.view_cross_entropy(logits.split(batch), p_t.split(batch), self.student_temperature)
        gauges = {**teacher_gauges(p_t, view_loss), "embedding_std": normalised_std(z_t[:batch])}
        if not self.region_loss:
            return {"loss": view_loss, **gauges}

        grids = [(crop.patch_tokens.shape[1], crop.patch_tokens.shape[2]) for crop in s]
        valid = [seen(pixels, grid).flatten(1) for pixels, grid in zip(views.valid, grids, strict=True)]  # [B, T_v]
        regions_t = [crop.patch_tokens.flatten(1, 2) for crop in t]  # [B, T, D] of each teacher view
        regions_s = [crop.patch_tokens.flatten(1, 2) for crop in s]  # [B, T_v, D] of each student view
        with torch.no_grad():
            logits_t = self.teacher["region_head"](join(regions_t))
            taught = torch.cat([each.flatten() for each in valid[: len(t)]])
            mean = mean_row(logits_t, taught)
            p_regions = apart(self.targets(logits_t, temperature, "region_center", mean), regions_t)
            matches = [
                {g: losses.most_similar(z_s, z_t, valid[g]) for g, z_t in enumerate(regions_t) if g != v}
                for v, z_s in enumerate(regions_s)
            ]
            # A region counts if it is valid and every view it is compared with has one to match.
            counted = [
                torch.stack([each & valid[g].any(1, keepdim=True) for g in match] or [each]).all(0)
                for each, match in zip(valid, matches, strict=True)
            ]
        region_logits = apart(self.student["region_head"](join(regions_s), frozen), regions_s)
        region_loss = losses.region_cross_entropy(region_logits, p_regions, matches, self.student_temperature, counted)

        entropy = losses.region_entropy(p_regions, matches, counted)
        gauges |= teacher_gauges(join(p_regions), region_loss, "region_", entropy)
        loss = (1 - self.region_weight) * view_loss + self.region_weight * region_loss
        return {"loss": loss, **gauges}


def join(regions: list[Tensor]) -> Tensor:
    """[B, T_v, D] of each crop → [sum of B·T_v, D]."""
    return torch.cat([crop.flatten(0, 1) for crop in regions])


def apart(logits: Tensor, regions: list[Tensor]) -> list[Tensor]:
    """[sum of B·T_v, K] → [B, T_v, K] of each crop."""
    parts = logits.split([crop.shape[0] * crop.shape[1] for crop in regions])
    return [part.unflatten(0, crop.shape[:2]) for part, crop in zip(parts, regions, strict=True)]
