"""Purity and completeness of a ranked survey, from the grades of its candidates.

The candidates are the top of the list and a random stratum of all the rest (`survey.candidates`). Each stratum is a
finite population of which some members were graded: a graded object stands for the inverse of its inclusion
probability. Numbers of lenses have exact binomial intervals (Clopper & Pearson 1934), which are right for the rare
lenses of the rest, of which a sample often has none; a stratum that was graded completely is known exactly.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy.stats import beta, ks_2samp

from zwicky.data.catalog import read_catalog
from zwicky.data.columns import as_text, find_column, find_position_columns, positions_of
from zwicky.data.duplicates import nearest_position
from zwicky.data.labels import GRADES, LENS_GRADE
from zwicky.data.splits import RANDOM_STRATUM
from zwicky.data.store import open_store
from zwicky.errors import UserError
from zwicky.io import read_json, write_table
from zwicky.survey.candidates import TOP

SIZES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)  # of the tops that are reported


def lens_interval(size: int, graded: int, lenses: int, level: float = 0.95) -> tuple[float, float, float]:
    """Return the estimated number of lenses among `size` objects, and its interval, from a random sample of them.

    `lenses` is their number among those `graded`.
    """
    if graded >= size:
        return lenses, lenses, lenses
    if graded == 0:
        return np.nan, 0, size
    tail = (1 - level) / 2
    low = beta.ppf(tail, lenses, graded - lenses + 1) if lenses else 0.0
    high = beta.ppf(1 - tail, lenses + 1, graded - lenses) if lenses < graded else 1.0
    return size * lenses / graded, max(lenses, size * low), min(size * high, size - (graded - lenses))


def _lens_intervals(strata: Sequence[tuple[int, np.ndarray]], level: float) -> np.ndarray:
    """Return `lens_interval` of each stratum, a size and the graded objects in it: [strata, 3]."""
    return np.array([lens_interval(size, len(graded), int(graded.sum()), level) for size, graded in strata])


def estimate(
    top: np.ndarray, rest: np.ndarray, n_rest: int, sizes: Sequence[int] = SIZES, level: float = 0.95
) -> pd.DataFrame:
    """Estimate purity and completeness of the first n objects of a ranked survey.

    Args:
        top: [T] of the top stratum in the order of the scores: 1 a lens, 0 none, NaN not graded.
        rest: of the graded objects of the random stratum, 1 or 0.
        n_rest: number of objects that are not in the top stratum.
        sizes: the n that are reported, besides T.
        level: of the intervals.

    Returns:
        One row for each n: `top`, `graded`, `lenses` (estimated), `purity` = lenses per inspected object,
        `completeness` = lenses / all lenses of the survey, and `all_lenses`, each with `_low` and `_high`.
    """
    rows = []
    for n in sorted({size for size in sizes if size < len(top)} | {len(top)}):
        strata = [(len(part), part[~np.isnan(part)]) for part in (top[:n], top[n:])] + [(n_rest, rest)]
        unknown = sum(len(part) < size for size, part in strata)
        joint = 1 - (1 - level) / max(unknown, 1)  # Bonferroni: all hold together with the level
        inside, *others = _lens_intervals(strata, joint)
        beyond = np.sum(others, axis=0)
        alone = _lens_intervals(strata[:1], level)[0]
        total = inside + beyond[[0, 2, 1]]  # fewest within and most beyond: the low end
        complete = np.divide(inside, total, out=np.array([np.nan, 0.0, 1.0]), where=total > 0)
        row = {"top": n, "graded": len(strata[0][1])}
        found = {"lenses": alone, "purity": alone / (n or np.nan), "all_lenses": inside + beyond}
        for name, values in (found | {"completeness": complete}).items():
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def evaluate_grades(scores: Path, grades: Path, known: Path | None = None, lens: float = LENS_GRADE) -> str:
    """Write `estimates.csv` into a directory of scores, and return what it says in a few lines.

    Args:
        scores: directory of `zwicky score`, complete.
        grades: `catalogue.csv` (id, grade_mean) or `grades.csv` (id, grade A, B, C or X a row and grader).
        known: table of known lenses, by id or position.
        lens: smallest mean grade of a lens.

    Raises:
        UserError: No graded object is a candidate, or the scores are incomplete.
    """
    if not (scores / "candidates").exists():
        raise UserError(f"{scores} has no candidates; finish `zwicky score` first")
    candidates, scored = open_store(scores / "candidates").table, read_json(scores / "summary.json")["scored"]
    mean = candidates["id"].map(_mean_grades(grades))
    if mean.isna().all():
        raise UserError(f"no object of {grades} is in {scores / 'candidates'}; grade these candidates")
    verdict = (mean >= lens).astype(float).where(mean.notna()).to_numpy(float)
    is_top = (candidates["stratum"] == TOP).to_numpy()
    graded = ~np.isnan(verdict[is_top])
    ranks = np.flatnonzero(graded), np.flatnonzero(~graded)
    is_chosen = all(map(len, ranks)) and ks_2samp(*ranks).pvalue < 1e-3  # as by `--next top`: no random sample
    rest = verdict[(candidates["stratum"] == RANDOM_STRATUM).to_numpy() & ~np.isnan(verdict)]
    table = estimate(verdict[is_top], rest, scored - int(is_top.sum()))
    thresholds = np.array([np.inf, *candidates["score"]])[table["top"]]  # nothing is in a top of 0
    table.insert(1, "score", thresholds)
    lines = [f"lenses: mean grade of {lens:g} or more; {len(rest)} graded objects of the random stratum"]
    if is_chosen:
        head = int(np.argmin(graded))
        lines.append(
            f"warning: {len(ranks[0])} of the top {len(graded)} are graded, by rank and not at random (`--next top`): "
            f"only the purity of the first {head} is right; grade all of the top, or with `--next random`"
        )
    if known is not None:
        found = known_scores(scores, known)
        table["known"] = len(found)
        table["known_found"] = [(found >= threshold).sum() for threshold in thresholds]
        lines.append(f"{len(found)} known lenses are in the survey")
    write_table(scores / "estimates.csv", table)
    return "\n".join([*lines, _text(table)])


def _mean_grades(path: Path) -> pd.Series:
    """The mean grade of each object: id → 0 to 3."""
    table = read_catalog(path)
    if "id" not in table or not {"grade_mean", "grade"} & set(table):
        raise UserError(f"{path} lacks the columns id and grade_mean or grade; write it with `zwicky grade --merge`")
    if "grade_mean" in table:
        values = pd.to_numeric(table["grade_mean"], errors="coerce")
    else:
        values = table["grade"].astype(str).str.strip().map(GRADES).astype(float)
    return values.groupby(as_text(table["id"])).mean()


def known_scores(scores: Path, known: Path) -> np.ndarray:
    """Return the scores of the cutouts that are known lenses, by id or within 1″, each lens once."""
    table = read_catalog(known)
    ids = find_column(list(table), "id")
    if not ids and not find_position_columns(list(table)):
        raise UserError(f"{known} has neither ids nor positions; name its columns id, or ra and dec")
    best = np.full(len(table), np.nan)
    ra, dec = positions_of(table)
    for path in sorted(scores.glob("part-*.parquet")):
        part = pq.read_table(path, columns=["id", "ra", "dec", "score"]).to_pandas()
        score_of = part.drop_duplicates("id").set_index("id")["score"]
        if ids:
            best = np.fmax(best, as_text(table[ids]).map(score_of).to_numpy(float))
        rows = nearest_position(ra, dec, part["ra"].to_numpy(float), part["dec"].to_numpy(float))
        near = rows >= 0
        best[near] = np.fmax(best[near], part["score"].to_numpy()[rows[near]])
    return best[np.isfinite(best)]


def _text(table: pd.DataFrame) -> str:
    """The table for the terminal."""
    lines = []
    for row in table[table["top"] > 0].to_dict("records"):
        purity, complete = (
            f"{row[name]:.1%} [{row[f'{name}_low']:.1%}, {row[f'{name}_high']:.1%}]"
            for name in ("purity", "completeness")
        )
        per = f"1 lens in {1 / row['purity']:.1f} inspected" if row["purity"] > 0 else "no lens"
        of_known = f"; {row['known_found']:.0f} of {row['known']:.0f} known" if "known" in row else ""
        lines.append(f"top {row['top']:.0f}: purity {purity}, {per}; completeness {complete}{of_known}")
    last = table.iloc[-1]
    total = f"{last['all_lenses']:.0f} [{last['all_lenses_low']:.0f}, {last['all_lenses_high']:.0f}]"
    return "\n".join([*lines, f"lenses in the survey: {total}; 95 % intervals, given that the grades are right"])
