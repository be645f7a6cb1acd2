"""Class labels, kept apart from the pixels because they change: `labels.csv` with id, label, source and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from zwicky.errors import UserError
from zwicky.io import replacing

LABELS = "labels.csv"

# Usual names of the negative class; any other class sorts after them.
NEGATIVE_NAMES = (
    "nonlens",
    "nonlenses",
    "non-lens",
    "non_lens",
    "notlens",
    "no_sub",
    "no",
    "none",
    "negative",
    "0",
    "false",
)


@dataclass(frozen=True)
class Labels:
    """Class labels of some objects.

    Args:
        values: class name by id; an object without a label is absent.
        source: where the labels come from, e.g. a catalogue or a person.
        time: when they were given, ISO 8601.
    """

    values: dict[str, str]
    source: str = ""
    time: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, the positive class last (see `order_classes`)."""
        return order_classes(set(self.values.values()))

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Return the labels of `ids`, [len(ids)] objects: class name or None."""
        return np.array([self.values.get(identifier) for identifier in ids], dtype=object)


def order_classes(names: set[str]) -> tuple[str, ...]:
    """Sort class names, negative ones first, so that index 1 of a pair is the positive class."""
    return tuple(sorted(names, key=lambda name: (name.lower() not in NEGATIVE_NAMES, name)))


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
    return Labels(dict(zip(table["id"], table["label"], strict=True)), source, time)


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
