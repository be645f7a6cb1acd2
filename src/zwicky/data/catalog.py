"""Catalogues: tables in any usual format, and which of their rows is about which file."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from astropy.table import Table

from zwicky.data.columns import USUAL, find_column, has_usual_name, plain_name, to_text
from zwicky.data.readers import is_image_name
from zwicky.errors import UserError

SUFFIXES = (
    *(".csv", ".tsv", ".txt", ".dat", ".cat", ".tbl", ".ecsv", ".vot", ".votable", ".xml", ".mrt", ".list", ".lst"),
    *(".csv.gz", ".tsv.gz", ".txt.gz", ".json", ".jsonl", ".feather", ".xlsx", ".xls"),
)


def read_catalog(path: Path) -> pd.DataFrame:
    """Read a table: CSV and its dialects, ECSV, VOTable, FITS, Parquet and what else pandas and astropy read.

    Returns:
        Columns as in the file; text tables hold strings. `attrs["units"]` has the units of columns that have one.

    Raises:
        UserError: It cannot be read or holds no rows.
    """
    name = path.name.lower()
    try:
        if name.endswith((".parquet", ".pq")):
            table = pd.read_parquet(path)
        elif name.endswith((".feather", ".xlsx", ".xls", ".json", ".jsonl")):
            file_type = "excel" if ".xls" in name else "json" if ".json" in name else "feather"
            table = getattr(pd, f"read_{file_type}")(path, **({"lines": True} if name.endswith(".jsonl") else {}))
        elif name.endswith((".fits", ".fit", ".fts", ".fits.gz", ".hdf5", ".h5")):
            table = _from_astropy(Table.read(path, unit_parse_strict="silent") if ".f" in name else Table.read(path))
        else:
            data = path.read_bytes()
            table = _read_text(_decode(gzip.decompress(data) if name.endswith(".gz") else data), path)
    except UserError:
        raise
    except Exception as error:  # pandas and astropy raise many kinds
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"cannot read the catalogue {path}: {reason}; save it as CSV with a header") from error
    if not len(table):
        raise UserError(f"the catalogue {path} has no rows; it needs a header and one row an image")
    table.columns = [str(column).strip() for column in table.columns]
    return table.reset_index(drop=True)


def _from_astropy(table: Table) -> pd.DataFrame:
    flat = table[[name for name in table.colnames if table[name].ndim == 1]]
    flat.convert_bytestring_to_unicode()
    frame = flat.to_pandas(use_nullable_int=True)
    frame.attrs["units"] = {name: str(flat[name].unit) for name in flat.colnames if flat[name].unit is not None}
    return frame


def _decode(data: bytes) -> str:
    """Text in UTF-8, UTF-16 or, failing these, Latin-1."""
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    guess = "utf-16-le" if data[1:20:2] == b"\0" * 10 else "utf-16-be" if data[:20:2] == b"\0" * 10 else "utf-8-sig"
    for encoding in ("utf-16" if utf16 else guess, "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _read_text(text: str, path: Path) -> pd.DataFrame:
    head = text[:5000]
    formats = {
        "ascii.ecsv": head.startswith("# %ECSV"),
        "votable": "<VOTABLE" in head,
        "ascii.mrt": "Byte-by-byte" in head,
        "ascii.ipac": head.startswith("\\")
        or (head.startswith("|") and not text.rstrip().rpartition("\n")[2].startswith("|")),
        "ascii.sextractor": bool(re.match(r"#\s*1\s+[A-Za-z]\w*", head)),
    }
    for name, fits in formats.items():
        if fits:
            stream = io.BytesIO(text.encode()) if name == "votable" else text
            return _from_astropy(Table.read(stream, format=name))
    lines = [line for line in text.splitlines() if line.strip() and not re.fullmatch(r"[\s|+:=-]+", line)]
    comments = [line.lstrip("#%! ") for line in lines if line[0] in "#%!"]
    lines = [line for line in lines if line[0] not in "#%!"]
    if not lines:
        raise UserError(f"the catalogue {path} has no rows; it needs a header and one row an image")
    delimiter = _delimiter(lines)
    rows = _cells(lines, delimiter)
    header = rows[0]
    named = _cells(comments[-1:], delimiter) or _cells(comments[-1:], " ")
    if any(map(is_image_name, header)):  # no header at all
        texts = [cell for cell in header if not is_image_name(cell) and not re.fullmatch(r"[-+.,\d]*", cell)]
        label = texts[0] if len(texts) == 1 else header[1] if len(header) == 2 else None
        names = {cell: "file" for cell in header if is_image_name(cell)} | {label: "label"}
        header = [names.get(cell, f"column{number}") for number, cell in enumerate(header, 1)]
    elif named and len(named[0]) == len(header) and has_usual_name(named[0]) and not has_usual_name(header):
        header = named[0]  # "# file label": the header is a comment
    else:
        rows = rows[1:]
    repeated = {name for name in header if header.count(name) > 1 and name}
    if repeated:
        raise UserError(f"the catalogue {path} has two columns {min(repeated)!r}; rename one")
    for number, row in enumerate(rows, 1):
        if any(row[len(header) :]):
            signs = f"put quotes around text with {delimiter!r}"
            raise UserError(f"the catalogue {path} has more cells than columns in its row {number}; {signs}")
    return pd.DataFrame([(row + [""] * len(header))[: len(header)] for row in rows], columns=header, dtype=object)


def _delimiter(lines: list[str]) -> str:
    """The delimiter that cuts the first lines into equally many cells, the most of all; blanks where none does."""
    counts = {sign: [len(row) for row in _cells(lines[:50], sign)] for sign in ",;\t|"}
    even = {sign: count[0] for sign, count in counts.items() if len(set(count)) == 1 and count[0] > 1}
    if even:
        return max(even, key=lambda sign: even[sign])
    if len({len(row) for row in _cells(lines[:50], " ")}) == 1 < len(_cells(lines[:1], " ")[0]):
        return " "
    return max(",;\t|", key=lambda sign: counts[sign][0])


def _cells(lines: list[str], delimiter: str) -> list[list[str]]:
    if delimiter == "|":
        lines = [line.strip().strip("|") for line in lines]
    if delimiter == " ":
        lines = [line.strip() for line in lines]
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in rows]


class FileFinder:
    """Finds the file that a catalogue means: by path, name, name without suffix or case, or bare number.

    Args:
        files: paths; several may stand for one object.
        folder: of the catalogue, within that of the files.
    """

    def __init__(self, files: Sequence[str], folder: str = "") -> None:
        self.folder = folder
        self.paths = set(files)
        self.by: list[dict[str, set[str]]] = [{}, {}, {}, {}]  # name, in lower case, without suffix, numbers in it
        for file in files:
            for index, key in zip((0, 1, 2), self._keys(file), strict=True):
                self.by[index].setdefault(key, set()).add(file)
            for number in re.findall(r"\d+", self._keys(file)[2]):
                self.by[3].setdefault(str(int(number)), set()).add(file)

    @staticmethod
    def _keys(path: str) -> tuple[str, str, str]:
        name = path.rpartition("/")[2]
        return name, name.lower(), re.sub(r"(\.(fits|fit|csv))?\.[a-z][a-z0-9]{0,6}(#\d+)?$", "", name.lower())

    def __call__(self, text: str, numbers: bool = False) -> set[str]:
        """Return the files that may be meant: one if it is clear, none or several if not."""
        parts = [part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in ("/", ".", "..")]
        if not parts:
            return set()
        path = "/".join(parts)
        for exact in (f"{self.folder}/{path}" if self.folder else path, path):
            if exact in self.paths:
                return {exact}
        number = str(int(path)) if numbers and path.isdecimal() else ""
        for index, key in zip(self.by, (*self._keys(path), number), strict=True):
            if candidates := index.get(key):
                shared = {file: _shared_folders(file.split("/")[:-1], parts[:-1]) for file in candidates}
                return {file for file in candidates if shared[file] == max(shared.values())}
        return set()


def _shared_folders(one: Sequence[str], other: Sequence[str]) -> int:
    """How many folders at the end of two paths are the same, without case."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a.lower() != b.lower()), min(len(one), len(other)))


