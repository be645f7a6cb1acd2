"""What a command's `--data` names: a store, or a simulation whose images are rendered when they are first used."""

import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zwicky import provenance
from zwicky.data.cutouts import Cutouts, LazyImages, pixel_hash
from zwicky.data.labels import Labels, read_labels
from zwicky.data.splits import DEFAULT, Split, default_split, read_split, whole_split
from zwicky.data.store import open_store
from zwicky.errors import UserError
from zwicky.progress import StepProgress
from zwicky.simulate import population_names
from zwicky.simulate.draw import BLOCK, draw_block
from zwicky.simulate.simulation import Simulation

SIMULATION = "simulate:"
SHOWN_BLOCKS = 16  # more blocks than this to render at once show progress


class SimulatedImages(LazyImages):
    """Images [N, bands, size, size] of a population; a block is rendered when one of its rows is first indexed.

    Rendered blocks are kept in an unnamed temporary file (in TMPDIR), memory-mapped, so the simulation may be larger
    than memory and each image is rendered once.
    """

    def __init__(self, simulation: Simulation, quiet: bool = True) -> None:
        self.simulation, self.quiet = simulation, quiet
        self.dtype, self.image_shape = simulation.dtype, simulation.image_shape
        self.rows = np.arange(simulation.count)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the images are)
        self._pixels = np.memmap(self._file, self.dtype, "w+", shape=(simulation.n_blocks * BLOCK, *self.image_shape))
        self._rendered = np.zeros(simulation.n_blocks, bool)

    def _load(self, rows: np.ndarray) -> np.ndarray:
        blocks = np.unique(rows // BLOCK)
        missing = blocks[~self._rendered[blocks]].tolist()
        quiet = self.quiet or len(missing) <= SHOWN_BLOCKS
        with StepProgress("simulate", len(missing), 0, BLOCK, quiet, "block") as progress:
            for block in missing:
                self._keep(block, self.simulation.render(block)[0].tobytes())
                progress.advance()
        return np.asarray(self._pixels[rows])

    def _keep(self, block: int, pixels: bytes) -> None:
        """Write a block into the file: where a disk is full, assigning to the map would kill the process."""
        try:
            written = os.pwrite(self._file.fileno(), pixels, block * len(pixels))
        except OSError:
            written = 0
        if written < len(pixels):
            size = f"{self._pixels.nbytes / 1e9:.2g} GB"
            raise UserError(f"{tempfile.gettempdir()} is full; set TMPDIR to a folder with {size} for the images")
        self._rendered[block] = True


def open_simulation(population: str, count: int, seed: int = 0, quiet: bool = True) -> tuple[Cutouts, Labels]:
    """Return the images and labels of `simulate_population`, bit for bit, each image rendered when it is first used.

    The table lacks what only rendering gives, as pixel hashes and magnifications, and lists of subhalos.
    """
    simulation = Simulation.open(population, count, seed)
    tables = []
    with StepProgress("draw", simulation.n_blocks, 0, BLOCK, quiet, "block") as progress:
        for block in range(simulation.n_blocks):
            drawn = draw_block(simulation.population, seed, block)
            drawn.lists.clear()
            tables.append(simulation.table(block, drawn))
            progress.advance()
    return simulation.cutouts(SimulatedImages(simulation, quiet), tables)


@dataclass(frozen=True)
class Data:
    """A labelled data set; `store` is the directory of its store, None for a simulation."""

    cutouts: Cutouts
    labels: Labels
    store: Path | None
    blank: frozenset[str] = frozenset()  # ids in the store that are left out: images without a valid pixel

    def split(self, name: str, columns: Sequence[str] = (), runs: Sequence[Path | None] = ()) -> Split:
        """Return a split; nothing is ever written into the store.

        It is that of the first of `runs` whose `splits/NAME.csv`, or that of the benchmark it is part of, has training
        objects, all in these cutouts by id and pixels, else the store's own `splits/NAME.csv`, else the default split,
        a function of the data and of the regression targets `columns` alone. UserError if there is no split of this
        name and it is not the default one.
        """
        return self._recorded(name, runs) or default_split(self.cutouts, self.labels, columns)

    def test_split(self, run: Path, columns: Sequence[str] = ()) -> Split:
        """Return the split that tests a run: its own or that of the store, else all of the data as a test set."""
        return self._recorded(DEFAULT, [run]) or whole_split(self.cutouts, self.labels, columns)

    def given_split(self, name: str | None) -> Split | None:
        """Return the store's own split of this name, None if it has none; UserError if it is not the default one."""
        path = self._stored().get(name or "")
        if path is None and name not in (None, DEFAULT):
            names = ", ".join(sorted({DEFAULT, *self._stored()}))
            raise UserError(f"there is no split {name!r}; choose one of {names}")
        split = read_split(path) if path else None
        if split is None or not self.blank:
            return split
        return replace(split, roles={i: role for i, role in split.roles.items() if i not in self.blank})

    def _stored(self) -> dict[str, Path]:
        return {} if self.store is None else {path.stem: path for path in self.store.glob("splits/*.csv")}

    def _recorded(self, name: str, runs: Sequence[Path | None]) -> Split | None:
        for run in filter(None, runs):
            for folder in (run, run.parent.parent):  # a network in a benchmark has the splits of the benchmark
                path = folder / "splits" / f"{name}.csv"
                split = read_split(path) if path.exists() else Split(name, {})
                is_here = len(split.ids("train")) > 0 and set(split.roles) <= set(self.cutouts.ids)
                if is_here and self._has_trained(run, split):
                    return split
        return self.given_split(name)

    def _has_trained(self, run: Path, split: Split) -> bool:
        """Whether a run was trained on the cutouts here that the split trains on: ids repeat from store to store."""
        objects, rows = provenance.read(run), self.cutouts.rows_of(split.ids("train"))
        return bool(objects.unknown) or bool(provenance.find_leaked(self.cutouts, rows, objects).any())


def open_data(name: Path | str, quiet: bool = True) -> Data:
    """Open a store, or the simulation `simulate:POPULATION:N:SEED`; UserError if there is none."""
    text = str(name)
    if not text.startswith(SIMULATION):
        return _without_blank(open_store(name), read_labels(name), Path(name))
    population, *numbers = text.removeprefix(SIMULATION).split(":")
    if not population or len(numbers) not in (1, 2) or not all(number.isdecimal() for number in numbers):
        raise UserError(f"{text} is no simulation; write simulate:POPULATION:N or simulate:POPULATION:N:SEED")
    count, seed = (int(number) for number in (*numbers, "0")[:2])
    return Data(*open_simulation(population, count, seed, quiet), None)


def _without_blank(cutouts: Cutouts, labels: Labels, store: Path) -> Data:
    """A store without its images that have no valid pixel, which `zwicky ingest` sets aside."""
    is_blank = cutouts.column("pixel_hash") == pixel_hash(np.full(cutouts.images.shape[1:], np.nan))
    if not is_blank.any():
        return Data(cutouts, labels, store)
    blank = frozenset(cutouts.ids[is_blank])
    warnings.warn(f"{len(blank)} images of {store} have no valid pixel; they are left out")
    values = {name: label for name, label in labels.values.items() if name not in blank}
    return Data(cutouts.take(np.flatnonzero(~is_blank)), replace(labels, values=values), store, blank)


def data_exists(name: str) -> bool:
    """Return whether the store, or the population of the simulation, is there."""
    if not name.startswith(SIMULATION):
        return bool(name) and Path(name).is_dir()
    population = name.removeprefix(SIMULATION).split(":")[0]
    return population in population_names() or Path(population).is_file()
