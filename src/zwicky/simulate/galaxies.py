"""Real galaxies from a store as light, one for each simulated image.

A population names the stores (`galaxies: {source: {store: PATH}}`); its shapes `real_source` and `real_lens` show them.
The parameter `source_pick`, from 0 to 1, chooses the galaxy, `source_rotation` (rad) and `source_flip` (1 or -1) orient
it, `source_zoom` scales its size on the sky. The same for `lens`.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, label
from torch import Tensor

from zwicky.data.cutouts import batches
from zwicky.data.store import open_store
from zwicky.errors import UserError
from zwicky.simulate.population import GalaxyStore, ObjectClass, Population

TAPER = 0.25  # of half the stamp, over which light fades out, so that stamps have no edges
SMOOTHING = 2.0  # pixels, before the galaxy is segmented
CENTRAL = 4  # pixels from the centre within which a galaxy must lie


@dataclass(frozen=True)
class GalaxyCatalog:
    """Isolated galaxies."""

    images: Tensor  # [M, H, W], surface brightness per arcsec², of unit flux
    scale: float  # arcsec per pixel
    ids: tuple[str, ...]  # in their store

    def rows(self, pick: np.ndarray) -> np.ndarray:
        """Return the row [n] of each `pick`, from 0 to 1; any row where it is NaN."""
        return np.clip((np.nan_to_num(pick) * len(self.ids)).astype(np.int64), 0, len(self.ids) - 1)


@lru_cache(maxsize=4)
def load_galaxies(galaxies: GalaxyStore) -> GalaxyCatalog:
    """Return the central galaxy of each image in a store, its complete bands summed, without sky, noise or neighbours.

    `part` selects by pixel hash, so that duplicates of a galaxy are in the same part.
    """
    path, (low, high) = galaxies.store, galaxies.part
    cutouts = open_store(path)
    scale = cutouts.pixel_scale
    if scale is None:
        raise UserError(f"{path} has no single pixel scale; ingest it again with --pixel_scale")
    position = np.array([int(value, 16) / 16 ** len(value) for value in cutouts.column("pixel_hash")])
    cutouts = cutouts.take(np.flatnonzero((position >= low) & (position < high)))
    if not len(cutouts):
        raise UserError(f"{path} has no galaxies in the part [{low:g}, {high:g}]; ingest more or choose a larger part")
    images = np.empty((len(cutouts), *cutouts.size), np.float32)
    for rows in batches(len(cutouts), 256):
        for row, image in enumerate(cutouts.images[rows], start=rows.start):
            complete = image[np.isfinite(image).all((1, 2))]
            images[row] = _isolate(complete.sum(0, dtype=np.float64)) if len(complete) else 0
    total = images.sum((1, 2), dtype=np.float64)
    bright = total > 0
    if not bright.any():
        raise UserError(f"{path}: no image has a galaxy at its centre; choose another store")
    if not bright.all():
        message = f"{(~bright).sum()} of {len(total)} images in {path} have no galaxy at their centre and are left out"
        warnings.warn(f"{message} (first: {cutouts.ids[~bright][0]})")
    images = images[bright] / (total[bright, None, None] * scale**2).astype(np.float32)
    return GalaxyCatalog(torch.from_numpy(images), scale, tuple(cutouts.ids[bright]))


def _isolate(image: np.ndarray) -> np.ndarray:
    """Return an image [H, W] that is 0 outside the central segment 3 σ above the rim, smoothed; sky subtracted.

    Negative noise within the segment stays: without it the faint parts would be too bright.
    """
    height, width = image.shape
    y, x = np.ogrid[:height, :width]
    r = np.maximum(np.abs(2 * y + 1 - height) / height, np.abs(2 * x + 1 - width) / width)  # 1 at the edge
    rim = r > 1 - TAPER / 2
    image = image - np.median(image[rim])
    smooth = gaussian_filter(image, SMOOTHING)
    noise = 1.4826 * float(np.median(np.abs(smooth[rim] - np.median(smooth[rim]))))
    segments, _ = label(smooth > max(3 * noise, 1e-9 * float(smooth.max())))
    rows, columns = (slice(n // 2 - CENTRAL, n // 2 + CENTRAL + 1) for n in image.shape)
    labels = segments[rows, columns][segments[rows, columns] > 0]
    if not len(labels):
        return np.zeros_like(image)
    return np.where(segments == np.bincount(labels).argmax(), image, 0) * np.clip((1 - r) / TAPER, 0, 1)


def galaxy_tensors(
    population: Population, object_class: ObjectClass, values: Mapping[str, np.ndarray], device: torch.device
) -> dict[str, Tensor]:
    """Return `NAME_images` [n, H, W] and `NAME_scale` [1, 1, 1] that `values` [n] pick for a class."""
    tensors = {}
    for name in (name for name in population.galaxies if f"real_{name}" in object_class.layers.values()):
        catalog = load_galaxies(population.galaxies[name])
        tensors[f"{name}_images"] = catalog.images[torch.from_numpy(catalog.rows(values[f"{name}_pick"]))].to(device)
        tensors[f"{name}_scale"] = torch.full((1, 1, 1), catalog.scale, device=device)
    return tensors


def galaxy_ids(galaxies: Mapping[str, GalaxyStore], values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return `NAME_id` of each image: the id of its real galaxy, None where it has none."""
    ids = {}
    for name in (name for name in galaxies if f"{name}_pick" in values):
        catalog, pick = load_galaxies(galaxies[name]), values[f"{name}_pick"]
        ids[f"{name}_id"] = np.array(catalog.ids, object)[catalog.rows(pick)]
        ids[f"{name}_id"][np.isnan(pick)] = None
    return ids


def sample_galaxy(name: str, x: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Return the surface brightness [n, H, W] of each image's galaxy at x, y arcsec from its centre, bilinear."""
    angle, scale = p[f"{name}_rotation"], p[f"{name}_scale"] * p[f"{name}_zoom"]
    along = p[f"{name}_flip"] * (torch.cos(angle) * x + torch.sin(angle) * y) / scale
    across = (torch.cos(angle) * y - torch.sin(angle) * x) / scale
    images = p[f"{name}_images"]
    height, width = images.shape[1:]
    positions = torch.stack([along * (2 / width), across * (2 / height)], -1)
    sampled = torch.nn.functional.grid_sample(images[:, None], positions, align_corners=False)
    return sampled[:, 0] / p[f"{name}_zoom"] ** 2
