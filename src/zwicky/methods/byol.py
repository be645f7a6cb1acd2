"""BYOL (Grill et al. 2020, arXiv:2006.07733): predict a momentum teacher's projection of another view."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.methods.base import ViewsNeeded
from zwicky.methods.collapse import embedding_std
from zwicky.methods.ema import MomentumTeacher, make_teacher
from zwicky.methods.heads import MLP
from zwicky.methods.losses import negative_cosine


class BYOL(MomentumTeacher):
    """As SimSiam, but the predicted projection is that of a teacher, the paper's target network.

    Algorithm 1 of arXiv:2006.07733 (f_θ, f_ξ: encoder and projector of student and teacher; q: predictor):

        for x in loader:
            x1, x2 = aug(x), aug(x)
            z1, z2 = f_θ(x1), f_θ(x2)
            y1, y2 = f_ξ(x1), f_ξ(x2)  # without gradient
            L = D(q(z1), y2) + D(q(z2), y1)
            θ = optimizer(θ, ∇L)
            ξ = τ ξ + (1 − τ) θ

        def D(q, y):  # Eq. 2, of vectors scaled to length 1
            return ‖q − y‖² = 2 − 2 cos(q, y)

    Args:
        hidden: hidden width of projector and predictor, 4096 in the paper.
        width: of the projection, 256 in the paper.
        momentum: τ of the teacher at the start; a cosine brings it to 1.
    """

    needs = ViewsNeeded(global_crops=2)

    def __init__(self, backbone: Backbone, *, hidden: int = 1024, width: int = 128, momentum: float = 0.996) -> None:
        super().__init__()
        backbone.set_trainable()
        self.student = nn.ModuleDict({"backbone": backbone, "projector": MLP([backbone.dim, hidden, width])})
        self.teacher = make_teacher(self.student)
        self.predictor = MLP([width, hidden, width])
        self.embedding_dim, self.momentum = width, momentum

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss and the spread of the teacher's projections."""
        crops = views.interleave_partner().crops
        # One view at a time, as in the paper: BatchNorm takes the statistics of a view.
        z1, z2 = (project(self.student, crop) for crop in crops)
        with torch.no_grad():
            y1, y2 = (project(self.teacher, crop) for crop in crops)
        q1, q2 = self.predictor(z1), self.predictor(z2)
        loss = (2 + 2 * negative_cosine(q1, y2)) + (2 + 2 * negative_cosine(q2, y1))
        return {"loss": loss, "embedding_std": (embedding_std(y1) + embedding_std(y2)) / 2}


def project(network: nn.ModuleDict, crops: Tensor) -> Tensor:
    """Map crops [B, bands, h, w] to projections [B, width]."""
    return network["projector"](network["backbone"](crops, patch_tokens=False).pooled)
