"""What users get wrong: one line on standard error, exit code 2, nothing written, nothing unpickled."""

import json
import os
import pickle
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from zwicky import cli, make_cutouts, write_store
from zwicky.data.labels import Labels

from .conftest import BENCHMARK, LOOP, PRETRAIN, galaxies


class Payload:
    """Unpickling this creates a folder."""

    def __reduce__(self):
        return os.mkdir, ("payload",)


def make_store(path, n=60, bands="gr", value=None, labels=("nonlens", "lens"), scale=0.2):
    images = galaxies(n, len(bands))
    images = images if value is None else np.full_like(images, value)
    cutouts = make_cutouts(images, list(bands), pixel_scale=[scale] * n)
    classes = Labels({name: labels[row % len(labels)] for row, name in enumerate(cutouts.ids)}) if labels else None
    write_store(cutouts.images, cutouts.table, path, bands=cutouts.bands, labels=classes)


def line(command, usual, options, *more, first="", store="store", out="new"):
    return [command, first or usual, "--data", store, "--out", out, *options, *more]


FIT = ["--labels=20", *(f"--fit.train.{name}={value}" for name, value in LOOP.items())]
pretrain, benchmark = (partial(line, name, f"{name}.yaml", []) for name in ("pretrain", "benchmark"))
finetune, EVALUATE = partial(line, "finetune", "pretrained", FIT), ["evaluate", "tuned", "--data", "store"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with stores and finished runs."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN))
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(BENCHMARK))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_store("store")
        make_store("other_bands", bands="gi")
        make_store("other_scale", scale=0.4)
        make_store("nan", value=np.nan)
        make_store("single", n=1)
        make_store("one_class", labels=("lens",))
        make_store("unlabelled", labels=())
        cli.run(pretrain(out="pretrained"))
        cli.run(finetune(out="tuned"))
    return folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A copy of the finished folder, as the current directory."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def error_of(capsys, monkeypatch):
    """A function that runs a command which has to fail, and returns its message."""

    def run(arguments):
        monkeypatch.setattr(sys, "argv", ["zwicky", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        error = capsys.readouterr().err
        assert caught.value.code == 2, error
        notes = ("warning: ", "pretrain: ")  # what was decided before the mistake was found
        (line,) = [line for line in error.splitlines() if not line.startswith(notes)]
        assert line.startswith("zwicky: ")
        assert len(line) < 500
        return line

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "no command 'fly'"),
        (["benchmrk"], "did you mean benchmark"),
        (["pretrain", "dinoo", "--data", "x", "--out", "y"], "did you mean dino"),
        (["simulate", "galaxies", "--out", "new"], "galaxies"),
        (["simulate", "demo-lenses", "--n", "0", "--out", "new"], "n is 0; it must be >0"),
        (["simulate", "demo-lenses", "--n", "2", "--out", "store"], "store"),
        (["ingest", "nowhere", "--out", "new"], "nowhere"),
        (["ingest", "pretrained", "--out", "new"], "pretrained"),
        (["ingest", "store", "--catalog", "mine.csv", "--out", "new"], "there is no file mine.csv; give"),
        (["ingest", "x", "--out", "new", "--bands", "g,r"], "bands is 'g,r', which is no list; write '[g,r]'"),
        (["ingest", "x", "--out", "new", "--pixel-scale", "1"], "no option --pixel-scale; did you mean --pixel_scale?"),
        (["ingest", "x", "--out", "new", "--size", "9x9"], "size is '9x9'; it must be a whole number or null"),
        (["audit", "nowhere"], "nowhere"),
        (["audit", "pretrained"], "pretrained"),
        (["audit", "simulate:nothing:10"], "nothing"),
        (["audit", "simulate:demo-lenses:many"], "simulate:POPULATION:N"),
        (["pretrain"], "recipe"),
        (["pretrain", "dino", "--data", "store"], "out"),
        (pretrain(first="demo"), "zwicky benchmark"),
        (pretrain("--size=huge", first="dino"), "huge"),
        (pretrain(store="single"), ""),
        (pretrain(store="nan"), ""),
        (pretrain("--views.crop=0"), "views.crop"),
        (pretrain("--views.local_size=7"), "7"),
        (pretrain("--backbone.name=vgg"), "vgg"),
        (pretrain("--method.name=moco"), "moco"),
        (pretrain("--split=mine"), "mine"),
        (pretrain("--seed=1", out="pretrained"), "seed"),
        (pretrain(store="other_scale", out="pretrained"), "data"),
        (finetune(store="one_class"), "class"),
        (finetune(store="unlabelled"), "class"),
        (finetune(store="other_bands"), "bands g, r"),
        (finetune(store="other_scale"), '0.2"'),
        (finetune("--labels=many"), "it must be a whole number"),
        (finetune("--labels=4000"), "4000"),
        (finetune("--labels=-5"), "-5"),
        (finetune("--labels=1"), "1 label"),
        (finetune("--targets=[theta_E]"), "theta_E"),
        (finetune("--targets=[tensor:a/b]"), "tensor:a/b"),
        (finetune("--targets=[survey]"), "survey"),
        (finetune("--fit.train.speed=3"), "speed"),
        (finetune("--fit.train.batch_size=0"), "batch_size"),
        (finetune("--views.rotation=spin"), "rotation"),
        (finetune("--config=nothing.yaml"), "nothing.yaml"),
        (finetune(first="demo"), "zwicky benchmark"),
        (finetune(first="zwicky-ring"), "did you mean zwicky-rings?"),
        (finetune("--size=smoke"), "is a run, and sizes are of recipes"),
        (finetune(first="mine.yaml"), "mine.yaml"),
        (benchmark(first="dino"), "zwicky pretrain"),
        (benchmark(store="one_class"), "class"),
        (benchmark("--baselines=[svm]"), "svm"),
        (benchmark("--design.kind=guess"), "design.kind"),
        (benchmark("--backbones={vit: {name: vit_tiny, options: null}}"), "backbones.vit.options is null"),
        (benchmark("--backbones={8: {name: vit_tiny}}"), "write it in quotes"),
        (benchmark("--methods={dino: {name: dino}}"), "no setting 'name'; it takes method, "),
        (benchmark("--finetune.train.lr=-1"), "lr"),
        ([*EVALUATE, "--split=mine"], "mine"),
        (["evaluate", "store", "--data", "store"], "store"),
        (["verify", "tuned", "--data", "other_scale"], '0.2"'),
        (["verify", "tuned", "--data", "store", "--n", "0"], "n"),
        (["report", "pretrained"], "pretrained"),
        (["report", "pretrained", "--data", "nowhere"], "nowhere"),
        (["export", "tuned", "--out", "new", "--format", "pickle"], "format"),
    ],
)
def test_a_mistake_is_one_line(finished, arguments, message, error_of, monkeypatch):
    monkeypatch.chdir(finished)
    before = sorted(path.name for path in finished.iterdir())
    assert message in error_of(arguments)
    made = set(os.listdir(finished)) - set(before)
    for name in made:  # a run that had begun to write its settings
        assert name == "new"
        assert not (finished / name / "network.safetensors").exists()
        shutil.rmtree(finished / name)


