"""A simulation: images of a population with noise, and the table of their truth, made block by block."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from zwicky.data.cutouts import make_table, pixel_hash
from zwicky.data.labels import Labels
from zwicky.errors import UserError
from zwicky.simulate.draw import BLOCK, ParameterBlock, block_rng, draw_block
from zwicky.simulate.galaxies import galaxy_ids, load_galaxies
from zwicky.simulate.lensing import DEFLECTORS
from zwicky.simulate.light import LAYERS, SOURCES
from zwicky.simulate.noise import add_deeplense_noise, add_noise, signal_to_noise, sky_noise
from zwicky.simulate.population import Population
from zwicky.simulate.population_yaml import read_population
from zwicky.simulate.priors import Prior
from zwicky.simulate.psf import PROFILES, digest, read_star
from zwicky.simulate.render import MARGIN, fine_size, make_composite, render_block


@dataclass(frozen=True)
class Simulation:
    """Images 0 to `count` of a population; image i depends only on (population, seed, i)."""

    population: Population
    count: int
    seed: int
    device: torch.device

    @classmethod
    def open(cls, population: str, count: int, seed: int = 0, device: str = "cpu") -> Simulation:
        """Return the simulation of a shipped population or a YAML file, and print the population's warning.

        Raises:
            UserError: The population or the device is unknown or unusable, or a number is out of range.
        """
        chosen = read_population(population)
        if count < 1:
            raise UserError(f"cannot simulate {count} images; ask for 1 or more")
        if seed < 0:
            raise UserError(f"the seed is {seed}; choose a whole number of 0 or more")
        _check(population, chosen)
        if chosen.warning:
            print(f"warning: {population}: {chosen.warning.strip()}", file=sys.stderr)
        return cls(chosen, count, seed, find_device(device))

    @property
    def n_blocks(self) -> int:
        """Number of blocks; the last may have more images than are used."""
        return -(-self.count // BLOCK)

    @property
    def dtype(self) -> np.dtype:
        """Pixel type: float32 nanomaggies, or uint8 for colour pictures."""
        return np.dtype(np.uint8 if self.population.composite else np.float32)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(bands, size, size)."""
        return len(self.population.band_names), self.population.size, self.population.size

    @property
    def source(self) -> str:
        """Source of the labels."""
        return f"simulation {self.population.name}, seed {self.seed}"

    def identity(self) -> dict[str, Any]:
        """Return everything that the pixels depend on, JSON-able."""
        population = self.population
        files = {name: load_galaxies(galaxies).digest for name, galaxies in population.galaxies.items()}
        files |= {star: digest(star) for star in _stars(population)}
        named = {"name": population.name, "population": population.text, "seed": self.seed}
        return named | {"device": self.device.type, "files": files}

    def metadata(self) -> dict[str, str]:
        """Return the metadata by which a store, and images rendered on access, are known to be the same simulation."""
        return {"simulation": hashlib.blake2b(repr(self.identity()).encode(), digest_size=16).hexdigest()}

    def draw(self, block: int) -> ParameterBlock:
        """Return the parameters of a block."""
        return draw_block(self.population, self.seed, block)

    def render(self, block: int, drawn: ParameterBlock) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return noisy images [BLOCK, bands, size, size] and the truth that only rendering knows, [BLOCK] each."""
        population, instrument = self.population, self.population.instrument
        layers, truth = render_block(population, drawn, self.device)
        images = layers.sum(1)
        truth |= {
            f"{name}_snr": signal_to_noise(layers[:, index], images, instrument)
            for index, name in enumerate(population.light)
        }
        rng = block_rng(population, self.seed, block, "noise")
        if population.noise == "deeplense-1":
            images = add_deeplense_noise(images, instrument, drawn.values["exposure"], rng)
        elif population.noise == "instrument":
            images = add_noise(images, instrument, rng)
        if population.composite is not None:
            rng = block_rng(population, self.seed, block, "composite")
            images = make_composite(images, instrument.band_names, population.composite, rng)
        return images, truth

    def table(
        self,
        block: int,
        drawn: ParameterBlock,
        rendered: Mapping[str, np.ndarray] | None = None,
        images: np.ndarray | None = None,
    ) -> pd.DataFrame:
        """Return the rows of a block: standard columns, then `object_class` and all other truth.

        Args:
            block: its number.
            drawn: its parameters.
            rendered: truth that only rendering knows, if it was rendered.
            images: for the pixel hashes, null without.
        """
        population, instrument = self.population, self.population.instrument
        n = min(BLOCK, self.count - block * BLOCK)
        truth: dict[str, Any] = {name: values[:n] for name, values in (drawn.values | dict(rendered or {})).items()}
        truth |= galaxy_ids(population.galaxies, {name: values[:n] for name, values in drawn.values.items()})
        truth |= {name: _without_nan(values[:n]) for name, values in drawn.lists.items()}
        ids = [f"{population.name}-s{self.seed}-{block * BLOCK + row:06d}" for row in range(n)]
        if population.pairs:
            truth["pair_id"] = [ids[row - row % 2] for row in range(n)]
        fwhm = np.array([instrument.bands[band].fwhm for band in population.observed_bands])
        noise = None if population.composite else sky_noise(instrument) * (population.noise != "none")
        columns = {
            "bands_present": [list(population.band_names)] * n,
            "pixel_scale": [instrument.pixel_scale] * n,
            "survey": [f"simulated-{instrument.name}"] * n,
            "psf_fwhm": list(fwhm * truth["seeing"][:, None]),
            "noise": [noise] * n,
            "simulated": [True] * n,
            "pixel_hash": [None] * n if images is None else [pixel_hash(image) for image in images[:n]],
            "object_class": drawn.object_class[:n].tolist(),
        }
        return make_table(ids, columns | truth)

    def blocks(self, first: int = 0, last: int | None = None) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
        """Yield the images and table of blocks `first` to `last`, without the images beyond `count`."""
        for block in range(first, min(self.n_blocks, self.n_blocks if last is None else last)):
            drawn = self.draw(block)
            images, rendered = self.render(block, drawn)
            table = self.table(block, drawn, rendered, images)
            yield images[: len(table)], table

    def labels(self, table: pd.DataFrame) -> Labels:
        """Return the class labels of the rows of a table."""
        labels = [self.population.classes[name].label for name in table["object_class"]]
        return Labels(dict(zip(table["id"], labels, strict=True)), self.source)


def truth_of(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the truth columns: `object_class` and every column after it."""
    return tuple(table.columns[table.columns.get_loc("object_class") :])


