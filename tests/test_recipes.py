"""Every recipe that ships parses strictly at every size, and its networks can be built."""

from __future__ import annotations

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
    verb = "benchmark" if "methods" in settings else "finetune" if "fit" in settings else "pretrain"
    command = cli.COMMANDS[verb]
    given = parse(command, verb, settings, [name, "--data", "x", "--out", "y"])
    return verb, settings_of(command.settings, given)


@pytest.mark.parametrize(("name", "size"), SHIPPED)
def test_recipes_parse_strictly(name, size):
    verb, config = parsed(name, size)
    assert isinstance(config, cli.COMMANDS[verb].settings)


@pytest.mark.parametrize(("name", "size"), [pair for pair in SHIPPED if pair[1] not in ("full",)])
def test_their_networks_fit_their_crops(name, size):
    """Patches divide global and local crops; options are those the method and the backbone take."""
    verb, config = parsed(name, size)
    arms = list(config.methods.values()) if verb == "benchmark" else [config]
    networks = config.backbones if verb == "benchmark" else {"": config.backbone}
    for arm in arms:
        for called, network in networks.items():
            if verb == "benchmark" and arm.networks and called not in arm.networks:
                continue
            side = arm.views.image_size or arm.views.crop or 64
            backbone = backbones.create(network.name, bands=3, image_size=side, **network.options)
            if arm.views.local_crops:
                backbone.grid(arm.views.local_size)
                assert arm.views.local_size <= side
            if verb != "finetune":
                methods.create(arm.method.name, backbone, **arm.method.options)
            if verb == "benchmark":
                labelled = config.label_views
                assert (labelled.crop, labelled.image_size) == (arm.views.crop, arm.views.image_size)
                assert tuple(labelled.global_scale) == (1.0, 1.0)


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_too_small_to_mean_anything_says_so(name):
    for size in sizes(name):
        verb, config = parsed(name, size)
        if verb == "benchmark" and size == "smoke":
            assert config.size_note


def test_sizes_are_laid_over_the_rest(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("a: {b: 1, c: 2}\nd: [1, 2]\nsizes:\n  first: {a: {b: 5}}\n  second: {d: [3]}\n  third:\n")
    assert recipes.read(str(path)) == {"a": {"b": 5, "c": 2}, "d": [1, 2]}
    assert recipes.read(str(path), "second") == {"a": {"b": 1, "c": 2}, "d": [3]}
    assert recipes.read(str(path), "third") == {"a": {"b": 1, "c": 2}, "d": [1, 2]}
    with pytest.raises(UserError, match="first, second, third"):
        recipes.read(str(path), "fourth")


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "just words", "", "sizes: [a]", "\xff\xfe"])
def test_a_broken_recipe_is_one_line(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        recipes.read(str(path), "first" if "sizes" in text else None)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="there is no"):
        recipes.read(str(tmp_path / "missing.yaml"))
    with pytest.raises(UserError, match="there is no"):
        recipes.read(str(tmp_path))
