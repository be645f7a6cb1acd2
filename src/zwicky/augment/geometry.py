"""Where each crop lies in its image, and one sampling pass that reads all crops of a size.

A view has a base window: a square of `crop` source pixels around the image's centre, shifted, rotated and perhaps
mirrored. The crop shows a sub-window of side crop·√s, anywhere inside the base window and aligned with its axes. So a
crop never leaves the image where the rotated base window does not.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from zwicky.augment.config import ViewsConfig

N_UNIFORMS = 7  # uniform numbers per crop: area, x, y, shift x, shift y, angle, flip
MAX_SPACING = 1.25  # source pixels between samples; where a crop pixel is wider, several are averaged
TINY_WEIGHT = 1e-3  # an invalid pixel that contributes less than this is rounding, not content


@dataclass(frozen=True)
class Geometry:
    """How crops of one size are cut; options as in `ViewsConfig`."""

    source: tuple[int, int]  # (H, W) of the images
    crop: int  # side of the base window in source pixels
    size: int  # side of the crop in its own pixels
    scale: tuple[float, float] = (1.0, 1.0)  # range of s
    rotation: str = "none"  # or "any" or "quarter"
    flip: bool = False
    shift: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether crop pixels coincide with source pixels, so that they are copied and nothing is interpolated."""
        return self.rotation != "any" and self.scale == (1.0, 1.0) and self.size == self.crop

    @cached_property
    def oversample(self) -> int:
        """k: each crop pixel is the mean of k × k bilinear samples, at most MAX_SPACING source pixels apart."""
        return max(1, math.ceil(self.crop * math.sqrt(self.scale[1]) / self.size / MAX_SPACING))

    @cached_property
    def center(self) -> tuple[float, float]:
        """(x, y) of the centred base window, at whole pixels: the smaller part of an odd margin comes first."""
        height, width = self.source
        return (width - self.crop) // 2 + (self.crop - 1) / 2, (height - self.crop) // 2 + (self.crop - 1) / 2

    @cached_property
    def reach(self) -> float:
        """Distance along its axes from the base window's centre to the outermost sample, in source pixels."""
        largest = self.crop * math.sqrt(self.scale[1]) / 2
        return max((self.crop - 1) / 2, largest * (1 - 1 / (self.size * self.oversample)))

    @property
    def rotates_freely(self) -> bool:
        """Whether the base window at any angle has all its samples inside the image."""
        return math.sqrt(2) * self.reach <= min(self.center)

    def draw(self, u: Tensor) -> Tensor:
        """Map uniform numbers [..., N_UNIFORMS] to `Views.to_source` maps [..., 2, 3], float64."""
        area, x, y, shift_x, shift_y, angle, flip = u.double().unbind(-1)
        low, high = self.scale
        zoom = self.crop * torch.sqrt(low + (high - low) * area) / self.size
        turns = {"any": 2 * math.pi * angle, "quarter": math.pi / 2 * torch.floor(4 * angle), "none": 0 * angle}
        angle = turns[self.rotation]
        cos, sin = torch.cos(angle), torch.sin(angle)
        mirror = torch.where(flip < 0.5, -1.0, 1.0).double() if self.flip else torch.ones_like(flip)
        # Position of the sub-window in the base window, along the base window's axes.
        slack = ((self.crop - 1) / 2 - zoom * (self.size - 1 / self.oversample) / 2).clamp(min=0)
        x, y = (2 * x - 1) * slack, (2 * y - 1) * slack
        spread = self.reach * (cos.abs() + sin.abs())
        center_x = self.center[0] + self._shift(shift_x, self.center[0] - spread) + cos * x - sin * y
        center_y = self.center[1] + self._shift(shift_y, self.center[1] - spread) + sin * x + cos * y
        linear = torch.stack([cos * mirror, -sin, sin * mirror, cos], -1).unflatten(-1, (2, 2)) * zoom[..., None, None]
        middle = torch.full((2, 1), (self.size - 1) / 2, dtype=torch.float64)
        return torch.cat([linear, torch.stack([center_x, center_y], -1)[..., None] - linear @ middle], -1)

    def _shift(self, u: Tensor, margin: Tensor) -> Tensor:
        """Map u to a shift within ± `shift` and the margin to the image's edge; whole pixels if the crop is exact."""
        limit = margin.clamp(min=0, max=self.shift)
        if self.exact:
            limit = torch.floor(limit + 1e-9)
            return torch.floor(u * (2 * limit + 1)).clamp(max=2 * limit) - limit
        return (2 * u - 1) * limit


