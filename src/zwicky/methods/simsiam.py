"""SimSiam (Chen & He 2021, arXiv:2011.10566): similarity of two views, with a predictor and a stop-gradient."""

from __future__ import annotations

from torch import Tensor

from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.methods.base import Method, ViewsNeeded
from zwicky.methods.collapse import embedding_std
from zwicky.methods.heads import MLP
from zwicky.methods.losses import negative_cosine


class SimSiam(Method):
    """A predictor maps one view's projection to the other's, whose gradient is stopped.

    Algorithm 1 of arXiv:2011.10566 (f: encoder and projector; h: predictor):

        for x in loader:
            x1, x2 = aug(x), aug(x)
            z1, z2 = f(x1), f(x2)  # projections, n × d
            p1, p2 = h(z1), h(z2)  # predictions, n × d
            L = D(p1, z2) / 2 + D(p2, z1) / 2
            L.backward()
            update(f, h)

        def D(p, z):  # negative cosine similarity
            z = z.detach()  # stop-gradient
            return -(normalize(p, dim=1) * normalize(z, dim=1)).sum(dim=1).mean()

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
        backbone.set_trainable()

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss and the spread of the projections."""
        # One view at a time, as in the paper: BatchNorm takes the statistics of a view.
        z1, z2 = (
            self.projector(self.encoder(crop, patch_tokens=False).pooled) for crop in views.interleave_partner().crops
        )
        p1, p2 = self.predictor(z1), self.predictor(z2)
        loss = negative_cosine(p1, z2.detach()) / 2 + negative_cosine(p2, z1.detach()) / 2
        return {"loss": loss, "embedding_std": (embedding_std(z1) + embedding_std(z2)) / 2}

    def constant_lr(self) -> set[str]:
        """The predictor's parameters: its learning rate does not decay (Sec. 4.2 of the paper)."""
        return {f"predictor.{name}" for name, _ in self.predictor.named_parameters()}
