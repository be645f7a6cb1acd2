"""`Views`, the crops a method is given, and how regression targets transform with their image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """A regression target and how it transforms when the image is rotated or mirrored.

    scalar: unchanged (theta_E). vector: columns (x, y) in the image's axes, e.g. an offset. spin2: columns
    (1, 2) of an ellipticity or shear, which rotate by twice the angle.
    """

    columns: tuple[str, ...]
    kind: Literal["scalar", "vector", "spin2"] = "scalar"


@dataclass
class Views:
    """Several crops of each of B images.

    Attributes:
        crops: each [B, bands, h, w] float32, normalised, 0 where invalid; global crops come first.
        to_source: each [B, 2, 3], the affine map from (x, y, 1) in crop pixels to (x, y) in source pixels; pixel
            centres are at integers, (0, 0) is the centre of the first pixel, x runs along the last axis.
        valid: each [B, bands, h, w] bool, False where any contributing pixel was invalid, and in a band blanked by
            band dropout. May be an expanded True: do not write into it.
        rows: [B] int64 row numbers of the images in their `Cutouts`.
        global_count: number of global crops.
        targets: one per crop: [B] int64 classes, or [B, columns] float32 regression targets in the crop's axes.
        masks: one per global crop: [B, h, w] bool on the patch grid, True where masked; None without masking.
        partner: views of a second image of the same lens, where one exists, by the same random numbers.
    """

    crops: list[Tensor]
    to_source: list[Tensor]
    valid: list[Tensor]
    rows: Tensor
    global_count: int = 1
    targets: list[Tensor] | None = None
    masks: list[Tensor] | None = None
    partner: Views | None = None

    def __len__(self) -> int:
        """Return B."""
        return len(self.rows)

    def patch_valid(
        self, crop: int, grid: tuple[int, int], canvas: Callable[[Tensor], Tensor] = lambda images: images
    ) -> Tensor:
        """Return [B, h, w] bool: which patches of crop number `crop` are at least half valid, over all bands.

        Args:
            crop: its number.
            grid: (h, w) patches.
            canvas: resamples images to what the patches tile, see `Backbone.canvas`.
        """
        bands = canvas(self.valid[crop].sum(1, keepdim=True).float())
        return F.adaptive_avg_pool2d(bands, grid)[:, 0] >= self.valid[crop].shape[1] / 2

    def interleave_partner(self) -> Views:
        """Return views with every second crop taken from the partner, so that a method compares the two images."""
        if self.partner is None:
            return self
        mixed: dict[str, Any] = {}
        for name in ("crops", "to_source", "valid", "targets", "masks"):
            pair = getattr(self, name), getattr(self.partner, name)
            both = all(values is not None for values in pair)
            mixed[name] = [pair[i % 2][i] for i in range(len(pair[0]))] if both else None
        return Views(rows=self.rows, global_count=self.global_count, **mixed)


def transform_targets(values: Tensor, targets: tuple[Target, ...], to_source: Tensor) -> Tensor:
    """Express regression targets in the axes of a view.

    With A the orthogonal part of the crop→source map, a vector v becomes A⁻¹v; a spin-2 pair (e1, e2) is the
    symmetric traceless matrix E = [[e1, e2], [e2, −e1]] (arXiv:astro-ph/9912508) and becomes A⁻¹EA.

    Args:
        values: [B, columns] in the source's axes.
        targets: the kinds of the columns, in order.
        to_source: [B, 2, 3] the view's affine map.

    Returns:
        [B, columns] float32 in the crop's axes.
    """
    linear = to_source[:, :, :2].double()
    scale = torch.linalg.det(linear).abs().sqrt()[:, None, None]
    inverse = (linear / scale).transpose(1, 2)  # source → crop: the transpose of an orthogonal matrix
    columns = []
    for target, value in zip(targets, values.double().split([len(t.columns) for t in targets], 1), strict=True):
        if target.kind == "vector":
            value = (inverse @ value[:, :, None])[:, :, 0]
        elif target.kind == "spin2":
            e1, e2 = value.unbind(1)
            tensor = torch.stack([torch.stack([e1, e2], 1), torch.stack([e2, -e1], 1)], 1)
            value = (inverse @ tensor @ inverse.transpose(1, 2))[:, 0]
        columns.append(value)
    return torch.cat(columns, 1).float()
