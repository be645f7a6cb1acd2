"""BYOL: predict what a slowly moving copy of the network makes of another view (Grill et al. 2020).

As SimSiam, but what is predicted comes from a teacher, the paper's target network: the exponential moving average of
the student.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.methods.base import Method, ViewsNeeded
from zwicky.methods.collapse import diagnose, normalised_std
from zwicky.methods.ema import ema_update, make_teacher
from zwicky.methods.projectors import MLP
from zwicky.methods.schedules import cosine


class BYOL(Method):
    """L = ‖q̄(z1) − z̄2'‖² + ‖q̄(z2) − z̄1'‖², z of the student, z' of the teacher, q the predictor. Options:

    hidden, width: of projector and predictor, 4096 and 256 in the paper. momentum: the teacher's at the start, 1 at
    the end; it looks back over about 1/(1 − momentum) steps, which should be a small part of the run.
    """

    needs = ViewsNeeded(global_crops=2)
    teacher: nn.ModuleDict

    def __init__(self, backbone: Backbone, *, hidden: int = 1024, width: int = 128, momentum: float = 0.996) -> None:
        super().__init__()
        backbone.set_trainable()
        self.student = nn.ModuleDict({"backbone": backbone, "projector": MLP([backbone.dim, hidden, width])})
        self.teacher = make_teacher(self.student)
        self.predictor = MLP([width, hidden, width])
        self.width, self.momentum = width, momentum

    @property
    def backbone(self) -> Backbone:
        backbone = self.teacher["backbone"]
        assert isinstance(backbone, Backbone)
        return backbone

    def forward(self, views: Views) -> dict[str, Tensor]:
        views = views.interleave_partner()
        # One view at a time, as in the paper: BatchNorm takes the statistics of a view.
        z1, z2 = (project(self.student, crop) for crop in views.crops)
        with torch.no_grad():
            target1, target2 = (project(self.teacher, crop) for crop in views.crops)
            spread = (normalised_std(target1) + normalised_std(target2)) / 2
        loss = distance(self.predictor(z1), target2) + distance(self.predictor(z2), target1)
        return {"loss": loss, "embedding_std": spread}

    def after_step(self, progress: float) -> None:
        momentum = cosine(self.momentum, 1.0, float(self.progress))
        super().after_step(progress)
        ema_update(self.teacher, self.student, momentum)

    def diagnose(self, gauges: Mapping[str, float]) -> str | None:
        return diagnose(gauges, dim=self.width, prototypes=None)

    def layer_groups(self) -> list[list[str]]:
        return [[f"student.backbone.{name}" for name in group] for group in self.backbone.layer_groups()]

    def no_weight_decay(self) -> set[str]:
        return {f"student.backbone.{name}" for name in self.backbone.no_weight_decay()}


def project(network: nn.ModuleDict, crops: Tensor) -> Tensor:
    """z [B, width] of crops [B, bands, h, w]."""
    return network["projector"](network["backbone"](crops, patch_tokens=False).pooled)


def distance(q: Tensor, z: Tensor) -> Tensor:
    """‖q/‖q‖ − z/‖z‖‖² = 2 − 2⟨q, z⟩/(‖q‖‖z‖), mean over the batch; q, z [B, D]."""
    return 2 - 2 * F.cosine_similarity(q.float(), z.float(), dim=-1).mean()
