"""The columns beside the images of a set: which one is the id, the label, the position, and what are properties."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from zwicky.data.cutouts import STANDARD_COLUMNS

ID_COLUMNS = ("id", "object_id", "objid", "source_id")
LABEL_COLUMNS = ("label", "class")
UNLABELLED_NAMES = {"unlabelled", "unlabeled"}
EMPTY = {"", "nan", "null", *UNLABELLED_NAMES}

# What a column of a set is taken for, by name in lower case; the first name found wins.
_ROLES: dict[str, tuple[str, ...]] = {
    "id": (*ID_COLUMNS, "targetid"),
    "label": (*LABEL_COLUMNS, "labels", "ans", "y"),
    "ra": ("ra",),
    "dec": ("dec",),
    "pixel_scale": ("pixel_scale", "pixscale", "pxscale"),
    "survey": ("survey",),
}


class Columns:
    """The columns of one set.

    kinds: name → type of each column in the file. properties: name in the store → type, of what is neither id, label,
    position nor scale. names: roles whose column is known, e.g. {"ra": "RAJ2000"}.
    """

    def __init__(self, kinds: Mapping[str, pa.DataType], names: Mapping[str, str] | None = None) -> None:
        lowered = {name.lower(): name for name in reversed(list(kinds))}
        found = {role: next((lowered[name] for name in of if name in lowered), "") for role, of in _ROLES.items()}
        found |= {role: name for role, name in (names or {}).items() if name in kinds}
        self.roles = {role: name for role, name in found.items() if name}
        self.properties: dict[str, pa.DataType] = {}
        self.sources: dict[str, str] = {}  # name in the store → name in the file
        for name, kind in kinds.items():
            if name not in self.roles.values():
                target = f"catalog_{name}" if name in STANDARD_COLUMNS or name == "image" else name
                while target in self.properties:
                    target += "_"
                self.properties[target], self.sources[target] = kind, name

    @property
    def used(self) -> list[str]:
        """The columns of the file that are read."""
        return [*self.roles.values(), *self.sources.values()]

    def of_row(self, values: Mapping[str, Sequence[Any] | np.ndarray], row: int) -> dict[str, Any]:
        """The keywords of `Image` that the columns give for one row of a block, name → values."""
        said: dict[str, Any] = {role: plain(values[name][row]) for role, name in self.roles.items()}
        fields: dict[str, Any] = {
            "id": text(said.get("id")) or "",
            "label": label(said.get("label")),
            "survey": text(said.get("survey")),
            "properties": {target: plain(values[name][row]) for target, name in self.sources.items()},
        }
        ra, dec, scale = (number(said.get(role)) for role in ("ra", "dec", "pixel_scale"))
        if ra is not None and dec is not None and 0 <= ra <= 360 and -90 <= dec <= 90:
            fields |= {"ra": ra, "dec": dec}
        if scale is not None and scale > 0:
            fields["pixel_scale"] = float(f"{scale:.6g}")  # single precision: 0.262 and 0.26199999 are one scale
        return fields


def kind_of(dtype: np.dtype) -> pa.DataType | None:
    """The table's type for an array of this type: int64, double, bool, string; None where there is none."""
    if dtype.kind == "b":
        return pa.bool_()
    if dtype.kind in "iu":
        return pa.int64() if dtype.itemsize < 8 or dtype.kind == "i" else pa.string()  # uint64 may not fit
    if dtype.kind == "f":
        return pa.float64()
    return pa.string() if dtype.kind in "SU" else None


def common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """A type that holds the values of both."""
    if one == other:
        return one
    numbers = {pa.int64(), pa.float64()}
    return pa.float64() if {one, other} <= numbers else pa.string()


def plain(value: Any) -> Any:
    """A cell as int, float, bool, str or None; NaN, masked cells and empty text are None."""
    if isinstance(value, np.generic):
        value = None if value is np.ma.masked else value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value.replace("\0", "").strip() or None
    return value if isinstance(value, int | float) and value == value else None


def cell(value: Any, kind: pa.DataType) -> Any:
    """A plain value as one of `kind`, None where it cannot be."""
    if value is None or (pa.types.is_boolean(kind) and isinstance(value, bool)):
        return value
    if pa.types.is_string(kind):
        return text(value)
    if isinstance(value, str):
        return None
    if pa.types.is_integer(kind):
        return int(value) if -(2**63) <= value < 2**63 else None
    return float(value)


def number(value: Any) -> float | None:
    """A finite float, None for anything else."""
    try:
        value = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def text(value: Any) -> str | None:
    """A plain value as text, whole numbers without a point; None stays None."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def label(value: Any) -> str | None:
    """The class a cell names, None where it is empty or says unlabelled."""
    name = text(value)
    return None if name is None or name.lower() in EMPTY else name
