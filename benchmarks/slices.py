"""Run a benchmark in slices: `python benchmarks/slices.py blog --size full --data STORE --out runs/blog --minutes 9`.

A part is one network with one pretraining, or from scratch, or the baselines: a run of its own in OUT/parts, which
resumes in the next slice, cell by cell and within a fit from its last checkpoint. A finished part keeps its cells and
no weights, some megabytes to carry to another machine. The slice that finds all parts finished joins their cells into
OUT/whole, which `zwicky report` reads. Exit code 0: all is done; 3: another slice is needed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from zwicky import cli, recipes
from zwicky.cli.parsing import parse, settings_of
from zwicky.evaluation.benchmark import benchmark
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.io import read_json
from zwicky.simulate.stream import open_data
from zwicky.training.run import Run, fingerprint
from zwicky.training.task import Task

MEGABYTE = 2**20
WEIGHTS = (
    "pretrain/*/checkpoint",
    "cells/*/checkpoint",
    "pretrain/*/*.safetensors",
    "pretrain/*/*.npy",
    "cells/*/*.npy",
)


def parts(config: BenchmarkConfig) -> dict[str, BenchmarkConfig]:
    """Divide a benchmark: each part has the cells, and the seeds, that it has in the whole."""
    plain = replace(config, methods={}, baselines=[], convnet=None, correspondence=0, finetune_best=0, self_training=[])
    found = {}
    if config.baselines or config.convnet:
        found["baselines"] = replace(plain, backbones={}, baselines=config.baselines, convnet=config.convnet)
    for network, backbone in config.backbones.items():
        again = [network] if network in config.self_training else []
        alone = replace(plain, backbones={network: backbone}, self_training=again)
        found[f"scratch-{network}"] = alone
        for name, method in config.methods.items():
            if network in (method.networks or [network]):
                one = replace(method, networks=[network])
                found[f"{name}-{network}"] = replace(alone, methods={name: one})
    return found


def finished(folder: Path) -> bool:
    """Whether the run of a part is complete."""
    return (folder / "run.json").exists() and read_json(folder / "run.json")["finished"] is not None


def drop_weights(folder: Path) -> float:
    """Delete what only training needs and return the megabytes that are left."""
    for pattern in WEIGHTS:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MEGABYTE


def run(config: BenchmarkConfig, store: Path, out: Path, finished_parts: list[Path]) -> None:
    """Run a benchmark, or go on with it, with the cells that these parts have already."""
    data = open_data(store)
    task = Task.of(data.cutouts, data.labels, config.targets)
    labels = task.strata(data.cutouts, data.labels)
    truth = task.truth if task.is_regression else labels.of(data.cutouts.ids)
    Run(out, "benchmark", config, config.seed, fingerprint(data.cutouts, np.arange(len(data.cutouts)), truth))
    for folder in finished_parts:
        for name in ("cells", "pretrain"):
            if (folder / name).exists():
                shutil.copytree(folder / name, out / name, dirs_exist_ok=True)
    benchmark(config, store, out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--size")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0, help="after which a slice ends (default 9)")
    parser.add_argument("--part", help="run this part alone, to its end")
    given = parser.parse_args()
    settings = recipes.read(given.recipe, given.size)
    command = cli.COMMANDS["benchmark"]
    words = [given.recipe, "--data", str(given.data), "--out", str(given.out)]
    config = settings_of(command.settings, parse(command, "benchmark", settings, words))
    config.correspondence = config.finetune_best = 0  # they need weights, or choose among the parts
    todo = parts(config)
    folders = {name: given.out / "parts" / name for name in todo}
    if given.part:
        scratch = [f"scratch-{network}" for network in todo[given.part].backbones]
        known = [folders[name] for name in scratch if name != given.part and finished(folders[name])]
        run(todo[given.part], given.data, folders[given.part], known)
        return 0
    end = time.monotonic() + 60 * given.minutes
    for name, folder in folders.items():
        if not finished(folder):
            left = end - time.monotonic()
            try:
                subprocess.run([sys.executable, *sys.argv, "--part", name], check=True, timeout=max(left, 1))
            except subprocess.TimeoutExpired:
                done = len(list(folder.glob("cells/*/result.json")))
                print(f"{name}: {done} cells so far; the next slice goes on", flush=True)
                return 3
        print(f"{name}: finished, {drop_weights(folder):.1f} MB", flush=True)
    run(config, given.data, given.out / "whole", list(folders.values()))
    print(f"all parts are joined in {given.out / 'whole'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
