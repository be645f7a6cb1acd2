"""Judgements of one grader: one SQLite file, one row a judgement, rows never changed or removed.

A row holds all there is to know about the object after the judgement, so the latest row of an object counts, undo is a
new row, and the file can be merged without the cutouts.
"""

import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from zwicky.errors import UserError

OBJECT_COLUMNS = ("id", "repeat", "ra", "dec", "score", "stratum", "inclusion_probability", "truth")
COLUMNS = (*OBJECT_COLUMNS, "key", "grader", "grade", "subclass", "comment", "seconds", "time", "view")
SCHEMA = """
CREATE TABLE IF NOT EXISTS judgements (
  seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, id TEXT NOT NULL, repeat INTEGER NOT NULL, ra REAL, dec REAL,
  score REAL, stratum TEXT, inclusion_probability REAL, truth INTEGER, grader TEXT NOT NULL, grade TEXT NOT NULL,
  subclass TEXT NOT NULL, comment TEXT NOT NULL, seconds REAL, time TEXT NOT NULL, view TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON judgements BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON judgements BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""
LATEST = "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id, repeat ORDER BY time DESC, seq DESC) AS age"
LATEST = f"{LATEST} FROM judgements) WHERE age = 1 ORDER BY seq"


class Judgements:
    """The open file of one grader; safe to use from several threads and processes.

    Every append is a transaction that is on the disk when `append` returns (`synchronous=FULL`), and in
    this one file (no WAL): a copy has all rows after a kill, and a folder that is not one's own can be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
            self._connection.executescript(f"PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL; {SCHEMA}")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"cannot write judgements to {path}: {error}; choose another file with --out") from error
        self._connection.row_factory = sqlite3.Row
        self._lock = threading.Lock()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows of COLUMNS; a row whose `key` is there already was sent twice and is left out.

        Raises:
            sqlite3.Error: if the file cannot be written, as on a full disk; then none of the rows was.
        """
        values = ", ".join(f":{name}" for name in COLUMNS)
        insert = f"INSERT INTO judgements ({', '.join(COLUMNS)}) VALUES ({values}) ON CONFLICT (key) DO NOTHING"
        with self._lock, self._connection:
            self._connection.executemany(insert, list(rows))

    def since(self, seq: int) -> list[dict[str, Any]]:
        """Return the rows after row number `seq`, oldest first."""
        return self._select("SELECT * FROM judgements WHERE seq > ? ORDER BY seq", (seq,))

    def latest(self) -> list[dict[str, Any]]:
        """Return the row that counts of each object, by time."""
        return self._select(LATEST)

    def _select(self, query: str, values: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(row) for row in self._connection.execute(query, values)]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def read_judgements(path: Path) -> pd.DataFrame:
    """Return the judgements that count of one file: a row of COLUMNS for each object and repeat."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return pd.read_sql_query(LATEST, connection)[list(COLUMNS)]
        finally:
            connection.close()
    except (sqlite3.Error, pd.errors.DatabaseError) as error:
        raise UserError(f"cannot read {path}: {error}; name a file written by `zwicky grade`") from error
