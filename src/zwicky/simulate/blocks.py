"""One block of a population: noisy images, and the rows of the table that go with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from zwicky.data.cutouts import make_table, pixel_hash
from zwicky.data.labels import Labels
from zwicky.simulate.draw import BLOCK, ParameterBlock, block_rng, draw_block
from zwicky.simulate.galaxies import galaxy_ids
from zwicky.simulate.noise import add_deeplense_noise, add_noise, signal_to_noise, sky_noise
from zwicky.simulate.population import Population
from zwicky.simulate.render import CPU, make_composite, render_block


def blocks(
    population: Population, count: int, seed: int, first: int = 0, device: torch.device = CPU
) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """Images [n, bands, size, size] and their table, from block `first` on; the last is rendered whole and cut."""
    for block in range(first, -(-count // BLOCK)):
        drawn = draw_block(population, seed, block)
        images, more = rendered(population, drawn, seed, block, device)
        images = images[: count - block * BLOCK]
        yield images, table_of(population, drawn, seed, block, len(images), more, [pixel_hash(one) for one in images])


def rendered(
    population: Population, drawn: ParameterBlock, seed: int, block: int, device: torch.device = CPU
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images [BLOCK, bands, size, size] with noise, and of each what only its rendering, on `device`, tells."""
    instrument = population.instrument
    layers, more = render_block(population, drawn, device)
    clean = layers.sum(1)
    for position, layer in enumerate(population.light):
        more[f"{layer}_snr"] = signal_to_noise(layers[:, position], clean, instrument)
    images = _noisy(population, clean, drawn.values, block_rng(population, seed, block, "noise"))
    if population.composite is not None:
        rng = block_rng(population, seed, block, "composite")
        images = make_composite(images, instrument.band_names, population.composite, rng)
    return images, more


def table_of(
    population: Population,
    drawn: ParameterBlock,
    seed: int,
    block: int,
    kept: int,
    more: Mapping[str, np.ndarray],
    hashes: Sequence[str] | None,
) -> pd.DataFrame:
    """The rows of the first `kept` images of a block. more: further truth; hashes: of the pixels, None for unknown."""
    instrument = population.instrument
    fwhm = np.array([instrument.bands[band].fwhm for band in population.observed_bands])
    known = {name: values[:kept] for name, values in drawn.values.items()}
    columns: dict[str, Any] = {
        "bands_present": [list(population.band_names)] * kept,
        "pixel_scale": [instrument.pixel_scale] * kept,
        "survey": [f"simulated-{instrument.name}"] * kept,
        "psf_fwhm": list(fwhm * known["seeing"][:, None]),
        "noise": [_sky(population)] * kept,
        "simulated": [True] * kept,
        "pixel_hash": [None] * kept if hashes is None else hashes,
        "object_class": drawn.object_class[:kept].tolist(),
    }
    truth: dict[str, Any] = known | {name: values[:kept] for name, values in more.items()}
    truth |= galaxy_ids(population.galaxies, known)
    truth |= {name: _lists(values[:kept]) for name, values in drawn.lists.items()}
    ids = [f"{population.name}-s{seed}-{block * BLOCK + row:06d}" for row in range(kept)]
    if population.pairs:
        truth["pair_id"] = [ids[row - row % 2] for row in range(kept)]
    return make_table(ids, columns | truth)


def truth_of(table: pd.DataFrame) -> tuple[str, ...]:
    """`object_class` and every column after it: `make_table` keeps the order in which they were given."""
    return tuple(table.columns[table.columns.get_loc("object_class") :])


def source_of(population: Population, seed: int) -> str:
    """Who says so, for the labels."""
    return f"simulation {population.name}, seed {seed}"


def labels_of(population: Population, seed: int, table: pd.DataFrame) -> Labels:
    labels = [population.classes[name].label for name in table["object_class"]]
    return Labels(dict(zip(table["id"], labels, strict=True)), source_of(population, seed))


def _noisy(
    population: Population, clean: np.ndarray, values: Mapping[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    if population.noise == "none":
        return clean
    if population.noise == "deeplense-1":
        return add_deeplense_noise(clean, population.instrument, values["exposure"], rng)
    return add_noise(clean, population.instrument, rng)


def _sky(population: Population) -> np.ndarray | None:
    """[bands] noise of an empty pixel; None where the pixels are no fluxes."""
    if population.composite is not None:
        return None
    return sky_noise(population.instrument) * (population.noise != "none")


def _lists(values: np.ndarray) -> list[np.ndarray]:
    """A list column from [n, S] without the NaN that fills it up."""
    return [row[np.isfinite(row)].astype(np.float32) for row in values]
