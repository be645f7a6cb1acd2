"""Where the time of `zwicky simulate` goes, and what memory it takes by number of images.

`python benchmarks/simulate_shares.py` times ray tracing, light, point spread function, noise and writing while it
makes a store of each population, in processor seconds on one core, the compiler's left out. Each number of images is
made in a process of its own; memory is that process's peak, by the kernel.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from streaming import memory_mb
from tables import write_csv

from zwicky.data.store import StoreWriter
from zwicky.simulate import light, render, simulation
from zwicky.simulate.draw import BLOCK

RESULTS = Path(__file__).parent / "results" / "simulate_shares.csv"
spent: Counter[str] = Counter()


def timed(what: str, function: Callable) -> Callable:
    def wrapped(*given: Any, **named: Any) -> Any:
        begun = time.process_time()
        result = function(*given, **named)
        spent[what] += time.process_time() - begun
        return result

    return wrapped


def measure(population: str, count: int) -> dict[str, float]:
    """Shares of the time, images a processor second and peak memory in MB of one simulation."""
    torch.set_num_threads(1)
    render.ray_trace = timed("ray_tracing", render.ray_trace)
    for known in (light.LAYERS, light.SOURCES):
        for name, shape in known.items():
            known[name] = (timed("light", shape[0]), shape[1]) if isinstance(shape, tuple) else timed("light", shape)
    render.observe = timed("psf_and_pixels", render.observe)
    simulation.add_noise = timed("noise", simulation.add_noise)
    StoreWriter.append = timed("writing", StoreWriter.append)
    with tempfile.TemporaryDirectory() as folder:
        simulation.simulate_store(population, BLOCK, 0, Path(folder) / "first")  # compiles
        spent.clear()
        begun = time.process_time()
        simulation.simulate_store(population, count, 1, Path(folder) / "store")
        whole = time.process_time() - begun
    shares = {what: seconds / whole for what, seconds in spent.items()}
    rest = {"rest": 1 - sum(shares.values())}
    return {"images_per_s": count / whole, "peak_mb": memory_mb()[0]} | shares | rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    populations = ["deeplense-repaired-1", "deeplense-repaired-2", "lens-finding"]
    parser.add_argument("--populations", nargs="+", default=populations, help="by name")
    parser.add_argument("--n", type=int, nargs="+", default=[512, 2048], help="numbers of images")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table to write")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], int(given.one[1]))))
        return
    rows: list[dict[str, Any]] = []
    for population in given.populations:
        for count in given.n:
            command = [sys.executable, __file__, "--one", population, str(count)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            row = {"population": population, "images": count}
            row |= {"images_per_s_of_one_core": round(found["images_per_s"], 1), "peak_mb": round(found["peak_mb"])}
            for what in ("ray_tracing", "light", "psf_and_pixels", "noise", "writing", "rest"):
                row[what] = round(found.get(what, 0.0), 3)
            rows.append(row)
            print(row, flush=True)
    write_csv(given.out, rows, ["shares of the processor seconds"], ["torch", "caustics", "numba", "pyarrow"])


if __name__ == "__main__":
    main()
