"""An approximate index of the features of a survey, for more rows than are read for every question.

It runs in a process of its own and imports no torch, as two OpenMP runtimes in one process crash on some systems.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from zwicky.io import replacing

INDEX = "similar.faiss"  # in the folder of the scores
CANDIDATES = 10_000  # nearest by the index, or as many as are asked for, which are ranked exactly
BLOCK = 16_384  # rows standardised at a time


def is_available() -> bool:
    """Whether faiss is installed."""
    return find_spec("faiss") is not None


def candidates(
    folder: Path, files: Sequence[Path], mean: np.ndarray, std: np.ndarray, weights: np.ndarray, count: int
) -> np.ndarray:
    """Return the numbers of the `count` rows with about the largest x·w / |x|, ascending.

    x are the features [n, D] of the `.npy` `files`, one after the other, standardised by `mean` and `std` [D]; w [D] is
    `weights`. The index (inverted lists of product-quantised codes, arXiv:1702.08734) is built once and kept in
    `folder`, that of the scores.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_search, folder / INDEX, files, mean, std, weights, count).result()


def _search(
    path: Path, files: Sequence[Path], mean: np.ndarray, std: np.ndarray, weights: np.ndarray, count: int
) -> np.ndarray:
    import faiss

    arrays = [np.load(file, mmap_mode="r") for file in files]
    total = sum(map(len, arrays))
    index: Any = faiss.read_index(str(path)) if path.exists() else None
    if index is None or index.ntotal != total:

        def standardised(rows: np.ndarray) -> np.ndarray:
            x = (rows.astype(np.float32) - mean) / std
            return np.ascontiguousarray(x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-6), np.float32)

        lists, dim = max(1, int(total**0.5)), len(mean)
        codes = max(n for n in range(1, 49) if dim % n == 0 and n <= max(dim // 4, 1))
        index = faiss.index_factory(dim, f"IVF{lists},PQ{codes}np", faiss.METRIC_INNER_PRODUCT)
        step = max(1, total // max(64 * lists, 20_000))
        index.train(standardised(np.concatenate([array[::step] for array in arrays])))
        for array in arrays:
            for first in range(0, len(array), BLOCK):
                index.add(standardised(array[first : first + BLOCK]))
        with replacing(path) as temporary:
            faiss.write_index(index, str(temporary))
    index.nprobe = max(32, index.nlist // 8)
    _, rows = index.search(weights[None].astype(np.float32), min(count, total))
    return np.sort(rows[rows >= 0])
