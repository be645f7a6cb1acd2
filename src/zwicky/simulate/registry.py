"""Populations by name."""

from __future__ import annotations

from zwicky.simulate.config import population_names
from zwicky.simulate.description import read_population
from zwicky.simulate.population import Population


def populations() -> dict[str, str]:
    """Name and one-line description of each population; loads no torch."""
    return {name: read_population(name).about for name in population_names()}


def find_population(name: str) -> Population:
    """The population of this name or YAML file; an unknown or wrong one is a UserError of one line."""
    return read_population(name)
