"""Simulate a population, in memory or into a store."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import __version__ as torch_version

from zwicky import __version__
from zwicky.cutouts.contract import Cutouts, make_table, pixel_hash
from zwicky.cutouts.row_groups import iterate_store
from zwicky.cutouts.store import StoreWriter, read_metadata, refuse_existing
from zwicky.cutouts.tables import Labels, read_labels, write_labels
from zwicky.errors import UserError
from zwicky.files import read_json, write_json
from zwicky.progress import StepProgress
from zwicky.simulate.composite import composite
from zwicky.simulate.deflection import DEFLECTORS
from zwicky.simulate.draw import BLOCK, draw_block, generator
from zwicky.simulate.galaxies import galaxy_ids, read_bank
from zwicky.simulate.layers import LAYERS, SOURCES
from zwicky.simulate.noise import add_noise, noise_of_deeplense_1, signal_to_noise, sky_noise
from zwicky.simulate.population import Population
from zwicky.simulate.psf import PROFILES
from zwicky.simulate.registry import find_population
from zwicky.simulate.render import render_block

PIECE = 8  # blocks that are written and resumed together


def simulate(population: str, count: int, seed: int = 0) -> tuple[Cutouts, Labels]:
    """Simulate `count` images of a population, known by name, in memory.

    Pixels are float32 nanomaggies with noise, or uint8 where the population is shown as colour pictures. Image i
    depends on (population, seed, i) alone, bit for bit on one machine with one number of threads. Truth columns are
    NaN where a kind has no such parameter; `units` in `zwicky.simulate.draw` says what each means. An unknown
    population, a count below 1 or a negative seed is a UserError.
    """
    chosen = _check(population, count, seed)
    blocks = list(_blocks(chosen, count, seed))
    images = np.concatenate([images for images, _ in blocks])
    table = pa.concat_tables([table for _, table in blocks])
    return Cutouts(images, table, chosen.band_names, _truth(table)), _labels(chosen, seed, table)


def simulate_store(population: str, count: int, seed: int, out: Path | str, quiet: bool = True) -> None:
    """Simulate `count` images into the store `out`, labels included, with flat memory.

    It is made in pieces that wait in the hidden folder `.NAME.pieces` beside it until all are there; after a kill the
    same call goes on with those it finds, and the store is the same bit for bit. Pieces of another simulation are
    refused (UserError). Unless `quiet`, progress is shown.
    """
    chosen = _check(population, count, seed)
    out = Path(out)
    refuse_existing(out)
    folder = out.absolute().with_name(f".{out.name}.pieces")
    _claim(folder, chosen, seed)
    starts = range(0, count, PIECE * BLOCK)
    pieces = [folder / f"{start}-{min(start + PIECE * BLOCK, count)}" for start in starts]
    done = [piece.exists() for piece in pieces]
    blocks = [-(-min(PIECE * BLOCK, count - start) // BLOCK) for start in starts]
    found = sum(number for number, there in zip(blocks, done, strict=True) if there)
    with StepProgress("simulate", sum(blocks), found, BLOCK, quiet, "block") as progress:
        for start, piece, there in zip(starts, pieces, done, strict=True):
            if not there:
                _write_piece(chosen, seed, start, min(PIECE * BLOCK, count - start), piece, progress.advance)
    _unite(pieces, out, _source(chosen, seed))
    shutil.rmtree(folder)


def _claim(folder: Path, chosen: Population, seed: int) -> None:
    """Make the folder of pieces, or make sure that those in it belong to this simulation."""
    wanted = {
        "name": chosen.name,
        "population": chosen.text,
        "seed": seed,
        "zwicky": __version__,
        "torch": str(torch_version),
        "galaxies": {name: read_bank(galaxies).digest for name, galaxies in chosen.galaxies.items()},
    }
    if (folder / "simulation.json").exists() and read_json(folder / "simulation.json") != wanted:
        raise UserError(f"{folder} holds the beginning of another simulation; remove it, or choose another --out")
    write_json(folder / "simulation.json", wanted)


def _write_piece(
    chosen: Population, seed: int, start: int, count: int, piece: Path, advance: Callable[[], None]
) -> None:
    """Images `start` to `start + count`, as a store of its own; `start` is the first of a block."""
    blocks = _blocks(chosen, start + count, seed, start // BLOCK)
    first = next(blocks)
    values: dict[str, str] = {}
    with StoreWriter(piece, chosen.band_names, (chosen.size,) * 2, first[0].dtype, truth=_truth(first[1])) as writer:
        for images, table in chain([first], blocks):
            writer.append(images, table)
            values.update(_labels(chosen, seed, table).values)
            advance()
        write_labels(writer.folder, Labels(values, _source(chosen, seed)))


def _unite(pieces: Sequence[Path], out: Path, source: str) -> None:
    """The stores `pieces`, one after the other, as one."""
    first = read_metadata(pieces[0])
    values: dict[str, str] = {}
    with StoreWriter(out, first["bands"], first["size"], first["dtype"], truth=first["truth"]) as writer:
        for piece in pieces:
            values.update(read_labels(piece).values)
            for group in iterate_store(piece):
                writer.append(group.images[:], group.table)
        write_labels(writer.folder, Labels(values, source))  # so that they arrive with the pixels


def _check(population: str, count: int, seed: int) -> Population:
    chosen = find_population(population)
    if count < 1:
        raise UserError(f"cannot simulate {count} images; ask for 1 or more")
    if seed < 0:
        raise UserError(f"the seed is {seed}; choose a whole number from 0 up")
    for kind in chosen.kinds.values():
        _known(population, "shape", kind.layers.values(), [*LAYERS, *SOURCES])
        _known(population, "deflector", kind.deflectors, DEFLECTORS)
        for name in sorted({"source", "lens"} - set(chosen.galaxies)):
            if f"real_{name}" in kind.layers.values():
                raise UserError(f"{population}: real_{name} needs a store of galaxies; name one in galaxies.{name}")
    for galaxies in chosen.galaxies.values():
        read_bank(galaxies)
    _known(population, "psf", (band.psf for band in chosen.instrument.bands), PROFILES)
    if chosen.warning:
        print(f"warning: {population}: {chosen.warning}", file=sys.stderr)
    return chosen


def _known(population: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"{population}: there is no {what} {unknown[0]!r}; choose one of {', '.join(known)}")


def _blocks(population: Population, count: int, seed: int, first: int = 0) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Images [n, bands, size, size] and their table, from block `first` on; the last is rendered whole and cut."""
    instrument = population.instrument
    seen = [instrument.band_names.index(band) for band in population.bands_shown]
    fwhm = np.array([band.fwhm for band in instrument.bands])[seen]
    for block in range(first, -(-count // BLOCK)):
        drawn = draw_block(population, seed, block)
        layers, more = render_block(population, drawn)
        clean = layers.sum(1)
        for position, layer in enumerate(population.light):
            more[f"{layer}_snr"] = signal_to_noise(layers[:, position], clean, instrument)
        images = _noisy(population, clean, drawn.values, generator(population, seed, block, "noise"))
        if population.composite is not None:
            rng = generator(population, seed, block, "composite")
            images = composite(images, instrument.band_names, population.composite, rng)
        kept = min(BLOCK, count - block * BLOCK)
        truth = {name: values[:kept] for name, values in (drawn.values | more).items()}
        columns = {
            "bands_present": [list(population.band_names)] * kept,
            "pixel_scale": [instrument.pixel_scale] * kept,
            "survey": [f"simulated-{instrument.name}"] * kept,
            "psf_fwhm": list(fwhm * truth["seeing"][:, None]),
            "noise": [_sky(population)] * kept,
            "simulated": [True] * kept,
            "pixel_hash": [pixel_hash(image) for image in images[:kept]],
            "kind": drawn.kinds[:kept].tolist(),
        }
        known = {name: values[:kept] for name, values in drawn.values.items()}
        truth |= {name: pa.array(ids, pa.string()) for name, ids in galaxy_ids(population.galaxies, known).items()}
        truth |= {name: _lists(values[:kept]) for name, values in drawn.lists.items()}
        ids = [f"{population.name}-s{seed}-{block * BLOCK + row:06d}" for row in range(kept)]
        if population.pairs:
            truth["pair_id"] = pa.array([ids[row - row % 2] for row in range(kept)])
        yield images[:kept], make_table(ids, columns | truth)


def _noisy(
    population: Population, clean: np.ndarray, values: Mapping[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    if population.noise == "none":
        return clean
    if population.noise == "deeplense-1":
        return noise_of_deeplense_1(clean, population.instrument, values["exposure"], rng)
    return add_noise(clean, population.instrument, rng)


def _sky(population: Population) -> np.ndarray | None:
    """[bands] noise of an empty pixel; None where the pixels are no fluxes."""
    if population.composite is not None:
        return None
    return sky_noise(population.instrument) * (population.noise != "none")


def _lists(values: np.ndarray) -> pa.Array:
    """A list column from [n, S] without the NaN that fills it up."""
    return pa.array([row[np.isfinite(row)] for row in values], pa.list_(pa.float32()))


def _truth(table: pa.Table) -> tuple[str, ...]:
    """`kind` and every column after it: `make_table` keeps the order in which they were given."""
    names = table.column_names
    return tuple(names[names.index("kind") :])


def _source(population: Population, seed: int) -> str:
    return f"simulation {population.name}, seed {seed}"


def _labels(population: Population, seed: int, table: pa.Table) -> Labels:
    kinds = table.column("kind").to_pylist()
    labels = [population.kinds[kind].label for kind in kinds]
    return Labels(dict(zip(table.column("id").to_pylist(), labels, strict=True)), _source(population, seed))
