"""What a command's `--data` names: a store, or a simulation that is rendered while it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zwicky.data.contract import Cutouts
from zwicky.data.store import open_store
from zwicky.data.stored_split import drawn_split, stored_split
from zwicky.data.tables import Labels, Split, read_labels
from zwicky.errors import UserError
from zwicky.simulate import population_names
from zwicky.simulate.stream import open_simulation
from zwicky.training.launch import rank
from zwicky.training.processes import run_on_rank_zero

SIMULATION = "simulate:"


@dataclass(frozen=True)
class Data:
    """Cutouts with their labels. store: where they lie; None for a simulation, which keeps nothing."""

    cutouts: Cutouts
    labels: Labels
    store: Path | None

    def split(self, name: str, columns: Sequence[str] = ()) -> Split:
        """The split of this name, as `cutouts.stored_split` has it. A simulation has the one that its store would."""
        if self.store is None:
            return drawn_split(name, self.cutouts, self.labels, columns)
        store = self.store
        return run_on_rank_zero(lambda: stored_split(store, name, self.cutouts, self.labels, columns))


def open_data(name: Path | str, memory_gb: float | None = None) -> Data:
    """Open a store, or `simulate:POPULATION:N:SEED`. Pixels beyond `memory_gb` (10⁹ bytes) come when asked for."""
    text = str(name)
    if not text.startswith(SIMULATION):
        return Data(open_store(name, memory_gb), read_labels(name), Path(name))
    words = text.removeprefix(SIMULATION).split(":")
    numbers = words[1:]
    if not words[0] or len(numbers) not in (1, 2) or not all(number.isdecimal() for number in numbers):
        raise UserError(f"{text} is no simulation; write simulate:POPULATION:N or simulate:POPULATION:N:SEED")
    count, seed = int(numbers[0]), int(numbers[1]) if numbers[1:] else 0
    return Data(*open_simulation(words[0], count, seed, memory_gb, quiet=rank() > 0), None)


def is_there(name: str) -> bool:
    """Whether there still is what `name` says: a store, or the description of a simulation, may have moved since."""
    if not name.startswith(SIMULATION):
        return bool(name) and Path(name).is_dir()
    population = name.removeprefix(SIMULATION).split(":")[0]
    return population in population_names() or Path(population).is_file()
