"""A simulation that is no store: its table is drawn at once, its images are rendered when they are asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from zwicky.data.contract import Cutouts
from zwicky.data.memory import most_bytes
from zwicky.data.store import rows_of_a_group
from zwicky.data.stored_images import Images, StoredImages, in_batches
from zwicky.data.tables import Labels
from zwicky.progress import StepProgress
from zwicky.simulate.api import checked, device_called, digests
from zwicky.simulate.blocks import labels_of, rendered, table_of, truth_of
from zwicky.simulate.draw import BLOCK, draw_block
from zwicky.simulate.population import Population


@dataclass(frozen=True)
class Rendered:
    """The images of a simulation in groups as a store of them would have; see `cutouts.stored_images.Groups`."""

    population: Population
    rows: int
    seed: int
    where: torch.device

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.population.band_names), self.population.size, self.population.size

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32 if self.population.composite is None else np.uint8)

    @property
    def starts(self) -> np.ndarray:
        return np.arange(0, self.rows, rows_of_a_group(int(np.prod(self.shape)) * self.dtype.itemsize))

    def read(self, group: int, rows: np.ndarray) -> np.ndarray:
        """Whole blocks are rendered for these rows, wherever the group begins."""
        pixels = np.empty((len(rows), *self.shape), self.dtype)
        block_of = rows // BLOCK
        for block in np.unique(block_of).tolist():
            here = block_of == block
            images, _ = rendered(
                self.population, draw_block(self.population, self.seed, block), self.seed, block, self.where
            )
            pixels[here] = images[rows[here] - block * BLOCK]
        return pixels


def open_simulation(
    population: str,
    count: int,
    seed: int = 0,
    memory_gb: float | None = None,
    quiet: bool = True,
    device: str = "cpu",
) -> tuple[Cutouts, Labels]:
    """`count` images of a population, with their labels, and nothing on disk.

    The images are those of `simulate`, bit for bit. Up to `memory_gb` (10⁹ bytes; None takes half of the memory that
    is free) they are rendered now and kept; more are rendered whenever they come up, in the order of a store of them.
    The table knows what is drawn, not what only the rendering tells: no hashes of pixels, signal-to-noise,
    magnifications, nor lists of subhalos. Unless `quiet`, progress is shown. Errors as in `simulate`.
    """
    most = most_bytes(memory_gb)
    chosen, where = checked(population, count, seed), device_called(device)
    starts = range(0, count, BLOCK)
    tables = []
    with StepProgress("draw", len(starts), 0, BLOCK, quiet, "block") as progress:
        for block, start in enumerate(starts):
            drawn = draw_block(chosen, seed, block)
            drawn.lists.clear()
            tables.append(table_of(chosen, drawn, seed, block, min(BLOCK, count - start), {}, None))
            progress.advance()
    table = pa.concat_tables(tables).combine_chunks()
    unread = StoredImages(Rendered(chosen, count, seed, where), most)
    images: Images = _all(unread, quiet) if unread.nbytes <= most else unread
    metadata = {"simulation": _digest(chosen, seed, where)}
    return Cutouts(images, table, chosen.band_names, truth_of(table), metadata), labels_of(chosen, seed, table)


def _all(images: StoredImages, quiet: bool) -> np.ndarray:
    pixels = np.empty(images.shape, images.dtype)
    with StepProgress("simulate", -(-len(images) // BLOCK), 0, BLOCK, quiet, "block") as progress:
        for places, some in in_batches(images, BLOCK):
            pixels[places] = some
            progress.advance()
    return pixels


def _digest(population: Population, seed: int, where: torch.device) -> str:
    """A hash of what the pixels follow from, by which a run that goes on knows that they are the same."""
    follows = (population.text, seed, where.type, digests(population))
    return hashlib.blake2b(repr(follows).encode(), digest_size=16).hexdigest()
