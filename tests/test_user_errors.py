"""What users get wrong: one line on standard error, exit code 2, nothing written, nothing unpickled."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from zwicky import cli, make_cutouts, write_store
from zwicky.data.labels import Labels

LOOP = {"max_steps": 2, "min_steps": 0, "batch_size": 16, "precision": "float32", "evaluations": 1}
VIT = {"name": "vit_tiny", "options": {"patch_size": 8, "width": 32, "depth": 1, "heads": 2}}
DINO = {"name": "dino", "options": {"prototypes": 16, "hidden": 16, "bottleneck": 8}}
VIEWS = {"crop": 16, "local_crops": 1, "local_size": 8}
PRETRAIN = {"method": DINO, "backbone": VIT, "views": VIEWS, "train": LOOP}
BENCHMARK = {
    "labels": [20],
    "draws": 1,
    "backbones": {"vit": VIT},
    "methods": {"dino": {"method": DINO, "views": VIEWS, "train": LOOP}},
    "label_views": {"crop": 16, "global_scale": [1.0, 1.0], "blur": 0.0, "noise": 0.0},
    "finetune": {"train": LOOP},
    "scratch": {"train": LOOP},
    "probes": ["knn"],
    "replicates": 20,
}


class Payload:
    """Unpickling this creates a folder."""

    def __reduce__(self):
        return os.mkdir, ("payload",)


def make_store(path, n=60, bands="gr", size=16, value=None, labels=("nonlens", "lens"), scale=0.2):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    width = np.where(np.arange(n) % 2, 2.0, 4.0)[:, None, None]
    images = 10 * np.exp(-(x**2 + y**2) / (2 * width**2))[:, None] + rng.normal(0, 1, (n, len(bands), size, size))
    images = images.astype(np.float32) if value is None else np.full(images.shape, value, np.float32)
    cutouts = make_cutouts(images, list(bands), pixel_scale=[scale] * n)
    classes = Labels({name: labels[row % len(labels)] for row, name in enumerate(cutouts.ids)}) if labels else None
    write_store(cutouts.images, cutouts.table, path, bands=cutouts.bands, labels=classes)


def pretrain(*more, store="store", out="new"):
    return ["pretrain", "pretrain.yaml", "--data", store, "--out", out, *more]


def finetune(*more, run="pretrained", store="store", out="new"):
    loop = [f"--fit.train.{name}={value}" for name, value in LOOP.items()]
    return ["finetune", run, "--data", store, "--out", out, "--labels=20", *loop, *more]


def benchmark(*more, store="store", out="new"):
    return ["benchmark", "benchmark.yaml", "--data", store, "--out", out, *more]


def evaluate(*more, run="tuned", store="store"):
    return ["evaluate", run, "--data", store, *more]


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
        make_store("small", size=8)
        make_store("nan", value=np.nan)
        make_store("empty", n=0, labels=())
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


def error_of(arguments, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["zwicky", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    error = capsys.readouterr().err
    assert caught.value.code == 2, error
    lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, error
    assert lines[0].startswith("zwicky: ")
    assert len(lines[0]) < 500
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "pretrained"], "pretrained"),
        (["audit", "pretrain.yaml"], "pretrain.yaml"),
        (["audit", "simulate:nothing:10"], "nothing"),
        (["audit", "simulate:demo-lenses:many"], "simulate:POPULATION:N"),
        (pretrain(store="empty"), ""),
        (pretrain(store="single"), ""),
        (pretrain(store="nan"), ""),
        (pretrain(store="small"), "crop"),
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
        (finetune("--labels=4000"), "4000"),
        (finetune("--labels=-5"), "-5"),
        (finetune("--labels=1"), "1 label"),
        (finetune("--targets=[theta_E]"), "theta_E"),
        (finetune("--targets=[tensor:a/b]"), "tensor:a/b"),
        (finetune("--targets=[survey]"), "survey"),
        (finetune(run="store"), "store"),
        (benchmark(store="one_class"), "class"),
        (benchmark("--baselines=[svm]"), "svm"),
        (evaluate("--split=mine"), "mine"),
        (evaluate(store="other_bands"), "bands g, r"),
        (evaluate(run="store"), "store"),
        (["verify", "tuned", "--data", "other_scale"], '0.2"'),
        (["verify", "tuned", "--data", "store", "--n", "0"], "n"),
        (["report", "pretrained"], "pretrained"),
        (["export", "store", "--out", "new"], "store"),
        (["ingest", "pretrained", "--out", "new"], "pretrained"),
        (["simulate", "demo-lenses", "--n", "2", "--out", "store"], "store"),
    ],
)
def test_a_mistake_is_one_line(finished, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(finished)
    before = sorted(path.name for path in finished.iterdir())
    assert message in error_of(arguments, capsys, monkeypatch)
    made = set(os.listdir(finished)) - set(before)
    for name in made:  # a run that had begun to write its settings
        assert name == "new"
        assert not (finished / name / "network.safetensors").exists()
        shutil.rmtree(finished / name)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("store/store.json", ["audit", "store"]),
        ("store/objects.parquet", ["audit", "store"]),
        ("store/images-00000.npy", ["audit", "store"]),
        ("tuned/network.json", evaluate()),
        ("tuned/network.safetensors", evaluate()),
        ("tuned/config.yaml", finetune(out="tuned")),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "pickle"])
def test_a_damaged_file_is_one_line(folder, path, arguments, damage, capsys, monkeypatch):
    content = Path(path).read_bytes()
    Path(path).unlink()
    if damage == "truncated":
        Path(path).write_bytes(content[: len(content) // 2])
    if damage == "pickle":
        Path(path).write_bytes(pickle.dumps(Payload()))
    if damage == "missing" and path.endswith("config.yaml"):
        return  # a run without settings is a new run
    error_of(arguments, capsys, monkeypatch)
    assert not Path("payload").exists()


def test_a_checkpoint_with_a_payload_is_not_unpickled(folder, capsys, monkeypatch):
    run = json.loads(Path("pretrained/run.json").read_text())
    Path("pretrained/run.json").write_text(json.dumps(run | {"finished": None}))
    Path("pretrained/checkpoint").mkdir(exist_ok=True)
    torch.save(Payload(), "pretrained/checkpoint/last.pt")
    error_of(pretrain(out="pretrained"), capsys, monkeypatch)
    assert not Path("payload").exists()


def test_a_network_is_not_tested_on_its_training_objects(folder, capsys, monkeypatch):
    """The same pixels under other names, in another store whose test objects all were trained on."""
    shutil.rmtree("tuned/splits", ignore_errors=True)
    from zwicky import open_store

    cutouts = open_store("store")
    table = cutouts.table.assign(id=[f"renamed-{row}" for row in range(len(cutouts))])
    labels = Labels({name: "lens" if row % 2 else "nonlens" for row, name in enumerate(table["id"])})
    write_store(cutouts.images[:], table, "renamed", bands=cutouts.bands, labels=labels)
    (Path("renamed") / "splits").mkdir(exist_ok=True)
    roles = "".join(f"{name},test,\n" for name in table["id"])
    (Path("renamed") / "splits" / "holdout.csv").write_text(f"id,role,group\n{roles}")
    assert "leak" in error_of(evaluate(store="renamed"), capsys, monkeypatch)
