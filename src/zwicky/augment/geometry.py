"""Windows onto images: where each crop looks, and one sampling pass that reads all crops of a size.

A view stands on a base window: a square of `crop` source pixels around the image's centre, moved by a shift,
turned and perhaps mirrored. The crop shows a sub-window of it of side crop·√s, anywhere inside it, upright in the
base window's own axes. So a crop never leaves the image where the turned base window does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

DRAWS = 7  # uniform numbers a view takes: area, x, y, shift x, shift y, angle, flip
MAX_SPACING = 1.25  # source pixels between samples; wider than that, several are averaged
TINY_WEIGHT = 1e-3  # an invalid pixel that contributes less than this is rounding, not content


@dataclass(frozen=True)
class Geometry:
    """How crops of one size are cut.

    source: (H, W) of the images. crop: side of the base window, source pixels. size: side of the crop in its own
    pixels. scale: range of the share s of the base window's area. rotation: "any", "quarter" or "none".
    flip: mirror half of them. shift: largest shift on each axis, source pixels; reduced to the room there is.
    """

    source: tuple[int, int]
    crop: int
    size: int
    scale: tuple[float, float] = (1.0, 1.0)
    rotation: str = "none"
    flip: bool = False
    shift: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether crop pixels fall onto source pixels, so that they are copied and nothing is interpolated."""
        return self.rotation != "any" and self.scale == (1.0, 1.0) and self.size == self.crop

    @cached_property
    def oversample(self) -> int:
        """k: each crop pixel is the mean of k × k bilinear samples, at most MAX_SPACING source pixels apart."""
        spacing = self.crop * math.sqrt(self.scale[1]) / self.size
        return max(1, math.ceil(spacing / MAX_SPACING))

    @cached_property
    def center(self) -> tuple[float, float]:
        """(x, y) of the centred base window: on whole pixels, the half pixel of an odd margin given to the far side."""
        height, width = self.source
        return (width - self.crop) // 2 + (self.crop - 1) / 2, (height - self.crop) // 2 + (self.crop - 1) / 2

    @cached_property
    def reach(self) -> float:
        """Distance along its axes from the base window's centre to the outermost sample."""
        largest = self.crop * math.sqrt(self.scale[1]) / 2
        return max((self.crop - 1) / 2, largest * (1 - 1 / (self.size * self.oversample)))

    @property
    def turns_freely(self) -> bool:
        """Whether the base window can stand at any angle without a sample outside the image."""
        return math.sqrt(2) * self.reach <= min(self.center)

    def draw(self, u: Tensor) -> Tensor:
        """Uniform numbers [..., DRAWS] → `to_source` [..., 2, 3] float64, the pixel convention of `Views`."""
        area, x, y, shift_x, shift_y, angle, flip = u.double().unbind(-1)
        low, high = self.scale
        zoom = self.crop * torch.sqrt(low + (high - low) * area) / self.size
        angle = self._angle(angle)
        cos, sin = torch.cos(angle), torch.sin(angle)
        mirror = torch.where(flip < 0.5, -1.0, 1.0).double() if self.flip else torch.ones_like(flip)
        # Where the sub-window sits in the base window, in the base window's axes.
        slack = ((self.crop - 1) / 2 - zoom * (self.size - 1 / self.oversample) / 2).clamp(min=0)
        x, y = (2 * x - 1) * slack, (2 * y - 1) * slack
        spread = self.reach * (cos.abs() + sin.abs())
        center_x = self.center[0] + self._shift(shift_x, self.center[0] - spread) + cos * x - sin * y
        center_y = self.center[1] + self._shift(shift_y, self.center[1] - spread) + sin * x + cos * y
        linear = torch.stack([torch.stack([cos * mirror, -sin], -1), torch.stack([sin * mirror, cos], -1)], -2)
        linear = linear * zoom[..., None, None]
        middle = torch.full((2,), (self.size - 1) / 2, dtype=torch.float64)
        offset = torch.stack([center_x, center_y], -1) - linear @ middle
        return torch.cat([linear, offset[..., None]], -1)

    def _angle(self, u: Tensor) -> Tensor:
        if self.rotation == "any":
            return 2 * math.pi * u
        if self.rotation == "quarter":
            return math.pi / 2 * torch.floor(4 * u)
        return torch.zeros_like(u)

    def _shift(self, u: Tensor, room: Tensor) -> Tensor:
        """Uniform shift within ± shift, less where the room is less; whole pixels where the crop is exact."""
        limit = room.clamp(min=0, max=self.shift)
        if self.exact:
            limit = torch.floor(limit + 1e-9)
            return torch.floor(u * (2 * limit + 1)).clamp(max=2 * limit) - limit
        return (2 * u - 1) * limit