def match_rows(
    table: pd.DataFrame, files: Sequence[str], wanted: str = "", folder: str = ""
) -> tuple[dict[str, int], dict[int, str], str]:
    """Find the row of each file.

    Of the columns with usual names of files and ids, then of all other texts, the one that finds most files is taken.

    Args:
        table: the catalogue.
        files: paths; a file of many images has one `file#row` for each.
        wanted: the column of file names, if the user names it.
        folder: of the catalogue, within that of the files.

    Returns:
        (file → row, row → why it has no file, the column).

    Raises:
        UserError: No column finds a file.
    """
    finder = FileFinder(files, folder)
    names = f"{USUAL['file']} {USUAL['id']}".split()
    usual = sorted((c for c in table if plain_name(c) in names), key=lambda c: names.index(plain_name(c)))
    texts = [c for c in table if c not in usual and not pd.api.types.is_numeric_dtype(table[c])]
    columns = [find_column(list(table), "file", wanted)] if wanted else usual + texts
    sample = table.iloc[np.unique(np.linspace(0, len(table) - 1, 200).astype(int))]
    counts = {column: [len(finder(to_text(cell), column in usual)) for cell in sample[column]] for column in columns}
    column = max(columns, key=lambda name: counts[name].count(1), default="")
    if not column or 1 not in counts[column]:
        if not usual and not wanted:
            listed = ", ".join(table)[:200]
            raise UserError(f"it names no files: it has the columns {listed}; name one by --file_column")
        column = column if wanted else usual[0]
        cell, most = to_text(table[column].iloc[0]), max(counts[column])
        problem = f"which fits {most} files; add folders" if most else f"the folder with {(files or ['nothing'])[0]!r}"
        raise UserError(f"no row fits a file: its column {column!r} begins with {cell!r}, {problem} (--file_column)")
    rows: dict[str, int] = {}
    orphans: dict[int, str] = {}
    for row, cell in enumerate(table[column].map(to_text)):
        candidates = finder(cell, column in usual or bool(wanted))
        file = next(iter(candidates)) if len(candidates) == 1 else ""
        if not file:
            problem = f"fits {len(candidates)} files" if candidates else "no such file"
            orphans[row] = f"in the catalogue, but {problem}"
        elif file in rows:
            orphans[row] = "the catalogue names this file twice; its first row was taken"
        else:
            rows[file] = row
    return rows, orphans, column
