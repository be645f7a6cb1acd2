"""SimSiam: two views of an image agree, and nothing else is needed (Chen & He 2021).

A predictor says of one view's projection what the other's is. The gradient is stopped at what is predicted; without
that all images get one answer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.methods.base import Method, ViewsNeeded
from zwicky.methods.collapse import diagnose, normalised_std
from zwicky.methods.projectors import MLP


class SimSiam(Method):
    """f is the encoder with the projector, h the predictor. Options:

    width: of the projection z and the projector's hidden layers; the paper's 2048 is for 10⁶ images.
    bottleneck: hidden width of the predictor, 512 in the paper.
    """

    needs = ViewsNeeded(global_crops=2)

    def __init__(self, backbone: Backbone, *, width: int = 512, bottleneck: int = 128) -> None:
        super().__init__()
        self.encoder = backbone
        self.projector = MLP([backbone.dim, width, width, width], last_norm=True)
        self.predictor = MLP([width, bottleneck, width])
        self.width = width
        backbone.set_trainable()

    @property
    def backbone(self) -> Backbone:
        return self.encoder

    def forward(self, views: Views) -> dict[str, Tensor]:
        views = views.interleave_partner()
        # One view at a time, as in the paper: BatchNorm takes the statistics of a view.
        z1, z2 = (self.projector(self.encoder(crop, patch_tokens=False).pooled) for crop in views.crops)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        loss = distance(p1, z2) / 2 + distance(p2, z1) / 2
        with torch.no_grad():
            return {"loss": loss, "embedding_std": (normalised_std(z1) + normalised_std(z2)) / 2}

    def diagnose(self, gauges: Mapping[str, float]) -> str | None:
        return diagnose(gauges, dim=self.width, prototypes=None)

    def layer_groups(self) -> list[list[str]]:
        return [[f"encoder.{name}" for name in group] for group in self.encoder.layer_groups()]

    def constant_lr(self) -> set[str]:
        return {f"predictor.{name}" for name, _ in self.predictor.named_parameters()}

    def no_weight_decay(self) -> set[str]:
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}


def distance(p: Tensor, z: Tensor) -> Tensor:
    """D(p, z) = −⟨p/‖p‖, sg(z)/‖z‖⟩, mean over the batch; p, z [B, D]."""
    return -F.cosine_similarity(p.float(), z.detach().float(), dim=-1).mean()
