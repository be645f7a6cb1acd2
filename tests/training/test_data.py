"""A simulation in place of a store: the same images, splits and networks, each block rendered when it is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from zwicky import cli
from zwicky.data import store as store_module
from zwicky.data.stored_images import StoredImages
from zwicky.errors import UserError
from zwicky.evaluation.results import read_table
from zwicky.simulate import stream
from zwicky.simulate.api import simulate_population, simulate_store
from zwicky.simulate.draw import BLOCK
from zwicky.simulate.stream import open_simulation
from zwicky.training import batches as batches_module
from zwicky.training.data import is_there, open_data
from zwicky.training.loader import BatchLoader, Source
from zwicky.training.pretrain import pretrain
from zwicky.training.run import fingerprint

TINY = {"base": "demo-lenses", "description": "small demo", "size": 16, "bands": ["r", "i"]}
KINDS = {
    "tiny": TINY,
    "picture": {"base": "lens-finding-cfht", "description": "small pictures", "size": 16},
    "pairs": {"base": "lensiam-pairs", "description": "small pairs", "size": 16},
    "halos": {"base": "deeplense-repaired-2", "description": "small halos", "size": 16},
}
COUNT = 2 * BLOCK + 7


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in KINDS.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(text))


@pytest.mark.parametrize("name", KINDS)
def test_the_images_are_those_of_a_simulation(name):
    expected, labels = simulate_population(f"{name}.yaml", COUNT, 3)
    for memory in (None, 0.0):
        found, found_labels = open_simulation(f"{name}.yaml", COUNT, 3, memory)
        assert isinstance(found.images, StoredImages) == (memory == 0.0)
        assert found.images.dtype == expected.images.dtype
        assert np.array_equal(found.images[:], expected.images)
        some = [130, 5, 5, 70]
        assert np.array_equal(found.take(some).images[:], expected.images[some])
        assert found_labels == labels
        assert (found.bands, found.pixel_scale) == (expected.bands, expected.pixel_scale)
        assert set(found.truth) < set(expected.truth)
        for column in set(found.table.column_names) - {"pixel_hash"}:
            here, there = (cutouts.column(column) for cutouts in (found, expected))
            assert np.array_equal(here, there, equal_nan=here.dtype == float), column
        assert found.column("pixel_hash").tolist() == [None] * COUNT


def test_a_run_on_it_is_a_run_on_its_store(pretrain_config):
    """Pretrained, fine-tuned and tested through the command line, bit for bit, streamed or not."""
    simulate_store("tiny.yaml", COUNT, 3, "store")
    config = pretrain_config(steps=7)
    simulation = f"simulate:tiny.yaml:{COUNT}:3"
    for run, data, memory in (("a", "store", 1.0), ("b", simulation, 1.0), ("c", simulation, 0.0)):
        opened = open_data(data, memory)
        ids = opened.split("holdout").ids("train")
        rows = opened.cutouts.rows_of(ids)
        pretrain(config, opened.cutouts, rows, Path(run), labels=opened.labels.of(ids), quiet=True)
        fit = ["--labels=40", "--fit.train.max_steps=3", "--fit.train.min_steps=3", "--fit.train.precision=float32"]
        cli.run(["finetune", run, f"--data={data}", f"--memory_gb={memory}", f"--out={run}-fit", *fit])
        cli.run(["evaluate", f"{run}-fit", f"--data={data}", f"--memory_gb={memory}"])
    for other in ("b", "c"):
        for ending in ("", "-fit"):
            first, second = Path(f"a{ending}"), Path(f"{other}{ending}")
            assert (first / "network.safetensors").read_bytes() == (second / "network.safetensors").read_bytes()
            assert read_table(first / "metrics.csv").equals(read_table(second / "metrics.csv"))
        assert read_table(Path("a-fit") / "results.csv").equals(read_table(Path(f"{other}-fit") / "results.csv"))


def test_each_block_is_rendered_once_an_epoch(monkeypatch):
    count = 12 * BLOCK
    images = open_simulation("tiny.yaml", count, 0, 0.0)[0].images
    expected = images[:]
    image_bytes = expected[:1].nbytes
    monkeypatch.setattr(store_module, "ROW_GROUP_BYTES", 150 * image_bytes)  # of which whole blocks are taken: 128
    monkeypatch.setattr(batches_module, "MIXED_BYTES", 200 * image_bytes)
    made, render = [], stream.rendered
    monkeypatch.setattr(stream, "rendered", lambda *given: made.append(given[3]) or render(*given))
    feed = BatchLoader(Source(images, np.arange(count)), BLOCK, seed=1, device=torch.device("cpu"))
    for step in range(12):
        rows, pixels, _ = feed(step, slice(0, BLOCK))
        assert np.array_equal(pixels.numpy(), expected[rows])
    assert sorted(made) == list(range(12))


def test_what_was_learnt_from_it_may_not_be_tested(pretrain_config):
    """The ids tell: a store of the same simulation holds the same objects."""
    simulate_store("tiny.yaml", COUNT, 3, "store")
    data = open_data(f"simulate:tiny.yaml:{COUNT}:3")
    pretrain(pretrain_config(steps=1), data.cutouts, np.arange(COUNT), Path("run"), quiet=True)
    with pytest.raises(UserError, match="leak"):
        cli.run(["evaluate", "run", "--data=store"])


def test_a_changed_population_is_other_data(tmp_path):
    def known():
        cutouts = open_data(f"simulate:tiny.yaml:{COUNT}:3", 0.0).cutouts
        return fingerprint(cutouts, np.arange(COUNT)), fingerprint(replace(cutouts, metadata={}), np.arange(COUNT))

    first = known()
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"supersampling": 1}))
    second = known()
    assert first[0] != second[0]
    assert first[1] == second[1]  # nothing but the description tells


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("simulate:tiny.yaml", "write simulate:POPULATION:N"),
        ("simulate::5", "write simulate:POPULATION:N"),
        ("simulate:tiny.yaml:5:1:2", "write simulate:POPULATION:N"),
        ("simulate:tiny.yaml:-5", "write simulate:POPULATION:N"),
        ("simulate:tiny.yaml:0", "ask for 1 or more"),
        ("simulate:none.yaml:5", "none.yaml"),
        ("nowhere", "does not exist"),
    ],
)
def test_a_mistake_is_one_line(name, said):
    with pytest.raises(UserError, match=said) as caught:
        open_data(name)
    assert "\n" not in str(caught.value)


def test_it_has_the_default_split_alone():
    data = open_data(f"simulate:tiny.yaml:{COUNT}")
    assert {len(data.split("holdout").ids(role)) for role in ("train", "validation", "test")} == {94, 14, 27}
    with pytest.raises(UserError, match="no split 'mine'"):
        data.split("mine")


def test_what_has_moved_is_not_there(tmp_path):
    """A page without pictures is better than none."""
    (tmp_path / "store").mkdir()
    names = ["store", "simulate:tiny.yaml:5", "simulate:demo-lenses:5:1"]
    assert all(map(is_there, names))
    (tmp_path / "store").rmdir()
    (tmp_path / "tiny.yaml").unlink()
    assert [is_there(name) for name in ("", *names)] == [False, False, False, True]
