"""Several processes: two train as one would, a mistake is one line, and a lost process ends the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from zwicky import cli
from zwicky.data.labels import write_labels
from zwicky.data.store import StoreWriter
from zwicky.io import read_json
from zwicky.training import checkpoint
from zwicky.training.distributed import local_world_size, rank, world_size

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617"]
METHODS = {
    "dino": {"prototypes": 16, "hidden": 16, "bottleneck": 8, "batch_norm": False},
    "ibot": {"prototypes": 16, "hidden": 16, "bottleneck": 8, "batch_norm": False},
    "esvit": {"prototypes": 16, "hidden": 16, "bottleneck": 8, "batch_norm": False},
    "simmim": {},
    "mae": {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
    "lejepa": {"hidden": 16},  # without its BatchNorm
    "supervised": {"classes": 2},
}
FITS = f"""
import sys
from pathlib import Path
import numpy as np, torch
from zwicky import backbones, methods
from zwicky.training.config import TrainConfig
from zwicky.training.loop import fit
from zwicky.training.loader import TrainingSet
from zwicky.augment.augment import Augment
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation

torch.set_num_threads(1)
rng = np.random.default_rng(0)
images = rng.normal(size=(40, 2, 16, 16)).astype(np.float32)
images[::3, 1] = np.nan  # a missing band: images count for different numbers of pixels
images[1::4, :, :5] = np.nan
bands, views = ("g", "r"), ViewsConfig(local_crops=2, local_size=8)
normalisation = Normalisation.fit(images, bands, NormalisationConfig())
for name, options in {METHODS!r}.items():
    torch.manual_seed(3)
    backbone = backbones.create("vit_tiny", bands=2, image_size=16, patch_size=4, width=32, depth=2, heads=2)
    method = methods.create(name, backbone, **options)
    if name == "lejepa":
        method.projector[1] = method.projector[4] = torch.nn.Identity()
    start = Path(sys.argv[1], name + ".pt")
    start.parent.mkdir(exist_ok=True)
    torch.save(method.state_dict(), start)
    needs = method.needs
    augment = Augment(
        views, normalisation, (16, 16), bands, needs.global_crops, needs.local_crops, masking=needs.masking
    )
    source = TrainingSet(images, np.arange(40), torch.arange(40) % 2 if needs.targets else None)
    config = TrainConfig(max_steps=5, batch_size=12, precision="float32", lr=1e-2, warmup=0.0)
    fit(method, source, augment, config, seed=5, folder=Path(sys.argv[1]) / name, title=name, quiet=True)
