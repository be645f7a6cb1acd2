"""Commands that are killed, or meet a full disk or a read-only folder: no file is half written, and the same command
resumes to the same numbers.

A process that has imported everything forks one child per command, so a kill costs no import. Kills are timed in the
child's processor seconds, which a busy machine does not stretch.
"""

import contextlib
import json
import math
import multiprocessing
import os
import re
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from .conftest import BENCHMARK, LOOP, PRETRAIN, write_galaxies

pytestmark = pytest.mark.slow

N_KILLS = 6
IMPORTED = (
    "sklearn.linear_model sklearn.decomposition scipy.stats timm astropy.coordinates zwicky.cli zwicky.data.audit "
)
IMPORTED += "zwicky.data.ingest zwicky.data.readers zwicky.evaluation.benchmark zwicky.evaluation.equivariance "
IMPORTED += "zwicky.evaluation.evaluate zwicky.report.page zwicky.simulate.simulation zwicky.training.export"
CHILD = """
import codecs, os, resource, sys
import torch
from zwicky import cli
from zwicky.training import loop
codecs.lookup("unicode-escape")  # another user may not be able to load Python's own modules
torch.set_num_threads(1)
loop.fit.__kwdefaults__["checkpoint_seconds"] = -1.0
output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.dup2(output, 1), os.dup2(output, 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
if nobody:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
sys.argv = ["zwicky", *arguments]
cli.main()
"""


@pytest.fixture(scope="module")
def folder():
    """A folder that other users may enter, unlike pytest's own, with class folders of cutouts and recipes."""
    folder = Path(tempfile.mkdtemp(prefix="zwicky-test-"))
    folder.chmod(0o755)
    write_galaxies(folder / "source", labelled=120, count=120)
    (folder / "source" / "broken.npy").write_text("no array")
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN))
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(BENCHMARK))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def zwicky(folder):
    """zwicky(arguments, **job) -> (exit code, processor seconds, output); -9 is the code of a killed command."""
    context, log = multiprocessing.get_context("forkserver"), folder / "log"
    context.set_forkserver_preload(IMPORTED.split())

    def run(arguments, kill_at=math.inf, limit=resource.RLIM_INFINITY, nobody=False):
        log.unlink(missing_ok=True)
        job = {"arguments": [*map(str, arguments)], "log": str(log), "limit": limit, "nobody": nobody}
        process = context.Process(target=exec, args=(CHILD, job))
        process.start()
        clock, seconds = (~process.pid << 3) | 2, 0.0  # Linux's id of another process's processor clock
        while process.is_alive():
            with contextlib.suppress(OSError):  # it has just ended
                seconds = time.clock_gettime(clock)
            if seconds >= kill_at:
                process.kill()
            time.sleep(0.001)
        return process.exitcode, seconds, log.read_text() if log.exists() else ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MPLCONFIGDIR", str(folder))
        yield run


@pytest.fixture(scope="module")
def commands(folder, zwicky):
    """name -> out -> arguments; the runs that a command starts from are made first."""
    store, loop = folder / "store", ["--labels=40", *[f"--fit.train.{name}={value}" for name, value in LOOP.items()]]
    made = {
        "ingest": lambda out: ["ingest", folder / "source", "--catalog", folder / "catalog.csv", "--out", out],
        "simulate": lambda out: ["simulate", "demo-lenses", "--n", 3, "--out", out],
        "pretrain": lambda out: ["pretrain", folder / "pretrain.yaml", "--data", store, "--out", out],
        "finetune": lambda out: ["finetune", folder / "pretrained", "--data", store, "--out", out, *loop],
        "benchmark": lambda out: ["benchmark", folder / "benchmark.yaml", "--data", store, "--out", out],
        "report": lambda out: ["report", folder / "compared", "--out", out / "page.html"],
        "export": lambda out: ["export", folder / "pretrained", "--out", out],
    }
    for name, out in (("ingest", "store"), ("pretrain", "pretrained"), ("benchmark", "compared")):
        assert_done(zwicky(made[name](folder / out)))
    return made


VOLATILE = {"started", "finished", "seconds", "step_seconds", "time", "command"}
READERS = {
    ".csv": lambda path: pd.read_csv(path).drop(columns=VOLATILE, errors="ignore").to_json(),
    ".html": lambda path: path.read_text(encoding="utf-8").rstrip().endswith("</html>"),  # a page shows times
    ".json": lambda path: {key: value for key, value in json.loads(path.read_text()).items() if key not in VOLATILE},
    ".npy": lambda path: np.load(path, allow_pickle=False).tolist(),
    ".parquet": lambda path: pd.read_parquet(path).to_json(),
    ".pt": lambda path: sorted(torch.load(path, weights_only=True)),
    ".safetensors": lambda path: {name: value.tolist() for name, value in load_file(path).items()},
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
}


def contents(folder):
    """What every file of a folder holds, but the hidden ones; a file that is not whole fails, or differs."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    visible = [name for name in names if not re.search(r"(^|/)\.", name)]
    assert all((folder / name).read_bytes().endswith(b"\n") for name in visible if name.endswith(".csv"))
    return {name: READERS[Path(name).suffix](folder / name) for name in visible}


@pytest.mark.parametrize("name", ["ingest", "pretrain", "finetune", "benchmark", "report"])
def test_killed_commands_resume_to_the_same_numbers(zwicky, commands, folder, name):
    base = folder / f"kill-{name}"
    base.mkdir()
    length = assert_done(zwicky(commands[name](base / "whole")))
    whole = contents(base / "whole")
    assert whole
    rng, n_kills, out = np.random.default_rng(sum(name.encode())), 0, base / "parts"
    while n_kills < N_KILLS:
        code, _, output = zwicky(commands[name](out), kill_at=rng.uniform(0, length))
        assert code in (0, -9), output
        n_kills += code == -9
        if code == 0 or (name == "ingest" and out.exists()):  # a store appears whole, and is not written again
            assert contents(out) == whole
            shutil.rmtree(out)
        elif out.exists():
            contents(out)
    assert_done(zwicky(commands[name](out)))
    assert contents(out) == whole
    assert [path for path in base.rglob(".*") if path.name.endswith(".tmp")] == []


def assert_done(result):
    code, seconds, output = result
    assert code == 0, output
    return seconds


def assert_one_line(code, output):
    lines = output.splitlines()
    assert code == 2, output
    assert lines[-1].startswith("zwicky: cannot write")
    assert [line for line in lines[:-1] if not line.startswith(("warning: ", "pretrain: "))] == []


WRITE = ["simulate", "ingest", "pretrain", "finetune", "benchmark", "report", "export"]


@pytest.mark.parametrize("name", WRITE)
def test_a_full_disk_is_one_line_and_the_command_resumes(zwicky, commands, folder, name):
    """No file may grow beyond 1,000 bytes, which fails as a full disk does."""
    out = folder / f"full-{name}" / "out"
    out.parent.mkdir()
    assert_one_line(*zwicky(commands[name](out), limit=1000)[::2])
    assert_done(zwicky(commands[name](out)))
    made = {"pretrain": folder / "pretrained", "benchmark": folder / "compared"}
    assert name not in made or contents(out) == contents(made[name])


@pytest.mark.parametrize("name", WRITE)
def test_a_read_only_folder_is_one_line(zwicky, commands, folder, name):
    locked = folder / f"locked-{name}"
    locked.mkdir(mode=0o555)
    assert_one_line(*zwicky(commands[name](locked / "out"), nobody=os.geteuid() == 0)[::2])
    assert list(locked.iterdir()) == []
