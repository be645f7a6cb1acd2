"""From a population to numbers: the parameters of one block of images.

Images are drawn and rendered in blocks of one constant size. A block's random streams are keyed by population, seed,
and the block's number alone, so that image i is the same whatever how many are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from zwicky.simulate.population import Parameter, Population

BLOCK = 64  # images; changing it changes every simulated image

_STREAMS = ("parameters", "noise", "substructure", "composite")


@dataclass(frozen=True)
class Drawn:
    """Parameters of one block. kinds: [BLOCK] names. values: of each parameter [BLOCK], NaN where a kind has none.

    lists: of each property of subhalos [BLOCK, S], NaN where an image has fewer than S.
    """

    kinds: np.ndarray
    values: dict[str, np.ndarray]
    lists: dict[str, np.ndarray]


def generator(population: Population, seed: int, block: int, stream: str) -> np.random.Generator:
    """The counter-based generator of one stream of one block."""
    key = [seed, crc32(population.name.encode()), block, _STREAMS.index(stream)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def draw_block(population: Population, seed: int, block: int) -> Drawn:
    """Draw kinds, parameters and observed magnitudes (`LAYER_mag_BAND`) of one block."""
    rng = generator(population, seed, block, "parameters")
    names = np.array(list(population.kinds))
    shares = np.array([kind.share for kind in population.kinds.values()])
    kinds = _paired(population, "kind", rng.choice(names, BLOCK, p=shares / shares.sum()))
    values: dict[str, np.ndarray] = {}
    for name, parameter in population.common.items():
        values[name] = _paired(population, name, parameter.distribution.draw(rng, BLOCK, values))
    for layer, light in population.light.items():
        columns = light.columns(layer)
        reference = _paired(population, layer, light.magnitude.draw(rng, BLOCK, values))
        values[columns[light.band]] = reference
        for band, offset in light.offsets.items():
            values[columns[band]] = reference + _paired(population, layer, offset.draw(rng, BLOCK, values))
    lists: dict[str, np.ndarray] = {}
    common = dict(values)
    small = generator(population, seed, block, "substructure")
    for kind_name, kind in population.kinds.items():
        own = dict(common)
        for name, parameter in kind.parameters.items():
            drawn = parameter.distribution.draw(rng, BLOCK, own)  # for all; used by its kind
            own[name] = _paired(population, name, drawn)
            values[name] = np.where(kinds == kind_name, own[name], values.get(name, np.nan))
        if kind.substructure is not None:
            for name, drawn in kind.substructure.draw(small, BLOCK, own).items():
                drawn = _paired(population, name, drawn)
                known = values if drawn.ndim == 1 else lists
                known[name] = _merge(known.get(name), drawn, kinds == kind_name)
    return Drawn(kinds, values, lists)


def _paired(population: Population, name: str, drawn: np.ndarray) -> np.ndarray:
    """[BLOCK, …] as drawn, or each second one as the one before where pairs share it."""
    return drawn if name in population.pairs or not population.pairs else np.repeat(drawn[::2], 2, axis=0)


def _merge(known: np.ndarray | None, drawn: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`known` with `drawn` in these rows; lists [BLOCK, S] are filled up with NaN to the longer of the two."""
    known = np.full_like(drawn, np.nan) if known is None else known
    if drawn.ndim == 1:
        return np.where(rows, drawn, known)
    width = max(known.shape[1], drawn.shape[1])
    wide = [np.pad(one, ((0, 0), (0, width - one.shape[1])), constant_values=np.nan) for one in (drawn, known)]
    return np.where(rows[:, None], *wide)


def units(population: Population) -> dict[str, tuple[str, str]]:
    """Of each truth column its (unit, meaning), for the docs and for whoever reads a store."""
    known: dict[str, Parameter] = dict(population.common)
    for kind in population.kinds.values():
        known.update({name: parameter for name, parameter in kind.parameters.items() if name not in known})
    table = {name: (parameter.unit, parameter.meaning) for name, parameter in known.items()}
    for kind in population.kinds.values():
        table |= kind.substructure.columns if kind.substructure is not None else {}
    for name in population.galaxies:
        if f"{name}_pick" in table:
            table[f"{name}_id"] = ("", f"id of the real galaxy that is the {name}")
    if population.pairs:
        table["pair_id"] = ("", "the two images of one lens have the same")
    for layer, light in population.light.items():
        for band in dict.fromkeys((light.band, *population.instrument.band_names)):
            table[f"{layer}_mag_{band}"] = ("mag", f"AB magnitude of the {layer} light in {band}, as observed")
        table[f"{layer}_snr"] = ("", f"signal-to-noise of the {layer} light, all bands together")
    if any(kind.deflectors for kind in population.kinds.values()):
        table["magnification"] = ("", "total magnification of the source, in the frame")
        for band in population.instrument.band_names:
            table[f"source_mag_{band}"] = ("mag", f"AB magnitude of the unlensed source in {band}")
    return table
