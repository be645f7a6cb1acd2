"""A simulated store: written in pieces, resumed after a kill to the same bytes; and exported folders."""

import numpy as np
import pytest

from zwicky import cli
from zwicky.errors import UserError
from zwicky.simulate import simulation
from zwicky.simulate.draw import BLOCK
from zwicky.simulate.simulation import Simulation, simulate_population, simulate_store

TINY = {"base": "demo-lenses", "size": 8, "bands": ["r"]}
COUNT = 3 * BLOCK + 7


@pytest.fixture
def population(write_population, monkeypatch):
    """The name of a quick population, written in pieces of one block."""
    monkeypatch.setattr(simulation, "PIECE", 1)
    return write_population(TINY, "tiny.yaml")


@pytest.fixture
def rendered(monkeypatch):
    """The numbers of the blocks rendered; block 2 is interrupted the first time."""
    render, blocks = Simulation.render, []

    def record(simulation, block):
        blocks.append(block)
        if block == 2 and blocks.count(2) == 1:
            raise KeyboardInterrupt
        return render(simulation, block)

    monkeypatch.setattr(Simulation, "render", record)
    return blocks


def test_an_interrupted_simulation_resumes_to_the_same_bytes(population, tmp_path, rendered, write_population):
    with pytest.raises(KeyboardInterrupt):
        simulate_store(population, COUNT, 3, tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    for size, seed in ((8, 4), (9, 3)):
        write_population(TINY | {"size": size}, "tiny.yaml")
        with pytest.raises(UserError, match="another simulation"):
            simulate_store(population, COUNT, seed, tmp_path / "killed")
    write_population(TINY, "tiny.yaml")
    simulate_store(population, COUNT, 3, tmp_path / "killed")
    assert rendered == [0, 1, 2, 2, 3]
    simulate_store(population, COUNT, 3, tmp_path / "whole")
    killed, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*")} for name in ("killed", "whole")
    )
    assert killed == whole
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_folders_as_deeplense_has_them(population, tmp_path):
    folders = tmp_path / "folders"
    cli.run(["simulate", population, "--n", "9", "--out", str(folders), "--format", "deeplense"])
    cutouts, labels = simulate_population(population, 9)
    for identifier, image in zip(cutouts.ids, cutouts.images, strict=True):
        assert np.array_equal(np.load(folders / labels.values[identifier] / f"{identifier}.npy"), image[0])
    assert (folders / "catalog.csv").exists()
