"""`Views`, the crops a method is given, and how they are made of raw images.

Every crop of a size is cut in one batched pass, and every number is drawn per crop. Random numbers are drawn for the
global batch from (seed, step) and then sliced, so that two processes together get the views of one. The table of
numbers has the same shape whatever the options: turning blur off moves no crop.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor

from zwicky.augment import geometry, photometry
from zwicky.augment.config import ViewsConfig
from zwicky.augment.geometry import Geometry, crop_geometries, sample
from zwicky.augment.normalise import Normalisation, all_valid
from zwicky.augment.photometry import Photometry
from zwicky.errors import UserError
from zwicky.rng import torch_rng

N_BLOCKS = 10  # blocks tried per image before single patches complete the mask


@dataclass(frozen=True)
class Target:
    """A regression target and how it transforms when the image is rotated or mirrored.

    scalar: unchanged (theta_E). vector: columns (x, y) in the image's axes, e.g. an offset of two objects, which
    a shift of the window leaves unchanged (a position in the image needs `views.shift` 0). spin2: columns
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
    # Where a method needs them, targets of each crop: [B] int64, or [B, columns] float32 in the crop's axes; and masks
    # of each global crop: [B, h, w] bool on the patch grid, True where masked.
    targets: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        """Return B."""
        return len(self.rows)

    def mixed_with(self, other: "Views") -> Self:
        """Return views with every second crop from `other`, so that a method compares two images of the same lens."""
        mixed = replace(self)
        for name in ("crops", "to_source", "valid", "targets", "masks"):
            own, others = getattr(self, name), getattr(other, name)
            setattr(mixed, name, [pair[index % 2] for index, pair in enumerate(zip(own, others, strict=True))])
        return mixed


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
        aspect = photometry.log_uniform(u[:, 1], self.aspect)
        h = (area * aspect).sqrt().round().clamp(1, height)
        w = (area / aspect).sqrt().round().clamp(1, width)
        top, left = (u[:, 2] * (height - h + 1)).floor(), (u[:, 3] * (width - w + 1)).floor()
        y, x = torch.arange(height), torch.arange(width)
        rows = (y >= top[:, None]) & (y < (top + h)[:, None])
        columns = (x >= left[:, None]) & (x < (left + w)[:, None])
        return rows[:, :, None] & columns[:, None, :] & (n_left > 0)[:, None, None]


@dataclass(frozen=True)
class ViewsNeeded:
    """Which crops a method needs of each image."""

    global_crops: int
    local_crops: bool = False  # whether it uses local crops as well
    targets: bool = False  # whether it needs labels
    masking: Masking | None = None  # of the global crops
    preview: int = 0  # number of images that `Method.prepare` receives before the first step


