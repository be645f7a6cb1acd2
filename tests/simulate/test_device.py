"""What is rendered stays on one device: shown on one that holds no numbers, where a tensor left behind is an error."""

import numpy as np
import pytest
import torch

from zwicky.errors import UserError
from zwicky.simulate import population_names
from zwicky.simulate.draw import draw_block
from zwicky.simulate.galaxies import sample_galaxy
from zwicky.simulate.instruments import transfer
from zwicky.simulate.population import read_population
from zwicky.simulate.render import grid, observe, parameter_tensors, render_light
from zwicky.simulate.simulation import simulate_population

META = torch.device("meta")


@pytest.mark.parametrize("name", population_names())
def test_a_population_is_rendered_on_the_device(name):
    population = read_population(name)
    drawn = draw_block(population, 0, 0)
    x, y = grid(24, 0.1, META)
    for class_name, object_class in population.classes.items():
        rows = np.flatnonzero(drawn.object_class == class_name)[:2]
        if len(rows):
            p = parameter_tensors(drawn, rows, META)
            cells, magnification = render_light(population, object_class, x, y, 0.1, p)
            assert cells.device == magnification.device == META
            assert observe(population, cells, drawn, rows).device == META


def test_galaxies_and_stars_are_sampled_on_the_device(tmp_path):
    x, y = (axis.expand(3, -1, -1) for axis in grid(16, 0.03, META))
    p = {f"source_{name}": torch.ones(3, 1, 1, device=META) for name in ("rotation", "zoom", "flip", "scale")}
    p["source_images"] = torch.ones(3, 9, 9, device=META)
    assert sample_galaxy("source", x, y, p).device == META
    np.save(tmp_path / "star.npy", np.ones((5, 5), np.float32))
    assert transfer(str(tmp_path / "star.npy"), torch.ones(2, device=META), 80, 0.1).device == META


def test_a_missing_device_is_one_line():
    for name in ("cuda:99", "toaster", "meta"):
        with pytest.raises(UserError, match=name):
            simulate_population("demo-lenses", 1, device=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", population_names())
def test_a_gpu_renders_what_the_cpu_renders(name, write_population):
    """To 1e-4 of the peak; 8-bit pictures to 2 levels, which noise and clipping may differ by."""
    small = write_population({"base": name, "size": 24})
    cpu, gpu = (simulate_population(small, 16, device=device)[0].images.astype(float) for device in ("cpu", "cuda"))
    tolerance = 2 if read_population(name).composite else 1e-4 * np.abs(cpu).max()
    assert np.abs(cpu - gpu).max() <= tolerance
