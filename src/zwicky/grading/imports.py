"""Grades of other tools: their CSV files and exports of Zooniverse, as rows of this package's grades."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from zwicky.data.catalog import read_catalog
from zwicky.data.columns import as_text, is_id, positions_of, usual_columns
from zwicky.data.matching import FileFinder
from zwicky.errors import UserError
from zwicky.grading.database import COLUMNS, read_judgements

SPELLINGS = {
    "A": "a 3 l sl lens yes certain definite certainly",
    "B": "b 2 ml maybe maybelens probable probably",
    "C": "c 1 fl possible possibly",
    "X": "x d 0 nl no nonlens notlens nolens not",
}
GRADE_OF = {spelling: grade for grade, spellings in SPELLINGS.items() for spelling in spellings.split()}
MOSAIC = {"0": "X", "1": "A", "2": "B"}  # not marked, lens candidate, interesting
UNGRADED = ("", "none", "nan", "null", "unclassified")


def read_grades(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read the grades of one file, whatever tool wrote it.

    SQLite files of `zwicky grade`; its `grades.csv`; CSVs with a file name or id and a grade (a mosaic with `grid_pos`,
    a single view with `subclassification`, `ra, dec, filename` with any grade column); classification exports of
    Zooniverse. Without a column `grader` the name of the file is that of the grader.

    Returns:
        (rows of COLUMNS, what was not understood).
    """
    if not path.is_file():
        raise UserError(f"{path} is no file; name files of judgements, as candidates-grades/NAME.db")
    with path.open("rb") as file:
        if file.read(15) == b"SQLite format 3":
            return read_judgements(path), []
    table = read_catalog(path)
    columns = {str(name).lower(): name for name in table.columns}
    if {"annotations", "subject_data"} <= set(columns):
        rows = _zooniverse(table.rename(columns={name: lower for lower, name in columns.items()}))
    else:
        rows = _from_csv(table, columns, path)
    is_named = rows["id"] != ""
    notes = [] if is_named.all() else [f"{path.name}: {(~is_named).sum()} rows without a file name or id left out"]
    rows = rows[is_named]
    kept = rows["grade"].str.lower().isin(UNGRADED)
    kept |= rows["grade"].str.fullmatch(r"-\d+(\.0+)?")  # -1 or -99: not graded
    plain = rows["grade"].str.lower().str.replace(r"\.0+$|[^a-z0-9]", "", regex=True)
    grades = plain.map(GRADE_OF).where(~kept, "")
    strange = rows["grade"][grades.isna()]
    notes += [f"{path.name}: {n} rows with the grade {value!r} left out" for value, n in strange.value_counts().items()]
    rows = rows.assign(grade=grades)[grades.notna()].reset_index(drop=True)
    rows["key"] = [f"{path.name}:{number}" for number in range(len(rows))]
    return rows.reindex(columns=list(COLUMNS)).assign(repeat=0), notes


def _from_csv(table: pd.DataFrame, columns: dict[str, str], path: Path) -> pd.DataFrame:
    names = list(table.columns)
    identity = [columns["id"]] if "id" in columns else usual_columns(names, "file") + usual_columns(names, "id")
    labels = [columns["grade"]] if "grade" in columns else usual_columns(names, "label")
    if not identity or not labels:
        raise UserError(f"{path} has no column of {'grades' if identity else 'file names'}; it has {', '.join(names)}")
    named = max(identity, key=lambda name: as_text(table[name]).nunique())  # the column "Name" may be the grader's
    rows = pd.DataFrame({"id": as_text(table[named]), "grade": as_text(table[labels[0]])})
    if "lens" in labels[0].lower() and set(rows["grade"]) <= {"0", "1", "0.0", "1.0", "", "True", "False"}:
        rows["grade"] = rows["grade"].map({"1": "A", "1.0": "A", "True": "A", "": ""}).fillna("X")
    if "grid_pos" in columns:
        rows["grade"] = rows["grade"].str.replace(r"\.0$", "", regex=True).map(MOSAIC).fillna(rows["grade"])
        is_unseen = pd.to_numeric(table[columns["grid_pos"]], errors="coerce").to_numpy() == 0  # on a page never shown
        rows.loc[is_unseen, "grade"] = ""
    aliases = {"subclass": "subclassification", "comment": "comments", "grader": "user", "time": None, "view": None}
    for name, alias in aliases.items():
        column = columns.get(name, columns.get(alias or name))
        rows[name] = "" if column is None else as_text(table[column])
    rows["grader"] = rows["grader"].replace("", path.stem)
    for name in ("score", "seconds", "inclusion_probability"):
        rows[name] = pd.to_numeric(table[columns[name]], errors="coerce") if name in columns else None
    rows["stratum"] = as_text(table[columns["stratum"]]).replace("", None) if "stratum" in columns else None
    rows["ra"], rows["dec"] = positions_of(table)
    rows["subclass"] = rows["subclass"].where(~rows["subclass"].str.lower().isin(UNGRADED), "")
    return rows


def _zooniverse(table: pd.DataFrame) -> pd.DataFrame:
    """One row a classification: a yes, or a mark on the image, is A; a no, or no mark, is X."""

    def parse(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return None

    def answer(text: str) -> str:
        tasks = parse(text)
        if not (isinstance(tasks, list) and all(isinstance(task, dict) for task in tasks)):
            return text
        for task in tasks:  # a combination of tasks holds them as its value; they are appended, and read last
            value = task.get("value")
            if isinstance(value, list) and any(isinstance(part, dict) and "task" in part for part in value):
                tasks += task.pop("value")
        value = next((task["value"] for task in tasks if task.get("value") is not None), None)
        if isinstance(value, list):
            if all(isinstance(part, dict) and not {"choice", "option"} & {*part} for part in value):
                return "A" if value else "X"  # marks
            value = " ".join(map(str, value))  # the answers to a question that takes several
        word = str(value or "").strip().lower()
        if word in GRADE_OF or word in UNGRADED:
            return word
        is_no = re.match(r"(no|non|none|nothing|not an?)\b(?! idea)", word)
        return "X" if is_no else "A" if re.match(r"yes\b", word) else str(value)

    def subject(text: str) -> str:
        found = parse(text)
        number, facts = next(iter(found.items())) if isinstance(found, dict) and found else ("", {})
        facts = facts if isinstance(facts, dict) else {}
        filled = [name for name in facts if facts[name]]
        names = usual_columns(filled, "file") + [name for name in usual_columns(filled, "id") if is_id(name)]
        return str(facts[names[0]]) if names else str(number)

    subjects, annotations = as_text(table["subject_data"]).map(subject), as_text(table["annotations"]).map(answer)
    nameless = "volunteer " + (subjects.groupby(subjects).cumcount() + 1).astype(str)  # so each vote counts
    users = as_text(table["user_name"]).where(lambda name: name != "", nameless) if "user_name" in table else nameless
    time = as_text(table["created_at"]) if "created_at" in table else ""
    rows = pd.DataFrame({"id": subjects, "grader": users, "grade": annotations, "time": time})
    return rows.assign(subclass="", comment="", view="zooniverse")


def match_ids(ids: pd.Series, known: Sequence[str]) -> pd.Series:
    """Return ids as the store spells them, where a file name (any folder, suffix or case) means one of `known`."""
    find, exact = FileFinder(known), set(known)

    def match(text: str) -> str:
        found = set() if text in exact else find(text)
        return next(iter(found)) if len(found) == 1 else text

    return ids.map({text: match(text) for text in ids.unique()})