@dataclass
class Augment:
    """Augmentation of batches, without state; raises UserError if the options do not fit the images."""

    config: ViewsConfig
    normalisation: Normalisation  # fitted to the training rows
    source_size: tuple[int, int]  # (H, W) of the images
    bands: tuple[str, ...]
    needs: ViewsNeeded  # the crops that are cut; of local ones as many as `config` has
    targets: tuple[Target, ...] = ()  # of a regression, in the order of their columns; none for classes

    def __post_init__(self) -> None:
        config = self.config
        self.n_local = config.local_crops if self.needs.local_crops else 0
        config.validate(self.source_size, self.bands, self.n_local, self.targets)
        bands, fitted = ", ".join(self.bands), ", ".join(self.normalisation.bands)
        if bands != fitted:
            raise UserError(f"the images have the bands {bands}, not {fitted}; use data with the same bands in order")
        self.global_geometry, self.local_geometry = crop_geometries(config, self.source_size)
        self.extinction = photometry.extinction(self.bands) if config.reddening > 0 else None

    def __call__(
        self,
        images: Tensor,
        rows: Tensor,
        *,
        seed: int,
        step: int,
        part: slice | None = None,
        global_batch: int | None = None,
        targets: Tensor | None = None,
    ) -> Views:
        """Make the views of one step of raw images [B, bands, H, W] of any type, on any device, and their rows [B].

        These are `part` of a global batch of `global_batch` images (by default all of it). `targets` are [B] int64
        classes, or [B, columns] float regression targets in the images' axes. UserError if the images have another
        size.
        """
        size = list(images.shape[2:])
        if size != list(self.source_size):
            raise UserError(f"the images are {size} pixels, not {list(self.source_size)}; use images of one size")
        total, n_global = len(images) if global_batch is None else global_batch, self.needs.global_crops
        batch = range(total)[part or slice(None)]
        # The second generator makes pixel noise on the images' device.
        numbers, pixels = torch_rng(seed, step), torch_rng(seed, step, 1, device=images.device)
        n_uniforms = geometry.N_UNIFORMS + photometry.N_UNIFORMS
        u = torch.rand(total, n_global + self.n_local, n_uniforms, generator=numbers)
        scaled, source_valid = self.normalisation.linear(images)
        views = Views([], [], [], rows, n_global)
        of_global, of_local = u.tensor_split([n_global], 1)
        groups = [(self.global_geometry, of_global), (self.local_geometry, of_local)]
        for cut, crop_numbers in groups[: 2 if self.n_local else 1]:
            placing, flux = crop_numbers.tensor_split([geometry.N_UNIFORMS], -1)
            maps = cut.draw(placing[batch.start : batch.stop]).transpose(0, 1).contiguous()  # [n, B, 2, 3]
            crops, valid = sample(scaled, maps, cut, source_valid)
            crops, valid = self._photometry(crops, valid, flux, batch, maps, pixels)
            views.crops += crops.chunk(len(maps))
            views.valid += (all_valid(crops) if valid is None else valid).chunk(len(maps))
            views.to_source += maps.float().to(images.device).unbind(0)
        if self.needs.masking is not None:
            masks = self.needs.masking.draw(total * n_global, numbers).unflatten(0, (n_global, total))
            views.masks = [mask[batch.start : batch.stop].to(images.device) for mask in masks]
        if targets is not None:
            views.targets = [
                transform_targets(targets, self.targets, view) if self.targets else targets for view in views.to_source
            ]
        return views

    def _photometry(
        self, crops: Tensor, valid: Tensor | None, u: Tensor, batch: range, maps: Tensor, pixels: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Augment and stretch linear crops [n·B, C, h, w]; `u` is [global batch, n, N_UNIFORMS]."""
        config, device = self.config, crops.device
        drawn = Photometry.draw(u, config, len(self.bands))

        def local(values: Tensor) -> Tensor:  # [global batch, n] → [n·B], as the crops are ordered
            return values[batch.start : batch.stop].transpose(0, 1).flatten()

        if config.brightness or config.contrast:
            factors = (local(drawn.brightness).to(device), local(drawn.contrast).to(device))
            crops = photometry.brightness_contrast(crops, *factors, valid)
        if self.extinction is not None:
            crops = photometry.redden_(crops, self.extinction.to(device), local(drawn.reddening).to(device))
        sigma = local(drawn.blur_sigma)
        blurred = sigma.nonzero()[:, 0]
        if len(blurred):
            zoom = maps[..., 0].norm(dim=-1).flatten().float()  # source pixels per crop pixel
            index = blurred.to(device)
            widths = (sigma / zoom)[blurred].to(device)
            crops[index] = photometry.widen_psf(crops[index], widths, None if valid is None else valid[index])
        crops = self.normalisation.stretch_(crops)
        fires = drawn.noise_sigma > 0  # [global batch, n]
        if fires.any():
            # Noise for all noisy crops of the global batch, of which these rows' share is used.
            noise = torch.randn(int(fires.sum()), *crops.shape[1:], generator=pixels, device=device)
            first = int(fires[: batch.start].sum())
            image, crop = fires[batch.start : batch.stop].nonzero().unbind(1)
            level = drawn.noise_sigma[batch.start : batch.stop][image, crop].to(device)
            noise = noise[first : first + len(image)].mul_(level[:, None, None, None])
            crops[(crop * len(batch) + image).to(device)] += noise
        if config.band_dropout:
            # A dropped band looks as a missing one does: 0 and invalid.
            kept = torch.arange(crops.shape[1], device=device) != local(drawn.dropped_band).to(device)[:, None]
            kept = kept[:, :, None, None].expand_as(crops)
            valid = kept if valid is None else valid & kept
        return (crops if valid is None else crops.masked_fill_(~valid, 0)), valid


def eval_views(images: Tensor, config: ViewsConfig, normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    """Cut the centred window of raw images [B, bands, H, W]: normalised crops [B, bands, h, w] and `valid` (bool)."""
    source = (images.shape[2], images.shape[3])
    config.validate(source, normalisation.bands)
    window = Geometry(source, *config.window(source))
    scaled, valid = normalisation.linear(images)
    middle = window.draw(torch.full((1, 1, geometry.N_UNIFORMS), 0.5)).expand(1, len(images), 2, 3)
    crops, valid = sample(scaled, middle, window, valid)
    crops = normalisation.stretch_(crops)
    return crops, all_valid(crops) if valid is None else valid
