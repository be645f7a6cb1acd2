"""Arrow's lists of lists as NumPy arrays, one a row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_NONE = "has no image"


def depth_of(kind: pa.DataType) -> int:
    """How many lists lie around the values: 2 for `list<list<float>>`."""
    depth = 0
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth


def arrays_of(column: pa.Array) -> list[np.ndarray | str]:
    """An array for each row of a column of nested lists or tensors; the reason for a row that is empty or ragged.

    Missing numbers become NaN. Rows of one shape are one copy; else each is made by itself.
    """
    if isinstance(column, pa.FixedShapeTensorArray) and not column.null_count:
        return list(column.to_numpy_ndarray())
    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    whole = _regular(column)
    return list(whole) if whole is not None else [_one(column.slice(row, 1)) for row in range(len(column))]


def _one(row: pa.Array) -> np.ndarray | str:
    if row.null_count:
        return _NONE
    whole = _regular(row)
    return "its lists differ in length" if whole is None else whole[0]


def _regular(column: pa.Array) -> np.ndarray | None:
    """[n, …] where all lists of a level have one length and none is missing, else None."""
    shape = [len(column)]
    while depth_of(column.type):
        if column.null_count:
            return None
        lengths = pc.list_value_length(column)
        sides = pc.min_max(lengths).as_py()
        if sides["min"] != sides["max"]:
            return None
        shape.append(sides["min"] or 0)
        column = column.flatten()
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        return None
    if column.null_count:
        column = pc.fill_null(column.cast(pa.float64()), float("nan"))
    return column.to_numpy(zero_copy_only=False).reshape(shape)
