"""Parameters of one block of images, drawn from a population's priors.

Images are drawn and rendered in blocks of a constant size. The random streams of a block depend only on the name of the
population, the seed and the block's number, so that image i is the same however many are simulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from zwicky.simulate.population import Population

BLOCK = 64  # images; changing it changes every simulated image

_STREAMS = ("parameters", "noise", "substructure", "composite")


@dataclass(frozen=True)
class ParameterBlock:
    """Parameters of one block.

    Attributes:
        object_class: [BLOCK] name of each object's class.
        values: each parameter [BLOCK], NaN where the class has no such parameter.
        lists: each property of subhalos [BLOCK, S], NaN where an image has fewer than S.
    """

    object_class: np.ndarray
    values: dict[str, np.ndarray]
    lists: dict[str, np.ndarray]


def block_rng(population: Population, seed: int, block: int, stream: str) -> np.random.Generator:
    """Return the generator of one random stream of one block."""
    key = [seed, crc32(population.name.encode()), block, _STREAMS.index(stream)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def draw_block(population: Population, seed: int, block: int) -> ParameterBlock:
    """Draw classes, parameters and observed magnitudes (`LAYER_mag_BAND`) of one block."""
    rng = block_rng(population, seed, block, "parameters")
    substructure_rng = block_rng(population, seed, block, "substructure")
    names = np.array(list(population.classes))
    fractions = np.array([one.fraction for one in population.classes.values()])
    object_class = _share(population, "object_class", rng.choice(names, BLOCK, p=fractions / fractions.sum()))
    common: dict[str, np.ndarray] = {}
    for name, parameter in population.common.items():
        common[name] = _share(population, name, parameter.prior.draw(rng, BLOCK, common))
    for layer, light in population.light.items():
        columns = light.columns(layer)
        reference = _share(population, layer, light.magnitude.draw(rng, BLOCK, common))
        common[columns[light.band]] = reference
        for band in (band for band in light.colours if band in population.instrument.bands):
            colour = light.colours[band].draw(rng, BLOCK, common)
            common[columns[band]] = reference + _share(population, layer, colour)
    values = dict(common)
    lists: dict[str, np.ndarray] = {}
    for class_name, one in population.classes.items():
        drawn, members = dict(common), object_class == class_name
        for name, parameter in one.parameters.items():  # drawn for the whole block, used by the members
            drawn[name] = _share(population, name, parameter.prior.draw(rng, BLOCK, drawn))
            values[name] = np.where(members, drawn[name], values.get(name, np.nan))
        if one.substructure is not None:
            for name, column in one.substructure.draw(substructure_rng, BLOCK, drawn).items():
                target = values if column.ndim == 1 else lists
                target[name] = _merge(target.get(name), _share(population, name, column), members)
    return ParameterBlock(object_class, values, lists)


def _share(population: Population, name: str, column: np.ndarray) -> np.ndarray:
    """Return [BLOCK, …] as drawn, or with every second row as the one before if pairs share it."""
    return column if name in population.pairs or not population.pairs else np.repeat(column[::2], 2, axis=0)


def _merge(merged: np.ndarray | None, column: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return `merged` with `column` in these rows; lists [BLOCK, S] are padded with NaN to the longer of the two."""
    merged = np.full_like(column, np.nan) if merged is None else merged
    if column.ndim == 1:
        return np.where(rows, column, merged)
    width = max(merged.shape[1], column.shape[1])
    padded = [np.pad(one, ((0, 0), (0, width - one.shape[1])), constant_values=np.nan) for one in (column, merged)]
    return np.where(rows[:, None], *padded)


def truth_columns(population: Population) -> dict[str, tuple[str, str]]:
    """Return the (unit, meaning) of each truth column."""
    parameters = dict(population.common)
    for one in population.classes.values():
        parameters |= {name: one.parameters[name] for name in one.parameters if name not in parameters}
    table = {name: (parameter.unit, parameter.meaning) for name, parameter in parameters.items()}
    for one in population.classes.values():
        table |= one.substructure.columns if one.substructure else {}
    for name in population.galaxies:
        if f"{name}_pick" in table:
            table[f"{name}_id"] = ("", f"id of the real galaxy that is the {name}")
    if population.pairs:
        table["pair_id"] = ("", "the same for the two images of one lens")
    for layer, light in population.light.items():
        for band in dict.fromkeys((light.band, *population.instrument.bands)):
            table[f"{layer}_mag_{band}"] = ("mag", f"AB magnitude of the {layer} light in {band}, as observed")
        table[f"{layer}_snr"] = ("", f"signal-to-noise ratio of the {layer} light, all bands together")
    if any(one.deflectors for one in population.classes.values()):
        table["magnification"] = ("", "total magnification of the source, within the image")
        for band in population.instrument.bands:
            table[f"source_mag_{band}"] = ("mag", f"AB magnitude of the unlensed source in {band}")
    return table
