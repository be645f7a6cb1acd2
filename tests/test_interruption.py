"""Kills at any moment, a full disk, a folder that may not be written: nothing is half, and the same command goes on.

A process that has loaded everything forks one child a command, so that a kill costs no import. Moments are counted in
the child's processor seconds, which a busy machine does not stretch.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels, write_labels
from zwicky.data.store import StoreWriter

KILLS = 10
NURSERY = """
import importlib.readers, json, os, resource, signal, sys, time, traceback
from importlib import resources
import torch
torch.set_num_threads(1)
import sklearn.linear_model, sklearn.decomposition, scipy.stats, timm, astropy.coordinates, yaml, PIL.Image
from zwicky import cli
from zwicky.data import audit, ingest, labels, splits, store
from zwicky.data.readers import numpy as npy
from zwicky.evaluation import benchmark, equivariance, evaluate
from zwicky.report import page
from zwicky.simulate import api
from zwicky.training import export, finetune, pretrain
resources.files("zwicky.report")  # what another user may not load is loaded now

def stop_before(writes):
    "Kill this process when it has put so many files in place and is about to do so again."
    done = []
    def counted(put):
        def count(*names):
            if len(done) == writes:
                os.kill(os.getpid(), signal.SIGKILL)
            put(*names)
            done.append(names)
        return count
    os.replace, os.rename = counted(os.replace), counted(os.rename)

def child(job):
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    if job.get("limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    if job.get("writes") is not None:
        stop_before(job["writes"])
    if job.get("nobody"):
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
    sys.argv = ["zwicky", *job["words"]]
    try:
        cli.main()
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if not pid:
        code = child(job)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    clock, seconds, done = (~pid << 3) | 2, 0.0, 0  # Linux's name for the processor time of another process
    while not done:
        time.sleep(0.001)
        seconds = time.clock_gettime(clock)
        if job.get("kill_at") is not None and seconds >= job["kill_at"]:
            os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, 0)
        else:
            done, status = os.waitpid(pid, os.WNOHANG)
    print(json.dumps([os.waitstatus_to_exitcode(status), seconds]), flush=True)
"""


@pytest.fixture(scope="module")
def place():
    """A folder that other users may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="zwicky-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def zwicky(place):
    """zwicky(words, …) → (exit code, processor seconds, what it said); −9 is the code of one that was killed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(place)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    nursery = subprocess.Popen([sys.executable, "-c", NURSERY], env=environment, **pipes)
    assert nursery.stdout.readline() == "ready\n"

    def run(words, **job):
        log = place / "log"
        log.unlink(missing_ok=True)
        nursery.stdin.write(json.dumps({"words": [str(word) for word in words], "log": str(log), **job}) + "\n")
        nursery.stdin.flush()
        code, seconds = json.loads(nursery.stdout.readline())
        return code, seconds, log.read_text()

    yield run
    nursery.stdin.close()
    nursery.wait()


@pytest.fixture(scope="module")
def source(place):
    """Class folders of .npy cutouts, and one file that cannot be read."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16] - 7.5
    for name, width in (("lens", 2.0), ("nonlens", 4.0)):
        (place / "source" / name).mkdir(parents=True)
        for row in range(60):
            image = 10 * np.exp(-(x**2 + y**2) / (2 * width**2)) + rng.normal(0, 1, (2, 16, 16))
            np.save(place / "source" / name / f"{row:03d}.npy", image.astype(np.float32))
    (place / "source" / "lens" / "broken.npy").write_text("no array")
    return place / "source"


@pytest.fixture(scope="module")
def store(place, source):
    files = sorted(source.glob("*/[0-9]*.npy"))
    ids = [file.parent.name + file.stem for file in files]
    cutouts = make_cutouts(np.stack([np.load(file) for file in files]), ("g", "r"), ids)
    with StoreWriter(place / "store", cutouts.bands, cutouts.size, "float32") as writer:
        writer.append(cutouts.images, cutouts.table)
        names = [file.parent.name for file in files]
        write_labels(writer.folder, Labels(dict(zip(cutouts.ids, names, strict=True)), "made"))
    return place / "store"


