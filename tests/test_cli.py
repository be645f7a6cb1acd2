"""The command line: help without heavy imports, one line for each mistake, and the pipeline end to end."""

import subprocess
import sys

import numpy as np
import pytest
import yaml

from zwicky import cli
from zwicky.cli.parsing import make_parser
from zwicky.data.store import open_store
from zwicky.errors import UserError

HEAVY = ("torch", "sklearn", "astropy", "matplotlib", "timm", "caustics", "pandas")
FAST = ["--train.max_steps=3", "--train.batch_size=16", "--train.precision=float32"]


def zwicky(*words):
    """(exit code, stdout, stderr) of a command in its own process."""
    code = "import sys; from zwicky.cli import main; sys.argv[0] = 'zwicky'; main()"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["benchmark", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        f"import sys; from zwicky.cli import run\ntry: run({arguments})\nexcept SystemExit: pass\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "loaded: []" in done.stdout
    assert arguments[0] in done.stdout or all(name in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_documents_its_options(name, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run([name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    command = cli.COMMANDS[name]
    assert text.startswith(f"usage: zwicky {name}")
    assert command.help.split(".")[0] in " ".join(text.split())
    parser = make_parser(name, command)
    options = [action for action in parser._actions if action.option_strings or action.dest]
    bare = [action.dest for action in options if not action.help and "." not in action.dest]
    assert bare == []


def test_every_setting_has_help():
    """From the docstrings of the dataclasses; a missing one would show an option nobody can understand."""
    for name, command in cli.COMMANDS.items():
        if command.settings is None:
            continue
        parser = make_parser(name, command)
        bare = [action.dest for action in parser._actions if action.option_strings and not action.help]
        assert bare == [], name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "no command 'fly'"),
        (["pretrain"], "recipe"),
        (["pretrain", "dinosaur", "--data", "x", "--out", "y"], "dinosaur"),
        (["pretrain", "dino", "--size", "huge", "--data", "x", "--out", "y"], "huge"),
        (["pretrain", "dino", "--data", "x"], "out"),
        (["pretrain", "dino", "--data", "nowhere", "--out", "y"], "nowhere"),
        (["pretrain", "demo", "--data", "x", "--out", "y"], "zwicky benchmark"),
        (["benchmark", "dino", "--data", "x", "--out", "y"], "zwicky pretrain"),
        (["finetune", "x", "--data", "y", "--out", "z", "--labels", "many"], "it must be a whole number"),
        (["finetune", "demo", "--data", "x", "--out", "y"], "zwicky benchmark"),
        (["finetune", "mine.yaml", "--data", "x", "--out", "y"], "mine.yaml"),
        (["finetune", "beit-finetune", "--size", "huge", "--data", "x", "--out", "y"], "huge"),
        (["finetune", "beit-finetune", "--data", "nowhere", "--out", "y"], "nowhere"),
        (["finetune", "x", "--data", "y", "--out", "z", "--fit.train.speed", "3"], "speed"),
        (["finetune", "x", "--data", "y", "--out", "z", "--fit.train.batch_size", "0"], "batch_size"),
        (["finetune", "x", "--data", "y", "--out", "z", "--views.rotation", "spin"], "rotation"),
        (["finetune", "x", "--data", "y", "--out", "z", "--config", "nothing.yaml"], "nothing.yaml"),
        (["benchmark", "demo", "--data", "x", "--out", "y", "--design.kind", "guess"], "design.kind"),
        (["benchmark", "demo", "--data", "x", "--out", "y", "--finetune.train.lr=-1"], "lr"),
        (["simulate", "galaxies", "--out", "y"], "galaxies"),
        (["simulate", "demo-lenses", "--n", "0", "--out", "y"], "0"),
        (["ingest", "nowhere", "--out", "y"], "nowhere"),
        (["ingest", "x", "--out", "y", "--bands", "g,r"], "bands is 'g,r', which is no list; write '[g,r]'"),
        (["ingest", "x", "--out", "y", "--pixel-scale", "1"], "no option --pixel-scale; did you mean --pixel_scale?"),
        (["ingest", "x", "--out", "y", "--size", "9x9"], "size is '9x9'; it must be a whole number or null"),
        (["audit", "nowhere"], "nowhere"),
        (["evaluate", "nowhere", "--data", "nowhere"], "nowhere"),
        (["export", "nowhere", "--out", "y"], "nowhere"),
        (["export", "nowhere", "--out", "y", "--format", "pickle"], "format"),
        (["verify", "nowhere", "--data", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["demo", "--size", "huge"], "huge"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["zwicky", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    error = capsys.readouterr().err
    assert caught.value.code == 2, error
    assert error.count("\n") == 1
    assert error.startswith("zwicky: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_a_process_of_its_own():
    code, out, error = zwicky("audit", "nowhere")
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert zwicky("--version")[0] == 0


@pytest.mark.parametrize(
    "text",
    ["seed: [", "- a\n- b", "train: {speed: 3}", "seed: many", "train: {lr: -1}", "\x00", "sizes: {a: {seed: 1}}"],
)
def test_user_recipes_are_read_strictly(tmp_path, text, capsys, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    words = ["pretrain", str(path), "--data", "nowhere", "--out", "y"]
    monkeypatch.setattr(sys, "argv", ["zwicky", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.count("\n") == 1
    assert ("nowhere does not exist" in error) == text.startswith("sizes")


def test_print_config_is_the_resolved_recipe(capsys):
    words = ["pretrain", "dino", "--size", "smoke", "--data", "x", "--out", "y", "--train.lr", "0.5", "--print_config"]
    with pytest.raises(SystemExit) as caught:
        cli.run(words)
    assert caught.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["train"]["lr"] == 0.5
    assert shown["train"]["max_steps"] == 20
    assert shown["train"]["warmup"] == 0.1
    assert shown["backbone"]["options"]["width"] == 64


def test_settings_are_laid_over_recipes_in_order(capsys, tmp_path):
    (tmp_path / "more.yaml").write_text("train: {lr: 0.25, batch_size: 7}")
    words = ["pretrain", "dino", "--data", "x", "--out", "y", "--config", str(tmp_path / "more.yaml")]
    with pytest.raises(SystemExit):
        cli.run([*words, "--train.lr", "0.5", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)["train"]
    assert (shown["lr"], shown["batch_size"], shown["epochs"]) == (0.5, 7, 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders of .npy cutouts [bands, H, W]: round ones and narrow ones."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("files")
    y, x = np.mgrid[:32, :32] - 15.5
    for name, width in (("lens", 2.0), ("nonlens", 4.0)):
        (path / name).mkdir()
        for row in range(30):
            image = 10 * np.exp(-(x**2 + y**2) / (2 * width**2)) + rng.normal(0, 1, (2, 32, 32))
            np.save(path / name / f"{row:03d}.npy", image.astype(np.float32))
    return path


def test_pipeline_end_to_end(folder, tmp_path, capsys, monkeypatch):
    store, run, tuned, bench = (tmp_path / name for name in ("store", "run", "tuned", "bench"))
    cli.run(["ingest", str(folder), "--out", str(store)])
    assert "60" in capsys.readouterr().out
    cli.run(["audit", str(store)])
    assert "60" in capsys.readouterr().out

    words = ["pretrain", "dino", "--size", "smoke", "--data", str(store), "--out", str(run), *FAST]
    cli.run(words)
    cli.run(words)  # finished: read back
    with pytest.raises(UserError, match=r"train\.lr"):
        cli.run([*words, "--train.lr", "0.1"])
    cli.run(["evaluate", str(run), "--data", str(store)])
    out = capsys.readouterr().out
    assert "knn" in out
    assert "linear" in out

    fast = [word.replace("--train", "--fit.train") for word in [*FAST, "--train.min_steps=0"]]
    cli.run(["finetune", str(run), "--data", str(store), "--labels", "20", "--out", str(tuned), *fast])
    cli.run(["evaluate", str(tuned), "--data", str(store)])
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert (tuned / "results.csv").exists()

    words = ["finetune", "beit-finetune", "--size", "smoke", "--data", str(store), "--labels", "20"]
    monkeypatch.chdir(tmp_path)
    cli.run([*words, "--out", "beit-finetune", *fast])
    cli.run(["evaluate", "beit-finetune", "--data", str(store)])
    assert "accuracy" in capsys.readouterr().out
    cli.run(["export", "beit-finetune", "--out", "exported"])
    assert (tmp_path / "exported" / "config.json").exists()
    capsys.readouterr()
    cli.run(["verify", "beit-finetune", "--data", str(store), "--n", "8"])
    out = capsys.readouterr().out
    assert "mirrored, 270°" in out
    assert "Not invariant" in out
    assert (tmp_path / "beit-finetune" / "equivariance.csv").exists()
    # A run directory takes precedence over the recipe of the same name.
    cli.run(["finetune", "beit-finetune", "--data", str(store), "--labels", "20", "--out", "more", *fast])
    assert yaml.safe_load((tmp_path / "more" / "config.yaml").read_text())["start"] == "beit-finetune"

    fit = {"train": {"max_steps": 3, "min_steps": 0, "batch_size": 16, "precision": "float32"}}
    recipe = {
        "labels": [12, 20],
        "draws": 2,
        "backbones": {"vit": {"name": "vit_tiny", "options": {"patch_size": 8, "width": 32, "depth": 1, "heads": 2}}},
        "methods": {
            "dino": {
                "method": {"options": {"prototypes": 16, "hidden": 16, "bottleneck": 8}},
                "views": {"crop": 16, "local_crops": 1, "local_size": 8},
                "train": {"max_steps": 3, "batch_size": 16},
            }
        },
        "label_views": {"crop": 16, "global_scale": [1.0, 1.0], "blur": 0.0, "noise": 0.0},
        "finetune": fit,
        "scratch": fit,
        "probes": ["knn"],
        "replicates": 20,
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe))
    cli.run(["benchmark", str(path), "--data", str(store), "--out", str(bench)])
    assert "report.html" in capsys.readouterr().out
    page = (bench / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    cli.run(["report", str(bench), "--out", str(tmp_path / "again.html")])
    assert (tmp_path / "again.html").stat().st_size > 1000


def test_print_config_of_a_population_is_a_valid_population(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.run(["simulate", "demo-lenses", "--print_config"])
    assert not caught.value.code
    text = capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(text.replace("size: 48", "size: 16"))
    cli.run(["simulate", "mine.yaml", "--n", "2", "--out", "store"])
    assert open_store("store").size == (16, 16)
    with pytest.raises(UserError, match="before"):
        cli.run(["simulate", "--print_config", "--out", "x"])
