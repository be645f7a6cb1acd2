"""Equivariant heads, and the base class of the equivariant backbones."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zwicky.augment.views import Target
from zwicky.backbones.base import Backbone, Features
from zwicky.backbones.d4.irreps import orbit, to_irreps
from zwicky.backbones.d4.layers import by_irreps
from zwicky.backbones.heads import init_linear
from zwicky.backbones.patches import unpatchify
from zwicky.d4 import ORDER

# The irreps of `irreps.CHANGE` that each kind of target consists of.
VECTOR, SPIN2 = slice(4, 8), slice(2, 4)


class TargetHead(nn.Module):
    """Regression targets, each of its own type: predictions transform with the image as `transform_targets` does.

    The mean of the group features over the patches is split into irreps. A vector (x, y) is linear in E, whose two rows
    transform as x and y do; a spin-2 pair is linear in B1 (its first number, x² − y²) and B2 (its second, 2xy); a
    scalar is linear in the invariant pooled features, which also weight each channel by a factor 1 + a(pooled). No
    direction has a bias.
    """

    uses_patch_tokens = True

    def __init__(self, dim: int, targets: Sequence[Target]) -> None:
        super().__init__()
        channels = dim // ORDER
        self.kinds = [target.kind for target in targets]
        # By target: a scalar's prediction, or what scales the weights of a direction's 2C channels.
        self.gates = nn.ModuleList(nn.Linear(dim, 1 if kind == "scalar" else 2 * channels) for kind in self.kinds)
        directed = [kind for kind in self.kinds if kind != "scalar"]
        self.weight = nn.Parameter(torch.empty(len(directed), 2, channels))
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.gates.apply(init_linear)

    def forward(self, features: Features) -> Tensor:
        """Predict [B, columns] from features with group features."""
        assert features.group_features is not None, "the backbone is equivariant"
        irreps = to_irreps(features.group_features.mean((1, 2)).transpose(0, 1))  # [8, B, C]
        columns, directed = [], iter(self.weight)
        for kind, gate in zip(self.kinds, self.gates, strict=True):
            scalars = gate(features.pooled)
            if kind == "scalar":
                columns.append(scalars)
                continue
            weight = next(directed) * (1 + scalars.unflatten(1, (2, -1)))  # [B, 2, C]
            if kind == "vector":
                pairs = irreps[VECTOR].unflatten(0, (2, 2))  # [x or y, 2, B, C]
                columns.append(torch.einsum("ijbc,bjc->bi", pairs, weight))
            else:
                columns.append(torch.einsum("jbc,bjc->bj", irreps[SPIN2], weight))
        return torch.cat(columns, 1)


class D4PixelDecoder(nn.Module):
    """The lift transposed: pixels(n, x) = (1/8) Σ_g K(g⁻¹x)·F(n, g) + level(n), with `kernel` K [C, bands, p, p].

    The level is one number per band from the invariants, so that their read-out is trained as well.
    """

    def __init__(self, dim: int, bands: int, patch: tuple[int, int]) -> None:
        super().__init__()
        channels = dim // ORDER
        self.kernel = nn.Parameter(torch.empty(channels, bands, *patch))
        self.level = nn.Linear(dim, bands)
        nn.init.trunc_normal_(self.kernel, std=(ORDER / (3 * channels)) ** 0.5)

    def forward(self, features: Features) -> Tensor:
        """Decode group features [B, h, w, 8, C] and patch tokens [B, h, w, D] to [B, bands, H, W]."""
        assert features.group_features is not None, "the backbone is equivariant"
        channels, bands, size, _ = self.kernel.shape
        kernels = orbit(self.kernel).view(ORDER * channels, -1) / ORDER
        pixels = (features.group_features.flatten(3) @ kernels).unflatten(3, (bands, size, size))
        return unpatchify(pixels + self.level(features.patch_tokens)[..., None, None])


class D4Backbone(Backbone):
    """A backbone whose pooled features are invariant and whose group features are equivariant under D4."""

    invariant = True
    target_head = TargetHead
    decoder_class = D4PixelDecoder

    @property
    @abstractmethod
    def _blocks(self) -> list[Any]:
        """All layers between embedding and norm, each called with tokens and `irreps`."""

    @abstractmethod
    def _embed(self, images: Tensor, mask: Tensor | None, irreps: bool) -> Tensor:
        """Return the tokens that enter the first block."""

    def _until_last(self, images: Tensor, mask: Tensor | None) -> tuple[Tensor, bool]:
        """Return the tokens that enter the last block, and whether they are in the basis of the irreps."""
        irreps = by_irreps(images.device, self.dim)
        tokens = self._embed(images, mask, irreps)
        for block in self._blocks[:-1]:
            tokens = block(tokens, irreps)
        return tokens, irreps
