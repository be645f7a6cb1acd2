"""`zwicky similar`: the cutouts of a survey that are most like some examples, by an exact search over their features.

Features are read from memory-mapped float16 files block by block, so memory does not grow with the survey and no index
has to be built: a million rows of 384 features take well below a second of one core. For more than INDEX_ABOVE rows an
index of faiss, if installed, finds the candidates that are ranked exactly.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from astropy.coordinates import angular_separation

from zwicky.data.cutouts import batches
from zwicky.data.duplicates import SAME_POSITION
from zwicky.data.store import ShardedImages
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

    vectors: ShardedImages  # [N, D] float16, memory-mapped
    tables: tuple[Path, ...]  # Parquet with id, ra, dec, one row for each of a shard

    @classmethod
    def open(cls, scores: Path) -> Self:
        """Open the features that `zwicky score --features true` wrote; UserError if there are none."""
        tables = [path for path in sorted(scores.glob("part-*.parquet")) if _features_of(path).exists()]
        if not tables:
            raise UserError(f"{scores} holds no features; score the survey with --features true")
        return cls(ShardedImages([np.load(_features_of(path), mmap_mode="r") for path in tables]), tuple(tables))

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: Any) -> np.ndarray:
        """Return the features [len(rows), D] float32 of some rows, or of a slice."""
        return torch.from_numpy(self.vectors[rows]).float().numpy()  # many times as fast as NumPy

    def table(self, rows: np.ndarray, columns: Sequence[str] = ("id", "ra", "dec")) -> pd.DataFrame:
        """Return columns of some rows, in their order, reading each table once."""
        part, found = np.searchsorted(self.vectors.starts, rows, side="right") - 1, []
        for number in np.unique(part):
            path, inside = self.tables[number], np.flatnonzero(part == number)
            names = [name for name in columns if name in pq.read_schema(path).names]
            table = pd.read_parquet(path, columns=names).iloc[rows[inside] - self.vectors.starts[number]]
            found.append(table.set_axis(inside))
        return pd.concat(found).sort_index()

    def find(self, examples: Sequence[str]) -> np.ndarray:
        """Return the rows of examples: ids, or positions `RA,DEC` in degrees (the nearest within SAME_POSITION).

        UserError if there is no such cutout.
        """
        positions = [_position(text) for text in examples]
        rows, best = np.full(len(examples), -1), np.full(len(examples), SAME_POSITION)
        for start, path in zip(self.vectors.starts, self.tables, strict=False):
            table = pd.read_parquet(path, columns=["id", "ra", "dec"])
            sky = np.deg2rad(table[["ra", "dec"]].to_numpy(float).T)
            for number, (text, position) in enumerate(zip(examples, positions, strict=True)):
                separation = np.where(table["id"] == text, -1, np.inf)  # an id comes before any position
                if position is not None:
                    arcsec = np.rad2deg(angular_separation(*sky, *np.deg2rad(position))) * 3600
                    separation = np.fmin(separation, arcsec)
                if separation.min(initial=np.inf) <= best[number]:
                    rows[number], best[number] = start + separation.argmin(), separation.min()
        for text, row, position in zip(examples, rows, positions, strict=True):
            if row < 0 and position is not None:
                raise UserError(f'no cutout has the id {text!r}, or a position within {SAME_POSITION:g}" of it')
            if row < 0:
                ids, close = list[str](), list[str]()
                for path in self.tables:  # all ids of a survey would fill the memory
                    part = pd.read_parquet(path, columns=["id"])["id"]
                    close += part[part.str.endswith(f"/{text}")][:1].tolist()
                    ids += part[: SAMPLE - len(ids)].tolist()
                close += [*get_close_matches(text, ids, 1), ids[0]]
                raise UserError(f"no cutout has the id {text!r}; did you mean {close[0]!r}?")
        return rows


def _features_of(table: Path) -> Path:
    return table.with_name(table.name.replace("part-", "features-")).with_suffix(".npy")


def _position(text: str) -> tuple[float, float] | None:
    try:
        ra, dec = map(float, text.split(","))
    except ValueError:
        return None
    return ra, dec


def similar(
    features: Features,
    positives: np.ndarray,
    negatives: np.ndarray | None = None,
    count: int = 100,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows most like some examples.

    With one positive example, rows are ranked by the cosine of standardised features. With several, or negative ones, a
    logistic regression separates the positive from the negative examples and, as most of a survey is unlike the
    positives, from a random sample of it; rows are ranked by its log-odds. Beyond INDEX_ABOVE rows an index, if there
    is one, finds 10,000 candidates or `count`, which are ranked exactly.

    Args:
        features: of the survey.
        positives: features of positive examples [P, D].
        negatives: features of negative examples [M, D].
        count: number of rows to return.

    Returns:
        (rows, similarity): of the most similar, best first.
    """
    rng, negatives = numpy_rng(0), np.empty((0, positives.shape[1])) if negatives is None else negatives
    sample = features.take(np.sort(rng.choice(len(features), min(SAMPLE, len(features)), replace=False)))
    mean, std = sample.mean(0), sample.std(0) + 1e-6
    positives, others = ((examples - mean) / std for examples in (positives, sample[:2000]))
    if is_single := len(positives) == 1 and not len(negatives):
        weights = positives[0] / np.linalg.norm(positives[0])
    else:
        weights = _probe(positives, others, (negatives - mean) / std)
    rows, values = np.empty(0, np.int64), np.empty(0, np.float32)
    # Of x = (f − mean) / std: x·w = f·(w / std) − mean·(w / std), and
    # |x|² = f²·(1 / std²) − 2 f·(mean / std²) + |mean / std|².
    columns = np.stack([weights / std, mean / std**2], 1).astype(np.float32)
    offset, norm, inverse = mean @ columns[:, 0], mean @ columns[:, 1], (1 / std**2).astype(np.float32)
    blocks: Iterable[np.ndarray] = (np.arange(one.start, one.stop) for one in batches(len(features), BLOCK))
    if len(features) > INDEX_ABOVE and index.is_available():
        folder, files = features.tables[0].parent, [_features_of(table) for table in features.tables]
        blocks = [index.candidates(folder, files, mean, std, weights, max(index.CANDIDATES, count))]
    for numbers in blocks:
        block = features.take(numbers)
        products = block @ columns
        value = products[:, 0] - offset
        if is_single:
            value /= np.sqrt(np.maximum((block * block) @ inverse - 2 * products[:, 1] + norm, 1e-6))
        keep = value > values[-1] if len(values) == count else np.ones(len(value), bool)
        rows = np.concatenate([rows, numbers[keep]])
        values = np.concatenate([values, value[keep]])
        order = np.lexsort((rows, -values))[:count]
        rows, values = rows[order], values[order]
    return rows, np.clip(values, -1, 1) if is_single else values


def _probe(positives: np.ndarray, sample: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Weights [D] of a logistic regression; positives, named negatives and the sample count equally."""
    from sklearn.linear_model import LogisticRegression

    groups = [positives, sample, negatives]
    shares = np.array([2 if len(negatives) else 1, 1, 1]) / [max(len(group), 1) for group in groups]
    x, weight = np.concatenate(groups), np.repeat(shares, [len(group) for group in groups])
    y = np.arange(len(x)) < len(positives)
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

    Returns:
        The number found.

    Raises:
        UserError: There are no features, or an example is not found.
    """
    features = Features.open(scores)
    if not (scores / "summary.json").exists() and (scores / "score.json").exists():
        parts = read_json(scores / "score.json")["parts"]
        print(f"note: {len(features.tables)} of {parts} parts are scored, and only these are searched", file=sys.stderr)
    positives, negatives = (_example_features(features, names, scores, run) for names in (like, unlike))
    if len(features) > INDEX_ABOVE and not index.is_available():
        print("note: pip install 'zwicky[search]' adds an index, which spares reading all features", file=sys.stderr)
    rows, values = similar(features, positives, negatives, count)
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
