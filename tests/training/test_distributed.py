"""Several processes: two train as one would, and a mistake is one line."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from zwicky import cli
from zwicky.io import read_json
from zwicky.training import checkpoint
from zwicky.training.distributed import synchronise_batch_norm
from zwicky.training.processes import local_world_size, rank, world_size

from ..conftest import DISTILLED

# --standalone: a port that is free, since other tests and other users of the machine have theirs.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
HEAD = DISTILLED | {"batch_norm": False}
BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
METHODS = {
    **dict.fromkeys(("dino", "ibot", "esvit"), HEAD),
    "simmim": {},
    "mae": {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
    "lejepa": {"hidden": 16},
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
from zwicky.augment.views import Augment
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation

torch.set_num_threads(1)
images = np.random.default_rng(0).normal(size=(40, 2, 16, 16)).astype(np.float32)
images[::3, 1] = np.nan  # a missing band: images count for different numbers of pixels
images[1::4, :, :5] = np.nan
bands, views = ("g", "r"), ViewsConfig(local_crops=2, local_size=8)
normalisation = Normalisation.fit(images, bands)
for name, options in {METHODS!r}.items():
    torch.manual_seed(3)
    backbone = backbones.create("vit_tiny", bands=2, image_size=16, patch_size=4, width=32, depth=2, heads=2)
    method = methods.create(name, backbone, **options)
    if name == "lejepa":  # without BatchNorm, whose statistics are of one process
        method.projector[1] = method.projector[4] = torch.nn.Identity()
    if name == "supervised":
        method.head.norm = torch.nn.Identity()
    folder = Path(sys.argv[1]) / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(method.state_dict(), folder / "start.pt")
    augment = Augment(views, normalisation, (16, 16), bands, method.needs)
    source = TrainingSet(images, np.arange(40), torch.arange(40) % 2 if method.needs.targets else None)
    config = TrainConfig(max_steps=5, batch_size=12, precision="float32", lr=1e-2, warmup=0.0)
    fit(method, source, augment, config, seed=5, folder=folder, title=name, quiet=True)
"""