def sample(
    images: Tensor, to_source: Tensor, geometry: Geometry, valid: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Read n crops of each image: images [B, C, H, W], to_source [n, B, 2, 3] → crops [n·B, C, size, size], crop-major.

    Bilinear; where a crop pixel is wider than MAX_SPACING source pixels, the mean of several samples, so that nothing
    aliases. An exact geometry copies pixels instead. Outside the image is 0. Returned beside: which crop pixels
    have nothing but valid pixels under them [n·B, C, size, size] bool, or None where all do; give `valid`
    [B, C, H, W] only where some are not.
    """
    count, batch = to_source.shape[:2]
    channels, size, k = images.shape[1], geometry.size, geometry.oversample
    grid = _grid(to_source, geometry).to(images.device)
    # The n grids stand one below the other, so that the images are not repeated n times.
    grid = grid.transpose(0, 1).reshape(batch, count * size * k, size * k, 2)

    def read(source: Tensor) -> Tensor:
        mode = "nearest" if geometry.exact else "bilinear"
        # A sample within half a pixel of the image's edge lies in the outermost pixel and takes its value.
        return F.grid_sample(source, grid, mode=mode, padding_mode="border", align_corners=False)

    def crops(samples: Tensor) -> Tensor:
        samples = F.avg_pool2d(samples, k) if k > 1 else samples
        samples = samples.view(batch, samples.shape[1], count, size, size)
        return samples.permute(2, 0, 1, 3, 4).reshape(count * batch, -1, size, size)

    may_leave = geometry.rotation == "any" and not geometry.turns_freely
    values = read(images)
    if valid is None and not may_leave:
        return crops(values), None
    invalid = read((~valid).float()) if valid is not None else torch.zeros_like(values)
    if may_leave:
        outside = (grid.abs() > 1 + 1e-5).any(-1)[:, None]
        invalid.masked_fill_(outside, 1)
    usable = crops(invalid) < TINY_WEIGHT
    return crops(values).masked_fill_(~usable, 0), usable.expand(-1, channels, -1, -1)


def _grid(to_source: Tensor, geometry: Geometry) -> Tensor:
    """to_source [n, B, 2, 3] → [n, B, S, S, 2] in grid_sample's units (image edges at ±1), S = size · oversample."""
    height, width = geometry.source
    half = torch.tensor([width, height], dtype=torch.float64) / 2
    side = geometry.size * geometry.oversample
    # Crop pixels at `size` + oversampled positions: the centre of each of the `side` equal cells.
    steps = (torch.arange(side, dtype=torch.float64) + 0.5) / geometry.oversample - 0.5
    matrix = to_source.double() / half[:, None]
    matrix[..., 2] += 0.5 / half - 1
    matrix, steps = matrix.float(), steps.float()
    along_x = matrix[..., 0:1] * steps + matrix[..., 2:3]  # [n, B, 2, S]
    along_y = matrix[..., 1:2] * steps
    return along_x.transpose(-1, -2)[..., None, :, :] + along_y.transpose(-1, -2)[..., :, None, :]
