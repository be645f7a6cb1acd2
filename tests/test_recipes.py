"""Every recipe that ships parses strictly at every size, and its networks can be built."""

import pandas as pd
import pytest
import torch
import yaml

from zwicky import backbones, cli, methods, recipes
from zwicky.cli.parsing import parse, settings_of
from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels
from zwicky.data.store import write_store
from zwicky.errors import UserError

from .conftest import galaxies


def sizes(name):
    text = (recipes.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load(text).get("sizes") or {}) or [None]


@pytest.mark.parametrize(("name", "size"), [(name, size) for name in recipes.names() for size in sizes(name)])
def test_their_networks_fit_their_crops(name, size):
    """Patches divide global and local crops; options are those the method and the backbone take."""
    settings = recipes.read(name, size)
    settings.pop("simulate", None)
    verb = "benchmark" if "methods" in settings else "finetune" if "fit" in settings else "pretrain"
    command, arguments = cli.COMMANDS[verb], [name, "--data", "x", "--out", "y"]
    config = settings_of(command.settings, parse(command, verb, settings, arguments))
    arms = list(config.methods.values()) if verb == "benchmark" else [config]
    networks = config.backbones if verb == "benchmark" else {"": config.backbone}
    pairs = [(arm, networks[key]) for arm in arms for key in networks if key in (getattr(arm, "networks", 0) or [key])]
    for arm, network in pairs:
        side = arm.views.image_size or arm.views.crop or 64
        with torch.device("cpu" if network.name.startswith(("d4_", "polar_")) else "meta"):  # shapes alone
            backbone = backbones.create(network.name, bands=3, image_size=side, **network.options)
            if verb != "finetune":
                methods.create(arm.method.name, backbone, **arm.method.options)
        if arm.views.local_crops:
            backbone.grid(arm.views.local_size)
            assert arm.views.local_size <= side
        if verb == "benchmark":
            labelled = config.label_views
            assert (labelled.crop, labelled.image_size) == (arm.views.crop, arm.views.image_size)
            assert tuple(labelled.global_scale) == (1.0, 1.0)
    if verb == "benchmark" and size == "smoke":
        assert config.size_note


@pytest.mark.parametrize("name", recipes.names())
def test_no_two_methods_are_the_same(name):
    """They would be trained, tabulated and tested twice."""
    settings = [{"networks": [], **method} for method in (recipes.read(name).get("methods") or {}).values()]
    assert all(one not in settings[:row] for row, one in enumerate(settings))


def test_sizes_are_laid_over_the_rest(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("a: {b: 1, c: 2}\nd: [1, 2]\nsizes:\n  first: {a: {b: 5}}\n  second: {d: [3]}\n  third:\n")
    assert recipes.read(str(path)) == {"a": {"b": 5, "c": 2}, "d": [1, 2]}
    assert recipes.read(str(path), "second") == {"a": {"b": 1, "c": 2}, "d": [3]}
    assert recipes.read(str(path), "third") == {"a": {"b": 1, "c": 2}, "d": [1, 2]}
    with pytest.raises(UserError, match="first, second, third"):
        recipes.read(str(path), "fourth")
    path.write_text("sizes: [a]")
    for name, message in ((path, "sizes must map"), (tmp_path / "missing.yaml", "there is no"), (tmp_path, "there is")):
        with pytest.raises(UserError, match=message):
            recipes.read(str(name))


# Recipes of an experiment with the bands, side in pixels and classes of images that suit them.
EXPERIMENTS = {
    "blog": (3, 32, ("nonlens", "lens")),
    "blog-as-published": (3, 32, ("nonlens", "lens")),
    "proposal": (1, 100, ("no_sub", "sub")),
    "model-two": (1, 64, ("axion", "cdm", "no_sub")),
    "cfhtls": (3, 64, ("nonlens", "lens")),
    "few-labels": (1, 100, ("no_sub", "sub")),
    "lens-finding": (3, 72, ("nonlens", "lens")),
    "substructure": (1, 100, ("no_sub", "sub")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs_at_smoke_size(name, tmp_path):
    bands, side, classes = EXPERIMENTS[name]
    ids = [f"{row:03d}" for row in range(150)]
    cutouts = make_cutouts(galaxies(150, bands, side), "gri"[:bands], ids, origin=["sw"] * 150, object=ids)
    labels = Labels({one: classes[row % len(classes)] for row, one in enumerate(ids)})
    write_store(cutouts.images, cutouts.table, tmp_path / "store", bands=cutouts.bands, labels=labels)
    out = tmp_path / "run"
    cli.run(["benchmark", name, "--size", "smoke", "--data", str(tmp_path / "store"), "--out", str(out)])
    result = pd.read_csv(out / "results.csv")
    assert result["accuracy"].notna().all()
    assert {"ssl", "supervised"} <= set(result["kind"])
    assert (out / "comparisons.csv").exists()


def test_shipped_weights_are_fine_tuned_as_in_the_benchmark_that_measured_them():
    alone, measured = recipes.read("zwicky-rings"), recipes.read("few-labels")
    assert alone["fit"] == measured["finetune"]
    assert alone["views"] == measured["label_views"] == measured["methods"]["rings"]["views"]
    assert alone["normalisation"] == measured["normalisation"]
    assert alone["backbone"]["pretrained"] == measured["methods"]["rings"]["weights"]
