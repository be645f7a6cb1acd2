"""Tables that change while the pixels do not: labels and splits, each keyed by object id.

In a store they are Parquet files whose names begin with `_`, which Parquet readers skip:
`_labels.parquet` (id, label, source, time) and `_splits/NAME.parquet` (id, role, group).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zwicky.errors import UserError
from zwicky.io import replacing

LABELS, SPLITS = "_labels.parquet", "_splits"
ROLES = ("train", "validation", "test", "unlabelled")


@dataclass(frozen=True)
class Labels:
    """What somebody said of some objects. `values[id]` is a class name; an object without a label is absent."""

    values: dict[str, str]
    source: str = ""
    time: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; the positive class comes last (see `order_classes`)."""
        return order_classes(set(self.values.values()))

    def of(self, ids: np.ndarray) -> np.ndarray:
        """[len(ids)] object array: class name or None."""
        return np.array([self.values.get(identifier) for identifier in ids], dtype=object)


# Names people give to the class that is *not* looked for. Whatever is not here sorts after what is.
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


def order_classes(names: set[str]) -> tuple[str, ...]:
    """Sort class names so that the negative one comes first and index 1 of a pair is the positive class."""
    return tuple(sorted(names, key=lambda name: (name.lower() not in NEGATIVE_NAMES, name)))


@dataclass(frozen=True)
class Split:
    """Who may learn from what. `roles[id]` is one of ROLES; `groups[id]` ties objects that must share a role."""

    name: str
    roles: dict[str, str]
    groups: dict[str, str] = field(default_factory=dict)

    def ids(self, *roles: str) -> np.ndarray:
        """Ids with any of these roles, in the order of the table."""
        return np.array([identifier for identifier, role in self.roles.items() if role in roles], dtype=object)

    def groups_of(self, ids: np.ndarray) -> np.ndarray:
        """[N] what each object belongs to, or its own id."""
        return np.array([self.groups.get(identifier, identifier) for identifier in ids], dtype=object)

    def check_roles(self, ids: np.ndarray, purpose: str, allowed: tuple[str, ...]) -> None:
        """Raise unless each id's role is allowed: nothing from validation or test in training, ever."""
        wrong = [identifier for identifier in ids if self.roles.get(identifier) not in allowed]
        if wrong:
            role = self.roles.get(wrong[0], "no role at all")
            raise UserError(
                f"leak: {len(wrong)} objects given to {purpose} may not be there (first: {wrong[0]!r}, role {role!r}; "
                f"allowed: {', '.join(allowed)}); draw them again from split {self.name!r}"
            )


def write_labels(store: Path | str, labels: Labels) -> None:
    """Write `_labels.parquet` into a store."""
    count = len(labels.values)
    _write(
        Path(store) / LABELS,
        {
            "id": list(labels.values),
            "label": list(labels.values.values()),
            "source": [labels.source] * count,
            "time": [labels.time] * count,
        },
    )


def read_labels(store: Path | str) -> Labels:
    """Read a store's labels; none at all is an empty table, not an error."""
    path = Path(store) / LABELS
    if not path.exists():
        return Labels({})
    columns = _read(path, ("id", "label", "source", "time"))
    source, time = (columns["source"] or [""])[0], (columns["time"] or [""])[0]
    named = zip(columns["id"], columns["label"], strict=True)
    return Labels({identifier: label for identifier, label in named if label}, source, time)


def write_split(folder: Path | str, split: Split) -> None:
    """Write `NAME.parquet` into a folder (a store's `_splits`, a run)."""
    groups = [split.groups.get(identifier, "") for identifier in split.roles]
    _write(
        Path(folder) / f"{split.name}.parquet",
        {"id": list(split.roles), "role": list(split.roles.values()), "group": groups},
    )


def read_split(path: Path | str) -> Split:
    """Read one split table."""
    columns = _read(Path(path), ("id", "role", "group"))
    bad = sorted(set(columns["role"]) - set(ROLES))
    if bad:
        raise UserError(f"{path}: unknown role {bad[0]!r}; roles are {', '.join(ROLES)}")
    groups = {identifier: group for identifier, group in zip(columns["id"], columns["group"], strict=True) if group}
    return Split(Path(path).stem, dict(zip(columns["id"], columns["role"], strict=True)), groups)


def _write(path: Path, columns: dict[str, list[str]]) -> None:
    with replacing(path) as temporary:
        pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), temporary)


def _read(path: Path, names: tuple[str, ...]) -> dict[str, list[str]]:
    try:
        table = pq.read_table(path, columns=list(names))
        columns = {name: table.column(name).cast(pa.string()).to_pylist() for name in names}
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read the table {path}: {reason}; it needs the columns {', '.join(names)}") from error
    return {name: [value or "" for value in values] for name, values in columns.items()}
