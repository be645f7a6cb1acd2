"""What one grader is shown, in which order: candidates, the random stratum, hidden calibration images, repeats."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA

from zwicky.data.cutouts import Cutouts, batches
from zwicky.data.labels import Labels, read_labels
from zwicky.data.splits import RANDOM_STRATUM
from zwicky.data.store import open_store
from zwicky.errors import UserError
from zwicky.grading.config import SessionConfig
from zwicky.rng import numpy_rng

NUMBERS = ["ra", "dec", "score", "inclusion_probability"]  # of OBJECT_COLUMNS
REPEAT_DISTANCE = 50  # an object comes again at least this many objects later


class Session:
    """The slots of one grader: `slots` has a row each, with `row` (of `image`), OBJECT_COLUMNS and `repeat`."""

    def __init__(self, cutouts: Cutouts, config: SessionConfig) -> None:
        self.cutouts, self.hidden = cutouts, None
        table = _objects(cutouts)
        rows = candidate_order(cutouts, table, config)
        rng = numpy_rng(config.seed, 1)
        slots = pd.DataFrame({"row": rows, "repeat": 0, "place": np.arange(len(rows), dtype=float)})
        if config.calibration is not None:
            self.hidden, truth = _calibration(config.calibration, cutouts)
            table = pd.concat([table, _objects(self.hidden).assign(truth=truth)], ignore_index=True)
            count = min(len(truth), round(len(rows) * config.calibration_share / (1 - config.calibration_share)))
            drawn = rng.permutation(len(truth))[:count] + len(cutouts)
            places = rng.uniform(0, count * (1 - config.calibration_share) / max(config.calibration_share, 1e-9), count)
            slots = pd.concat([slots, pd.DataFrame({"row": drawn, "repeat": 0, "place": places})])
        again = slots[rng.random(len(slots)) < config.repeat_share]
        again = again.assign(repeat=1, place=again["place"] + REPEAT_DISTANCE + rng.uniform(0, 50, len(again)))
        slots = pd.concat([slots, again]).sort_values("place", kind="stable", ignore_index=True).drop(columns="place")
        self.slots = slots.join(table.iloc[slots["row"]].reset_index(drop=True))

    def image(self, row: int) -> np.ndarray:
        """Return the pixels [bands, H, W] of a slot's `row`."""
        if self.hidden is not None and row >= len(self.cutouts):
            return self.hidden.images[row - len(self.cutouts)]
        return self.cutouts.images[row]


def candidate_order(cutouts: Cutouts, table: pd.DataFrame, config: SessionConfig) -> np.ndarray:
    """Return all rows of the candidates in the order of `config`, the random stratum at its share throughout."""
    rng = numpy_rng(config.seed)
    shuffled = rng.permutation(len(table))
    is_random = (table["stratum"] == RANDOM_STRATUM).to_numpy()[shuffled]
    stratum, rows = shuffled[is_random], shuffled[~is_random]
    score = table["score"].to_numpy(float)[rows]
    if config.next in ("top", "uncertain") and not np.isfinite(score).all():
        raise UserError(f"--next {config.next} needs a column `score` of numbers; make candidates with `zwicky score`")
    if config.next == "top":
        rows = rows[np.argsort(-score, kind="stable")]
    elif config.next == "uncertain":
        spread = cutouts.table["spread"].fillna(0).to_numpy(float)[rows] if "spread" in cutouts.table else 0.0
        variance = score * (1 - score)  # and that of an ensemble whose log-odds have the standard deviation `spread`
        rows = rows[np.argsort(-(variance + (variance * spread) ** 2), kind="stable")]
    elif config.next == "diverse" and len(rows) > 1:
        rows = rows[_round_robin(_clusters(cutouts, rows, config.seed), -np.nan_to_num(score))]
    share = config.random_share if len(stratum) else 0.0
    steps = (np.arange(len(rows)) + 0.5) / (1 - share), (np.arange(len(stratum)) + 0.5) / max(share, 1e-9)
    return np.concatenate([rows, stratum])[np.argsort(np.concatenate(steps), kind="stable")]


def _clusters(cutouts: Cutouts, rows: np.ndarray, seed: int, size: int = 16) -> np.ndarray:
    """[n] cluster of each image: k-means of the leading components of small images, scaled to equal contrast."""
    height, width = cutouts.size
    ys, xs = (np.linspace(0, side - 1, min(side, size)).astype(int) for side in (height, width))
    small = np.empty((len(rows), len(cutouts.bands) * len(ys) * len(xs)), np.float32)
    for batch in batches(len(rows), 1024):
        pixels = np.nan_to_num(np.asarray(cutouts.images[rows[batch]], np.float32))
        small[batch] = pixels[:, :, ys][:, :, :, xs].reshape(len(pixels), -1)
    small -= small.mean(1, keepdims=True)
    small /= np.maximum(small.std(1, keepdims=True), 1e-9)
    components = PCA(min(16, *small.shape), random_state=seed).fit_transform(small)
    count = int(np.clip(len(rows) ** 0.5, 2, 100))
    return MiniBatchKMeans(min(count, len(rows)), random_state=seed, n_init=1).fit_predict(components)


def _round_robin(clusters: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Order that takes the members of each cluster in turn, those of the lowest cost first."""
    table = pd.DataFrame({"cluster": clusters, "cost": cost}).sort_values("cost", kind="stable")
    turn = table.groupby("cluster").cumcount()
    return turn.sort_values(kind="stable").index.to_numpy()


def _objects(cutouts: Cutouts) -> pd.DataFrame:
    """Return the OBJECT_COLUMNS of all rows but `repeat`, missing ones as NaN."""
    numbers = cutouts.table.reindex(columns=NUMBERS).apply(pd.to_numeric, errors="coerce").astype(float)
    return cutouts.table.reindex(columns=["id", "stratum"]).join(numbers).assign(truth=None)


def _calibration(path: Path, cutouts: Cutouts) -> tuple[Cutouts, np.ndarray]:
    """Return the labelled images of a store like the candidates, and which of them are lenses, [n] int."""
    hidden, labels = open_store(path), read_labels(path)
    if (hidden.bands, hidden.size) != (cutouts.bands, cutouts.size):
        kinds = [f"{','.join(item.bands)} of {item.size[0]}×{item.size[1]} pixels" for item in (hidden, cutouts)]
        raise UserError(f"calibration images {path} are {kinds[0]}, the candidates {kinds[1]}; give alike ones")
    is_lens = positives(hidden.ids, labels)
    if set(hidden.ids) & set(cutouts.ids):
        raise UserError(f"{path} shares ids with the candidates; give calibration images of their own")
    rows = np.flatnonzero(is_lens >= 0)
    return hidden.take(rows), is_lens[rows]


def positives(ids: np.ndarray, labels: Labels) -> np.ndarray:
    """Return [n] int: 1 of the positive class, 0 of another, −1 unlabelled; UserError without two classes."""
    if len(labels.classes) < 2:
        raise UserError("calibration images need labels of two classes, e.g. lens and nonlens, in labels.csv")
    names = labels.of(ids)
    return np.where(pd.isna(names), -1, (names == labels.classes[-1]).astype(int))
