"""Populations by name."""

from __future__ import annotations

from zwicky.errors import UserError
from zwicky.simulate.demo_lenses import DEMO_LENSES
from zwicky.simulate.population import Population

_POPULATIONS = {population.name: population for population in (DEMO_LENSES,)}


def populations() -> dict[str, str]:
    """Name and one-line description of each population; loads no torch."""
    return {name: population.about for name, population in _POPULATIONS.items()}


def find_population(name: str) -> Population:
    """The population of this name; an unknown one is a UserError that lists the known ones."""
    if name not in _POPULATIONS:
        raise UserError(f"there is no population {name!r}; choose one of: {', '.join(_POPULATIONS)}")
    return _POPULATIONS[name]
