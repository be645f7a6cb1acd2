"""DINO: self-distillation with no labels (Caron et al. 2021).

A student sees all crops of an image, a teacher only the global ones. The student learns to give each crop the
prototype probabilities the teacher gives another crop. Centring and sharpening of the teacher keep it from
collapsing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zwicky.augment.views import Views
from zwicky.methods import losses
from zwicky.methods.collapse import normalised_std, teacher_gauges
from zwicky.methods.distillation import Distillation, summaries


class DINO(Distillation):
    """Its options are those of `Distillation`."""

    def forward(self, views: Views) -> dict[str, Tensor]:
        views = views.interleave_partner()
        temperature, frozen = self.schedule()
        batch, global_crops = len(views), views.crops[: views.global_count]

        with torch.no_grad():
            z_t = summaries(self.teacher["backbone"], global_crops)
            p_t = self.targets(self.teacher["head"](z_t), temperature)

        z_s = summaries(self.student["backbone"], views.crops)
        logits = self.student["head"](z_s, frozen)
        loss = losses.view_cross_entropy(logits.split(batch), p_t.split(batch), self.student_temperature)

        return {"loss": loss, **teacher_gauges(p_t, loss), "embedding_std": normalised_std(z_t[:batch])}
