"""Peak memory of ingest, pretraining, embedding and scoring over the size of the store: `python benchmarks/memory.py`.

Each size runs the programs of the slow tests (tests/cutouts/test_ingest_memory.py, tests/training/test_memory.py), in
processes of their own and under the same limits of the system: the largest set holds more than ten times the pixels
that may be loaded. Memory is the resident memory a process gained at its peak, by the end of each step.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from tables import write_csv

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / room) for room in ("training", "cutouts")]
import test_ingest_memory  # noqa: E402
import test_memory  # noqa: E402

from zwicky.data import store  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "memory.csv"
IMAGE_MB = np.prod(test_memory.SHAPE) * 4 / 1e6


def ingest_peak(folder: Path, rows: int) -> float:
    (folder / "in").mkdir()
    test_ingest_memory.write(folder / "in" / "a.hdf5", rows)
    read, gained = test_ingest_memory.run(folder / "in", folder / "ingested")
    assert read == rows
    return gained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1500, 4500, 10_500], help="images in each store")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table to write")
    given = parser.parse_args()
    store.ROW_GROUP_BYTES = test_memory.GROUP_BYTES
    rows = []
    for count in given.images:
        with tempfile.TemporaryDirectory() as temporary:
            found = {"ingest": ingest_peak(Path(temporary), count), **test_memory.peaks(Path(temporary), count)}
        for step, peak in found.items():
            rows.append({"step": step, "images": count, "pixels_mb": round(count * IMAGE_MB), "peak_mb": round(peak)})
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    about = f"3 x 64 x 64 float32; pixels of at most {test_memory.MEMORY_GB * 1000:.0f} MB may be loaded"
    write_csv(given.out, rows, [about], ["torch", "pyarrow"])


if __name__ == "__main__":
    main()
