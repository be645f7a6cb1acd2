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

_STREAMS = ("parameters", "noise")


@dataclass(frozen=True)
class Drawn:
    """Parameters of one block. kinds: [BLOCK] names. values: of each parameter [BLOCK], NaN where a kind has none."""

    kinds: np.ndarray
    values: dict[str, np.ndarray]


def generator(population: Population, seed: int, block: int, stream: str) -> np.random.Generator:
    """The counter-based generator of one stream of one block."""
    key = [seed, crc32(population.name.encode()), block, _STREAMS.index(stream)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def draw_block(population: Population, seed: int, block: int) -> Drawn:
    """Draw kinds, parameters and observed magnitudes (`LAYER_mag_BAND`) of one block."""
    rng = generator(population, seed, block, "parameters")
    names = np.array(list(population.kinds))
    shares = np.array([kind.share for kind in population.kinds.values()])
    kinds = rng.choice(names, BLOCK, p=shares / shares.sum())
    values: dict[str, np.ndarray] = {}
    for name, parameter in population.common.items():
        values[name] = parameter.distribution.draw(rng, BLOCK, values)
    for layer, light in population.light.items():
        reference = light.magnitude.draw(rng, BLOCK, values)
        values[f"{layer}_mag_{light.band}"] = reference
        for band, offset in light.offsets.items():
            values[f"{layer}_mag_{band}"] = reference + offset.draw(rng, BLOCK, values)
    common = dict(values)
    for kind_name, kind in population.kinds.items():
        own = dict(common)
        for name, parameter in kind.parameters.items():
            own[name] = parameter.distribution.draw(rng, BLOCK, own)  # for all; used by its kind
            values[name] = np.where(kinds == kind_name, own[name], values.get(name, np.nan))
    return Drawn(kinds, values)


def units(population: Population) -> dict[str, tuple[str, str]]:
    """Of each truth column its (unit, meaning), for the docs and for whoever reads a store."""
    known: dict[str, Parameter] = dict(population.common)
    for kind in population.kinds.values():
        known.update({name: parameter for name, parameter in kind.parameters.items() if name not in known})
    table = {name: (parameter.unit, parameter.meaning) for name, parameter in known.items()}
    for layer in population.light:
        for band in population.instrument.band_names:
            table[f"{layer}_mag_{band}"] = ("mag", f"AB magnitude of the {layer} light in {band}, as observed")
        table[f"{layer}_snr"] = ("", f"signal-to-noise of the {layer} light, all bands together")
    if any("lensed_source" in kind.layers.values() for kind in population.kinds.values()):
        table["magnification"] = ("", "total magnification of the source, in the frame")
        for band in population.instrument.band_names:
            table[f"source_mag_{band}"] = ("mag", f"AB magnitude of the unlensed source in {band}")
    return table
