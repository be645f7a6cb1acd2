"""Simulate a population, in memory or into a store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from zwicky import __version__
from zwicky.data.cutouts import Cutouts, Images
from zwicky.data.labels import Labels, write_labels
from zwicky.data.store import StoreWriter, check_writable, open_store
from zwicky.errors import UserError
from zwicky.io import read_json, write_json
from zwicky.progress import StepProgress
from zwicky.simulate.draw import BLOCK
from zwicky.simulate.simulation import Simulation, truth_of

PIECE = 8  # blocks that are written and resumed together


def simulate_population(population: str, count: int, seed: int = 0, device: str = "cpu") -> tuple[Cutouts, Labels]:
    """Simulate images of a population in memory.

    Args:
        population: the name of a shipped population, or a YAML file.
        count: number of images.
        seed: random seed; image i depends only on (population, seed, i), bit for bit on one type of device.
        device: where to render, "cpu" or "cuda".

    Returns:
        The cutouts, float32 nanomaggies with noise or uint8 colour pictures, and their class labels. Truth columns are
        NaN where a class has no such parameter; `zwicky.simulate.draw.truth_columns` gives unit and meaning of each.

    Raises:
        UserError: The population or the device is unknown, or a number is out of range.
    """
    simulation = Simulation.open(population, count, seed, device)
    images, tables = zip(*simulation.blocks(), strict=True)
    table = pd.concat(tables, ignore_index=True)
    bands, metadata = simulation.population.band_names, simulation.metadata()
    return Cutouts(np.concatenate(images), table, bands, truth_of(table), metadata), simulation.labels(table)


def simulate_store(
    population: str, count: int, seed: int, out: Path | str, quiet: bool = True, device: str = "cpu"
) -> None:
    """Simulate images into the store `out`, labels included, with flat memory.

    Pieces are written to the hidden folder `.NAME.pieces` beside it until all are complete; repeating an interrupted
    call resumes, with the same bytes in the end.

    Args:
        population: see `simulate_population`, like `count`, `seed` and `device`.
        count: number of images.
        seed: random seed.
        out: the store to write.
        quiet: do not show progress.
        device: where to render.

    Raises:
        UserError: As in `simulate_population`, or `out` exists, or the pieces belong to another simulation.
    """
    simulation = Simulation.open(population, count, seed, device)
    out = Path(out)
    check_writable(out)
    folder = out.absolute().with_name(f".{out.name}.pieces")
    identity = simulation.identity() | {"zwicky": __version__, "torch": torch.__version__}
    if (folder / "simulation.json").exists() and read_json(folder / "simulation.json") != identity:
        raise UserError(f"{folder} holds pieces of another simulation; remove it, or choose another --out")
    write_json(folder / "simulation.json", identity)
    starts = range(0, simulation.n_blocks, PIECE)
    pieces = {start: folder / f"{start * BLOCK}-{min((start + PIECE) * BLOCK, count)}" for start in starts}
    done = sum(min(PIECE, simulation.n_blocks - start) for start, piece in pieces.items() if piece.exists())
    with StepProgress("simulate", simulation.n_blocks, done, BLOCK, quiet, "block") as progress:
        for start, piece in pieces.items():
            if not piece.exists():
                _write(piece, simulation, simulation.blocks(start, start + PIECE), progress.advance)
    stores = (open_store(piece) for piece in pieces.values())
    _write(out, simulation, ((store.images, store.table) for store in stores))
    shutil.rmtree(folder)


def _write(
    path: Path,
    simulation: Simulation,
    batches: Iterator[tuple[Images, pd.DataFrame]],
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Write batches of images and their tables as one store, with labels."""
    labels: dict[str, str] = {}
    bands, size = simulation.population.band_names, simulation.image_shape[1:]
    with StoreWriter(path, bands, size, simulation.dtype, metadata=simulation.metadata()) as writer:
        for images, table in batches:
            writer.append(images, table)
            writer.truth = truth_of(table)
            labels |= simulation.labels(table).values
            advance()
        write_labels(writer.folder, Labels(labels, simulation.source))  # so that they arrive with the pixels
