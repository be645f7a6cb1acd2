"""A simulation: images of a population with noise, and the table of their truth, made block by block."""

import hashlib
import shutil
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch

from zwicky import __version__
from zwicky.data.cutouts import Cutouts, Images, batches, make_table, pixel_hash
from zwicky.data.labels import Labels, write_labels
from zwicky.data.store import StoreWriter, check_writable, open_store
from zwicky.errors import UserError
from zwicky.io import read_json, write_json
from zwicky.parallel import map_parts
from zwicky.progress import StepProgress
from zwicky.simulate.check import check_population
from zwicky.simulate.draw import BLOCK, ParameterBlock, block_rng, draw_block
from zwicky.simulate.galaxies import galaxy_ids, load_galaxies
from zwicky.simulate.instruments import add_noise, read_star, signal_to_noise, sky_noise
from zwicky.simulate.population import Population, read_population
from zwicky.simulate.render import make_composite, render_block, to_eight_bit
from zwicky.simulate.truth import truth_columns

PIECE = 8  # blocks that are written and resumed together


@dataclass(frozen=True)
class Simulation:
    """Images 0 to `count` of a population; image i depends only on (population, seed, i)."""

    population: Population
    count: int
    seed: int
    device: torch.device

    @classmethod
    def open(cls, population: str, count: int, seed: int = 0, device: str = "cpu") -> Self:
        """Return the simulation of a shipped population or a YAML file, and give the population's warning."""
        simulated = read_population(population)
        if count < 1 or seed < 0:
            raise UserError(f"cannot simulate {count} images with seed {seed}; ask for 1 or more, and seed 0 or more")
        check_population(population, simulated)
        if simulated.warning:
            warnings.warn(f"{population}: {simulated.warning.strip()}")
        return cls(simulated, count, seed, find_device(device))

    @property
    def n_blocks(self) -> int:
        """Number of blocks; the last may have more images than are used."""
        return -(-self.count // BLOCK)

    @property
    def dtype(self) -> np.dtype:
        """Pixel type, see `simulate_population`."""
        return np.dtype(np.uint8 if self.population.composite or self.population.eight_bit else np.float32)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(bands, size, size)."""
        return len(self.population.channels), self.population.size, self.population.size

    def identity(self) -> dict[str, Any]:
        """Return everything that the pixels depend on, JSON-able."""
        population = self.population
        files = {star: _digest(read_star(star).tobytes()) for star in population.instrument.stars}
        for name, galaxies in population.galaxies.items():
            catalog = load_galaxies(galaxies)
            files[name] = _digest(repr((catalog.scale, catalog.ids)).encode() + catalog.images.numpy().tobytes())
        named = {"name": population.name, "population": population.text, "seed": self.seed}
        return named | {"device": self.device.type, "files": files}

    def metadata(self) -> dict[str, Any]:
        """Return `simulation`, by which its images are recognised, stored or not; `columns`: see `truth_columns`."""
        return {"simulation": _digest(repr(self.identity()).encode()), "columns": truth_columns(self.population)}

    def render(self, block: int) -> tuple[np.ndarray, ParameterBlock]:
        """Return noisy images [BLOCK, bands, size, size], and parameters with the truth that only rendering gives."""
        population, instrument = self.population, self.population.instrument
        drawn = draw_block(population, self.seed, block)
        layers, truth = render_block(population, drawn, self.device)
        images = layers.sum(1)
        if not np.isfinite(images).all():
            raise UserError(_not_finite(population, drawn, images))
        exposure = drawn.values["exposure"] if population.noise == "deeplense-1" else None
        for index, name in enumerate(population.light):
            truth[f"{name}_snr"] = signal_to_noise(layers[:, index], images, instrument, exposure)
        rng = block_rng(population, self.seed, block, "noise")
        if population.noise != "none":
            images = add_noise(images, instrument, rng, exposure)
        if population.composite is not None:
            rng = block_rng(population, self.seed, block, "composite")
            images = make_composite(images, tuple(instrument.bands), population.composite, rng)
        if population.eight_bit:
            images = to_eight_bit(images)
        return images, replace(drawn, values=drawn.values | truth)

    def table(self, block: int, drawn: ParameterBlock, images: np.ndarray | None = None) -> pd.DataFrame:
        """Return the rows of a block: standard columns (pixel hashes only of `images`), `object_class`, truth."""
        population, instrument = self.population, self.population.instrument
        n = min(BLOCK, self.count - block * BLOCK)
        columns = drawn.values | galaxy_ids(population.galaxies, drawn.values)
        truth: dict[str, Any] = {name: values[:n] for name, values in columns.items()}
        for name, lists in drawn.lists.items():
            truth[name] = [row[np.isfinite(row)].astype(np.float32) for row in lists[:n]]
        ids = [f"{population.name}-s{self.seed}-{block * BLOCK + row:06d}" for row in range(n)]
        if population.pairs:
            truth["pair_id"] = [ids[row - row % 2] for row in range(n)]
        fwhm = np.array([instrument.bands[band].fwhm for band in population.channels.values()])
        noise = None if self.dtype == np.uint8 else sky_noise(instrument) * (population.noise != "none")
        standard = {
            "bands_present": [list(population.channels)] * n,
            "pixel_scale": [instrument.pixel_scale] * n,
            "survey": [f"simulated-{instrument.name}"] * n,
            "psf_fwhm": list(fwhm * truth["seeing"][:, None]),
            "noise": [noise] * n,
            "simulated": [True] * n,
            "pixel_hash": [None] * n if images is None else [pixel_hash(image) for image in images[:n]],
            "object_class": drawn.object_class[:n].tolist(),
        }
        return make_table(ids, standard | truth)

    def blocks(self, blocks: slice = slice(None)) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
        """Yield the images and table of each block, without the images beyond `count`."""
        for block in range(self.n_blocks)[blocks]:
            images, drawn = self.render(block)
            table = self.table(block, drawn, images)
            yield images[: len(table)], table

    def cutouts(self, images: Images, tables: Iterable[pd.DataFrame]) -> tuple[Cutouts, Labels]:
        """Return the images and the tables of all blocks as cutouts, with their labels."""
        table = pd.concat(tables, ignore_index=True)
        cutouts = Cutouts(images, table, tuple(self.population.channels), truth_of(table), self.metadata())
        return cutouts, self.labels(table)

    def labels(self, table: pd.DataFrame) -> Labels:
        """Return the class labels of the rows of a table."""
        labels = [self.population.classes[name].label for name in table["object_class"]]
        source = f"simulation {self.population.name}, seed {self.seed}"
        return Labels(dict(zip(table["id"], labels, strict=True)), source)


def simulate_population(population: str, count: int, seed: int = 0, device: str = "cpu") -> tuple[Cutouts, Labels]:
    """Simulate `count` images of a shipped population, or of a YAML file, in memory; return cutouts and class labels.

    Image i depends only on (population, seed, i), bit for bit on one type of `device`, "cpu" or "cuda". Images are
    float32 nanomaggies with noise, or uint8 pictures. Truth columns are NaN where a class has no such parameter;
    `metadata["columns"]` of the cutouts gives unit and meaning of each.
    """
    simulation = Simulation.open(population, count, seed, device)
    images, tables = zip(*simulation.blocks(), strict=True)
    return simulation.cutouts(np.concatenate(images), tables)


def simulate_store(
    population: str,
    count: int,
    seed: int,
    out: Path | str,
    quiet: bool = True,
    device: str = "cpu",
    workers: int = 1,
    ray: str = "",
) -> None:
    """Simulate images, as `simulate_population` does, into the store `out`, labels included, with flat memory.

    Pieces are written to the hidden folder `.NAME.pieces` beside it until all are complete, by `workers` processes or
    on a Ray cluster (see `map_parts`); repeating an interrupted call resumes, with the same bytes in the end.
    """
    simulation = Simulation.open(population, count, seed, device)
    out = Path(out)
    check_writable(out)
    folder = out.absolute().with_name(f".{out.name}.pieces")
    identity = simulation.identity() | {"zwicky": __version__, "torch": torch.__version__}
    if (folder / "simulation.json").exists() and read_json(folder / "simulation.json") != identity:
        raise UserError(f"{folder} holds pieces of another simulation; remove it, or choose another --out")
    write_json(folder / "simulation.json", identity)
    ranges = batches(simulation.n_blocks, PIECE)
    pieces = [(blocks, folder / f"{blocks.start * BLOCK}-{min(blocks.stop * BLOCK, count)}") for blocks in ranges]
    missing = [piece for piece in pieces if not piece[1].exists()]
    gpus = float(simulation.device.type == "cuda")
    with StepProgress("simulate", len(pieces), len(pieces) - len(missing), 0, quiet, "piece") as progress:
        for images in map_parts(partial(_write_piece, simulation), missing, workers=workers, ray=ray, gpus=gpus):
            progress.advance(images)
    stores = (open_store(path) for _, path in pieces)
    _write(out, simulation, ((store.images, store.table) for store in stores))
    shutil.rmtree(folder)


def _write_piece(simulation: Simulation, piece: tuple[slice, Path]) -> int:
    """Render blocks into a store of their own, and return the number of images."""
    blocks, path = piece
    return _write(path, simulation, simulation.blocks(blocks))


def _write(path: Path, simulation: Simulation, contents: Iterator[tuple[Images, pd.DataFrame]]) -> int:
    """Write images and their tables as one store, with labels, and return the number of images."""
    bands, size = tuple(simulation.population.channels), simulation.image_shape[1:]
    tables = []
    with StoreWriter(path, bands, size, simulation.dtype, metadata=simulation.metadata()) as writer:
        for images, table in contents:
            writer.append(images, table)
            tables.append(table[["id", "object_class"]])
            writer.truth = truth_of(table)
        write_labels(writer.folder, simulation.labels(pd.concat(tables)))  # so that they arrive with the pixels
    return len(writer)


def truth_of(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the truth columns: `object_class` and every column after it."""
    return tuple(table.columns[table.columns.get_loc("object_class") :])


def _digest(data: bytes) -> str:
    """Return the hash by which a resumed simulation recognises its inputs."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _not_finite(population: Population, drawn: ParameterBlock, images: np.ndarray) -> str:
    """Say which images [n, bands, H, W] are not finite, and from which parameters the first of them was made."""
    bad = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
    first = {name: column[bad[0]] for name, column in drawn.values.items() if "_mag_" not in name}
    values = ", ".join(f"{name} {value:.4g}" for name, value in first.items() if not np.isnan(value))
    classes = ", ".join(sorted(set(drawn.object_class[bad])))
    return (
        f"{population.name}: {len(bad)} of {len(images)} images of class {classes} are not finite; keep its priors to "
        "radii and Sersic indices above 0, ellipticities below 1, sources behind the lens and light within the image. "
        f"The first was made of {values}"
    )


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
