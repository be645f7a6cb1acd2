"""Class labels, kept apart from the pixels because they change: `labels.csv` with id, label, source and time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from zwicky.errors import UserError
from zwicky.io import read_json, replacing

LABELS = "labels.csv"

# Usual names of the negative class, besides those that deny another (non-lens, no_sub, unlensed).
NEGATIVE_NAMES = "no non none not negative neg 0 false f n random normal other others background no_sub".split()
POSITIVE = re.compile(r".*lens.*|.*anomal.*|.*einstein.*|arcs?|true|yes|positive|pos", re.IGNORECASE)


@dataclass(frozen=True)
class Labels:
    """Class labels of some objects.

    Args:
        values: class name by id; an object without a label is absent.
        source: where the labels come from, e.g. a catalogue or a person.
        time: when they were given, ISO 8601.
        positive: the positive class, "" for the usual one.
    """

    values: dict[str, str]
    source: str = ""
    time: str = ""
    positive: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, the positive class last (see `order_classes`)."""
        return order_classes(set(self.values.values()), self.positive)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Return the labels of `ids`, [len(ids)] objects: class name or None."""
        return np.array([self.values.get(identifier) for identifier in ids], dtype=object)


def order_classes(names: set[str], positive: str = "") -> tuple[str, ...]:
    """Sort class names, negative ones first and lens-like ones last, so that index 1 of a pair is the positive class.

    Args:
        names: of the classes; grades from A are sorted so that A comes last.
        positive: the class to come last, whatever its name.
    """
    are_grades = all(re.fullmatch(r"[A-F][+-]?", name) for name in names)
    plain = {re.sub(r"[\W_]", "", name.lower()) for name in names}

    def rank(name: str) -> int:
        denied = re.fullmatch(r"(?:non|not|no|un)([\W_]*)(.+)", name.lower())
        denies = denied and (denied[1] or denied[2].startswith("lens") or denied[2] in plain)
        return (
            3
            if name == positive
            else 0
            if denies or name.lower() in NEGATIVE_NAMES
            else 1 + bool(POSITIVE.fullmatch(name))
        )

    return tuple(sorted(sorted(names, reverse=are_grades), key=rank))


def write_labels(store: Path | str, labels: Labels) -> None:
    """Write `labels.csv` into a store."""
    columns = {"id": list(labels.values), "label": list(labels.values.values())}
    write_table(Path(store) / LABELS, pd.DataFrame(columns).assign(source=labels.source, time=labels.time))


def read_labels(store: Path | str) -> Labels:
    """Read the labels of a store; without `labels.csv` there are none.

    Raises:
        UserError: The file cannot be read or lacks the columns id and label.
    """
    path = Path(store) / LABELS
    if not path.exists():
        return Labels({})
    table = read_table(path, ("id", "label"))
    table = table[table["label"] != ""]
    source, time = (table[name].iloc[0] if name in table and len(table) else "" for name in ("source", "time"))
    metadata = (
        read_json(Path(store) / "store.json").get("metadata", {}) if (Path(store) / "store.json").exists() else {}
    )
    values = dict(zip(table["id"], table["label"], strict=True))
    return Labels(values, source, time, metadata.get("positive", ""))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV atomically."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def read_table(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """Read a CSV of strings ("" where empty).

    Raises:
        UserError: The file cannot be read or lacks a required column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}; it must be CSV in UTF-8") from error
    if missing := [name for name in required if name not in table]:
        raise UserError(f"{path} lacks the column {missing[0]!r}; it needs {', '.join(required)}")
    return table
