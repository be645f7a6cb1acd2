"""The split a store keeps, so that every command on it agrees who is tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zwicky.data.contract import Cutouts
from zwicky.data.splits import holdout_split
from zwicky.data.tables import Labels, Split, read_split, write_split
from zwicky.errors import UserError

DEFAULT = "holdout"


def stored_split(store: Path | str, name: str, cutouts: Cutouts, labels: Labels, columns: Sequence[str] = ()) -> Split:
    """Read `_splits/NAME.parquet`; the default one is drawn and written where there is none yet.

    Without labels or `columns` nothing is written, since labels may come later; see `drawn_split`.
    """
    folder = Path(store) / "_splits"
    path = folder / f"{name}.parquet"
    if path.exists():
        return read_split(path)
    others = sorted(found.stem for found in folder.glob("*.parquet"))
    split = drawn_split(name, cutouts, labels, columns, str(store), others)
    if len(split.ids("train")):
        write_split(folder, split)
    return split


def drawn_split(
    name: str,
    cutouts: Cutouts,
    labels: Labels,
    columns: Sequence[str] = (),
    where: str = "a simulation",
    others: Sequence[str] = (),
) -> Split:
    """The default split (seed 0). Without labels everything is `unlabelled`.

    columns: what is to be regressed; without labels the objects that have them are split instead. where, others: whose
    split it is and which ones it has, for the message to who asks for one that it has not.
    """
    if not labels.values and columns:
        measured = np.isfinite([cutouts.column(column) for column in columns]).all(0)
        labels = Labels(dict.fromkeys(cutouts.ids[measured], "measured"))
    if not labels.values:
        return Split(name, dict.fromkeys(cutouts.ids, "unlabelled"))
    if name != DEFAULT:
        have = ", ".join(others) or "none yet"
        raise UserError(
            f"{where} has no split {name!r} (it has: {have}); use {DEFAULT}, which is drawn where it is missing"
        )
    return holdout_split(cutouts, labels, seed=0, name=name)