@pytest.mark.parametrize(("processes", "device", "shared"), [(2, "cuda", True), (1, "cuda", False), (2, "cpu", False)])
@pytest.mark.parametrize(("name", "network"), [("dino", "polar_vit"), ("simsiam", "resnet18"), ("byol", "d4_vit")])
def test_gpus_share_the_statistics_of_batch_norm(
    processes, device, shared, name, network, small_backbone, small_method
):
    """Every BatchNorm of student and teacher is one of all processes; weights keep their names."""
    stem = {"patch_size": 4, "stem": [4, 8]} if network == "d4_vit" else {}
    method = small_method(name, small_backbone(network, **stem), **({"batch_norm": True} if name == "dino" else {}))
    names, count = list(method.state_dict()), sum(isinstance(m, BATCH_NORMS) for m in method.modules())
    assert count
    fabric = SimpleNamespace(world_size=processes, device=torch.device(device))
    synchronise_batch_norm(method, fabric)
    synchronised = sum(isinstance(module, torch.nn.SyncBatchNorm) for module in method.modules())
    assert synchronised == (count if shared else 0)
    assert sum(isinstance(m, BATCH_NORMS) for m in method.modules()) == count - synchronised
    assert list(method.state_dict()) == names


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (1, 0, 1)),
        ({"SLURM_NTASKS": 8, "SLURM_PROCID": 0}, (1, 0, 1)),  # an allocation in which srun was not called
        ({"SLURM_STEP_NUM_TASKS": 8, "SLURM_STEP_NUM_NODES": 2, "SLURM_PROCID": 5}, (8, 5, 4)),
        ({"SLURM_STEP_NUM_TASKS": 8, "WORLD_SIZE": 6, "RANK": 3, "LOCAL_WORLD_SIZE": 2}, (6, 3, 2)),
    ],
)
def test_torchrun_and_srun_are_recognised(monkeypatch, variables, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    assert (world_size(), rank(), local_world_size()) == expected


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RANK", "WORLD_SIZE"))}
    return kept | {"OMP_NUM_THREADS": "1"} | more


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Losses and weights of each method after five steps; drop path is off, since each process draws its own."""
    (tmp_path / "fits.py").write_text(FITS)
    for name, starter in (("one", [sys.executable]), ("two", TORCHRUN)):
        command = [*starter, str(tmp_path / "fits.py"), str(tmp_path / name)]
        subprocess.run(command, check=True, env=environment(), timeout=300)
    for name in METHODS:
        one, two = (checkpoint.load(tmp_path / side / name / "checkpoint" / "last.pt") for side in ("one", "two"))
        losses = [[row["loss"] for row in state["progress"]["rows"]] for state in (one, two)]
        assert len(losses[0]) == 5
        assert losses[1] == pytest.approx(losses[0], rel=1e-5), name
        weights = torch.load(tmp_path / "one" / name / "start.pt", weights_only=True), one["method"], two["method"]
        start, one, two = (torch.cat([value.double().flatten() for value in each.values()]) for each in weights)
        assert (one - two).norm() < 1e-5 * one.norm(), name
        assert (one - two).norm() < 1e-4 * (one - start).norm(), name  # of what was learned


def run_two(folder, store, *more, starter="torchrun"):
    """Run `zwicky pretrain` on two processes as torchrun or srun would; return (arguments, exit codes, output)."""
    arguments = ["pretrain", "dino", "--size", "smoke", "--data", str(store), "--out", str(folder / "two")]
    arguments += ["--train.batch_size=12", "--train.max_steps=5", "--train.precision=float32", "--views.crop=16"]
    arguments += [f"--method.options={json.dumps(HEAD)}"]
    arguments += ["--views.local_size=8", "--backbone.options.drop_path=0", *more]
    command, starts = [*TORCHRUN, "-m", "zwicky", *arguments], [environment()]
    if starter == "srun":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        slurm = {"STEP_NUM_TASKS": 2, "NTASKS": 2, "STEP_NUM_NODES": 1, "NNODES": 1, "NTASKS_PER_NODE": 2, "NODEID": 0}
        slurm |= {"NODELIST": "localhost", "STEP_NODELIST": "localhost", "JOB_ID": 1, "JOB_NAME": "fit"}
        ranks = [{**slurm, "PROCID": number, "LOCALID": number} for number in range(2)]
        ranks = [{f"SLURM_{name}": str(value) for name, value in one.items()} for one in ranks]
        starts = [environment(MASTER_PORT=port, **one) for one in ranks]
        command = [sys.executable, "-m", "zwicky", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen(command, env=variables, **pipes) for variables in starts]
    try:
        output = "".join(process.communicate(timeout=180)[0] for process in processes)
    finally:
        for process in processes:
            process.kill()
    return arguments, [process.returncode for process in processes], output


def test_a_command_that_two_processes_cannot_share_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in set(cli.COMMANDS) - {"pretrain", "finetune"}:
        monkeypatch.setattr(sys, "argv", ["zwicky", name, "x"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 2
        assert f"{name} runs in one process" in capsys.readouterr().err


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_one_line(tmp_path, store_of_blobs):
    _, codes, output = run_two(tmp_path, store_of_blobs(60), "--train.batch_size=13")
    assert codes[0] != 0
    assert "13 images per step do not divide among 2 processes; set train.batch_size to 12" in output
    assert not (tmp_path / "two" / "checkpoint").exists()


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["torchrun", "srun"])
def test_two_processes_write_one_run_that_equals_that_of_one(tmp_path, store_of_blobs, starter):
    arguments, codes, output = run_two(tmp_path, store_of_blobs(60), starter=starter)
    assert set(codes) == {0}, output
    assert output.count("pretrained on") == 1
    one, two = tmp_path / "one", tmp_path / "two"
    assert read_json(two / "run.json")["machine"]["processes"] == 2
    cli.run(arguments)  # finished: read back
    cli.run([str(one) if argument == str(two) else argument for argument in arguments])
    losses = [pd.read_csv(path / "metrics.csv")["loss"].tolist() for path in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