"""
TORCHRUN_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def alone(monkeypatch):
    for name in TORCHRUN_NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_one_process_unless_started_otherwise(alone):
    assert (world_size(), rank(), local_world_size()) == (1, 0, 1)
    alone.setenv("SLURM_NTASKS", "8")  # an allocation in which srun was not called
    alone.setenv("SLURM_PROCID", "0")
    assert (world_size(), rank()) == (1, 0)


def test_torchrun_and_srun_are_recognised(alone):
    for name, value in {"STEP_NUM_TASKS": 8, "STEP_NUM_NODES": 2, "PROCID": 5}.items():
        alone.setenv(f"SLURM_{name}", str(value))
    assert (world_size(), rank(), local_world_size()) == (8, 5, 4)
    for name, value in {"WORLD_SIZE": 6, "RANK": 3, "LOCAL_WORLD_SIZE": 2}.items():
        alone.setenv(name, str(value))
    assert (world_size(), rank(), local_world_size()) == (6, 3, 2)


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RANK", "WORLD_SIZE"))}
    return kept | {"OMP_NUM_THREADS": "1"} | more


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    """Folders of the same fits by one process and by two."""
    folder = tmp_path_factory.mktemp("fits")
    (folder / "fits.py").write_text(FITS)
    for name, starter in (("one", [sys.executable]), ("two", TORCHRUN)):
        command = [*starter, str(folder / "fits.py"), str(folder / name)]
        subprocess.run(command, check=True, env=environment(), timeout=300)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_equal_one(fits, name):
    """Losses and weights after five steps; drop path is off, since each process draws its own."""
    one, two = (checkpoint.load(fits / side / name / "checkpoint" / "last.pt") for side in ("one", "two"))
    losses = [[row["loss"] for row in saved["progress"]["rows"]] for saved in (one, two)]
    assert len(losses[0]) == 5
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    start = torch.load(fits / "one" / f"{name}.pt", weights_only=True)
    apart, size, way = 0.0, 0.0, 0.0
    for key, value in one["method"].items():
        apart += float((two["method"][key].double() - value.double()).square().sum())
        size += float(value.double().square().sum())
        way += float((start[key].double() - value.double()).square().sum())
    assert (apart / size) ** 0.5 < 1e-5
    assert (apart / way) ** 0.5 < 1e-4  # of what was learnt


@pytest.fixture(scope="module")
def store(tmp_path_factory, make_blobs):
    cutouts, labels = make_blobs(60)
    path = tmp_path_factory.mktemp("data") / "store"
    with StoreWriter(path, cutouts.bands, cutouts.size, "float32") as writer:
        writer.append(cutouts.images, cutouts.table)
        write_labels(writer.folder, labels)
    return path


class Job:
    """`zwicky pretrain` on two processes, started by torchrun or as srun would."""

    def __init__(self, folder, store, *more, starter="torchrun", steps=40):
        self.out = folder / "run"
        self.command = ["pretrain", "dino", "--size", "smoke", "--data", str(store), "--out", str(self.out)]
        self.command += ["--train.batch_size=12", f"--train.max_steps={steps}", "--train.epochs=99"]
        self.command += ["--train.precision=float32", "--views.crop=16", "--views.local_size=8", *more]
        options = {"prototypes": 16, "hidden": 16, "bottleneck": 8, "batch_norm": False}
        self.command += [f"--method.options={json.dumps(options)}", "--backbone.options.drop_path=0"]
        if starter == "torchrun":
            starts = [([*TORCHRUN, "-m", "zwicky", *self.command], environment())]
        else:
            slurm = {"STEP_NUM_TASKS": 2, "NTASKS": 2, "STEP_NUM_NODES": 1, "NNODES": 1, "NTASKS_PER_NODE": 2}
            slurm |= {
                "NODELIST": "localhost",
                "STEP_NODELIST": "localhost",
                "NODEID": 0,
                "JOB_ID": 7,
                "JOB_NAME": "fit",
            }
            variables = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
            starts = [
                (
                    [sys.executable, "-m", "zwicky", *self.command],
                    environment(**variables, SLURM_PROCID=str(number), SLURM_LOCALID=str(number)),
                )
                for number in range(2)
            ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.processes = [subprocess.Popen(command, env=variables, **pipes) for command, variables in starts]

    def wait(self, seconds):
        """Return (exit codes, output) once all have ended."""
        started, output = time.monotonic(), ""
        try:
            for process in self.processes:
                output += process.communicate(timeout=max(seconds - (time.monotonic() - started), 0.1))[0]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], output


def test_a_command_that_two_processes_cannot_share_is_one_line(tmp_path, store, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in set(cli.COMMANDS) - {"pretrain", "finetune"}:
        monkeypatch.setattr(sys, "argv", ["zwicky", name, "x"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 2
        assert f"{name} runs in one process" in capsys.readouterr().err


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_one_line(tmp_path, store):
    codes, output = Job(tmp_path, store, "--train.batch_size=13").wait(120)
    assert codes[0] != 0
    assert "13 images per step do not divide among 2 processes; set train.batch_size to 12" in output
    assert not (tmp_path / "run" / "checkpoint").exists()


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["torchrun", "srun"])
def test_two_processes_write_one_run_that_equals_that_of_one(tmp_path, store, starter):
    (tmp_path / "two").mkdir()
    two = Job(tmp_path / "two", store, starter=starter, steps=5)
    codes, output = two.wait(180)
    assert set(codes) == {0}, output
    assert output.count("pretrained on") == 1
    assert read_json(two.out / "run.json")["machine"]["processes"] == 2
    command = [*two.command]
    cli.run(command)  # finished: read back
    command[command.index("--out") + 1] = str(tmp_path / "one")
    cli.run(command)
    one, both = (pd.read_csv(path / "metrics.csv") for path in (tmp_path / "one", two.out))
    assert both["loss"].tolist() == pytest.approx(one["loss"].tolist(), rel=1e-5)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {path.name for path in two.out.iterdir()}


@pytest.mark.slow
def test_a_lost_process_ends_the_others(tmp_path):
    """torchrun ends the rest; under srun that is --kill-on-bad-exit, and the broken connection here."""
    script = tmp_path / "lose.py"
    script.write_text(
        "import os\nimport torch\nfrom zwicky.training.distributed import make_fabric\n"
        "fabric = make_fabric()\n"
        "if fabric.global_rank == 1: os._exit(3)\n"
        "fabric.all_reduce(torch.ones(1))\nprint('not reached')\n"
    )
    done = subprocess.run([*TORCHRUN, str(script)], env=environment(), timeout=120, capture_output=True, text=True)
    assert done.returncode != 0
    assert "not reached" not in done.stdout
