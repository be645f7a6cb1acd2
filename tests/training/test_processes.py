"""Several processes: two learn what one would, one line for a mistake, and where one ends all do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from zwicky import cli
from zwicky.data.labels import write_labels
from zwicky.data.store import StoreWriter
from zwicky.evaluation.results import read_table
from zwicky.io import read_json
from zwicky.training import checkpoint, launch
from zwicky.training.launch import local_world, rank, world

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
# `zwicky` that writes a checkpoint each step and leaves its number for others to kill it by.
ZWICKY = """
import os, sys
from pathlib import Path
from zwicky.training import processes, state
from zwicky.training.launch import rank
state.SECONDS_BETWEEN_CHECKPOINTS = -1.0
processes.BEAT, processes.SILENCE = 0.5, 4.0
Path(os.environ["PIDS"], str(rank())).write_text(str(os.getpid()))
sys.argv[0] = "zwicky"
from zwicky.cli import main
main()
"""


@pytest.fixture
def alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that they are taken back even if set below
        monkeypatch.delenv(name)
    return monkeypatch


def test_one_process_unless_told_otherwise(alone):
    assert (world(), rank(), local_world()) == (1, 0, 1)
    alone.setenv("SLURM_NTASKS", "8")  # an allocation in which srun was not called
    alone.setenv("SLURM_PROCID", "0")
    assert (world(), rank()) == (1, 0)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-07,9],cpu1", "gpu03"), ("a1,a2", "a1"), ("node7", "node7"), ("n-[1,5]", "n-1"), ("x.y.z", "x.y.z")],
)
def test_srun_is_understood(alone, nodes, first):
    told = {"STEP_NUM_TASKS": 8, "STEP_NUM_NODES": 2, "PROCID": 5, "LOCALID": 1, "NODEID": 1, "JOB_ID": 1234567}
    for name, value in (told | {"STEP_NODELIST": nodes}).items():
        alone.setenv(f"SLURM_{name}", str(value))
    assert (world(), rank(), local_world()) == (8, 5, 4)
    assert (os.environ["LOCAL_RANK"], os.environ["GROUP_RANK"]) == ("1", "1")
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == (first, "19567")
    assert launch._first(nodes) == first


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RANK", "WORLD_SIZE"))}
    return kept | {"OMP_NUM_THREADS": "1"} | more


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    """Folders of the same fits by one process and by two."""
    folder = tmp_path_factory.mktemp("fits")
    (folder / "fits.py").write_text(FITS)
    for name, starter in (("one", [sys.executable]), ("two", TORCHRUN)):
        words = [*starter, str(folder / "fits.py"), str(folder / name)]
        subprocess.run(words, check=True, env=environment(), timeout=300)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_equal_one(fits, name):
    """Losses and weights after five steps; drop path is off, since each process draws its own."""
    one, two = (checkpoint.load(fits / side / name / "checkpoint" / "last.pt") for side in ("one", "two"))
    losses = [[row["loss"] for row in saved["rows"]] for saved in (one, two)]
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
    """`zwicky pretrain` on two processes, started by torchrun or as srun would, in the folder `place`."""

    def __init__(self, place, store, *more, starter="torchrun", steps=40):
        self.place, self.out = place, place / "run"
        (place / "start.py").write_text(ZWICKY)
        self.words = ["pretrain", "dino", "--size", "smoke", "--data", str(store), "--out", str(self.out)]
        self.words += ["--train.batch_size=12", f"--train.max_steps={steps}", "--train.epochs=99"]
        self.words += ["--train.precision=float32", "--views.crop=16", "--views.local_size=8", *more]
        options = {"prototypes": 16, "hidden": 16, "bottleneck": 8, "batch_norm": False}
        self.words += [f"--method.options={json.dumps(options)}"]
        script, told = [str(place / "start.py"), *self.words], environment(PIDS=str(place))
        if starter == "torchrun":
            commands = [([*TORCHRUN, *script], told)]
        elif starter == "torchrun -m":
            commands = [([*TORCHRUN, "-m", "zwicky", *self.words], told)]
        else:
            said = {"STEP_NUM_TASKS": 2, "STEP_NUM_NODES": 1, "STEP_NODELIST": "localhost", "NODEID": 0, "JOB_ID": 7}
            numbers = {f"SLURM_{name}": str(value) for name, value in said.items()}
            commands = [
                ([sys.executable, *script], told | numbers | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
                for rank in range(2)
            ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.processes = [subprocess.Popen(words, env=told, **pipes) for words, told in commands]

    def strike(self, rank, how):
        """Send a signal to one process once it has learnt something."""
        deadline = time.monotonic() + 120
        while not (self.out / "checkpoint" / "last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(int((self.place / str(rank)).read_text()), how)

    def end(self, within):
        """(exit codes, all that was said), once all have ended; fails where that takes more seconds than `within`."""
        began, said = time.monotonic(), ""
        try:
            for process in self.processes:
                said += process.communicate(timeout=max(within - (time.monotonic() - began), 0.1))[0]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], said


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
    codes, said = Job(tmp_path, store, "--train.batch_size=13").end(60)
    assert codes[0] != 0
    lines = [line for line in said.splitlines() if line.startswith("zwicky:")]
    assert len(lines) == 1
    assert "13 images a step do not divide among 2 processes; set train.batch_size to 12" in lines[0]
    assert not re.search(r'File ".*zwicky.(cli|training)', said)  # torchrun shows a traceback of its own
    assert not (tmp_path / "run" / "checkpoint").exists()


@pytest.mark.slow
def test_two_processes_write_one_run_which_one_process_reads_and_equals(tmp_path, store):
    (tmp_path / "two").mkdir()
    two = Job(tmp_path / "two", store, starter="torchrun -m", steps=5)
    codes, said = two.end(120)
    assert codes == [0], said
    assert said.count("pretrained on") == 1
    assert read_json(two.out / "run.json")["machine"]["processes"] == 2
    words = [*two.words]
    cli.run(words)  # finished: read back
    words[words.index("--out") + 1] = str(tmp_path / "one")
    cli.run(words)
    one, both = (read_table(path / "metrics.csv") for path in (tmp_path / "one", two.out))
    assert both["loss"].to_numpy() == pytest.approx(one["loss"].to_numpy(), rel=1e-5)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {path.name for path in two.out.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("starter", "victim", "how", "words"),
    [
        ("torchrun", 1, signal.SIGKILL, "local_rank: 1"),
        ("srun", 1, signal.SIGKILL, "process 1 of 2 has ended or hangs, so process 0 stops too"),
        ("srun", 1, signal.SIGSTOP, "process 1 of 2 has ended or hangs, so process 0 stops too"),
        ("srun", 0, signal.SIGKILL, "so process 1 stops too"),
    ],
)
def test_one_that_dies_or_hangs_ends_the_others_and_the_run_goes_on_alone(tmp_path, store, starter, victim, how, words):
    job = Job(tmp_path, store, starter=starter)
    job.strike(victim, how)
    if how == signal.SIGSTOP:
        began = time.monotonic()
        job.processes[1 - victim].wait(60)
        os.kill(int((tmp_path / str(victim)).read_text()), signal.SIGKILL)
        assert time.monotonic() - began < 60
    codes, said = job.end(60)
    assert 0 not in codes, said
    assert words in said
    done = checkpoint.load(job.out / "checkpoint" / "last.pt")["steps"]
    assert 0 < done < 40
    cli.run(job.words)  # on one process
    info = read_json(job.out / "run.json")
    assert info["finished"]
    assert info["steps"] == 40
    assert len(read_table(job.out / "metrics.csv")) == 40