LOOP = {"max_steps": 6, "min_steps": 0, "batch_size": 16, "precision": "float32", "evaluations": 3}
LOOP["checkpoint_seconds"] = 0.0
VIT = {"name": "vit_tiny", "options": {"patch_size": 8, "width": 32, "depth": 1, "heads": 2}}
DINO = {"method": {"name": "dino", "options": {"prototypes": 16, "hidden": 16, "bottleneck": 8}}}
VIEWS = {"views": {"crop": 16, "local_crops": 1, "local_size": 8}}
PRETRAIN = {**DINO, **VIEWS, "backbone": VIT, "train": LOOP}
BENCHMARK = {
    "labels": [20],
    "draws": 1,
    "backbones": {"vit": VIT},
    "methods": {"dino": {**DINO, **VIEWS, "train": LOOP}},
    "label_views": {"crop": 16, "global_scale": [1.0, 1.0], "blur": 0.0, "noise": 0.0},
    "finetune": {"train": LOOP},
    "scratch": {"train": LOOP},
    "probes": ["knn"],
    "baselines": ["pca_logistic"],
    "replicates": 20,
}


@pytest.fixture(scope="module")
def words(place, source, store, zwicky):
    """name of a command → out → its words. What a command needs to start from is made first."""
    (place / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN))
    (place / "benchmark.yaml").write_text(yaml.safe_dump(BENCHMARK))
    told = {
        "simulate": lambda out: ["simulate", "demo-lenses", "--n", 3, "--out", out],
        "ingest": lambda out: ["ingest", source, "--workers", 1, "--out", out],
        "pretrain": lambda out: ["pretrain", place / "pretrain.yaml", "--data", store, "--out", out],
        "finetune": lambda out: (
            ["finetune", place / "started", "--data", store, "--labels", 40, "--out", out]
            + [f"--fit.train.{name}={value}" for name, value in LOOP.items()]
        ),
        "benchmark": lambda out: ["benchmark", place / "benchmark.yaml", "--data", store, "--out", out],
        "report": lambda out: ["report", place / "compared", "--out", out / "page.html"],
        "export": lambda out: ["export", place / "started", "--out", out],
    }
    for name, out in (("pretrain", "started"), ("benchmark", "compared")):
        code, _, said = zwicky(told[name](place / out))
        assert code == 0, said
    return told


def read(path):
    """What a file holds, compared by value; times are left out. Fails where the file is not whole."""
    suffix = path.suffix
    if suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if suffix == ".json":
        held = json.loads(path.read_text())
        times = ("started", "finished", "seconds", "time", "command")
        return {name: value for name, value in held.items() if name not in times} if isinstance(held, dict) else held
    if suffix == ".csv":
        with path.open(newline="") as stream:
            header, *rows = csv.reader(stream)
        assert path.read_bytes().endswith(b"\n")
        assert all(len(row) == len(header) for row in rows)
        kept = [place for place, name in enumerate(header) if name != "seconds"]
        return [[row[place] for place in kept] for row in (header, *rows)]
    if suffix == ".pt":
        return sorted(torch.load(path, weights_only=True))
    if suffix == ".safetensors":
        return {name: value.tolist() for name, value in load_file(path).items()}
    if suffix in (".npy", ".npz"):
        held = np.load(path, allow_pickle=False)
        return held.tolist() if suffix == ".npy" else {name: held[name].tolist() for name in held}
    if suffix == ".yaml":
        return yaml.safe_load(path.read_text())
    assert suffix == ".html", path
    text = path.read_text(encoding="utf-8")
    assert text.rstrip().endswith("</html>")
    return text