def find_device(name: str) -> torch.device:
    """Return the torch device `name`; UserError if it is not available."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            device = torch.device(name)
            torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot render on the device {name!r} ({reason}); leave it out for the CPU") from error
    return device


def _check(name: str, population: Population) -> None:
    """Check what the population refers to: shapes, deflectors, galaxies and stars."""
    for one in population.classes.values():
        _check_names(name, "shape", one.layers.values(), [*LAYERS, *SOURCES])
        _check_names(name, "deflector", one.deflectors, DEFLECTORS)
        for galaxy in sorted({"source", "lens"} - set(population.galaxies)):
            if f"real_{galaxy}" in one.layers.values():
                raise UserError(f"{name}: real_{galaxy} needs a store of galaxies; name one in galaxies.{galaxy}")
    for galaxies in population.galaxies.values():
        load_galaxies(galaxies)
    for star in _stars(population):
        most = min(fine_size(population), 4 * MARGIN * population.supersampling + 1)  # or its wings wrap around
        if (width := len(read_star(star))) > most:
            raise UserError(f"{star} is {width} cells wide; crop the image of the star to at most {most}")
        if population.common["seeing"].prior != Prior("value", (1.0,)):
            raise UserError(f"{name}: the image of a star has one width; write value: 1 for common.seeing")


def _check_names(population: str, what: str, names: Iterable[str], allowed: Iterable[str]) -> None:
    if unknown := [name for name in names if name not in allowed]:
        raise UserError(f"{population}: there is no {what} {unknown[0]!r}; choose one of {', '.join(allowed)}")


def _stars(population: Population) -> list[str]:
    return [band.psf for band in population.instrument.bands.values() if band.psf not in PROFILES]


def _without_nan(values: np.ndarray) -> list[np.ndarray]:
    """Return the rows of [n, S] without the NaN that pads them."""
    return [row[np.isfinite(row)].astype(np.float32) for row in values]
