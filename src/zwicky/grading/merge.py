"""Team catalogues: the grades of several people, with agreement, reliability and known lenses."""

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.table import Table

from zwicky.data.cutouts import Cutouts
from zwicky.data.duplicates import nearest_position
from zwicky.data.labels import GRADES, LENS_GRADE
from zwicky.errors import UserError
from zwicky.grading.agreement import Reliability, krippendorff_alpha
from zwicky.grading.imports import match_ids, read_grades
from zwicky.io import replacing, write_table

TEAM = {"X": -np.inf, "C": 0.5, "B": 1.5, "A": 2.5}  # smallest mean of the graders
GRADES_COLUMNS = "id ra dec score grader grade subclass comment seconds time view stratum".split()
GRADES_COLUMNS += ["inclusion_probability"]
GRADERS_COLUMNS = "grader graded median_seconds right_on_lenses right_on_others known_images repeats same_grade".split()
CATALOGUE_COLUMNS = "id ra dec grade_mean n_graders team_grade p_lens known score stratum".split()
CATALOGUE_COLUMNS += "inclusion_probability subclass comment".split()
BESIDE = {"grades.csv": GRADES_COLUMNS, "graders.csv": GRADERS_COLUMNS}  # written beside the catalogue
PROPERTIES = ("ra", "dec", "score", "stratum", "inclusion_probability")
FORMATS = {".csv": "csv", ".fits": "fits", ".vot": "votable", ".xml": "votable"}
KNOWN_RADIUS = 5.0  # arcsec


def merge_grades(paths: Sequence[Path], out: Path, cutouts: Cutouts | None = None) -> str:
    """Merge the grades of several people into a catalogue, with `grades.csv` and `graders.csv` beside it.

    Args:
        paths: what `read_grades` reads.
        out: catalogue to write, .csv, .fits or .vot: one row an object.
        cutouts: store of the objects; gives ids and positions to the grades of other tools.

    Returns:
        A summary in a few lines.

    Raises:
        UserError: if a file cannot be read or written, none has a grade, or a file of the user would be overwritten.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"the catalogue {out} must end in one of {', '.join(FORMATS)}")
    _check_overwrites(paths, out)
    rows, notes = read_all(paths, cutouts)
    is_known = rows["truth"].notna()
    calibration, repeats = rows[is_known], rows[~is_known & (rows["repeat"] == 1)]
    rows = rows[~is_known & (rows["repeat"] == 0)]
    values = grade_matrix(rows)
    table = catalogue(rows, values, reliability(calibration, values.columns))
    graders = grader_table(rows, calibration, repeats)
    alpha = krippendorff_alpha(values.to_numpy())
    write_table(out.with_name("grades.csv"), rows.sort_values(["id", "grader"])[GRADES_COLUMNS])
    write_table(out.with_name("graders.csv"), graders)
    _write(table, out)
    counts = table["team_grade"].value_counts()
    lines = [f"{len(table)} objects by {len(graders)} graders: {', '.join(f'{counts.get(g, 0)} {g}' for g in GRADES)}"]
    if np.isfinite(alpha.value):
        shared = int((values.notna().sum(axis=1) > 1).sum())
        interval = f"{alpha.value:.2f} [{alpha.low:.2f}, {alpha.high:.2f}]"
        lines.append(f"Krippendorff's alpha {interval}, on {shared} objects of several graders")
    if table["known"].notna().any():
        lines.append(f"known lenses within {KNOWN_RADIUS:.0f}″: {(table['known'] != '').sum()}")
    lines.append(graders.to_string(index=False, float_format="{:.2f}".format))
    return "\n".join([*lines, *notes, f"written: {out}, grades.csv, graders.csv"])


def _check_overwrites(paths: Sequence[Path], out: Path) -> None:
    """Raise UserError if the catalogue would replace an input, or a table beside it one of another kind."""
    if out.name.lower() in BESIDE:
        raise UserError(f"{out}: a table of this name is written beside the catalogue; choose another --out")
    if out.exists() and any(path.exists() and path.samefile(out) for path in paths):
        raise UserError(f"{out} is one of the merged files and would be overwritten; choose another --out")
    for name, columns in BESIDE.items():
        path = out.with_name(name)
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.readline().strip().split(",") != columns:
                raise UserError(f"{path} is not of zwicky and would be overwritten; choose an --out in another folder")


def read_all(paths: Sequence[Path], cutouts: Cutouts | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Return the graded rows of all files, the latest of each grader, object and repeat, and notes."""
    tables, notes_of = zip(*map(read_grades, paths), strict=True)
    stems = [path.stem for path in paths]
    for table, path in zip(tables, paths, strict=True):
        if stems.count(path.stem) > 1:  # ana/marks.csv and bob/marks.csv are of two people
            table["grader"] = table["grader"].replace(path.stem, f"{path.absolute().parent.name}/{path.stem}")
    rows = pd.concat([table.astype(object) for table in tables], ignore_index=True)
    is_ours = rows["view"].isin(("single", "mosaic", "undo", "simulated"))
    known = rows["id"][is_ours].unique() if cutouts is None else cutouts.ids
    rows.loc[~is_ours, "id"] = match_ids(rows["id"][~is_ours], list(known))
    notes = list(chain.from_iterable(notes_of))
    foreign = rows[~is_ours]
    strange = foreign["id"][~foreign["id"].isin(set(known))]
    if cutouts is not None and len(strange):
        first = f"(first: {strange.iloc[0]!r})"
        notes.append(f"{len(strange)} of {len(foreign)} rows of other tools name no cutout of the store {first}")
    if n := foreign.duplicated(["grader", "id"]).sum():
        notes.append(f"{n} of {len(foreign)} rows of other tools grade an object again; the last of each grader counts")
    rows = rows.sort_values("time", kind="stable").drop_duplicates(["grader", "id", "repeat"], keep="last")
    rows = rows[(rows["grade"] != "") | (rows["comment"] != "")]
    if not (rows["grade"] != "").any():
        raise UserError(f"no grades in {', '.join(map(str, paths))}; grade first with `zwicky grade`")
    if cutouts is not None:
        table = cutouts.table.set_index("id")
        for name in set(PROPERTIES) & set(table.columns):
            rows[name] = rows[name].where(rows[name].notna(), rows["id"].map(table[name]))
    numeric = ["ra", "dec", "score", "inclusion_probability", "seconds", "truth"]
    rows[numeric] = rows[numeric].apply(pd.to_numeric, errors="coerce")  # a store may have texts in such a column
    return rows, notes


