"""The command line: help without heavy imports, settings laid over recipes, and the pipeline end to end."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import zwicky
from zwicky import cli, recipes
from zwicky.cli.arguments import RECIPES
from zwicky.cli.parsing import make_parser, read_recipe
from zwicky.data.store import open_store
from zwicky.errors import UserError
from zwicky.io import read_settings

from .conftest import BENCHMARK, write_galaxies

HEAVY = ("torch", "sklearn", "astropy", "matplotlib", "timm", "caustics", "pandas")
ROOT, HELP = Path(zwicky.__file__).parent, [["--help"], ["benchmark", "--help"]]
SETTINGS = sorted(
    ".".join(("zwicky", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in [*ROOT.rglob("config.py"), *ROOT.rglob("__init__.py")]
)
FAST = ["--train.max_steps=3", "--train.batch_size=16", "--train.precision=float32"]


def python(code, *words):
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "code",
    [
        *(f"from zwicky.cli import run\ntry: run({words})\nexcept SystemExit: pass" for words in HELP),
        f"import importlib\nfor name in {SETTINGS}: importlib.import_module(name)",
    ],
)
def test_help_packages_and_settings_load_nothing_heavy(code):
    done = python(f"{code}\nimport sys; print('loaded:', [name for name in {HEAVY} if name in sys.modules])")
    assert "loaded: []" in done.stdout, done.stderr
    assert "benchmark" in done.stdout or "importlib" in code


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_documents_its_options(name, capsys):
    """Those of its settings too, from the docstrings of the dataclasses."""
    with pytest.raises(SystemExit) as caught:
        cli.run([name, "--help"])
    assert caught.value.code == 0
    text, command = capsys.readouterr().out, cli.COMMANDS[name]
    assert text.startswith(f"usage: zwicky {name}")
    assert command.help.split(".")[0] in " ".join(text.split())
    actions = make_parser(name, command)._actions
    options = [a for a in actions if a.option_strings or "." not in a.dest]
    assert [action.dest for action in options if not action.help] == []


def test_a_mistake_in_a_process_of_its_own():
    code = "import sys; from zwicky.cli import main; sys.argv[0] = 'zwicky'; main()"
    done = python(code, "audit", "nowhere")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert python(code, "--version").returncode == 0


def printed(words, capsys):
    """What --print_config shows of this command line."""
    with pytest.raises(SystemExit) as caught:
        cli.run([*words, "--print_config"])
    assert not caught.value.code
    return yaml.safe_load(capsys.readouterr().out)


def test_settings_are_laid_over_recipes_in_order(capsys, tmp_path):
    (tmp_path / "more.yaml").write_text("train: {lr: 0.25, batch_size: 7}")
    words = ["pretrain", "dino", "--size", "smoke", "--data", "x", "--out", "y"]
    shown = printed([*words, "--config", str(tmp_path / "more.yaml"), "--train.lr", "0.5"], capsys)
    assert [shown["train"][name] for name in ("lr", "batch_size", "max_steps", "warmup")] == [0.5, 7, 20, 0.1]
    assert shown["backbone"]["options"]["width"] == 64


def test_help_names_the_recipes_that_a_command_takes():
    for name, listed in RECIPES.items():
        taken = set(recipes.names()) - {"start", "demo"}
        for recipe in sorted(taken):
            try:
                read_recipe(name, [recipe])
            except UserError:
                taken.remove(recipe)
        assert sorted(re.findall(r"[\w-]+", re.sub(r" \(.*?\)", "", listed))) == sorted(taken)


def test_print_config_of_a_population_is_a_valid_population(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    population = printed(["simulate", "demo-lenses"], capsys)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(population | {"size": 16}, sort_keys=False))
    cli.run(["simulate", "mine.yaml", "--n", "2", "--out", "store"])
    assert open_store("store").size == (16, 16)
    with pytest.raises(UserError, match="before"):
        cli.run(["simulate", "--print_config", "--out", "x"])


def test_the_commands_of_the_readme_and_what_may_follow(tmp_path, capsys, monkeypatch):
    """In their order, on a folder and a catalogue as it describes them, with settings that take a second."""
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    write_galaxies(tmp_path / "cutouts", size=32)
    Path("mine.yaml").write_text(yaml.safe_dump(BENCHMARK | {"draws": 2}))
    smaller = {"substructure": "mine.yaml", "[100, 300]": "[12, 20]", "labels 300": "labels 20", "desk": "smoke"}
    fast = {"pretrain": " ".join(FAST), "finetune": " ".join(FAST).replace("--", "--fit.") + " --fit.train.min_steps=0"}

    def out(line):
        cli.run([*shlex.split(line, comments=True), *fast.get(line.split()[0], "").split()])
        return capsys.readouterr().out

    said = {}
    for line in re.findall(rf"^zwicky ((?:{'|'.join(cli.COMMANDS)}) .*)", readme, flags=re.M)[1:]:
        for text, other in smaller.items():
            line = line.replace(text, other)
        said[line.split()[0]] = out(line)
    assert "60" in said["ingest"]
    assert "60" in said["audit"]
    assert "report.html" in said["benchmark"]
    assert "accuracy" in said["evaluate"]
    assert "<html" in Path("runs/compare/report.html").read_text(encoding="utf-8")
    assert Path("runs/dino-300/results.csv").exists()
    assert out("report runs/compare --out again.html") == "report: again.html\n"

    data, pretraining = "--data stores/mine", "pretrain dino --size smoke --data stores/mine --out runs/dino"
    out(pretraining)  # finished: read back
    with pytest.raises(UserError, match=r"train\.lr"):
        out(f"{pretraining} --train.lr 0.1")
    assert all(probe in out(f"evaluate runs/dino {data}") for probe in ("knn", "linear"))
    out(f"finetune beit-finetune --size smoke {data} --labels 20 --out beit-finetune")
    assert "config.json" in out("export beit-finetune --out exported")
    assert all(part in out(f"verify beit-finetune {data} --n 8") for part in ("mirrored, 270°", "Not invariant"))
    assert Path("beit-finetune/equivariance.csv").exists()
    # A run directory takes precedence over the recipe of the same name.
    out(f"finetune beit-finetune {data} --labels 20 --from_scratch true --out more")
    assert read_settings("more/config.yaml")["start"] == "beit-finetune"
    fast.clear()
    for name, command in (("runs/dino", "pretrain"), ("runs/dino-300", "finetune"), ("more", "finetune")):
        out(f"{command} {name}/config.yaml {data} --out again")  # what a run keeps repeats it
        assert read_settings("again/config.yaml") == read_settings(f"{name}/config.yaml")
        weights = [load_file(f"{run}/network.safetensors") for run in (name, "again")]
        assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
        shutil.rmtree("again")


def test_every_public_name_can_be_loaded():
    assert set(zwicky.__all__) <= set(dir(zwicky))
    assert all(callable(getattr(zwicky, name)) for name in zwicky.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = zwicky.no_such_name
