"""What augmentation gives a method: `Views`; and how a target turns with its image: `Targets`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """A regression target and how it transforms when the image is turned or mirrored.

    scalar: unchanged (theta_E). vector: columns (x, y) in the image's axes, e.g. an offset. spin2: columns
    (1, 2) of an ellipticity or shear, which turn by twice the angle.
    """

    columns: tuple[str, ...]
    kind: Literal["scalar", "vector", "spin2"] = "scalar"


@dataclass
class Views:
    """Several crops of each of B images.

    crops: each [B, bands, h, w] float32, normalised, 0 where invalid; global crops come first.
    to_source: each [B, 2, 3], the affine map from (x, y, 1) in crop pixels to (x, y) in source pixels; pixel
        centres are at whole numbers, (0, 0) is the centre of the first pixel, x runs along the last axis.
    valid: each [B, bands, h, w] bool, False where any pixel that contributed was not valid, and in a band that
        band dropout blanked. May be an expanded True: do not write into it.
    rows: [B] int64 row numbers of the images in their `Cutouts`.
    targets: one per crop: [B] int64 classes, or [B, columns] float32 regression targets turned with the crop.
    global_count: how many of the crops are global.
    masks: one per global crop: [B, h, w] bool on the grid of regions, True where hidden; for methods that ask for them.
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
        return len(self.rows)

    def paired(self) -> Views:
        """With the partner's crops at every second place, so that methods compare the two; itself without one."""
        other = self.partner
        if other is None:
            return self
        return Views(
            _alternating(self.crops, other.crops),
            _alternating(self.to_source, other.to_source),
            _alternating(self.valid, other.valid),
            self.rows,
            self.global_count,
            None if self.targets is None or other.targets is None else _alternating(self.targets, other.targets),
            None if self.masks is None or other.masks is None else _alternating(self.masks, other.masks),
        )


def _alternating(own: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    return [(own, other)[place % 2][place] for place in range(len(own))]


def transform_targets(values: Tensor, kinds: tuple[Target, ...], to_source: Tensor) -> Tensor:
    """Turn regression targets [B, columns] with the view whose map is `to_source` [B, 2, 3].

    With A the orthogonal part of the crop→source map, a vector becomes A⁻¹v; a spin-2 pair (e1, e2) is the
    symmetric traceless matrix E and becomes A⁻¹ E A.
    """
    linear = to_source[:, :, :2].double()
    scale = torch.linalg.det(linear).abs().sqrt()[:, None, None]
    turn = (linear / scale).transpose(1, 2)  # orthogonal, so the transpose is the inverse: source → crop
    columns, start = [], 0
    for target in kinds:
        width = len(target.columns)
        value = values[:, start : start + width].double()
        start += width
        if target.kind == "vector":
            value = (turn @ value[:, :, None])[:, :, 0]
        elif target.kind == "spin2":
            e1, e2 = value.unbind(1)
            tensor = torch.stack([torch.stack([e1, e2], 1), torch.stack([e2, -e1], 1)], 1)
            tensor = turn @ tensor @ turn.transpose(1, 2)
            value = torch.stack([tensor[:, 0, 0], tensor[:, 0, 1]], 1)
        columns.append(value)
    return torch.cat(columns, 1).float()
