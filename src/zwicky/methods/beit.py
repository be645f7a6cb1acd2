"""BEiT (Bao et al. 2022, arXiv:2106.08254): classify masked patches into the tokens of a frozen tokenizer."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from torch import Tensor, nn

from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.backbones.heads import init_linear
from zwicky.errors import UserError
from zwicky.methods.losses import masked_mean
from zwicky.methods.masked import MaskedMethod


class BEiT(MaskedMethod):
    """Masked image modelling: cross-entropy of the visual tokens of masked patches (Sec. 2.3 of arXiv:2106.08254).

        L = −mean over masked patches i of log p(token_i | visible patches), p the softmax of a linear head

    The paper's tokenizer is a large network trained on other images; `Tokenizer` is fitted to the cutouts themselves.

    Args:
        tokens: K, 8192 in the paper.
        components: principal components of the patches that the tokenizer keeps.
        mask_ratio: share of the patches that are masked, in blocks; 0.4 as in the paper.
    """

    trivial = "predicting tokens by frequency: train longer, raise the learning rate, or lower tokens or mask_ratio"

    def __init__(self, backbone: Backbone, *, tokens: int = 256, components: int = 8, mask_ratio: float = 0.4) -> None:
        super().__init__("beit", backbone, mask_ratio, blocks=True, preview=1024)
        self.tokenizer = Tokenizer(backbone.patch_pixels, tokens, components)
        self.head = nn.Linear(backbone.dim, tokens).apply(init_linear)

    def prepare(self, views: Views) -> None:
        """Fit the tokenizer to the valid patches of these views."""
        self.tokenizer.fit(self.patches(views)[0][self.encoder.valid_patches(views.crops[0], views.valid[0])])

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss, the accuracy, and what trivial predictions reach."""
        assert self.tokenizer.centroids.any(), "prepare comes before the first step"
        mask, tokens = views.masks[0], self.tokenizer(self.patches(views)[0])  # [B, h, w]
        logits = self.head(self.encoder(views.crops[0], mask=mask).patch_tokens).float()  # [B, h, w, K]
        masked = mask & self.encoder.valid_patches(views.crops[0], views.valid[0])
        loss = masked_mean(F.cross_entropy(logits.permute(0, 3, 1, 2), tokens, reduction="none"), masked)
        with torch.no_grad():
            frequency = torch.bincount(tokens[masked], minlength=logits.shape[-1]) / masked.sum().clamp(min=1)
            return {
                "loss": loss,
                "masked_accuracy": masked_mean(logits.argmax(-1) == tokens, masked),
                "majority_share": frequency.max(),  # the accuracy of always predicting the most frequent token
                "token_entropy": torch.special.entr(frequency).sum(),  # the loss of always predicting the frequencies
            }

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Compare with trivial predictions, then look for collapse."""
        if metrics["majority_share"] > 0.95:
            share = f"{metrics['majority_share']:.0%}"
            return f"one token covers {share} of the patches: take a tighter views.crop, more tokens or larger patches"
        return super().diagnose({**metrics, "constant_loss": metrics["token_entropy"]})


class Tokenizer(nn.Module):
    """A frozen tokenizer of patches, fitted to the cutouts themselves: k-means on whitened principal components.

    The leading components hold the shapes (flux, gradients, arcs); whitened, each counts the same, and empty sky is one
    small clump that takes few tokens however many patches it fills.
    """

    mean: Tensor
    whiten: Tensor
    centroids: Tensor

    def __init__(self, pixels: int, tokens: int, components: int) -> None:
        super().__init__()
        components = min(components, pixels)
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("whiten", torch.zeros(pixels, components))
        self.register_buffer("centroids", torch.zeros(tokens, components))

    @torch.no_grad()
    def fit(self, patches: Tensor) -> None:
        """Fit components and centroids to patches [N, P], deterministically."""
        tokens, components = self.centroids.shape
        x = patches.float().cpu().numpy()
        if len(np.unique(x, axis=0)) < max(tokens, components + 1):
            raise UserError(
                f"beit: {len(x)} patches of the images are too few or too alike for {tokens} tokens; "
                "lower tokens or take more images"
            )
        pca = PCA(components, svd_solver="covariance_eigh").fit(x)
        whiten = (pca.components_ / np.sqrt(pca.explained_variance_ + 1e-12)[:, None]).T
        # Without reassignment: it moves the centroids of rare shapes to random patches, that is, to the sky.
        kmeans = MiniBatchKMeans(tokens, batch_size=4096, n_init=1, random_state=0, reassignment_ratio=0)
        kmeans.fit((x - pca.mean_) @ whiten)
        fitted = {"mean": pca.mean_, "whiten": whiten, "centroids": kmeans.cluster_centers_}
        self.load_state_dict({name: torch.from_numpy(values) for name, values in fitted.items()})

    @torch.no_grad()
    def forward(self, patches: Tensor) -> Tensor:
        """Map patches [..., P] to the nearest centroid, [...] int64, in float32: bfloat16 would pick others."""
        with torch.autocast(patches.device.type, enabled=False):
            z = (patches.float() - self.mean) @ self.whiten
            # ‖z − c‖² = ‖z‖² − 2 z·c + ‖c‖², and ‖z‖² is the same for all centroids.
            return (self.centroids.square().sum(1) - 2 * z @ self.centroids.T).argmin(-1)
