"""A frozen tokenizer of image cells, made from the cutouts themselves: k-means on whitened principal components.

Plain k-means on pixels spends its tokens on brightness and noise. The leading components hold the shapes there are
(flux, gradients, arcs); whitened, each counts the same, and empty sky, which has little of any, is a small clump at
one place that takes few tokens however much of the images it fills.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from torch import Tensor, nn

from zwicky.errors import UserError


class Tokenizer(nn.Module):
    """Cells [..., P] → tokens [...] int64 of 0 … K − 1: the nearest centroid of whiten(cell − mean).

    pixels: P. tokens: K. components: how many principal components are kept. All its state is buffers.
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
    def fit(self, cells: Tensor) -> None:
        """Learn components and centroids of cells [N, P]; the same cells give the same tokens every time."""
        tokens, components = self.centroids.shape
        x = cells.float().cpu().numpy()
        if len(np.unique(x, axis=0)) < max(tokens, components + 1):
            raise UserError(
                f"beit: {len(x)} cells of the images are too few or too alike for {tokens} tokens; "
                "lower tokens or take more images"
            )
        pca = PCA(components, svd_solver="covariance_eigh").fit(x)
        whiten = (pca.components_ / np.sqrt(pca.explained_variance_ + 1e-12)[:, None]).T
        # Without reassignment: it moves the centroids of rare shapes to random cells, that is, to the sky.
        kmeans = MiniBatchKMeans(tokens, batch_size=4096, n_init=1, random_state=0, reassignment_ratio=0)
        kmeans.fit((x - pca.mean_) @ whiten)
        self.mean.copy_(torch.from_numpy(pca.mean_))
        self.whiten.copy_(torch.from_numpy(whiten))
        self.centroids.copy_(torch.from_numpy(kmeans.cluster_centers_))

    @torch.no_grad()
    def forward(self, cells: Tensor) -> Tensor:
        # Rounded to bfloat16, distances would name other centroids.
        with torch.autocast(cells.device.type, enabled=False):
            z = (cells.float() - self.mean) @ self.whiten
            # ‖z − c‖² = ‖z‖² − 2 z·c + ‖c‖², and ‖z‖² is the same for all centroids.
            return (self.centroids.square().sum(1) - 2 * z @ self.centroids.T).argmin(-1)
