"""Simulate a population, in memory or into a store."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from zwicky import __version__
from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import Labels, read_labels, write_labels
from zwicky.data.store import StoreWriter, check_writable, open_store
from zwicky.errors import UserError
from zwicky.io import read_json, write_json
from zwicky.progress import StepProgress
from zwicky.simulate.blocks import blocks, labels_of, source_of, truth_of
from zwicky.simulate.draw import BLOCK
from zwicky.simulate.galaxies import load_galaxies
from zwicky.simulate.lensing import DEFLECTORS
from zwicky.simulate.light import LAYERS, SOURCES
from zwicky.simulate.population import Population
from zwicky.simulate.population_yaml import read_population
from zwicky.simulate.priors import Prior
from zwicky.simulate.psf import PROFILES, digest, read_star
from zwicky.simulate.render import MARGIN, fine_size

PIECE = 8  # blocks that are written and resumed together


def simulate_population(population: str, count: int, seed: int = 0, device: str = "cpu") -> tuple[Cutouts, Labels]:
    """Simulate `count` images of a population, known by name, in memory.

    Pixels are float32 nanomaggies with noise, or uint8 where the population is shown as colour pictures. Image i
    depends on (population, seed, i) alone, bit for bit on one machine with one number of threads and one device, as
    torch calls it. Truth columns are NaN where a kind has no such parameter; `units` in `zwicky.simulate.draw` says
    what each means. An unknown population or device, a count below 1 or a negative seed is a UserError.
    """
    chosen, where = checked(population, count, seed), device_called(device)
    made = list(blocks(chosen, count, seed, device=where))
    images = np.concatenate([images for images, _ in made])
    table = pd.concat([table for _, table in made], ignore_index=True)
    return Cutouts(images, table, chosen.band_names, truth_of(table)), labels_of(chosen, seed, table)


def simulate_store(
    population: str, count: int, seed: int, out: Path | str, quiet: bool = True, device: str = "cpu"
) -> None:
    """Simulate `count` images into the store `out`, labels included, with flat memory.

    It is made in pieces that wait in the hidden folder `.NAME.pieces` beside it until all are there; after a kill the
    same call goes on with those it finds, and the store is the same bit for bit. Pieces of another simulation are
    refused (UserError). Unless `quiet`, progress is shown.
    """
    chosen, where = checked(population, count, seed), device_called(device)
    out = Path(out)
    check_writable(out)
    folder = out.absolute().with_name(f".{out.name}.pieces")
    _claim(folder, chosen, seed, where)
    starts = range(0, count, PIECE * BLOCK)
    pieces = [folder / f"{start}-{min(start + PIECE * BLOCK, count)}" for start in starts]
    done = [piece.exists() for piece in pieces]
    numbers = [-(-min(PIECE * BLOCK, count - start) // BLOCK) for start in starts]
    found = sum(number for number, there in zip(numbers, done, strict=True) if there)
    with StepProgress("simulate", sum(numbers), found, BLOCK, quiet, "block") as progress:
        for start, piece, there in zip(starts, pieces, done, strict=True):
            if not there:
                _write_piece(chosen, seed, start, min(PIECE * BLOCK, count - start), where, piece, progress.advance)
    _unite(pieces, out, source_of(chosen, seed))
    shutil.rmtree(folder)


def _claim(folder: Path, chosen: Population, seed: int, where: torch.device) -> None:
    """Make the folder of pieces, or make sure that those in it belong to this simulation."""
    wanted = {
        "name": chosen.name,
        "population": chosen.text,
        "seed": seed,
        "zwicky": __version__,
        "torch": torch.__version__,
        "device": where.type,
        "files": digests(chosen),
    }
    if (folder / "simulation.json").exists() and read_json(folder / "simulation.json") != wanted:
        raise UserError(f"{folder} holds the beginning of another simulation; remove it, or choose another --out")
    write_json(folder / "simulation.json", wanted)


def _write_piece(
    chosen: Population,
    seed: int,
    start: int,
    count: int,
    where: torch.device,
    piece: Path,
    advance: Callable[[], None],
) -> None:
    """Images `start` to `start + count`, as a store of its own; `start` is the first of a block."""
    made = blocks(chosen, start + count, seed, start // BLOCK, where)
    first = next(made)
    values: dict[str, str] = {}
    with StoreWriter(piece, chosen.band_names, (chosen.size,) * 2, first[0].dtype, truth=truth_of(first[1])) as writer:
        for images, table in chain([first], made):
            writer.append(images, table)
            values.update(labels_of(chosen, seed, table).values)
            advance()
        write_labels(writer.folder, Labels(values, source_of(chosen, seed)))


def _unite(pieces: Sequence[Path], out: Path, source: str) -> None:
    """The stores `pieces`, one after the other, as one."""
    first = open_store(pieces[0])
    values: dict[str, str] = {}
    with StoreWriter(out, first.bands, first.size, first.images.dtype, truth=first.truth) as writer:
        for piece in pieces:
            values.update(read_labels(piece).values)
            cutouts = open_store(piece)
            writer.append(cutouts.images, cutouts.table)
        write_labels(writer.folder, Labels(values, source))  # so that they arrive with the pixels


def checked(population: str, count: int, seed: int) -> Population:
    """The population of this name, made sure that it can be simulated; its warning is said."""
    chosen = read_population(population)
    if count < 1:
        raise UserError(f"cannot simulate {count} images; ask for 1 or more")
    if seed < 0:
        raise UserError(f"the seed is {seed}; choose a whole number from 0 up")
    for one in chosen.classes.values():
        _known(population, "shape", one.layers.values(), [*LAYERS, *SOURCES])
        _known(population, "deflector", one.deflectors, DEFLECTORS)
        for name in sorted({"source", "lens"} - set(chosen.galaxies)):
            if f"real_{name}" in one.layers.values():
                raise UserError(f"{population}: real_{name} needs a store of galaxies; name one in galaxies.{name}")
    for galaxies in chosen.galaxies.values():
        load_galaxies(galaxies)
    stars = [band.psf for band in chosen.instrument.bands.values() if band.psf not in PROFILES]
    for star in stars:
        width = len(read_star(star))
        if width > (most := min(fine_size(chosen), 4 * MARGIN * chosen.supersampling + 1)):  # or its wings wrap around
            raise UserError(f"{star} is {width} cells wide; cut the image of the star to at most {most}")
    if stars and chosen.common["seeing"].prior != Prior("value", (1.0,)):
        raise UserError(f"{population}: the image of a star has one width; write value: 1 for common.seeing")
    if chosen.warning:
        print(f"warning: {population}: {chosen.warning.strip()}", file=sys.stderr)
    return chosen


def digests(chosen: Population) -> dict[str, str]:
    """Hashes of what the images follow from beside the description: real galaxies, and images of stars."""
    found = {name: load_galaxies(galaxies).digest for name, galaxies in chosen.galaxies.items()}
    return found | {band.psf: digest(band.psf) for band in chosen.instrument.bands.values() if band.psf not in PROFILES}


def device_called(name: str) -> torch.device:
    """The device that torch calls by this name, made sure that it is there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            where = torch.device(name)
            torch.zeros(1, device=where).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"cannot render on the device {name!r} ({first}); leave it out for the CPU") from error
    return where


def _known(population: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"{population}: there is no {what} {unknown[0]!r}; choose one of {', '.join(known)}")
