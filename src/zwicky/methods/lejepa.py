"""LeJEPA (Balestriero & LeCun 2025, arXiv:2511.08544): agreement of views, and isotropic Gaussian embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from zwicky.augment.views import Views, ViewsNeeded
from zwicky.backbones.base import Backbone
from zwicky.methods.base import Method
from zwicky.methods.collapse import embedding_std
from zwicky.methods.losses import mean_over_ranks, world_size
from zwicky.methods.siamese import MLP
from zwicky.rng import torch_rng

DIRECTIONS = 256
KNOTS, T_MAX = 17, 3.0  # of the integral over t


class LeJEPA(Method):
    """One loss, without teacher, predictor, centre or temperature; SIGReg keeps the embeddings from collapsing.

    Algorithm 2 of arXiv:2511.08544, with z_v [B, D] the projection of view v:

        centers = z[global views].mean(0)
        prediction = (centers - z).square().mean()
        loss = (1 - lamb) * prediction + lamb * mean([SIGReg(z_v, global_step) for v in views])

    λ 0.02 and D 16 are those of the paper's minimal example, which has four equal views.

    Args:
        sigreg: λ.
        projection: D.
        hidden: width of the projector's two hidden layers, 2048 in the paper's example.
    """

    needs = ViewsNeeded(global_crops=2, local_crops=True)

    def __init__(self, backbone: Backbone, *, sigreg: float = 0.02, projection: int = 16, hidden: int = 512) -> None:
        super().__init__()
        self.encoder = backbone
        self.projector = MLP([backbone.dim, hidden, hidden, projection])
        self.sigreg, self.embedding_dim = sigreg, projection

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss, its two terms and the spread of the projections."""
        embeddings = torch.cat([self.encoder(crop, patch_tokens=False).pooled for crop in views.crops])
        z = self.projector(embeddings).float().unflatten(0, (len(views.crops), -1))  # [V, B, D]
        prediction = (z - z[: views.global_count].mean(0)).square().mean()
        # New directions at each step, the same in every process: the bits of `progress` are the seed.
        generator = torch_rng(int(self.progress.view(torch.int64)))
        directions = torch.randn(z.shape[-1], DIRECTIONS, generator=generator).to(z.device)
        normality = sigreg(z, F.normalize(directions, dim=0))
        return {
            "loss": (1 - self.sigreg) * prediction + self.sigreg * normality,
            "prediction": prediction.detach(),
            "sigreg": normality.detach(),
            "embedding_std": embedding_std(z[0]),
        }


def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """Sketched isotropic Gaussian regularisation (Sec. 4.2 and Algorithm 1 of arXiv:2511.08544).

    The Epps-Pulley test of normality along unit directions a, averaged over directions and views:

        N ∫₋₃³ [(E cos(t a·z) − e^(−t²/2))² + (E sin(t a·z))²] e^(−t²/2) dt

    z has embeddings [V, N, D], E is the mean over the N images of all processes; `directions` [D, A] have length 1.
    """
    with torch.autocast(z.device.type, enabled=False):
        t = torch.linspace(0, T_MAX, KNOTS, device=z.device)  # the integrand is even
        normal = torch.exp(-t.square() / 2)
        angles = (z @ directions)[..., None] * t  # [V, N, A, knots]
        cos, sin = mean_over_ranks(angles.cos().mean(1)), mean_over_ranks(angles.sin().mean(1))
        difference = (cos - normal).square() + sin.square()
        return z.shape[1] * world_size() * 2 * torch.trapezoid(difference * normal, t).mean()
