"""A simulation in place of a store: the same images, splits and networks, each block rendered when it is first used."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file
from safetensors.torch import save_file

from zwicky import cli, provenance
from zwicky.data.labels import Labels
from zwicky.data.splits import Split, default_split, write_split
from zwicky.data.store import write_store
from zwicky.errors import UserError
from zwicky.io import read_settings
from zwicky.simulate.draw import BLOCK
from zwicky.simulate.simulation import simulate_population, simulate_store
from zwicky.simulate.stream import SimulatedImages, open_data, open_simulation
from zwicky.training.run import fingerprint

from ..conftest import PRETRAIN

TINY = {"base": "demo-lenses", "description": "small demo", "size": 16, "bands": ["r", "i"]}
BASES = {"picture": "lens-finding-cfht", "pairs": "lensiam-pairs", "halos": "deeplense-repaired-2"}
KINDS = {"tiny": TINY} | {name: {"base": base, "size": 16} for name, base in BASES.items()}
COUNT = 2 * BLOCK + 7
SIMULATION = f"simulate:tiny.yaml:{COUNT}:3"


@pytest.fixture(autouse=True)
def populations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in KINDS.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(text))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(PRETRAIN))


@pytest.mark.parametrize("name", KINDS)
def test_the_images_are_those_of_a_simulation(name):
    expected, labels = simulate_population(f"{name}.yaml", COUNT, 3)
    cutouts, lazy_labels = open_simulation(f"{name}.yaml", COUNT, 3)
    assert isinstance(cutouts.images, SimulatedImages)
    assert cutouts.images.dtype == expected.images.dtype
    rows = [130, 5, 5, 70]
    assert np.array_equal(cutouts.take(rows).images, expected.images[rows])
    assert np.array_equal(cutouts.images, expected.images)
    assert lazy_labels == labels
    assert (cutouts.bands, cutouts.pixel_scale) == (expected.bands, expected.pixel_scale)
    assert set(cutouts.truth) < set(expected.truth)
    for column in set(cutouts.table) - {"pixel_hash"}:
        lazy, held = (data.column(column) for data in (cutouts, expected))
        assert np.array_equal(lazy, held, equal_nan=lazy.dtype == float), column
    assert cutouts.column("pixel_hash").tolist() == [None] * COUNT


def test_a_full_disk_is_one_line(monkeypatch):
    images = open_simulation("tiny.yaml", COUNT)[0].images
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: len(data) // 2)  # as a full disk does first
    with pytest.raises(UserError, match=r"is full; set TMPDIR to a folder with 0\.00039 GB"):
        images[:1]


def test_a_run_on_it_is_a_run_on_its_store():
    """Pretrained, fine-tuned and tested through the command line, bit for bit."""
    simulate_store("tiny.yaml", COUNT, 3, "store")
    before = sorted(Path("store").rglob("*"))
    for run, data in (("a", "store"), ("b", SIMULATION)):
        cli.run(["pretrain", "recipe.yaml", f"--data={data}", f"--out={run}"])
        fit = ["--labels=40", "--fit.train.max_steps=3", "--fit.train.min_steps=3", "--fit.train.precision=float32"]
        cli.run(["finetune", run, f"--data={data}", f"--out={run}-fit", *fit])
        cli.run(["evaluate", f"{run}-fit", f"--data={data}"])
    assert sorted(Path("store").rglob("*")) == before  # nothing is written into the data
    for name in ("", "-fit"):
        first, second = Path(f"a{name}"), Path(f"b{name}")
        for file in ("splits/holdout.csv", "metrics.csv"):
            assert (first / file).read_bytes() == (second / file).read_bytes()
        weights, expected = (load_file(run / "network.safetensors") for run in (second, first))
        del expected[provenance.NAME]  # a rendered store has hashes of pixels too
        assert all(weights[key].tobytes() == value.tobytes() for key, value in expected.items())
    assert (Path("a-fit") / "results.csv").read_bytes() == (Path("b-fit") / "results.csv").read_bytes()
    # A store of the same simulation holds the same objects, whatever its split.
    swapped = {"train": "test", "test": "train", "validation": "validation"}
    split = open_data("store").split("holdout")
    write_split("store/splits", replace(split, name="swapped", roles={i: swapped[r] for i, r in split.roles.items()}))
    with pytest.raises(UserError, match="leak"):
        cli.run(["evaluate", "b", "--data=store", "--split=swapped"])


def test_the_split_of_a_run_comes_first_then_that_of_the_store_then_the_default():
    simulate_store("tiny.yaml", COUNT, 3, "store")
    data = open_data("store")
    default = default_split(data.cutouts, data.labels)
    assert data.split("holdout") == default == open_data(SIMULATION).split("holdout")
    assert [len(default.ids(role)) for role in ("train", "validation", "test")] == [95, 14, 26]
    ids = data.cutouts.ids
    own = replace(default, roles={name: "train" if name in ids[:9] else "test" for name in ids}, groups={})
    write_split("store/splits", own)
    assert data.split("holdout") == own
    write_split("run/splits", default)
    assert data.split("holdout", runs=[None, Path("none"), Path("run")]) == default
    write_split("run/splits", replace(default, roles={"of another store": "train"}, groups={}))
    assert data.split("holdout", runs=[Path("run")]) == own
    write_split("run/splits", replace(default, roles=default.roles | {"elsewhere": "test"}, groups={}))  # in part here
    assert data.split("holdout", runs=[Path("run")]) == own
    write_split("run/splits", default)  # equal ids but other pixels: another store
    table, train = data.cutouts.table, {"fit": data.cutouts.rows_of(default.ids("train"))}
    for cutouts, expected in (
        (replace(data.cutouts, table=table.assign(pixel_hash="0" * 32), metadata={}), own),
        (data.cutouts, default),
    ):
        history = provenance.record(cutouts, train)
        save_file(history.tensors(), "run/network.safetensors", history.metadata())
        assert data.split("holdout", runs=[Path("run")]) == expected
    network = Path("run/cells/scratch-n9-d0")
    network.mkdir(parents=True)
    shutil.copy("run/network.safetensors", network)
    assert data.split("holdout", runs=[network]) == data.test_split(network) == default
    write_split("store/splits", replace(own, name="mine"))
    assert data.split("mine").roles == own.roles
    with pytest.raises(UserError, match="no split 'other'; choose one of holdout, mine"):
        data.split("other")


def test_an_image_without_a_valid_pixel_is_left_out(recwarn):
    """One of a store that others wrote; `zwicky ingest` sets such images aside."""
    images = np.random.default_rng(0).normal(size=(4, 1, 4, 4)).astype(np.float32)
    images[1] = np.nan
    labels = Labels(dict(zip("abcd", ["x", "y"] * 2, strict=True)), source="me")
    write_store(images, pd.DataFrame({"id": list("abcd")}), "store", bands=("g",), labels=labels)
    write_split("store/splits", Split("holdout", dict(zip("abcd", ["train", "train", "test", "test"], strict=True))))
    data = open_data("store")
    assert "1 images of store have no valid pixel" in str(recwarn.pop(UserWarning).message)
    assert "".join(data.cutouts.ids) == "".join(data.labels.values) == "".join(data.split("holdout").roles) == "acd"
    assert data.labels.source == "me"


def test_pretraining_leaves_objects_with_targets_to_test(capsys, recwarn):
    """Without class labels, and without --targets, all objects are used, which is said."""
    images = np.random.default_rng(0).normal(size=(40, 1, 16, 16)).astype(np.float32)
    table = pd.DataFrame({"id": [f"o{n}" for n in range(40)], "mass": np.linspace(0, 1, 40)})
    write_store(images, table, "store", bands=("g",))
    cutouts = open_data("store").cutouts
    for targets, left, following in (([], 0, "predict"), (["--targets=[mass]"], 8, "--targets '[mass]' --labels 28")):
        cli.run(["pretrain", "recipe.yaml", "--data=store", f"--out=run{left}", *targets])
        objects = provenance.read(f"run{left}")
        assert (~provenance.find_leaked(cutouts, np.arange(40), objects)).sum() == left + 4 * bool(left)
        assert following in capsys.readouterr().out
    assert read_settings("run8/config.yaml")["targets"] == ["mass"]
    assert sum("no labels" in str(warning.message) for warning in recwarn) == 1


def test_a_changed_population_is_other_data():
    before = fingerprint(open_data(SIMULATION).cutouts, np.arange(COUNT))
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY | {"supersampling": 1}))
    assert fingerprint(open_data(SIMULATION).cutouts, np.arange(COUNT)) != before
