"""Class labels, kept apart from the pixels because they change: `labels.csv` with id, label, source and time."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from zwicky.errors import UserError
from zwicky.io import STORE, is_store, read_json, write_table

LABELS = "labels.csv"

# Usual names of the negative class, besides those that deny another (non-lens, no_sub, unlensed).
NEGATIVE_NAMES = "no non none not negative neg 0 false f n random normal other others background no_sub".split()
POSITIVE = re.compile(r".*lens.*|.*anomal.*|.*einstein.*|arcs?|true|yes|positive|pos", re.IGNORECASE)
_USUAL = re.compile(r"(non|not|no|un)([\W_].*|lens.*|sub)|.*grade.*|(class_?)?\d|sub|cdm|axion", re.IGNORECASE)
GRADES = {"A": 3, "B": 2, "C": 1, "X": 0}  # certain, probable and possible lens; no lens
LENS_GRADE = 1.5  # between C and B: the smallest mean grade of a lens


@dataclass(frozen=True)
class Labels:
    """Class labels of some objects."""

    values: dict[str, str]  # class name by id; an object without a label is absent
    source: str = ""  # where the labels come from, e.g. a catalogue or a person
    time: str = ""  # when they were given, ISO 8601
    positive: str = ""  # the positive class, "" for the usual one
    soft: dict[str, float] = field(default_factory=dict)  # probability of the positive class, where graders differ

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, the positive class last (see `order_classes`)."""
        return order_classes(set(self.values.values()), self.positive)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Return the labels of `ids`, [len(ids)] objects: class name or None."""
        return np.array([self.values.get(identifier) for identifier in ids], dtype=object)


def order_classes(names: set[str], positive: str = "") -> tuple[str, ...]:
    """Sort class names, so that index 1 of a pair is the positive class.

    Negative names come first, lens-like ones last, `positive` after them; of the grades A to F, A is last.
    """
    parts = {name: re.fullmatch(r"(?s)(.*[\W_])?(.+)", name) for name in names}  # grade_A, grade_B: by A and B
    alike = len({match and match[1] for match in parts.values()}) == 1
    short = {name: match[2] if match and alike else name for name, match in parts.items()}
    are_grades = all(re.fullmatch(r"[A-FX][+-]?", name) for name in short.values())
    plain = {re.sub(r"[\W_]", "", name.lower()) for name in names}

    def rank(name: str) -> int:
        if name == positive:
            return 3
        name = short[name]
        denied = re.fullmatch(r"(?:non|not|no|un)([\W_]*)(.+)", name.lower())
        if denied and (denied[1] or denied[2].startswith("lens") or denied[2] in plain):
            return 0
        return 0 if name.lower() in NEGATIVE_NAMES else 1 + bool(POSITIVE.fullmatch(name))

    return tuple(sorted(sorted(names, reverse=are_grades), key=rank))


def is_usual_class(name: str) -> bool:
    """Return whether a name speaks of a class: lenses, non_lens, grade_A, axion, 0."""
    return bool(_USUAL.fullmatch(name) or POSITIVE.fullmatch(name)) or name.lower() in NEGATIVE_NAMES


def write_labels(store: Path | str, labels: Labels) -> None:
    """Write `labels.csv` into a store."""
    columns = {"id": list(labels.values), "label": list(labels.values.values())}
    write_table(Path(store) / LABELS, pd.DataFrame(columns).assign(source=labels.source, time=labels.time))


def read_labels(store: Path | str) -> Labels:
    """Read the labels of a store; without `labels.csv` there are none."""
    path = Path(store) / LABELS
    if not path.exists():
        return Labels({})
    table = read_text_table(path, ("id", "label"))
    table = table[table["label"] != ""]
    source, time = (table[name].iloc[0] if name in table and len(table) else "" for name in ("source", "time"))
    metadata = read_json(Path(store) / STORE)["metadata"] if is_store(store) else {}
    values = dict(zip(table["id"], table["label"], strict=True))
    return Labels(values, source, time, metadata.get("positive", ""))


def read_text_table(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """Read a CSV of strings ("" where empty) with one row an id.

    UserError where it cannot be read, lacks a required column, or differs in what it says of one id.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}; it must be CSV in UTF-8") from error
    if missing := [name for name in required if name not in table]:
        raise UserError(f"{path} lacks the column {missing[0]!r}; it needs {', '.join(required)}")
    table = table.drop_duplicates(list(required))
    if len(repeated := table["id"][table["id"].duplicated()]):
        raise UserError(f"{path} has two rows for {repeated.iloc[0]!r} that differ; keep one")
    return table