def crop_geometries(config: ViewsConfig, source: tuple[int, int]) -> tuple[Geometry, Geometry]:
    """Return the geometries of global and local crops of images of (H, W) pixels, with auto and null resolved."""
    (low, high), (local_low, local_high) = config.global_scale, config.local_scale
    large = Geometry(source, *config.window(source), (low, high), config.rotation, config.flip, config.shift)
    if config.rotation == "auto":
        large = replace(large, rotation="any" if large.rotates_freely else "quarter")
    return large, replace(large, size=config.local_size, scale=(local_low, local_high))


def sample(
    images: Tensor, to_source: Tensor, geometry: Geometry, valid: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Read n crops of each image [B, C, H, W]: [n·B, C, size, size], crop-major, and which of their pixels are valid.

    Sampling is bilinear; where a crop pixel is wider than MAX_SPACING source pixels, it is the mean of several
    samples, which avoids aliasing. An exact geometry copies pixels instead. Pixels outside the image, and all that
    depend on an invalid one, are 0 and invalid. The maps `to_source` are [n, B, 2, 3]; `valid` has the shape of the
    images, which are 0 where invalid, and is None where all pixels are valid, as in the output.
    """
    n_crops, batch = to_source.shape[:2]
    size, k = geometry.size, geometry.oversample
    grid = _grid(to_source, geometry).to(images.device)
    # The n grids are stacked vertically, so that the images are not repeated n times.
    grid = grid.transpose(0, 1).reshape(batch, n_crops * size * k, size * k, 2)
    mode = "nearest" if geometry.exact else "bilinear"
    # A sample within half a pixel of the image's edge lies in the outermost pixel and takes its value.
    read = partial(F.grid_sample, grid=grid, mode=mode, padding_mode="border", align_corners=False)

    def crops(samples: Tensor) -> Tensor:
        samples = F.avg_pool2d(samples, k) if k > 1 else samples
        return samples.unflatten(2, (n_crops, size)).permute(2, 0, 1, 3, 4).flatten(0, 1)

    may_leave = geometry.rotation == "any" and not geometry.rotates_freely
    values = read(images)
    if valid is None and not may_leave:
        return crops(values), None
    invalid = read((~valid).float()) if valid is not None else torch.zeros_like(values)
    if may_leave:
        invalid.masked_fill_((grid.abs() > 1 + 1e-5).any(-1)[:, None], 1)
    usable = crops(invalid) < TINY_WEIGHT
    return crops(values).masked_fill_(~usable, 0), usable.expand(-1, images.shape[1], -1, -1)


def _grid(to_source: Tensor, geometry: Geometry) -> Tensor:
    """Map to_source [n, B, 2, 3] to grid_sample's units (image edges at ±1): [n, B, S, S, 2], S = size · oversample."""
    height, width = geometry.source
    half = torch.tensor([width, height], dtype=torch.float64) / 2
    side = geometry.size * geometry.oversample
    steps = (torch.arange(side, dtype=torch.float64) + 0.5) / geometry.oversample - 0.5  # in crop pixels
    matrix = to_source.double() / half[:, None]
    matrix[..., 2] += 0.5 / half - 1
    matrix, steps = matrix.float(), steps.float()
    along_x = matrix[..., 0:1] * steps + matrix[..., 2:3]  # [n, B, 2, S]
    along_y = matrix[..., 1:2] * steps
    return along_x.transpose(-1, -2)[..., None, :, :] + along_y.transpose(-1, -2)[..., :, None, :]
