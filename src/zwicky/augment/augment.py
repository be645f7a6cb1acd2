"""From raw images to `Views`: every crop of a size in one batched pass, every number drawn per crop.

Random numbers are drawn for the global batch from (seed, step) and then sliced, so that two processes together get
the views of one. The table of numbers has the same shape whatever the options: turning blur off moves no crop.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from zwicky.augment import geometry, photometry
from zwicky.augment.config import ViewsConfig
from zwicky.augment.geometry import Geometry, crop_geometries, sample
from zwicky.augment.normalise import Normalisation, all_valid
from zwicky.augment.photometry import Photometry
from zwicky.augment.views import Masking, Target, Views, transform_targets
from zwicky.errors import UserError
from zwicky.rng import torch_rng


@dataclass
class Augment:
    """Augmentation of batches, without state; raises UserError if the options do not fit the images."""

    config: ViewsConfig
    normalisation: Normalisation  # fitted to the training rows
    source_size: tuple[int, int]  # (H, W) of the images
    bands: tuple[str, ...]
    n_global: int
    local: bool = False  # whether to cut local crops too, as many as `config` has
    targets: tuple[Target, ...] = ()  # of a regression, in the order of their columns; none for classes
    masking: Masking | None = None  # of the global crops; None for methods without masks

    def __post_init__(self) -> None:
        config = self.config
        self.n_local = config.local_crops if self.local else 0
        config.validate(self.source_size, self.bands, self.n_local, self.targets)
        bands, fitted = ", ".join(self.bands), ", ".join(self.normalisation.bands)
        if bands != fitted:
            raise UserError(f"the images have the bands {bands}, not {fitted}; use data with the same bands in order")
        self.global_geometry, self.local_geometry = crop_geometries(config, self.source_size)
        self.extinction = photometry.extinction(self.bands) if config.reddening > 0 else None

    @classmethod
    def for_method(cls, needs: Any, *data: Any) -> Self:
        """Build what a method asks for by its `ViewsNeeded`; data: config, normalisation, source_size and bands."""
        crops = {"n_global": needs.global_crops, "local": needs.local_crops, "masking": needs.masking}
        return cls(*data, **crops)

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
        total = len(images) if global_batch is None else global_batch
        batch = range(total)[part or slice(None)]
        # The second generator makes pixel noise on the images' device.
        numbers, pixels = torch_rng(seed, step), torch_rng(seed, step, 1, device=images.device)
        n_uniforms = geometry.N_UNIFORMS + photometry.N_UNIFORMS
        u = torch.rand(total, self.n_global + self.n_local, n_uniforms, generator=numbers)
        scaled, source_valid = self.normalisation.linear(images)
        views = Views([], [], [], rows, self.n_global)
        of_global, of_local = u.tensor_split([self.n_global], 1)
        groups = [(self.global_geometry, of_global), (self.local_geometry, of_local)]
        for cut, crop_numbers in groups[: 2 if self.n_local else 1]:
            placing, flux = crop_numbers.tensor_split([geometry.N_UNIFORMS], -1)
            maps = cut.draw(placing[batch.start : batch.stop]).transpose(0, 1).contiguous()  # [n, B, 2, 3]
            crops, valid = sample(scaled, maps, cut, source_valid)
            crops, valid = self._photometry(crops, valid, flux, batch, maps, pixels)
            views.crops += crops.chunk(len(maps))
            views.valid += (all_valid(crops) if valid is None else valid).chunk(len(maps))
            views.to_source += maps.float().to(images.device).unbind(0)
        if self.masking is not None:
            masks = self.masking.draw(total * self.n_global, numbers).unflatten(0, (self.n_global, total))
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
    config = config.resolved(source)
    window = Geometry(source, config.crop or 0, config.image_size or 0)
    scaled, valid = normalisation.linear(images)
    middle = window.draw(torch.full((1, 1, geometry.N_UNIFORMS), 0.5)).expand(1, len(images), 2, 3)
    crops, valid = sample(scaled, middle, window, valid)
    crops = normalisation.stretch_(crops)
    return crops, all_valid(crops) if valid is None else valid
