"""LeJEPA: views of an image agree while all embeddings together look like a normal cloud (Balestriero & LeCun 2025).

One loss without teacher, predictor, centre or temperature. The second term, SIGReg, keeps the embeddings from
collapsing: seen along any direction they are to be normally distributed with mean 0 and variance 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.methods import processes
from zwicky.methods.base import Method, ViewsNeeded
from zwicky.methods.collapse import diagnose, normalised_std
from zwicky.methods.projectors import MLP
from zwicky.rng import torch_rng

DIRECTIONS = 256
KNOTS, REACH = 17, 3.0  # of the integral over t


class LeJEPA(Method):
    """L = (1 − λ) mean (z_v − μ)² + λ mean_v SIGReg(z_v), with z_v [B, D] the projection of view v and μ the mean of
    an image's global views. The first mean is over views, images and dimensions. Options:

    sigreg: λ. projection: D. hidden: width of the projector's two hidden layers, 2048 in the paper's example.

    As in the paper all views, local crops too, are drawn to the mean of the global ones. Its short example has four
    equal views, and λ 0.02 and D 16 are from there; two global and two local crops are as many.
    """

    needs = ViewsNeeded(global_crops=2, local_crops=True)
    step: Tensor

    def __init__(self, backbone: Backbone, *, sigreg: float = 0.02, projection: int = 16, hidden: int = 512) -> None:
        super().__init__()
        self.encoder = backbone
        self.projector = MLP([backbone.dim, hidden, hidden, projection])
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.sigreg, self.projection = sigreg, projection
        backbone.set_trainable()

    @property
    def backbone(self) -> Backbone:
        return self.encoder

    def forward(self, views: Views) -> dict[str, Tensor]:
        views = views.interleave_partner()
        embeddings = torch.cat([self.encoder(crop, patch_tokens=False).pooled for crop in views.crops])
        z = self.projector(embeddings).float().unflatten(0, (len(views.crops), -1))  # [V, B, D]
        prediction = (z - z[: views.global_count].mean(0)).square().mean()
        # New directions each step, the same in every process.
        generator = torch_rng(int(self.step))
        directions = torch.randn(self.projection, DIRECTIONS, generator=generator).to(z.device)
        normality = sigreg(z, F.normalize(directions, dim=0))
        return {
            "loss": (1 - self.sigreg) * prediction + self.sigreg * normality,
            "prediction": prediction.detach(),
            "sigreg": normality.detach(),
            "embedding_std": normalised_std(z[0].detach()),
        }

    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        self.step += 1

    def diagnose(self, gauges: Mapping[str, float]) -> str | None:
        return diagnose(gauges, dim=self.projection, prototypes=None)

    def layer_groups(self) -> list[list[str]]:
        return [[f"encoder.{name}" for name in group] for group in self.encoder.layer_groups()]

    def no_weight_decay(self) -> set[str]:
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}


def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """How far z is from standard normal along unit directions a [D, A]: mean over directions and views of

    N ∫₋₃³ [(E cos(t a·z) − e^(−t²/2))² + (E sin(t a·z))²] e^(−t²/2) dt,

    the distance of the characteristic functions (Epps & Pulley 1983). z [V, N, D] float32; E is the mean over the N
    images of all processes. The integrand is even, so 17 knots on [0, 3] by the trapezoid rule, twice.
    """
    with torch.autocast(z.device.type, enabled=False):
        t = torch.linspace(0, REACH, KNOTS, device=z.device)
        normal = torch.exp(-t.square() / 2)
        angles = (z @ directions)[..., None] * t  # [V, N, A, knots]
        cos, sin, count = angles.cos().mean(1), angles.sin().mean(1), z.shape[1]
        cos, sin, count = processes.average(cos), processes.average(sin), count * processes.count()
        apart = (cos - normal).square() + sin.square()
        return count * 2 * torch.trapezoid(apart * normal, t).mean()
