"""A simulated store: made in pieces, gone on with after a kill, the same bit for bit; and other people's folders."""

import shutil

import numpy as np
import pytest
import yaml

from zwicky import cli
from zwicky.data.labels import read_labels
from zwicky.data.store import open_store
from zwicky.errors import UserError
from zwicky.simulate import api
from zwicky.simulate import blocks as blocks_module
from zwicky.simulate.api import simulate_population, simulate_store
from zwicky.simulate.draw import BLOCK

TINY = {"base": "demo-lenses", "description": "small demo", "size": 8, "bands": ["r"]}
COUNT = 3 * BLOCK + 7


@pytest.fixture
def population(tmp_path, monkeypatch):
    """The name of a quick population, in a folder of its own, written in pieces of one block."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "PIECE", 1)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return "tiny.yaml"


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def kill_after(monkeypatch, blocks):
    """Stop, as ^C would, when that many blocks have been made."""
    advance, made = api.StepProgress.advance, []

    def count(self):
        made.append(1)
        advance(self)
        if len(made) == blocks:
            raise KeyboardInterrupt

    monkeypatch.setattr(api.StepProgress, "advance", count)
    return lambda: monkeypatch.setattr(api.StepProgress, "advance", advance)


def test_a_killed_simulation_goes_on_to_the_same_bytes(population, tmp_path, monkeypatch):
    simulate_store(population, COUNT, 3, tmp_path / "whole")
    mend = kill_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        simulate_store(population, COUNT, 3, tmp_path / "killed")
    mend()
    assert not (tmp_path / "killed").exists()
    pieces = sorted(path.name for path in (tmp_path / ".killed.pieces").iterdir() if path.is_dir())
    assert pieces == [f"{k * BLOCK}-{(k + 1) * BLOCK}" for k in (0, 1)]  # the third was not whole
    kept = contents(tmp_path / ".killed.pieces")
    drawn = []
    draw = blocks_module.draw_block
    monkeypatch.setattr(blocks_module, "draw_block", lambda *given: drawn.append(given[2]) or draw(*given))
    simulate_store(population, COUNT, 3, tmp_path / "killed")
    assert drawn == [2, 3]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert kept
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_pieces_do_not_change_the_images(population, tmp_path):
    simulate_store(population, COUNT, 3, tmp_path / "store")
    memory, labels = simulate_population(population, COUNT, 3)
    stored = open_store(tmp_path / "store")
    assert np.array_equal(np.asarray(stored.images), memory.images)
    assert stored.truth == memory.truth
    assert stored.ids.tolist() == memory.ids.tolist()
    assert read_labels(tmp_path / "store") == labels


def test_pieces_of_another_simulation_are_refused(population, tmp_path, monkeypatch):
    mend = kill_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        simulate_store(population, COUNT, 3, tmp_path / "store")
    mend()
    for change in ({"seed": 4}, {"size": 9}):
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"size": change.get("size", 8)}))
        with pytest.raises(UserError, match="another simulation") as caught:
            simulate_store(population, COUNT, change.get("seed", 3), tmp_path / "store")
        assert "\n" not in str(caught.value)


def test_a_log_has_lines_and_quiet_has_none(population, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("zwicky.progress.SECONDS_BETWEEN_LINES", 0.0)
    simulate_store(population, 2 * BLOCK, 3, tmp_path / "one")
    assert capsys.readouterr().err == ""
    simulate_store(population, 2 * BLOCK, 3, tmp_path / "two", quiet=False)
    lines = capsys.readouterr().err.splitlines()
    assert "simulate: block 2/2" in lines[-1]


def test_folders_as_deeplense_has_them(population, tmp_path):
    cli.run(["simulate", population, "--n", "9", "--out", "folders", "--format", "deeplense"])
    memory, labels = simulate_population(population, 9)
    for identifier, image in zip(memory.ids, memory.images, strict=True):
        stored = np.load(tmp_path / "folders" / labels.values[identifier] / f"{identifier}.npy")
        assert np.array_equal(stored, image[0])
    assert (tmp_path / "folders" / "catalog.csv").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    shutil.rmtree(tmp_path / "folders")
