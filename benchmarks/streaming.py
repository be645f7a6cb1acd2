"""Images a second that training gets from a store left on disk, and what memory that takes by size of the store.

`python benchmarks/streaming.py [--gb 0.25 0.5 1]` makes stores of 3 × 64 × 64 noise of each pixel type and size. A
float32 holds whole counts, as cameras give them, or noise in every bit, which no compression shrinks. It reads one
epoch of each in the order of training, mixed within 128 MiB (training mixes within 512), in a process of its own, from
files that the system has in its memory. Images a second are by the wall (the reader's thread beside the loop's), and by
processor seconds (user and system), as on one core, whatever else the machine does. Memory is what the process gained
at its peak.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tables import write_csv

from zwicky.data.cutouts import make_table
from zwicky.data.store import StoreWriter, open_store

RESULTS = Path(__file__).parent / "results" / "streaming.csv"
SHAPE = (3, 64, 64)
MIXED_BYTES = 2**27
BATCH = 128
TYPES = ("uint8", "uint16", "float32", "float32, noise in every bit")


def make_store(path: Path, kind: str, count: int) -> None:
    dtype = kind.partition(",")[0]
    block = np.random.default_rng(0).normal(100 if dtype == "uint8" else 2000, 10, (1000, *SHAPE))
    block = block.astype(np.float32) if kind == TYPES[3] else block.round().astype(dtype)
    with StoreWriter(path, "gri", SHAPE[1:], dtype) as writer:
        for start in range(0, count, 1000):  # the same noise again, further apart than compression looks
            images = block[: count - start]
            writer.append(images, make_table([f"{start + row:08}" for row in range(len(images))]))


def peak_mb() -> float:
    """The most memory this process has held so far."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


def read_epoch(path: Path) -> dict[str, float]:
    """Read one epoch of a store as training does; for a process of its own."""
    import torch

    from zwicky.training import batches
    from zwicky.training.loader import BatchLoader, Source

    torch.set_num_threads(1)
    batches.MIXED_BYTES = MIXED_BYTES
    before = peak_mb()
    images = open_store(path, memory_gb=0).images
    feed = BatchLoader(Source(images, np.arange(len(images))), BATCH, 0, torch.device("cpu"))
    wall, processor = time.perf_counter(), time.process_time()
    for step in range(feed.batches.per_epoch):
        feed(step, slice(0, BATCH))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    count = feed.batches.per_epoch * BATCH
    return {"wall": count / wall, "processor": count / processor, "peak": peak_mb() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [0.25, 0.5, 1.0]
    parser.add_argument("--gb", type=float, nargs="+", default=sizes, help="of pixels in each store, 10^9 bytes")
    parser.add_argument("--pixels", nargs="+", choices=TYPES, default=TYPES, help="types of pixels")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table to write")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        print(json.dumps(read_epoch(given.read)))
        return
    rows = []
    for kind in given.pixels:
        for size in given.gb:
            count = int(size * 1e9 / np.dtype(kind.partition(",")[0]).itemsize / np.prod(SHAPE))
            with tempfile.TemporaryDirectory() as temporary:
                make_store(Path(temporary) / "store", kind, count)
                disk = sum(part.stat().st_size for part in (Path(temporary) / "store").iterdir())
                command = [sys.executable, __file__, "--read", str(Path(temporary) / "store")]
                found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            rows.append(
                {
                    "pixels": kind,
                    "store_gb": size,
                    "on_disk_gb": round(disk / 1e9, 3),
                    "images": count,
                    "images_per_s_wall": round(found["wall"]),
                    "images_per_s_of_one_core": round(found["processor"]),
                    "peak_mb": round(found["peak"]),
                }
            )
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    write_csv(given.out, rows, ["one epoch in batches of 128, mixed within 128 MiB"], ["torch", "pyarrow"])


if __name__ == "__main__":
    main()