@pytest.mark.parametrize(
    "text",
    ["seed: [", "- a\n- b", "train: {speed: 3}", "seed: many", "train: {lr: -1}", "\x00", "sizes: {a: {seed: 1}}"],
)
def test_user_recipes_are_read_strictly(tmp_path, text, error_of):
    (tmp_path / "mine.yaml").write_text(text)
    error = error_of(pretrain(first=str(tmp_path / "mine.yaml"), store="nowhere"))
    assert ("nowhere does not exist" in error) == text.startswith("sizes")


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("store/images-00000.npy", ["audit", "store"]),
        ("tuned/network.json", EVALUATE),
        ("tuned/network.safetensors", EVALUATE),
        ("tuned/config.yaml", finetune(out="tuned")),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "pickle"])
def test_a_damaged_file_is_one_line(folder, path, arguments, damage, error_of):
    content = Path(path).read_bytes()
    Path(path).unlink()
    if damage == "truncated":
        Path(path).write_bytes(content[: len(content) // 2])
    if damage == "pickle":
        Path(path).write_bytes(pickle.dumps(Payload()))
    if damage == "missing" and path.endswith("config.yaml"):
        return  # a run without settings is a new run
    error_of(arguments)
    assert not Path("payload").exists()


def test_a_checkpoint_with_a_payload_is_not_unpickled(folder, error_of):
    run = json.loads(Path("pretrained/run.json").read_text())
    Path("pretrained/run.json").write_text(json.dumps(run | {"finished": None}))
    Path("pretrained/checkpoint").mkdir(exist_ok=True)
    torch.save(Payload(), "pretrained/checkpoint/last.pt")
    error_of(pretrain(out="pretrained"))
    assert not Path("payload").exists()
