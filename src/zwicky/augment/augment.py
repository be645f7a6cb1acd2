"""From raw images to `Views`: every crop of a size in one batched pass, every number drawn per crop.

Random numbers are drawn for the global batch from (seed, step) and then sliced, so that two processes together see
what one would. The table of numbers has the same shape whatever is switched on: turning blur off moves no crop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zwicky.augment import photometry
from zwicky.augment.check import check
from zwicky.augment.config import ViewsConfig
from zwicky.augment.geometry import DRAWS, Geometry, sample
from zwicky.augment.masking import Masking
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Target, Views, transform_targets
from zwicky.errors import UserError
from zwicky.rng import torch_rng


def geometries(config: ViewsConfig, source: tuple[int, int]) -> tuple[Geometry, Geometry]:
    """How global and local crops are cut from images of (H, W) pixels, with every auto and null resolved."""
    crop = config.crop or min(source)
    size = config.image_size or crop

    def both(rotation: str) -> tuple[Geometry, Geometry]:
        (low, high), (local_low, local_high) = config.global_scale, config.local_scale
        common = rotation, config.flip, config.shift
        return (
            Geometry(source, crop, size, (low, high), *common),
            Geometry(source, crop, config.local_size, (local_low, local_high), *common),
        )

    if config.rotation != "auto":
        return both(config.rotation)
    free = both("any")
    return free if free[0].turns_freely else both("quarter")


class Augment:
    """Augmentation, built once and called each step; it keeps no state.

    Args:
        config: what is drawn.
        normalisation: from the training rows.
        source_size: (H, W) of the images.
        bands: names of the channels.
        needs_global, needs_local: what the method asks for.
        targets: kinds of the regression targets, in the order of their columns; none for classes.
        masking: how global crops are masked; None for methods that mask nothing.

    A configuration that makes no sense for these images raises UserError.
    """

    def __init__(
        self,
        config: ViewsConfig,
        normalisation: Normalisation,
        source_size: tuple[int, int],
        bands: tuple[str, ...],
        needs_global: int,
        needs_local: bool = False,
        targets: tuple[Target, ...] = (),
        masking: Masking | None = None,
    ) -> None:
        self.config, self.normalisation, self.targets = config, normalisation, tuple(targets)
        self.masking = masking
        self.source_size, self.bands = (source_size[0], source_size[1]), tuple(bands)
        self.global_count = needs_global
        self.local_count = config.local_crops if needs_local else 0
        check(config, self.source_size, self.bands, self.local_count, self.targets)
        if self.bands != normalisation.bands:
            raise UserError(
                f"the images have the bands {', '.join(self.bands)} but the normalisation has "
                f"{', '.join(normalisation.bands)}; use data with the same bands in the same order"
            )
        self.whole, self.local = geometries(config, self.source_size)
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
        """Make the views of one step.

        images: raw [B, bands, H, W] of any type, on any device. rows: [B] their row numbers.
        part: which B rows of the global batch of `global_batch` images these are; left out, they are all of it.
        targets: [B] int64 classes, or [B, columns] float regression targets in the images' axes.
        """
        if tuple(images.shape[2:]) != self.source_size:
            raise UserError(
                f"the images are {list(images.shape[2:])} pixels, not {list(self.source_size)}; use images of one size"
            )
        if targets is not None and targets.is_floating_point() and not self.targets:
            raise ValueError("float targets need their kinds declared when Augment is built")
        total = len(images) if global_batch is None else global_batch
        own = range(total)[part or slice(None)]
        if len(own) != len(images) or own.step != 1:
            raise ValueError(f"part {part} of {total} rows is not the {len(images)} images given")
        # Both generators stand at the same (seed, step); the second makes pixel noise where the pixels are.
        numbers, pixels = torch_rng(seed, step), torch_rng(seed, step, 1, device=images.device)
        u = torch.rand(total, self.global_count + self.local_count, DRAWS + photometry.DRAWS, generator=numbers)
        scaled, valid = self.normalisation.linear(images)
        known = None if valid.stride() == (0, 0, 0, 0) else valid
        groups = [(self.whole, slice(0, self.global_count))]
        if self.local_count:
            groups.append((self.local, slice(self.global_count, None)))
        views = Views([], [], [], rows, self.global_count, None if targets is None else [])
        for geometry, columns in groups:
            maps = geometry.draw(u[own.start : own.stop, columns, :DRAWS]).transpose(0, 1).contiguous()  # [n, B, 2, 3]
            crops, usable = sample(scaled, maps, geometry, known)
            crops, usable = self._photometry(crops, usable, u[:, columns, DRAWS:], own, maps, pixels)
            if usable is None:
                usable = torch.ones((), dtype=torch.bool, device=crops.device).expand_as(crops)
            views.crops += crops.chunk(len(maps))
            views.valid += usable.chunk(len(maps))
            views.to_source += maps.float().to(images.device).unbind(0)
        if self.masking is not None:
            masks = self.masking.draw(total * self.global_count, numbers).unflatten(0, (self.global_count, total))
            views.masks = [mask[own.start : own.stop].to(images.device) for mask in masks]
        if views.targets is not None and targets is not None:
            for turned in views.to_source:
                views.targets.append(transform_targets(targets, self.targets, turned) if self.targets else targets)
        return views

    def _photometry(
        self, crops: Tensor, usable: Tensor | None, u: Tensor, own: range, maps: Tensor, pixels: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Linear crops [n·B, C, h, w] → normalised ones; `u` [global batch, n, draws]. What cannot fire is skipped."""
        config, device = self.config, crops.device
        everyone = photometry.draw(u, config, len(self.bands))

        def mine(values: Tensor) -> Tensor:  # [global batch, n] → [n·B], as the crops are ordered
            return values[own.start : own.stop].transpose(0, 1).flatten()

        if config.brightness or config.contrast:
            factors = (mine(everyone.brightness).to(device), mine(everyone.contrast).to(device))
            crops = photometry.brightness_contrast(crops, *factors, usable)
        if self.extinction is not None:
            crops = photometry.redden_(crops, self.extinction.to(device), mine(everyone.reddening).to(device))
        sigma = mine(everyone.sigma)
        blurred = sigma.nonzero()[:, 0]
        if len(blurred):
            zoom = maps[..., 0].norm(dim=-1).flatten().float()  # source pixels per crop pixel
            where = blurred.to(device)
            widths = (sigma / zoom)[blurred].to(device)
            crops[where] = photometry.widen_psf(crops[where], widths, None if usable is None else usable[where])
        crops = self.normalisation.stretch_(crops)
        fires = everyone.noise > 0  # [global batch, n]
        if fires.any():
            # Noise for all that fire in the global batch, of which these rows' share is used.
            noise = torch.randn(int(fires.sum()), *crops.shape[1:], generator=pixels, device=device)
            first = int(fires[: own.start].sum())
            image, crop = fires[own.start : own.stop].nonzero().unbind(1)
            level = everyone.noise[own.start : own.stop][image, crop].to(device)
            noise = noise[first : first + len(image)].mul_(level[:, None, None, None])
            where = (crop * len(own) + image).to(device)
            crops[where] += noise
        lost = mine(everyone.lost).to(device)
        if config.band_dropout:
            # A lost band looks as a missing one does: 0 and not valid.
            kept = torch.arange(crops.shape[1], device=device) != lost[:, None]
            kept = kept[:, :, None, None].expand_as(crops)
            usable = kept if usable is None else usable & kept
        return (crops if usable is None else crops.masked_fill_(~usable, 0)), usable


def eval_views(images: Tensor, config: ViewsConfig, normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    """The centred window of raw images [B, bands, H, W], upright and unaltered → (crops [B, bands, h, w], valid).

    Where `image_size` equals `crop` the pixels are copied, not interpolated.
    """
    source = (images.shape[2], images.shape[3])
    check(config, source, normalisation.bands, 0, ())
    crop = config.crop or min(source)
    geometry = Geometry(source, crop, config.image_size or crop)
    scaled, valid = normalisation.linear(images)
    middle = geometry.draw(torch.full((1, 1, DRAWS), 0.5)).expand(1, len(images), 2, 3)
    crops, usable = sample(scaled, middle, geometry, None if valid.stride() == (0, 0, 0, 0) else valid)
    crops = normalisation.stretch_(crops)
    return crops, torch.ones((), dtype=torch.bool, device=crops.device).expand_as(crops) if usable is None else usable
