"""Real galaxies as light: the images of a store, one of which is drawn for each simulated image.

A population names the stores (`galaxies: {source: {store: PATH}}`), and its shapes `real_source` and `real_lens` show
them. The parameter `source_pick`, from 0 to 1, says which galaxy it is, `source_turn` (rad) and `source_flip` (1 or -1)
how it lies, `source_zoom` how large it is beside its size on the sky; so also for `lens`.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, label
from torch import Tensor

from zwicky.data.store import open_store
from zwicky.data.stored_images import in_batches
from zwicky.errors import UserError
from zwicky.simulate.population import Galaxies

EDGE = 0.25  # of half the stamp, over which light is faded out, so that stamps have no edges
SMOOTHING = 2.0  # pixels, for telling a galaxy from noise
MIDDLE = 4  # pixels from the middle within which a galaxy must lie


@dataclass(frozen=True)
class Bank:
    """images: [M, H, W] surface brightness whose integral over the plane is 1, per arcsec². scale: arcsec a pixel."""

    images: Tensor
    scale: float
    ids: tuple[str, ...]

    def rows(self, pick: np.ndarray) -> np.ndarray:
        """[n] int64: which galaxies; `pick` from 0 to 1, anything where it is NaN."""
        return np.clip((np.nan_to_num(pick) * len(self.ids)).astype(np.int64), 0, len(self.ids) - 1)

    @property
    def digest(self) -> str:
        """A hash of all of it, by which a simulation that goes on knows that it is the same."""
        named = repr((self.scale, self.ids)).encode()
        return hashlib.blake2b(named + self.images.numpy().tobytes(), digest_size=16).hexdigest()


@lru_cache(maxsize=4)
def read_bank(galaxies: Galaxies) -> Bank:
    """The galaxies in the middle of a store's images, all bands summed, without sky, noise around them or neighbours.

    Those of the wanted part, which goes by the images' hashes, so that a galaxy that is there twice is in one part.
    """
    path, (low, high) = galaxies.store, galaxies.part
    cutouts = open_store(path)
    scale = cutouts.pixel_scale
    if scale is None:
        raise UserError(f"{path} does not say one pixel scale; ingest it again with --pixel_scale")
    place = np.array([int(value, 16) / 16 ** len(value) for value in cutouts.column("pixel_hash")])
    cutouts = cutouts.take(np.flatnonzero((place >= low) & (place < high)))
    if not len(cutouts):
        raise UserError(f"{path} holds no galaxies from {low:g} to {high:g} of it; ingest more or take a larger part")
    images = np.empty((len(cutouts), *cutouts.size), np.float32)
    for places, some in in_batches(cutouts.images, 256):
        for place_of, image in zip(places, some, strict=True):
            images[place_of] = _alone(np.asarray(np.nansum(image, axis=0, dtype=np.float64)))
    total = images.sum((1, 2), dtype=np.float64)
    bright = total > 0
    if not bright.any():
        raise UserError(f"{path}: no image has a galaxy in its middle; give another store")
    if not bright.all():
        dark = cutouts.ids[~bright]
        said = f"{len(dark)} of {len(total)} images in {path} have no galaxy in their middle and are left out"
        print(f"warning: {said} (first: {dark[0]})", file=sys.stderr, flush=True)
    images = images[bright] / (total[bright, None, None] * scale**2).astype(np.float32)
    return Bank(torch.from_numpy(images), scale, tuple(cutouts.ids[bright]))


def _alone(image: np.ndarray) -> np.ndarray:
    """[H, W] with the one piece in the middle that stands, smoothed, 3 σ above the rim; 0 elsewhere.

    Noise below 0 within it stays: without it the faint parts would be too bright.
    """
    height, width = image.shape
    y, x = np.ogrid[:height, :width]
    r = np.maximum(np.abs(2 * y + 1 - height) / height, np.abs(2 * x + 1 - width) / width)  # 1 at the edge
    rim = r > 1 - EDGE / 2
    image = image - np.median(image[rim])
    smooth = gaussian_filter(image, SMOOTHING)
    noise = 1.4826 * float(np.median(np.abs(smooth[rim] - np.median(smooth[rim]))))
    pieces, _ = label(smooth > max(3 * noise, 1e-9 * float(smooth.max())))
    middle = pieces[height // 2 - MIDDLE : height // 2 + MIDDLE + 1, width // 2 - MIDDLE : width // 2 + MIDDLE + 1]
    found = middle[middle > 0]
    if not len(found):
        return np.zeros_like(image)
    return np.where(pieces == np.bincount(found).argmax(), image, 0) * np.clip((1 - r) / EDGE, 0, 1)


def chosen_galaxies(
    galaxies: Mapping[str, Galaxies], values: Mapping[str, np.ndarray], where: torch.device
) -> dict[str, Tensor]:
    """For the shapes: `NAME_images` [n, H, W] and `NAME_scale` [1, 1, 1], of images with these parameters."""
    found: dict[str, Tensor] = {}
    for name, store in galaxies.items():
        if f"{name}_pick" in values:
            bank = read_bank(store)
            found[f"{name}_images"] = bank.images[torch.from_numpy(bank.rows(values[f"{name}_pick"]))].to(where)
            found[f"{name}_scale"] = torch.full((1, 1, 1), bank.scale, device=where)
    return found


def galaxy_ids(galaxies: Mapping[str, Galaxies], values: Mapping[str, np.ndarray]) -> dict[str, list[str | None]]:
    """`NAME_id` of each image: the id of its real galaxy, None where it has none."""
    found: dict[str, list[str | None]] = {}
    for name, store in galaxies.items():
        if f"{name}_pick" in values:
            bank, pick = read_bank(store), values[f"{name}_pick"]
            shown = zip(bank.rows(pick), np.isfinite(pick), strict=True)
            found[f"{name}_id"] = [bank.ids[row] if known else None for row, known in shown]
    return found


def show(name: str, x: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Surface brightness [n, H, W] of each image's galaxy at x, y arcsec from its middle, interpolated linearly."""
    turn, size = p[f"{name}_turn"], p[f"{name}_scale"] * p[f"{name}_zoom"]
    along = p[f"{name}_flip"] * (torch.cos(turn) * x + torch.sin(turn) * y) / size
    across = (torch.cos(turn) * y - torch.sin(turn) * x) / size
    images = p[f"{name}_images"]
    height, width = images.shape[1:]
    where = torch.stack([along * (2 / width), across * (2 / height)], -1)
    seen = torch.nn.functional.grid_sample(images[:, None], where, align_corners=False)
    return seen[:, 0] / p[f"{name}_zoom"] ** 2
