"""How fast a store on disk gives its pixels: single images, random batches, a shuffled epoch; and what memory it takes.

`python benchmarks/streaming.py [--images 100000]` writes stores of noise, 64 × 64 × 1 uint16 and 3 × 32 × 32 float32,
and reads each in processes of its own: with a cold page cache (the files are dropped from it first) and a warm one.
Images a second are by the wall and by processor seconds (user and system), which a busy machine changes less. Memory is
what the process gained at its peak, and of that what is not page cache. `results/streaming.csv` also keeps, as `layout`
"parquet", the store of row groups that this one replaced, measured by the same steps.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tables import write_csv

RESULTS = Path(__file__).parent / "results" / "streaming.csv"
STORES = {"uint16": (1, 64, 64), "float32": (3, 32, 32)}
BATCH = 128
STEPS = ("single image", "random batch", "shuffled epoch")


def write(path: Path, dtype: str, count: int) -> dict[str, float]:
    """Write a store of noise."""
    from zwicky.data.cutouts import make_table
    from zwicky.data.store import StoreWriter

    shape = STORES[dtype]
    rng = np.random.default_rng(0)
    wall, processor = time.perf_counter(), time.process_time()
    with StoreWriter(path, "gri"[: shape[0]], shape[1:], dtype) as writer:
        for start in range(0, count, 1000):
            images = rng.normal(2000, 10, (1000, *shape)).round(0 if dtype == "uint16" else 9).astype(dtype)
            writer.append(images, make_table([f"{start + row:08}" for row in range(1000)]))
    return rates(count, wall, processor) | {"disk_gb": sum(file.stat().st_size for file in path.iterdir()) / 1e9}


def rates(count: int, wall: float, processor: float) -> dict[str, float]:
    """Images a second since these clock readings."""
    return {
        "images_per_s": round(count / (time.perf_counter() - wall)),
        "images_per_cpu_s": round(count / (time.process_time() - processor)),
    }


def memory_mb() -> tuple[float, float]:
    """(peak of the resident memory, anonymous memory now) of this process."""
    status = Path("/proc/self/status").read_text()
    peak, anonymous = (re.search(rf"{name}:\s+(\d+)", status) for name in ("VmHWM", "RssAnon"))
    return int(peak[1]) / 1024, int(anonymous[1]) / 1024  # type: ignore[index]


def read(path: Path, step: str, cache: str) -> dict[str, float]:
    """Read a store as one of STEPS; for a process of its own."""
    import torch

    from zwicky.data.store import open_store
    from zwicky.training.loader import BatchLoader, TrainingSet

    torch.set_num_threads(1)
    if cache == "cold":
        for file in path.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    peak, anonymous = memory_mb()
    images = open_store(path).images
    rng = np.random.default_rng(1)
    loader = BatchLoader(TrainingSet(images, np.arange(len(images))), None, BATCH, 0, torch.device("cpu"))  # type: ignore[arg-type]
    wall, processor = time.perf_counter(), time.process_time()
    if step == "single image":
        count = 1000
        for row in rng.integers(0, len(images), count):
            images[int(row)]
    elif step == "random batch":
        count = 20 * BATCH
        for _ in range(20):
            images[rng.integers(0, len(images), BATCH)]
    else:
        count = loader.steps_per_epoch * BATCH
        for number in range(loader.steps_per_epoch):
            loader.pixels(loader.rows(number))
    result = rates(count, wall, processor)
    return result | {"peak_mb": round(memory_mb()[0] - peak), "anonymous_mb": round(memory_mb()[1] - anonymous)}


def main() -> None:
    """Measure all stores and steps and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000, help="images in each store")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table to write")
    parser.add_argument("--read", nargs=3, metavar=("STORE", "STEP", "CACHE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(Path(args.read[0]), *args.read[1:])))
        return
    rows = []
    for dtype in STORES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "store"
            cells = [("write", "", write(path, dtype, args.images))]
            for step in STEPS:
                for cache in ("cold", "warm"):
                    command = [sys.executable, __file__, "--read", str(path), step, cache]
                    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                    cells.append((step, cache, json.loads(output)))
        for step, cache, result in cells:
            empty = dict.fromkeys(("disk_gb", "images_per_s", "images_per_cpu_s", "peak_mb", "anonymous_mb"), "")
            rows.append({"layout": "npy", "pixels": dtype, "step": step, "cache": cache} | empty | result)
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    write_csv(args.out, rows, [f"{args.images} images a store, batches of {BATCH}"], ["numpy", "torch", "pyarrow"])


if __name__ == "__main__":
    main()
