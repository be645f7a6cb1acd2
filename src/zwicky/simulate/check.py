"""What a population refers to must exist, fit and be used."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from zwicky.errors import UserError
from zwicky.simulate.draw import BLOCK, POSITIVE, draw_block
from zwicky.simulate.galaxies import galaxy_tensors, load_galaxies
from zwicky.simulate.instruments import read_star
from zwicky.simulate.lensing import DEFLECTORS
from zwicky.simulate.light import LAYERS, SOURCES
from zwicky.simulate.population import Population, inherited_parameters, population_names
from zwicky.simulate.priors import AxionVortex, Prior, Substructure
from zwicky.simulate.render import CPU, MARGIN, fine_size, grid, parameter_tensors, render_light


def check_population(name: str, population: Population) -> None:
    """Check what a population refers to: shapes, deflectors, galaxies, stars, and parameters drawn before others.

    A warning names the parameters that a YAML file declares, its base does not, and nothing uses.
    UserError if something does not exist or fit.
    """
    for one in population.classes.values():
        uses = (("shape", one.layers.values(), [*LAYERS, *SOURCES]), ("deflector", one.deflectors, DEFLECTORS))
        for what, names, allowed in uses:
            if unknown := [used for used in names if used not in allowed]:
                raise UserError(f"{name}: there is no {what} {unknown[0]!r}; choose one of {', '.join(allowed)}")
        if lensed := [layer for layer, shape in one.layers.items() if shape in SOURCES and layer != "arc"]:
            raise UserError(f"{name}: the layer of a lensed source must be called arc; rename {lensed[0]}")
        for galaxy in sorted({"source", "lens"} - set(population.galaxies)):
            if f"real_{galaxy}" in one.layers.values():
                raise UserError(f"{name}: real_{galaxy} needs a store of galaxies; name one in galaxies.{galaxy}")
    for galaxies in population.galaxies.values():
        load_galaxies(galaxies)
    seeing = population.common["seeing"]
    for star in population.instrument.stars:
        most = min(fine_size(population), 4 * MARGIN * population.supersampling + 1)  # or its wings wrap around
        if (width := len(read_star(star))) > most:
            raise UserError(f"{star} is {width} cells wide; crop the image of the star to at most {most}")
        if (seeing.family, seeing.values, seeing.times or seeing.around) != ("value", (1.0,), None):
            raise UserError(f"{name}: the image of a star has one width; write value: 1 for common.seeing")
    draw_block(population, 0, 0)
    for kind, one in population.classes.items():
        fitting = "vortex" if isinstance(one.substructure, AxionVortex) else "_subhalos"
        if one.substructure is not None and not any(used.endswith(fitting) for used in one.deflectors):
            known = ", ".join(used for used in DEFLECTORS if used.endswith(fitting))
            raise UserError(f"{name}: classes.{kind}.deflectors leaves its substructure out; add {known}")
    if name in population_names():
        return
    # What a base declares and the changed classes no longer need is no mistake.
    if unused := sorted(set(unused_parameters(population)) - inherited_parameters(name)):
        warnings.warn(f"{name}: nothing uses the parameter {', '.join(unused)}; is it spelled as in its base?")


class _Watched(dict):
    """A dictionary that keeps the keys that were read."""

    def __init__(self, values: Mapping[str, Any], read: set[str]) -> None:
        super().__init__(values)
        self.read = read

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)


def unused_parameters(population: Population) -> list[str]:
    """Return declared parameters that neither a prior nor the light of a class reads, as one spelled wrongly.

    Found by drawing once and rendering an image of each class; none if a class does not occur in the first block.
    """
    drawn, rng, read = draw_block(population, 0, 0), np.random.default_rng(0), set(POSITIVE)
    if set(population.classes) - set(drawn.object_class):
        return []
    declared = set(population.common)
    models: list[Prior | Substructure] = [*population.common.values()]
    for light in population.light.values():
        models += [light.magnitude, *light.colours.values()]
    x, y = grid(8, 1.0)
    for name, one in population.classes.items():
        rows = np.flatnonzero(drawn.object_class == name)[:1]
        declared |= set(one.parameters)
        models += [*one.parameters.values(), *([one.substructure] if one.substructure is not None else [])]
        values = _Watched({key: column[rows] for key, column in drawn.values.items()}, read)
        try:
            tensors = parameter_tensors(drawn, rows) | galaxy_tensors(population, one, values, CPU)
            render_light(population, one, x, y, 1.0, _Watched(tensors, read))
        except KeyError:  # one is missing, which rendering says
            return []
    for model in models:
        model.draw(rng, BLOCK, _Watched(drawn.values, read))
    return sorted(declared - read)
