"""A transformer on polar coordinates about the centre of the window: a lens is a ring about a centre.

The image is resampled to (radius, angle), passes a convolutional stem that is circular in angle, and attends over the
grid of (radius, angle) patches. A quarter turn shifts that grid by a whole number of patches and a reflection reverses
it; with mirror-symmetric kernels both leave the pooled features unchanged, and other angles do so up to interpolation.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from zwicky.augment.views import Target
from zwicky.backbones.attention import check_heads
from zwicky.backbones.base import Backbone, Features
from zwicky.backbones.heads import PixelDecoder, init_linear
from zwicky.backbones.patches import conv_stem, hide_patches, mask_tokens
from zwicky.backbones.transformer import VisibleEncoder
from zwicky.errors import UserError

Spacing = Literal["linear", "log"]
Centre = Literal["frame", "brightest", "centroid"]
OVERSAMPLING = 2  # samples per polar pixel and axis, which are averaged


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def polar_points(n_radii: int, n_angles: int, spacing: str) -> Tensor:
    """Return the sampling points in the unit disc, [n_radii, n_angles, 2] float64 (x, y).

    Radii are midpoints of `n_radii` intervals of [0, 1], of equal length (linear) or growing by a constant factor from
    0.05 on (log); angles are midpoints of `n_angles` intervals. The points are exactly symmetric under D4.
    """
    middle = (np.arange(n_radii) + 0.5) / n_radii
    radius = middle if spacing == "linear" else 0.05 * (np.exp(middle * math.log(21.0)) - 1)
    quarter = n_angles // 4
    sine = np.sin(2 * np.pi * (np.arange(quarter) + 0.5) / n_angles)
    x, y = sine[::-1], sine  # cos θ = sin(π/2 − θ), to the last bit
    x, y = np.concatenate([x, -y, -x, y]), np.concatenate([y, x, -y, -x])
    return torch.from_numpy(radius[:, None, None] * np.stack([x, y], -1))


def sample_polar(images: Tensor, points: Tensor, centre: Tensor, radius: float) -> Tensor:
    """Sample images bilinearly at points about a centre; outside the image they are 0.

    Args:
        images: [B, bands, H, W].
        points: [R, A, 2] (x, y) in units of `radius`.
        centre: [B, 2] or [1, 2] float64 (x, y) in pixels, (0, 0) being the centre of the first.
        radius: in pixels.

    Returns:
        [B, bands, R, A].
    """
    batch, bands, height, width = images.shape
    place = points.flatten(0, 1).to(images.device) * radius + centre[:, None].to(images.device)  # [B or 1, P, 2]
    corner = place.floor()
    fraction, corner = (place - corner).to(images.dtype), corner.long()
    flat, result = images.flatten(2), images.new_zeros(())
    for dx, dy in product((0, 1), repeat=2):
        x, y = corner[..., 0] + dx, corner[..., 1] + dy
        u, v = (fraction[..., axis] if step else 1 - fraction[..., axis] for axis, step in enumerate((dx, dy)))
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).expand(batch, -1)
        values = flat.gather(2, index[:, None].expand(-1, bands, -1)) if len(place) > 1 else flat[:, :, index[0]]
        result = result + values * (u * v * inside)[:, None]
    return result.unflatten(2, points.shape[:2])


def find_centre(images: Tensor, how: str) -> Tensor:
    """Return the centre of each image, [B, 2] (or [1, 2]) float64 (x, y) in pixels.

    frame: the middle of the image. brightest: its brightest pixel after two 3 × 3 means, in the inner half. centroid:
    that of the positive flux there.
    """
    height, width = images.shape[2:]
    middle = torch.tensor([[(width - 1) / 2, (height - 1) / 2]], dtype=torch.float64, device=images.device)
    if how == "frame":
        return middle
    flux = images.mean(1, keepdim=True)
    for _ in range(2 if how == "brightest" else 0):
        flux = F.avg_pool2d(flux, 3, 1, 1, count_include_pad=False)
    flux = flux[:, 0].double()
    y, x = (torch.arange(n, dtype=torch.float64, device=images.device) for n in (height, width))
    inner = ((y - middle[0, 1]).abs() <= height / 4)[:, None] & ((x - middle[0, 0]).abs() <= width / 4)
    if how == "brightest":
        top = flux.masked_fill(~inner, -math.inf).amax((1, 2), keepdim=True)
        flux = (flux >= top - 1e-6 * top.abs()).double()  # of equally bright pixels their mean, whatever the rotation
    flux = flux.clamp(min=0) * inner
    total = flux.sum((1, 2)).clamp(min=1e-12)
    centroid = torch.stack([(flux.sum(1) * x).sum(1), (flux.sum(2) * y).sum(1)], 1) / total[:, None]
    return torch.where((flux.sum((1, 2)) > 0)[:, None], centroid, middle)


class PolarConv2d(nn.Conv2d):
    """A convolution over (radius, angle): zero padding in radius, circular in angle.

    `mirror` ties the kernel to its reflection in angle, which makes the layer equivariant under reflections; with an
    even stride the kernel must be even in angle for that.
    """

    def __init__(self, channels: int, width: int, kernel: tuple[int, int], *, mirror: bool, **options: Any) -> None:
        super().__init__(channels, width, kernel, bias=False, **options)
        self.mirror = mirror
        overlap = kernel[1] - self.stride[1]
        self.margin = overlap // 2, overlap - overlap // 2

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve [B, channels, R, A]."""
        weight = (self.weight + self.weight.flip(3)) / 2 if self.mirror else self.weight
        padded = F.pad(maps, (*self.margin, 0, 0), mode="circular")
        return F.conv2d(padded, weight, None, self.stride, (self.kernel_size[0] // 2, 0), 1, self.groups)


class PolarTargetHead(nn.Module):
    """Regression targets that transform with the image.

    Each patch token at angle θ contributes s(token)·(cos θ, sin θ) to a vector and s(token)·(cos 2θ, sin 2θ) to a
    spin-2 pair, with s linear; a scalar is linear in the pooled features. With four angles cos 2θ is 0 at all of them.
    """

    uses_patch_tokens = True

    def __init__(self, dim: int, targets: Sequence[Target]) -> None:
        super().__init__()
        self.kinds = [target.kind for target in targets]
        self.scalars = nn.ModuleList(nn.Linear(dim, 1) for _ in targets).apply(init_linear)

    def forward(self, features: Features) -> Tensor:
        """Predict [B, columns]; UserError if there are too few angles for a spin-2 target."""
        n_angles = features.patch_tokens.shape[2]
        if n_angles == 4 and "spin2" in self.kinds:
            raise UserError("backbone: four patches in angle cannot tell the axes of a spin2 target; double `angles`")
        angle = 2 * torch.pi * (torch.arange(n_angles, device=features.pooled.device) + 0.5) / n_angles
        columns = []
        for kind, linear in zip(self.kinds, self.scalars, strict=True):
            if kind == "scalar":
                columns.append(linear(features.pooled))
                continue
            turns = angle * {"vector": 1, "spin2": 2}[kind]
            weight = linear(features.patch_tokens)[..., 0].mean(1)  # [B, angles]
            columns.append(weight @ torch.stack([turns.cos(), turns.sin()], 1).to(weight.dtype) / n_angles)
        return torch.cat(columns, 1)


class PolarBackbone(Backbone):
    """A network over (radius, angle) patches: resampling, stem, positions in radius, heads and decoder.

    The grid is the same for images of any size.

    Args:
        bands: channels of the images.
        width: of the tokens after the stem.
        dim: D, of the patch tokens.
        halvings: how often the network halves the grid after the stem.
        radii: polar pixels in radius.
        angles: polar pixels in angle; a multiple of 4 times the stem's stride in angle.
        radius: largest radius in units of half the side of the image.
        spacing: of the radii, linear or log.
        centre: frame, brightest or centroid; see `find_centre`.
        stem: channels of the stem's convolutions; each but the last halves both axes, the last the angle alone.
        mirror: tie the kernels to their mirror images, which makes the network exactly invariant under reflections.
    """

    invariant = circular = True
    target_head = PolarTargetHead

    def __init__(
        self,
        *,
        bands: int,
        width: int,
        dim: int,
        halvings: int = 0,
        radii: int = 24,
        angles: int = 64,
        radius: float = 1.0,
        spacing: Spacing = "linear",
        centre: Centre = "frame",
        stem: Sequence[int] = (32, 64, 96),
        mirror: bool = True,
    ) -> None:
        super().__init__()
        strides = [(2, 2)] * (len(stem) - 1) + [(1, 2)]
        self.patch = 2 ** (len(stem) - 1 + halvings), 2 ** (len(stem) + halvings)
        if radii % self.patch[0] or angles % (4 * self.patch[1]) or not radii or not angles:
            raise UserError(
                f"backbone: {radii} radii and {angles} angles do not suit a stem of {len(stem)} convolutions; take "
                f"multiples of {self.patch[0]} and {4 * self.patch[1]}"
            )
        for option, value, kind in (("spacing", spacing, Spacing), ("centre", centre, Centre)):
            if value not in (choices := get_args(kind)):
                raise UserError(f"backbone: {option} is {value!r}; choose one of {', '.join(choices)}")
        self.dim, self.radii, self.angles = dim, radii, angles
        self.radius, self.spacing, self.centre, self.invariant = radius, spacing, centre, mirror
        self.net = nn.Module()
        sizes = zip((bands, *stem), stem, strides, strict=False)
        self.net.stem = conv_stem([PolarConv2d(a, b, (3, 4), mirror=mirror, stride=s) for a, b, s in sizes], width)
        self.net.pos_embed = nn.Parameter(torch.zeros(radii // self.patch[0] << halvings, 1, width))
        nn.init.trunc_normal_(self.net.pos_embed, std=0.02)
        self.mask_token = nn.Parameter(torch.zeros(width))

    def grid(self, size: int) -> tuple[int, int]:
        """Return (radius, angle) of the patch grid, the same for images of any size."""
        if size < 4:
            raise UserError(f"backbone: images of {size} px are too small for polar coordinates; take 4 px or more")
        return self.radii // self.patch[0], self.angles // self.patch[1]

    def canvas(self, images: Tensor, like: Tensor | None = None) -> Tensor:
        """Resample images [B, bands, H, W] to [B, bands, radii, angles], about the centre of `like` if it is given."""
        points = polar_points(OVERSAMPLING * self.radii, OVERSAMPLING * self.angles, self.spacing)
        radius = self.radius * min(images.shape[2:]) / 2
        with torch.autocast(images.device.type, enabled=False):
            centre = find_centre((images if like is None else like).float(), self.centre)
            fine = sample_polar(images.float(), points, centre, radius)
            return F.avg_pool2d(fine, OVERSAMPLING)

    def patch_centres(self, size: int) -> Tensor:
        """Return the centres of the patches about the middle of the image; see `Backbone.patch_centres`."""
        points = polar_points(*self.grid(size), self.spacing)
        return points * self.radius * size / 2 + (size - 1) / 2

    def patch_at(self, points: Tensor, size: int) -> Tensor:
        """Return the indices of patches about the middle of the image; see `Backbone.patch_at`."""
        n_radii, n_angles = self.grid(size)
        x, y = ((points - (size - 1) / 2) / (self.radius * size / 2)).unbind(-1)
        radius = torch.hypot(x, y)
        if self.spacing == "log":
            radius = torch.log1p(radius / 0.05) / math.log(21.0)
        row, column = torch.floor(radius * n_radii), torch.floor(torch.atan2(y, x) / (2 * math.pi) % 1 * n_angles)
        return torch.where(radius < 1, row * n_angles + column.clamp(max=n_angles - 1), -1.0).long()

    def pixel_decoder(self) -> nn.Module:
        """Return a new decoder of polar pixels."""
        return PixelDecoder(self.dim, self.config["bands"], self.patch)

    def _stem(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Return the tokens after the stem, [B, h, w, width], with positions in radius; see `Backbone.forward`."""
        tokens = self.net.stem(hide_patches(self.canvas(images), mask)).permute(0, 2, 3, 1)
        return mask_tokens(tokens, mask, self.mask_token) + self.net.pos_embed


class PolarViT(PolarBackbone, VisibleEncoder):
    """A transformer over (radius, angle) patches. Pooled features are the mean of the normed patch tokens.

    Positions are known in radius by a learned embedding and relative in angle by a depth-wise convolution
    (arXiv:2102.10882) that is circular in angle. Options as in `backbones.create`, and those of `PolarBackbone`.
    """

    def __init__(
        self,
        *,
        bands: int,
        image_size: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 2,
        drop_path: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(bands=bands, width=width, dim=width, **options)
        check_heads(width, heads)
        self.net.pos_conv = PolarConv2d(width, width, (3, 3), mirror=self.invariant, groups=width)
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.net.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True, drop_path=rate) for rate in rates)
        self.net.norm = nn.LayerNorm(width, eps=1e-6)

    def _embed(self, images: Tensor, mask: Tensor | None) -> Tensor:
        tokens = self._stem(images, mask)
        return (tokens + self.net.pos_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)).flatten(1, 2)
