"""Correspondence of every pretrained network of a benchmark: one measurement a pretraining, then the tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from zwicky.evaluation.correspondence import REACHES, correspondence, share
from zwicky.evaluation.design import Draw
from zwicky.evaluation.learners import Bench, pretrain_seed, pretrained, pretrained_folder
from zwicky.io import read_json, replacing, write_csv, write_json
from zwicky.rng import numpy_rng

PAIR_COLUMNS = ("network", "method", "other_network", "other_method", "measure", "difference", "low", "high", "objects")


def write_correspondence(bench: Bench, draws: Sequence[Draw], starts: Iterable[tuple[str, str]]) -> None:
    """`correspondence.csv`, a row a pretraining of each (network, method), and `correspondence_pairs.csv`.

    What a pretraining's folder holds already, `correspondence.json` and `.npz`, is not measured again.
    """
    rows, folders = [], {}
    for network, method in starts:
        once = {pretrained_folder(bench, network, method, draw): draw for draw in draws}
        for folder, draw in once.items():
            if not (folder / "correspondence.json").exists():
                _measure(bench, network, method, draw, folder)
            found = read_json(folder / "correspondence.json")
            place = {"split": draw.split.name, "seed": pretrain_seed(bench, draw)}
            rows.append({"network": network, "method": method, "run": folder.name, **place, **found})
            folders[network, method, place["split"], place["seed"]] = folder
    write_csv(bench.folder / "correspondence.csv", rows)
    write_csv(bench.folder / "correspondence_pairs.csv", _pairs(rows, folders, bench.config.seed), PAIR_COLUMNS)


def _measure(bench: Bench, network: str, method: str, draw: Draw, folder: Path) -> None:
    """On test objects: nothing is learnt from them here, and nothing is chosen by the result."""
    config = bench.config
    rows = numpy_rng(config.seed).permutation(draw.test_rows(bench.cutouts))[: config.correspondence]
    start = pretrained(bench, network, method, draw)
    found = correspondence(start, bench.cutouts, rows, config.label_views, config.seed)
    with replacing(folder / "correspondence.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **found.arrays)
    write_json(folder / "correspondence.json", found.row)


def _pairs(rows: list[dict[str, Any]], folders: dict[tuple, Path], seed: int) -> list[dict[str, Any]]:
    """Paired differences of networks that share the grid and the method or the architecture.

    Over the same pairs of views, all seeds of a split together; objects are resampled, so an interval is conditional
    on the pretrainings.
    """
    starts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        starts.setdefault((row["network"], row["method"]), []).append(row)
    kept = {place: _counts(folder / "correspondence.npz") for place, folder in folders.items()}
    found = []
    for one, other in combinations(starts, 2):
        alike = one[0] == other[0] or one[1] == other[1]
        if not alike or starts[one][0]["regions"] != starts[other][0]["regions"]:
            continue
        for measure in REACHES:
            hits, counted = [], []
            for split in dict.fromkeys(row["split"] for row in starts[one]):
                seeds = [row["seed"] for row in starts[one] if row["split"] == split]
                own = [[kept[*start, split, number] for number in seeds] for start in (one, other)]
                hits.append(np.sum([a[measure] - b[measure] for a, b in zip(*own, strict=True)], axis=0))
                counted.append(np.sum([a["counted"] for a in own[0]], axis=0))
            difference, low, high = share(np.concatenate(hits), np.concatenate(counted), seed)
            names = dict(zip(PAIR_COLUMNS, (*one, *other), strict=False))
            objects = sum(len(part) for part in counted)
            found.append(
                names | {"measure": measure, "difference": difference, "low": low, "high": high, "objects": objects}
            )
    return found


def _counts(path: Path) -> dict[str, np.ndarray]:
    """Regions counted and matched, an object each."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in (*REACHES, "counted")}
