"""`zwicky similar`: the cutouts of a survey that are most like some examples, by an exact search over their features.

Features are read from memory-mapped float16 files block by block, so memory does not grow with the survey and no index
has to be built: a million rows of 384 features take well below a second of one core. For more than INDEX_ABOVE rows an
index of faiss, if installed, finds the candidates that are ranked exactly.
"""

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from astropy.coordinates import angular_separation

from zwicky.data.duplicates import SAME_POSITION
from zwicky.errors import UserError
from zwicky.io import WEIGHTS, file_digest, read_json, write_table
from zwicky.report.explore import write_gallery
from zwicky.rng import numpy_rng
from zwicky.survey import index
from zwicky.survey.parts import SurveyData, read_images
from zwicky.training.network import load_network

BLOCK = 1024  # rows compared at a time: float32 copies that stay in the cache
INDEX_ABOVE = 10**7  # rows, beyond which an index is used
SAMPLE = 20_000  # rows that mean, standard deviation and negatives are estimated from


@dataclass(frozen=True)
class Features:
    """Features of a survey in their files, with the tables of the same rows."""

    arrays: tuple[np.ndarray, ...]  # memory-mapped [n, D] float16
    tables: tuple[Path, ...]  # Parquet with id, ra, dec, one row for each of the array

    @classmethod
    def open(cls, scores: Path) -> Self:
        """Open the features that `zwicky score --features true` wrote; UserError if there are none."""
        tables = [path for path in sorted(scores.glob("part-*.parquet")) if _features_of(path).exists()]
        if not tables:
            raise UserError(f"{scores} holds no features; score the survey with --features true")
        arrays = [np.load(_features_of(path), mmap_mode="r") for path in tables]
        return cls(tuple(arrays), tuple(tables))

    def __len__(self) -> int:
        return sum(map(len, self.arrays))

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.arrays[0].shape[1]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, features [n, D] float32), some rows at a time."""
        start = 0
        for array in self.arrays:
            for first in range(0, len(array), BLOCK):
                with warnings.catch_warnings():  # the array is read-only, and is only read
                    warnings.simplefilter("ignore")
                    yield start + first, torch.from_numpy(array[first : first + BLOCK]).float().numpy()
            start += len(array)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of some rows, [len(rows), D] float32."""
        starts = np.cumsum([0, *map(len, self.arrays)])
        places = np.searchsorted(starts, rows, side="right") - 1
        return np.array(
            [self.arrays[a][row - starts[a]] for a, row in zip(places, rows, strict=True)], np.float32
        ).reshape(len(rows), self.dim)

    def table(self, rows: np.ndarray, columns: Sequence[str] = ("id", "ra", "dec")) -> pd.DataFrame:
        """Return columns of some rows, in their order, reading each table once."""
        starts, found = np.cumsum([0, *map(len, self.arrays)]), []
        for number, path in enumerate(self.tables):
            inside = np.flatnonzero((rows >= starts[number]) & (rows < starts[number + 1]))
            if len(inside):
                names = [name for name in columns if name in pq.read_schema(path).names]
                table = pd.read_parquet(path, columns=names).iloc[rows[inside] - starts[number]]
                found.append(table.set_axis(inside))
        return pd.concat(found).sort_index()

    def find(self, examples: Sequence[str]) -> np.ndarray:
        """Return the rows of examples: ids, or positions `RA,DEC` in degrees (the nearest within SAME_POSITION).

        UserError if there is no such cutout.
        """
        positions = [_position(text) for text in examples]
        rows, best = np.full(len(examples), -1), np.full(len(examples), SAME_POSITION)
        start = 0
        for path in self.tables:
            table = pd.read_parquet(path, columns=["id", "ra", "dec"])
            if not len(table):  # nothing of the part could be scored
                continue
            by_id = pd.Index(table["id"]).get_indexer_for(list(examples)) if table["id"].is_unique else None
            for number, (text, position) in enumerate(zip(examples, positions, strict=True)):
                place = int(by_id[number]) if by_id is not None else int((table["id"] == text).to_numpy().argmax())
                if table["id"].iloc[place] == text and place >= 0:
                    rows[number], best[number] = start + place, -1
                elif position is not None and best[number] >= 0:
                    distance = np.nan_to_num(_separation(table, *position), nan=np.inf)
                    if distance.min() <= best[number]:
                        rows[number], best[number] = start + distance.argmin(), distance.min()
            start += len(table)
        for text, row in zip(examples, rows, strict=True):
            if row < 0:
                raise UserError(f'no cutout has the id {text!r}, or a position within {SAME_POSITION:g}" of it')
        return rows