def grade_matrix(rows: pd.DataFrame) -> pd.DataFrame:
    """Return grades as numbers, objects × graders, NaN where not graded."""
    numbers = rows.assign(grade=rows["grade"].map(GRADES).astype(float)).dropna(subset="grade")
    return numbers.pivot(index="id", columns="grader", values="grade")


def _votes(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.nan, values > LENS_GRADE)


def reliability(calibration: pd.DataFrame, graders: pd.Index) -> Reliability | None:
    """Return how reliable graders are on the hidden images of known class, None if there were none."""
    if calibration.empty:
        return None
    values = grade_matrix(calibration[calibration["repeat"] == 0]).reindex(columns=graders)
    truth = calibration.drop_duplicates("id").set_index("id")["truth"].reindex(values.index)
    return Reliability.measure(_votes(values.to_numpy()), truth.to_numpy() == 1)


def catalogue(rows: pd.DataFrame, values: pd.DataFrame, reliable: Reliability | None) -> pd.DataFrame:
    """Return one row an object, the best first, of judgements and their `grade_matrix`.

    `p_lens` is empty without `reliable`, of the graders.
    """
    table = pd.DataFrame({"id": values.index, "grade_mean": values.mean(axis=1).to_numpy()})
    table["n_graders"] = values.notna().sum(axis=1).to_numpy()
    limits = [*TEAM.values(), np.inf]
    table["team_grade"] = pd.cut(table["grade_mean"], limits, right=False, labels=list(TEAM)).astype(str)
    table["p_lens"] = np.nan if reliable is None else reliable.probability(_votes(values.to_numpy()))
    grouped = rows.groupby("id", sort=True)
    for name in PROPERTIES:
        table[name] = table["id"].map(grouped[name].first())
    table["known"] = known_lenses(table["ra"].to_numpy(float), table["dec"].to_numpy(float))
    for name in ("subclass", "comment"):
        table[name] = table["id"].map(grouped[name].agg(lambda texts: " | ".join(dict.fromkeys(filter(None, texts)))))
    table = table.sort_values(["grade_mean", "p_lens", "id"], ascending=[False, False, True], ignore_index=True)
    return table[CATALOGUE_COLUMNS]


def known_lenses(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return the name of the known lens at each position in degrees, "" for none; None without `lenscat`.

    Only the catalogue of the package is read, which is not imported: it needs much that is not needed here.
    """
    names = np.full(len(ra), None, object)
    spec = find_spec("lenscat")
    if spec is None or spec.origin is None:
        return names
    known = pd.read_csv(Path(spec.origin).parent / "data" / "catalog.csv")
    names[:] = ""
    known_ra, known_dec = (known[name].to_numpy(float) for name in ("RA [deg]", "DEC [deg]"))
    rows = nearest_position(ra, dec, known_ra, known_dec, KNOWN_RADIUS)
    names[rows >= 0] = known["name"].astype(str).to_numpy()[rows[rows >= 0]]
    return names


def grader_table(rows: pd.DataFrame, calibration: pd.DataFrame, repeats: pd.DataFrame) -> pd.DataFrame:
    """Return one row a grader: how many, how fast, how reliable on known images and how consistent on repeats."""
    pairs = repeats.merge(rows, how="left", on=["grader", "id"], suffixes=("", "_first"))
    same = (pairs["grade"] == pairs["grade_first"]).astype(float).groupby(pairs["grader"])
    known = calibration[(calibration["grade"] != "") & (calibration["repeat"] == 0)]
    right = (known["grade"].map(GRADES).astype(float) > LENS_GRADE) == (known["truth"] == 1)
    graded = rows[rows["grade"] != ""].groupby("grader")
    table = pd.DataFrame({"graded": graded.size(), "median_seconds": graded["seconds"].median()})
    for name, truth in (("right_on_lenses", 1), ("right_on_others", 0)):
        table[name] = right[known["truth"] == truth].astype(float).groupby(known["grader"]).mean()
    table["known_images"] = known.groupby("grader").size()
    table["repeats"], table["same_grade"] = same.size(), same.mean()
    table[["known_images", "repeats"]] = table[["known_images", "repeats"]].fillna(0).astype(int)
    return table.reset_index()[GRADERS_COLUMNS]


def _write(table: pd.DataFrame, out: Path) -> None:
    if out.suffix == ".csv":
        write_table(out, table)
        return
    columns = {name: values.to_numpy() for name, values in table.items()}
    for name, texts in table.select_dtypes(exclude="number").fillna("").items():
        columns[name] = [str(text).encode("ascii", "backslashreplace").decode() for text in texts]
    with replacing(out) as temporary:
        Table(columns).write(temporary, format=FORMATS[out.suffix], overwrite=True)
