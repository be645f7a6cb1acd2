"""SimSiam (Chen & He 2021, arXiv:2011.10566) and BYOL (Grill et al. 2020, arXiv:2006.07733): no negative pairs."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from zwicky.augment.views import Views, ViewsNeeded
from zwicky.backbones.base import Backbone
from zwicky.backbones.heads import check_batch
from zwicky.methods.base import Method
from zwicky.methods.collapse import embedding_std
from zwicky.methods.ema import MomentumTeacher, make_teacher
from zwicky.methods.losses import negative_cosine


class SimSiam(Method):
    """A predictor maps one view's projection to the other's, which has a stop-gradient.

    Algorithm 1 of arXiv:2011.10566 (f: encoder and projector; h: predictor), D(p, z) = −cos(p, stop_gradient(z)):

        x1, x2 = aug(x), aug(x)
        z1, z2 = f(x1), f(x2)  # projections, n × d
        p1, p2 = h(z1), h(z2)  # predictions, n × d
        L = D(p1, z2) / 2 + D(p2, z1) / 2

    Args:
        width: of the projection and of the projector's hidden layers; the paper's 2048 is for 10⁶ images.
        bottleneck: hidden width of the predictor, 512 in the paper.
    """

    needs = ViewsNeeded(global_crops=2)

    def __init__(self, backbone: Backbone, *, width: int = 512, bottleneck: int = 128) -> None:
        super().__init__()
        self.encoder = backbone
        self.projector = MLP([backbone.dim, width, width, width], last_norm=True)
        self.predictor = MLP([width, bottleneck, width])
        self.embedding_dim = width

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss and the spread of the projections."""
        z1, z2 = project(self.encoder, self.projector, views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        loss = negative_cosine(p1, z2.detach()) / 2 + negative_cosine(p2, z1.detach()) / 2
        return {"loss": loss, "embedding_std": (embedding_std(z1) + embedding_std(z2)) / 2}

    def constant_lr(self) -> set[str]:
        """The predictor's parameters: its learning rate does not decay (Sec. 4.2 of the paper)."""
        return {f"predictor.{name}" for name, _ in self.predictor.named_parameters()}


class BYOL(MomentumTeacher):
    """As SimSiam, but the predicted projection is that of a teacher, the paper's target network.

    Algorithm 1 of arXiv:2006.07733 (f_θ, f_ξ: encoder and projector of student and teacher; q: predictor), with
    D(q, y) = ‖q − y‖² = 2 − 2 cos(q, y) of vectors scaled to length 1 (Eq. 2):

        z1, z2 = f_θ(x1), f_θ(x2)
        y1, y2 = f_ξ(x1), f_ξ(x2)  # without gradient
        L = D(q(z1), y2) + D(q(z2), y1)
        ξ = τ ξ + (1 − τ) θ

    Args:
        hidden: hidden width of projector and predictor, 4096 in the paper.
        width: of the projection, 256 in the paper.
        momentum: τ of the teacher at the start; a cosine brings it to 1.
    """

    needs = ViewsNeeded(global_crops=2)

    def __init__(self, backbone: Backbone, *, hidden: int = 1024, width: int = 128, momentum: float = 0.996) -> None:
        super().__init__()
        self.student = nn.ModuleDict({"backbone": backbone, "projector": MLP([backbone.dim, hidden, width])})
        self.teacher = make_teacher(self.student)
        self.predictor = MLP([width, hidden, width])
        self.embedding_dim, self.momentum = width, momentum

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss and the spread of the teacher's projections."""
        z1, z2 = project(self.student["backbone"], self.student["projector"], views)
        with torch.no_grad():
            y1, y2 = project(self.teacher["backbone"], self.teacher["projector"], views)
        loss = 4 + 2 * negative_cosine(self.predictor(z1), y2) + 2 * negative_cosine(self.predictor(z2), y1)
        return {"loss": loss, "embedding_std": (embedding_std(y1) + embedding_std(y2)) / 2}


class MLP(nn.Sequential):
    """Linear layers with BatchNorm and ReLU between them: the projectors and predictors of SimSiam, BYOL and LeJEPA.

    With `last_norm`, BatchNorm without affine parameters follows the last layer, which then has no bias.
    """

    def __init__(self, widths: Sequence[int], last_norm: bool = False) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths[:-1]):
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
        layers.append(nn.Linear(widths[-2], widths[-1], bias=not last_norm))
        super().__init__(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if last_norm else []))

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, widths[0]] to [B, widths[-1]]."""
        check_batch(self, features)
        return super().forward(features)


def project(encoder: nn.Module, projector: nn.Module, views: Views) -> list[Tensor]:
    """Return the projections [B, width] of each view; one view at a time, for the statistics of BatchNorm."""
    return [projector(encoder(crop, patch_tokens=False).pooled) for crop in views.crops]
