"""Parameters of one block of images, drawn from a population's priors.

Images are drawn and rendered in blocks of a constant size. The random streams of a block depend only on the name of the
population, the seed and the block's number, so that image i is the same however many are simulated.
"""

from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

from zwicky.errors import UserError
from zwicky.simulate.population import Population
from zwicky.simulate.priors import Prior, Substructure

BLOCK = 64  # images; changing it changes every simulated image
POSITIVE = ("seeing", "exposure", "theta_E_1e12")  # beyond which images would be finite and wrong
_STREAMS = ("parameters", "noise", "substructure", "composite")


@dataclass(frozen=True)
class ParameterBlock:
    """Parameters of one block, NaN where the class of an image has no such parameter."""

    object_class: np.ndarray  # [BLOCK], names
    values: dict[str, np.ndarray]  # each parameter [BLOCK]
    lists: dict[str, np.ndarray]  # each property of subhalos [BLOCK, S]


def block_rng(population: Population, seed: int, block: int, stream: str) -> np.random.Generator:
    """Return the generator of one random stream of one block."""
    key = [seed, crc32(population.name.encode()), block, _STREAMS.index(stream)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def draw_block(population: Population, seed: int, block: int) -> ParameterBlock:
    """Draw classes, parameters and observed magnitudes (`LAYER_mag_BAND`) of one block."""
    rng, substructure_rng = (block_rng(population, seed, block, stream) for stream in ("parameters", "substructure"))

    def share(name: str, column: np.ndarray) -> np.ndarray:  # every second row is the one before if pairs share it
        return column if name in population.pairs or not population.pairs else np.repeat(column[::2], 2, axis=0)

    def draw(name: str, model: Prior | Substructure, drawn: dict[str, np.ndarray], rng=rng) -> Any:
        try:
            column = model.draw(rng, BLOCK, drawn)
        except KeyError as error:
            message = f"{name} needs {error.args[0]}, not drawn before it; declare it above"
            raise UserError(f"{population.name}: {message}") from None
        except ValueError as error:
            raise UserError(f"{population.name}: {name}: {error}") from None
        if name in POSITIVE and isinstance(column, np.ndarray) and not (np.isfinite(column) & (column > 0)).all():
            message = f"{name} is drawn as {column.min():.3g}, not finite and above 0"
            raise UserError(f"{population.name}: {message}; narrow its prior, and keep sources behind the lens")
        return column

    names = np.array(list(population.classes))
    fractions = np.array([one.fraction for one in population.classes.values()])
    object_class = share("object_class", rng.choice(names, BLOCK, p=fractions / fractions.sum()))
    common: dict[str, np.ndarray] = {}
    for name, prior in population.common.items():
        common[name] = share(name, draw(name, prior, common))
    for layer, light in population.light.items():
        columns = light.columns(layer)
        reference = common[columns[light.band]] = share(layer, draw(layer, light.magnitude, common))
        for band in (band for band in light.colours if band in population.instrument.bands):
            common[columns[band]] = reference + share(layer, draw(layer, light.colours[band], common))
    values = dict(common)
    lists: dict[str, np.ndarray] = {}
    for class_name, one in population.classes.items():
        drawn, members = dict(common), object_class == class_name
        for name, prior in one.parameters.items():  # drawn for the whole block, used by the members
            drawn[name] = share(name, draw(name, prior, drawn))
            values[name] = np.where(members, drawn[name], values.get(name, np.nan))
        if one.substructure is not None:
            masses = draw(f"the substructure of {class_name}", one.substructure, drawn, substructure_rng)
            for name, column in masses.items():
                target = values if column.ndim == 1 else lists
                target[name] = _merge(target.get(name), share(name, column), members)
    return ParameterBlock(object_class, values, lists)


def _merge(merged: np.ndarray | None, column: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return `merged` with `column` in these rows; lists [BLOCK, S] are padded with NaN to the longer of the two."""
    merged = np.full_like(column, np.nan) if merged is None else merged
    if column.ndim == 1:
        return np.where(rows, column, merged)
    width = max(merged.shape[1], column.shape[1])
    padded = [np.pad(one, ((0, 0), (0, width - one.shape[1])), constant_values=np.nan) for one in (column, merged)]
    return np.where(rows[:, None], *padded)
