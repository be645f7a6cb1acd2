"""What a network has seen: the record that lets a later command refuse to be tested on it.

`seen.parquet` in a run: id, use (pretrain, fit, select, normalise), pixel_hash, ra, dec. A fine-tuned run carries on
the record of the run it started from, so the whole chain is known, across stores too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy import units
from astropy.coordinates import SkyCoord

from zwicky.data.cutouts import STANDARD_COLUMNS, Cutouts
from zwicky.data.duplicates import SAME_POSITION
from zwicky.errors import UserError
from zwicky.io import replacing

COLUMNS = ("id", "pixel_hash", "ra", "dec")  # of the cutouts
SCHEMA = pa.schema([*((name, STANDARD_COLUMNS[name]) for name in COLUMNS), ("use", pa.string())])


def record(cutouts: Cutouts, uses: dict[str, np.ndarray], before: pa.Table | None = None) -> pa.Table:
    """The table of what was seen. uses: rows of `cutouts` by use; before: the record this run carries on."""
    tables = [] if before is None else [before]
    for use, rows in uses.items():
        table = _selected(cutouts, rows)
        tables.append(table.append_column("use", pa.array([use] * len(rows), pa.string())))
    return pa.concat_tables(tables)


def write(folder: Path, table: pa.Table) -> None:
    with replacing(folder / "seen.parquet") as temporary:
        pq.write_table(table, temporary)


def read(folder: Path) -> pa.Table | None:
    """The record of a run; None where it has none (weights from elsewhere)."""
    path = folder / "seen.parquet"
    if not path.exists():
        return None
    try:
        return pq.read_table(path).select(SCHEMA.names).cast(SCHEMA)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}), so what was learnt from is unknown; make the run again"
        ) from error


def find_leaked(cutouts: Cutouts, rows: np.ndarray, seen: pa.Table) -> np.ndarray:
    """[len(rows)] bool: which of these objects were seen, by id, by pixel hash, or by sky position within 1″."""
    table = _selected(cutouts, rows)

    def same(name: str) -> np.ndarray:
        known = {value for value in seen.column(name).to_pylist() if value is not None}
        return np.array([value in known for value in table.column(name).to_pylist()], dtype=bool)

    found = same("id") | same("pixel_hash")
    here, there = _positions(table), _positions(seen)
    placed, known = ~np.isnan(here).any(1), ~np.isnan(there).any(1)
    if placed.any() and known.any():
        sky = SkyCoord(*there[known].T, unit="deg")
        _, separation, _ = SkyCoord(*here[placed].T, unit="deg").match_to_catalog_sky(sky)
        found[np.flatnonzero(placed)] |= separation < SAME_POSITION * units.arcsec
    return found


def check_no_leakage(cutouts: Cutouts, rows: np.ndarray, seen: pa.Table | None, purpose: str) -> None:
    """Raise where any of these objects was seen in training."""
    if seen is None or not len(rows):
        return
    found = find_leaked(cutouts, rows, seen)
    if found.any():
        first = cutouts.ids[rows[np.flatnonzero(found)[0]]]
        raise UserError(
            f"leak: {int(found.sum())} objects for {purpose} were seen in training (first: {first!r}); "
            "take another split, or train again without them"
        )


def _selected(cutouts: Cutouts, rows: np.ndarray) -> pa.Table:
    arrays = [pa.array(cutouts.column(name)[rows], STANDARD_COLUMNS[name], from_pandas=True) for name in COLUMNS]
    return pa.table(arrays, list(COLUMNS))


def _positions(table: pa.Table) -> np.ndarray:
    return np.stack([table.column(name).fill_null(float("nan")).to_numpy() for name in ("ra", "dec")], axis=1)
