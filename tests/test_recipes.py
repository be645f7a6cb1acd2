"""Every recipe that ships parses strictly at every size, and its networks can be built."""

import pytest
import yaml

from zwicky import backbones, cli, methods, recipes
from zwicky.cli.parsing import parse, settings_of
from zwicky.errors import UserError


def sizes(name):
    text = (recipes.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load(text).get("sizes") or {}) or [None]


SHIPPED = [(name, size) for name in recipes.names() for size in sizes(name)]


def parsed(name, size):
    settings = recipes.read(name, size)
    settings.pop("simulate", None)
    command_name = "benchmark" if "methods" in settings else "finetune" if "fit" in settings else "pretrain"
    command = cli.COMMANDS[command_name]
    given = parse(command, command_name, settings, [name, "--data", "x", "--out", "y"])
    return command_name, settings_of(command.settings, given)


@pytest.mark.parametrize(("name", "size"), SHIPPED)
def test_their_networks_fit_their_crops(name, size):
    """Patches divide global and local crops; options are those the method and the backbone take."""
    command_name, config = parsed(name, size)
    arms = list(config.methods.values()) if command_name == "benchmark" else [config]
    networks = config.backbones if command_name == "benchmark" else {"": config.backbone}
    for arm in arms:
        for called, network in networks.items():
            if command_name == "benchmark" and arm.networks and called not in arm.networks:
                continue
            side = arm.views.image_size or arm.views.crop or 64
            backbone = backbones.create(network.name, bands=3, image_size=side, **network.options)
            if arm.views.local_crops:
                backbone.grid(arm.views.local_size)
                assert arm.views.local_size <= side
            if command_name != "finetune":
                methods.create(arm.method.name, backbone, **arm.method.options)
            if command_name == "benchmark":
                labelled = config.label_views
                assert (labelled.crop, labelled.image_size) == (arm.views.crop, arm.views.image_size)
                assert tuple(labelled.global_scale) == (1.0, 1.0)


@pytest.mark.parametrize("name", [name for name, size in SHIPPED if size == "smoke"])
def test_a_benchmark_at_smoke_size_carries_a_caveat(name):
    command_name, config = parsed(name, "smoke")
    assert command_name != "benchmark" or config.size_note


def test_sizes_are_laid_over_the_rest(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("a: {b: 1, c: 2}\nd: [1, 2]\nsizes:\n  first: {a: {b: 5}}\n  second: {d: [3]}\n  third:\n")
    assert recipes.read(str(path)) == {"a": {"b": 5, "c": 2}, "d": [1, 2]}
    assert recipes.read(str(path), "second") == {"a": {"b": 1, "c": 2}, "d": [3]}
    assert recipes.read(str(path), "third") == {"a": {"b": 1, "c": 2}, "d": [1, 2]}
    with pytest.raises(UserError, match="first, second, third"):
        recipes.read(str(path), "fourth")


def test_a_missing_or_malformed_recipe_is_one_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("sizes: [a]")
    for name, message in (
        (path, "sizes must map"),
        (tmp_path / "missing.yaml", "there is no"),
        (tmp_path, "there is no"),
    ):
        with pytest.raises(UserError, match=message):
            recipes.read(str(name))
