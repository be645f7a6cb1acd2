"""Simulate a population, in memory or into a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from zwicky.cutouts.contract import Cutouts, make_table, pixel_hash
from zwicky.cutouts.store import StoreWriter
from zwicky.cutouts.tables import Labels, write_labels
from zwicky.errors import UserError
from zwicky.simulate.composite import composite
from zwicky.simulate.deflection import DEFLECTORS
from zwicky.simulate.draw import BLOCK, draw_block, generator
from zwicky.simulate.layers import LAYERS, SOURCES
from zwicky.simulate.noise import add_noise, signal_to_noise, sky_noise
from zwicky.simulate.population import Population
from zwicky.simulate.psf import PROFILES
from zwicky.simulate.registry import find_population
from zwicky.simulate.render import render_block


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


def simulate_store(population: str, count: int, seed: int, out: Path | str) -> None:
    """Simulate `count` images into the store `out`, labels included, one block in memory at a time."""
    chosen = _check(population, count, seed)
    blocks = _blocks(chosen, count, seed)
    values: dict[str, str] = {}
    first = next(blocks)
    size = (chosen.size, chosen.size)
    with StoreWriter(out, chosen.band_names, size, first[0].dtype, truth=_truth(first[1])) as writer:
        for images, table in chain([first], blocks):
            writer.append(images, table)
            values.update(_labels(chosen, seed, table).values)
        write_labels(writer.folder, Labels(values, _source(chosen, seed)))  # so that they arrive with the pixels


def _check(population: str, count: int, seed: int) -> Population:
    chosen = find_population(population)
    if count < 1:
        raise UserError(f"cannot simulate {count} images; ask for 1 or more")
    if seed < 0:
        raise UserError(f"the seed is {seed}; choose a whole number from 0 up")
    for kind in chosen.kinds.values():
        _known(population, "shape", kind.layers.values(), [*LAYERS, *SOURCES])
        _known(population, "deflector", kind.deflectors, DEFLECTORS)
    _known(population, "psf", (band.psf for band in chosen.instrument.bands), PROFILES)
    return chosen


def _known(population: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"{population}: there is no {what} {unknown[0]!r}; choose one of {', '.join(known)}")


def _blocks(population: Population, count: int, seed: int) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Images [n, bands, size, size] and their table, block by block; the last block is rendered whole and cut."""
    instrument = population.instrument
    seen = [instrument.band_names.index(band) for band in population.bands_shown]
    fwhm = np.array([band.fwhm for band in instrument.bands])[seen]
    for block in range(-(-count // BLOCK)):
        drawn = draw_block(population, seed, block)
        layers, more = render_block(population, drawn)
        clean = layers.sum(1)
        for position, layer in enumerate(population.light):
            more[f"{layer}_snr"] = signal_to_noise(layers[:, position], clean, instrument)
        images = add_noise(clean, instrument, generator(population, seed, block, "noise"))
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
            "noise": [sky_noise(instrument) if population.composite is None else None] * kept,
            "simulated": [True] * kept,
            "pixel_hash": [pixel_hash(image) for image in images[:kept]],
            "kind": drawn.kinds[:kept].tolist(),
        }
        truth |= {name: _lists(values[:kept]) for name, values in drawn.lists.items()}
        ids = [f"{population.name}-s{seed}-{block * BLOCK + row:06d}" for row in range(kept)]
        yield images[:kept], make_table(ids, columns | truth)


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
