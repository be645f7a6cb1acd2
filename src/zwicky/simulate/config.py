"""What can be chosen about a simulation; plain data, so that the command line can describe it without loading torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SimulateConfig:
    """Which images to simulate.

    Args:
        population: name of the population; `zwicky.simulate.registry.populations()` lists them.
        n: how many images.
        seed: whole number ≥ 0; image i is a function of population, seed and i alone, whatever n.
    """

    population: str = "demo-lenses"
    n: int = 4000
    seed: int = 0
