"""`Views`, the crops a method is given, their masks, and how regression targets transform with their image."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

N_BLOCKS = 10  # blocks tried per image before single patches complete the mask


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
    """Several crops of each of B images; the global crops come first.

    `to_source` maps (x, y, 1) in crop pixels to (x, y) in source pixels; pixel centres are at integers, (0, 0) is the
    centre of the first pixel, x runs along the last axis. `valid` is False where any contributing pixel was invalid,
    and in a band blanked by band dropout; it may be an expanded True: do not write into it.
    """

    crops: list[Tensor]  # each [B, bands, h, w] float32, normalised, 0 where invalid
    to_source: list[Tensor]  # each [B, 2, 3]
    valid: list[Tensor]  # each [B, bands, h, w] bool
    rows: Tensor  # [B] int64 row numbers of the images in their `Cutouts`
    global_count: int = 1
    targets: list[Tensor] | None = None  # one per crop: [B] int64, or [B, columns] float32 in the crop's axes
    masks: list[Tensor] | None = None  # one per global crop: [B, h, w] bool on the patch grid, True where masked
    partner: "Views | None" = None  # of a second image of the same lens, if any, by the same random numbers

    def __len__(self) -> int:
        """Return B."""
        return len(self.rows)

    def patch_valid(
        self, crop: int, grid: tuple[int, int], canvas: Callable[[Tensor], Tensor] = lambda images: images
    ) -> Tensor:
        """Return which patches [B, h, w] of crop number `crop` are at least half valid; see `Backbone.canvas`."""
        bands = canvas(self.valid[crop].sum(1, keepdim=True).float())
        return F.adaptive_avg_pool2d(bands, grid)[:, 0] >= self.valid[crop].shape[1] / 2

    def interleave_partner(self) -> Self:
        """Return views with every second crop taken from the partner, so that a method compares the two images."""
        if self.partner is None:
            return self
        own, other = vars(self), vars(self.partner)
        names = [name for name in ("crops", "to_source", "valid", "targets", "masks") if own[name] is not None]
        mixed: dict[str, Any] = {name: list(own[name]) for name in names}
        for name, values in mixed.items():
            values[1::2] = other[name][1::2]
        return replace(self, partner=None, **mixed)


def transform_targets(values: Tensor, targets: tuple[Target, ...], to_source: Tensor) -> Tensor:
    """Return regression targets [B, columns] float32 in the axes of a view.

    With A the orthogonal part of the crop→source map, a vector v becomes A⁻¹v; a spin-2 pair (e1, e2) is the
    symmetric traceless matrix E = [[e1, e2], [e2, −e1]] (arXiv:astro-ph/9912508) and becomes A⁻¹EA. Values are
    [B, columns], `targets` their kinds in order, `to_source` is the view's map, [B, 2, 3].
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


@dataclass(frozen=True)
class Masking:
    """Random masks on the patch grid: single patches (arXiv:2111.09886) or blocks (Algorithm 1 of arXiv:2106.08254)."""

    grid: tuple[int, int]  # (h, w) patches
    ratio: tuple[float, float]  # range of the masked fraction of an image's patches, uniform
    probability: float = 1.0  # fraction of the images that are masked at all
    blocks: bool = False  # mask rectangles rather than single patches
    aspect: tuple[float, float] = (0.3, 1 / 0.3)  # range of height over width of a rectangle, log-uniform

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return masks [count, h, w]; each image draws a ratio s and masks round(s · h · w) patches, or none."""
        height, width = self.grid
        u = torch.rand(count, 2, generator=generator)
        # In float64: float32 turns a fraction of exactly half a patch into more than half of one.
        ratio = self.ratio[0] + (self.ratio[1] - self.ratio[0]) * u[:, 0].double()
        n_masked = (ratio * height * width).round().long() * (u[:, 1] < self.probability)
        mask = torch.zeros(count, height, width, dtype=torch.bool)
        for _ in range(N_BLOCKS if self.blocks else 0):
            block = self._block(n_masked - mask.sum((1, 2)), torch.rand(count, 4, generator=generator))
            fits = (mask | block).sum((1, 2)) <= n_masked
            mask |= block & fits[:, None, None]
        # The patches still missing are those with the lowest random numbers among the visible ones.
        order = torch.rand(count, height * width, generator=generator).masked_fill_(mask.flatten(1), -1).argsort(1)
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(height * width).expand_as(order))
        return (rank < n_masked[:, None]).unflatten(1, (height, width))

    def _block(self, n_left: Tensor, u: Tensor) -> Tensor:
        """Draw one rectangle per image of at most about `n_left` [count] patches, as a mask [count, h, w]."""
        height, width = self.grid
        smallest = max((min(height, width) // 3) ** 2, 1)  # as in iBOT's code, and BEiT's on its 14 × 14 patches
        area = (smallest + u[:, 0] * (n_left - smallest)).clamp(min=1)
        low, high = (math.log(value) for value in self.aspect)
        aspect = torch.exp(low + (high - low) * u[:, 1])
        h = (area * aspect).sqrt().round().clamp(1, height)
        w = (area / aspect).sqrt().round().clamp(1, width)
        top, left = (u[:, 2] * (height - h + 1)).floor(), (u[:, 3] * (width - w + 1)).floor()
        y, x = torch.arange(height), torch.arange(width)
        rows = (y >= top[:, None]) & (y < (top + h)[:, None])
        columns = (x >= left[:, None]) & (x < (left + w)[:, None])
        return rows[:, :, None] & columns[:, None, :] & (n_left > 0)[:, None, None]