def _features_of(table: Path) -> Path:
    return table.with_name(table.name.replace("part-", "features-")).with_suffix(".npy")


def _position(text: str) -> tuple[float, float] | None:
    try:
        ra, dec = map(float, text.split(","))
    except ValueError:
        return None
    return ra, dec


def _separation(table: pd.DataFrame, ra: float, dec: float) -> np.ndarray:
    """Separation of the rows from a position (degrees) in arcsec."""
    a, d = np.deg2rad(table["ra"].to_numpy(float)), np.deg2rad(table["dec"].to_numpy(float))
    return np.rad2deg(angular_separation(a, d, np.deg2rad(ra), np.deg2rad(dec))) * 3600


def similar(
    features: Features,
    positives: np.ndarray,
    negatives: np.ndarray | None = None,
    count: int = 100,
    index_above: int = INDEX_ABOVE,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows most like some examples.

    With one positive example, rows are ranked by the cosine of standardised features. With several, or negative ones, a
    logistic regression separates the positive from the negative examples and, as most of a survey is unlike the
    positives, from a random sample of it; rows are ranked by its log-odds.

    Args:
        features: of the survey.
        positives: features of positive examples [P, D].
        negatives: features of negative examples [M, D].
        count: number of rows to return.
        index_above: number of rows beyond which an index finds 10,000 candidates or `count`, which are ranked exactly.

    Returns:
        (rows, similarity): of the most similar, best first.
    """
    rng = numpy_rng(0)
    sample = features.take(np.sort(rng.choice(len(features), min(SAMPLE, len(features)), replace=False)))
    mean, std = sample.mean(0), sample.std(0) + 1e-6
    positives = (positives - mean) / std
    is_single = len(positives) == 1 and (negatives is None or not len(negatives))
    if is_single:
        weights = positives[0] / np.linalg.norm(positives[0])
    else:
        others = (sample[:2000] - mean) / std
        if negatives is not None and len(negatives):
            others = np.concatenate([others, (negatives - mean) / std])
        weights = _probe(positives, others, 0 if negatives is None else len(negatives))
    rows, values = np.empty(0, np.int64), np.empty(0, np.float32)
    # Of x = (f − mean) / std: x·w = f·(w / std) − mean·(w / std), and
    # |x|² = f²·(1 / std²) − 2 f·(mean / std²) + |mean / std|².
    columns = np.stack([weights / std, mean / std**2], 1).astype(np.float32)
    offset, norm, inverse = mean @ columns[:, 0], mean @ columns[:, 1], (1 / std**2).astype(np.float32)
    blocks: Iterable[tuple[np.ndarray, np.ndarray]]
    if len(features) > index_above and index.is_available():
        folder, files = features.tables[0].parent, [_features_of(table) for table in features.tables]
        found = index.candidates(folder, files, mean, std, weights, max(index.CANDIDATES, count))
        blocks = [(found, features.take(found))]
    else:
        blocks = ((np.arange(first, first + len(block)), block) for first, block in features.blocks())
    for numbers, block in blocks:
        products = block @ columns
        value = products[:, 0] - offset
        if is_single:
            value /= np.sqrt(np.maximum((block * block) @ inverse - 2 * products[:, 1] + norm, 1e-6))
        keep = value > values[-1] if len(values) == count else np.ones(len(value), bool)
        rows = np.concatenate([rows, numbers[keep]])
        values = np.concatenate([values, value[keep]])
        order = np.lexsort((rows, -values))[:count]
        rows, values = rows[order], values[order]
    return rows, values


def _probe(positives: np.ndarray, others: np.ndarray, n_negatives: int) -> np.ndarray:
    """Weights [D] of a logistic regression; positives, named negatives and the sample count equally."""
    from sklearn.linear_model import LogisticRegression

    x = np.concatenate([positives, others])
    y = np.arange(len(x)) < len(positives)
    weight = np.full(len(x), 1 / max(len(others) - n_negatives, 1))
    weight[: len(positives)] = (2 if n_negatives else 1) / len(positives)
    if n_negatives:
        weight[-n_negatives:] = 1 / n_negatives
    return LogisticRegression(C=10 / len(x), max_iter=1000).fit(x, y, weight * len(x) / weight.sum()).coef_[0]


def write_similar(
    scores: Path,
    like: Sequence[str],
    unlike: Sequence[str],
    out: Path,
    *,
    data: Path | None = None,
    run: Path | None = None,
    count: int = 100,
    index_above: int = INDEX_ABOVE,
) -> int:
    """Write the cutouts most like some examples as `out` (CSV) and, if the pixels are at hand, as a page beside it.

    Args:
        scores: directory of `zwicky score --features true`.
        like: positive examples: ids, positions `RA,DEC` in degrees, or files of images.
        unlike: negative examples.
        out: the table of rank, similarity, id, ra, dec and, if there are, file and score.
        data: the survey, for the pictures of the page.
        run: the first run of the scores, which computes the features of examples that are files.
        count: how many to find.
        index_above: see `similar`.

    Returns:
        The number found.

    Raises:
        UserError: There are no features, or an example is not found.
    """
    features = Features.open(scores)
    positives, negatives = (_example_features(features, names, scores, run) for names in (like, unlike))
    if len(features) > index_above and not index.is_available():
        print("note: pip install 'zwicky[search]' adds an index, which spares reading all features", file=sys.stderr)
    rows, values = similar(features, positives, negatives, count, index_above)
    if len(rows) < count:
        print(f"note: {len(rows)} cutouts were found, fewer than the {count} asked for", file=sys.stderr)
    table = features.table(rows, ("id", "file", "ra", "dec", "score"))
    table.insert(0, "similarity", values)
    table.insert(0, "rank", np.arange(1, len(rows) + 1))
    write_table(out, table)
    if data is not None:
        images, bands = read_images(data, table)
        captions = [
            [f"{row.rank}", str(row.id), f"similarity {row.similarity:.3f}"] for row in table.itertuples(index=False)
        ]
        title = f"Most like {', '.join(like)}" + (f", unlike {', '.join(unlike)}" if unlike else "")
        write_gallery(out.with_suffix(".html"), title, images, bands, captions)
    return len(rows)


def _example_features(features: Features, names: Sequence[str], scores: Path, run: Path | None) -> np.ndarray:
    """Features [len(names), D] of examples: of the survey, or of files, which the run is applied to."""
    files = [name for name in names if Path(name).is_file()]
    inside = features.take(features.find([name for name in names if name not in files]))
    if not files:
        return inside
    if run is None:
        raise UserError(f"{files[0]} is a file; name the run of the scores by --run, which computes its features")
    settings, network = read_json(scores / "score.json"), load_network(run)
    if file_digest(run / WEIGHTS) != settings["networks"][0]:
        raise UserError(f"{run} is not the first run that {scores} was scored with; name that one by --run")
    found = [inside]
    for name in files:
        survey = SurveyData.open(name, network)
        for block in (block for part in survey.parts for block in survey.blocks(part)):
            for example, reason in block.listed:
                raise UserError(f"{Path(name).with_name(example)} {reason}; give another example, or leave it out")
            found.append(network.features(block.images, turns=settings["views"] == 8))
    return np.concatenate(found)
