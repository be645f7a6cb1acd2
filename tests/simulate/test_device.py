"""What is rendered stays on one device: shown on one that holds no numbers, where a tensor left behind is an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zwicky.simulate import population_names
from zwicky.simulate.draw import draw_block
from zwicky.simulate.population_yaml import read_population
from zwicky.simulate.render import grid, observe, parameter_tensors, render_light

META = torch.device("meta")


@pytest.mark.parametrize("name", population_names())
def test_a_population_is_rendered_where_it_is_told_to(name):
    population = read_population(name)
    drawn = draw_block(population, 0, 0)
    x, y = grid(24, 0.1, META)
    for kind_name, kind in population.classes.items():
        rows = np.flatnonzero(drawn.object_class == kind_name)[:2]
        if not len(rows):
            continue
        shapes = render_light(population, kind, x, y, 0.1, parameter_tensors(drawn, rows, META))
        assert shapes.cells.device == shapes.magnification.device == META
        assert observe(population, shapes.cells, drawn, rows).device == META