def contents(folder):
    """Every file of a folder that is not hidden, as it reads."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder.exists() else []
    seen = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return {str(path.relative_to(folder)): read(path) for path in seen}


def hidden(folder):
    return [path for path in folder.parent.rglob(".*") if path.name.endswith(".tmp")]


def without_times(found):
    """Contents with what differs between two runs of the same taken out: times, which a benchmark's page tells too."""
    for row in found.get("labels.csv", []):
        del row["time"]
    return {name: held for name, held in found.items() if name != "report.html"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ingest", "pretrain", "finetune", "benchmark", "report"])
def test_ten_kills_change_nothing(zwicky, words, place, name):
    base = place / f"kill-{name}"
    base.mkdir()
    code, length, said = zwicky(words[name](base / "whole"))
    assert code == 0, said
    whole = without_times(contents(base / "whole"))
    assert whole
    rng, hits, attempts, out = np.random.default_rng(sum(name.encode())), 0, 0, base / "parts"
    while hits < KILLS:
        attempts += 1
        code, _, said = zwicky(words[name](out), kill_at=rng.uniform(0, length))
        assert code in (0, -9), said
        hits += code == -9
        done = code == 0 or (name == "ingest" and out.exists())  # a store comes whole or not at all, and is not redone
        if done:  # before the moment came: the numbers hold, and from the start again
            assert without_times(contents(out)) == whole
            shutil.rmtree(out)
        else:
            contents(out)  # all that is there is whole
    code, _, said = zwicky(words[name](out))
    assert code == 0, said
    assert without_times(contents(out)) == whole
    assert not hidden(out)
    print(f"{name}: {hits} kills in {attempts} attempts of up to {length:.2f} processor seconds")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ingest", "pretrain", "finetune", "benchmark", "report"])
def test_a_kill_before_any_file_is_put_in_place_changes_nothing(zwicky, words, place, name):
    """Every one of them; of a benchmark, which puts hundreds, the first six and some of the others."""
    base = place / f"writes-{name}"
    base.mkdir()
    assert zwicky(words[name](base / "whole"))[0] == 0
    whole, writes, kills = without_times(contents(base / "whole")), 0, 0
    while True:
        out = base / f"{writes}"
        code, _, said = zwicky(words[name](out), writes=writes)
        if code == 0:  # it puts no more than this
            break
        assert code == -9, said
        contents(out)
        code, _, said = zwicky(words[name](out))
        assert code == 0, said
        assert without_times(contents(out)) == whole
        assert not hidden(out)
        shutil.rmtree(out) if out.is_dir() else None
        kills, writes = kills + 1, writes + (17 if name == "benchmark" and writes >= 6 else 1)
    assert kills >= 1
    print(f"{name}: {kills} kills between {writes} files")


def one_line(code, said):
    lines = said.splitlines()
    assert code == 2, said
    assert lines[-1].startswith("zwicky: cannot write")
    assert not [line for line in lines[:-1] if not line.startswith("warning: ")], said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        *[(name, 1000) for name in ("simulate", "ingest", "pretrain", "finetune", "benchmark", "report", "export")],
        *[(name, 20_000) for name in ("ingest", "pretrain", "finetune", "benchmark")],
    ],
)
def test_a_full_disk_is_one_line_and_the_command_goes_on(zwicky, words, place, name, limit):
    """No file may grow beyond `limit` bytes, which every writer meets as it meets a full disk."""
    out = place / f"full-{name}-{limit}" / "out"
    out.parent.mkdir()
    code, _, said = zwicky(words[name](out), limit=limit)
    one_line(code, said)
    contents(out)
    assert not hidden(out)
    code, _, said = zwicky(words[name](out))
    assert code == 0, said
    made = {"pretrain": place / "started", "benchmark": place / "compared"}
    if name in made:
        assert without_times(contents(out)) == without_times(contents(made[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simulate", "ingest", "pretrain", "finetune", "benchmark", "report", "export"])
def test_a_folder_that_may_not_be_written_is_one_line(zwicky, words, place, name):
    locked = place / f"locked-{name}"
    locked.mkdir(mode=0o555)
    one_line(*zwicky(words[name](locked / "out"), nobody=os.geteuid() == 0)[::2])
    assert list(locked.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluate", "verify"])
def test_a_run_that_may_not_be_written_is_one_line(zwicky, words, store, place, name):
    shutil.copytree(place / "started", place / f"locked-{name}")
    (place / f"locked-{name}").chmod(0o555)
    one_line(*zwicky([name, place / f"locked-{name}", "--data", store], nobody=os.geteuid() == 0)[::2])
