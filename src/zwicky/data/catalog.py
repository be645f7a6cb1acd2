"""Catalogues: tables in any usual format, and which of their rows is about which file."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from astropy.table import Table

from zwicky.data.columns import as_text, find_column, has_usual_name, usual_columns
from zwicky.data.readers import format_of
from zwicky.errors import UserError

SUFFIXES = (
    *(".csv", ".tsv", ".txt", ".dat", ".cat", ".tbl", ".ecsv", ".vot", ".votable", ".xml", ".mrt", ".list", ".lst"),
    *(".csv.gz", ".tsv.gz", ".txt.gz", ".json", ".jsonl", ".feather", ".xlsx", ".xls"),
)


def read_catalog(path: Path) -> pd.DataFrame:
    """Read a table: CSV and its dialects, ECSV, VOTable, FITS, Parquet and what else pandas and astropy read.

    Columns are as in the file; text tables hold strings. `attrs["units"]` has the units of columns that have one.

    Raises:
        UserError: It cannot be read or holds no rows.
    """
    name = path.name.lower()
    readers = {".parquet": "parquet", ".pq": "parquet", ".feather": "feather", ".xlsx": "excel", ".xls": "excel"}
    readers |= {".json": "json", ".jsonl": "json"}
    try:
        if path.suffix.lower() in readers:
            options = {"lines": True} if name.endswith(".jsonl") else {}
            table = getattr(pd, f"read_{readers[path.suffix.lower()]}")(path, **options)
        elif name.endswith((".fits", ".fit", ".fts", ".fits.gz", ".hdf5", ".h5")):
            table = _from_astropy(Table.read(path, **({"unit_parse_strict": "silent"} if ".f" in name else {})))
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
    result = flat.to_pandas(use_nullable_int=True)
    result.attrs["units"] = {name: str(flat[name].unit) for name in flat.colnames if flat[name].unit is not None}
    return result


def _decode(data: bytes) -> str:
    """Return text in UTF-8, UTF-16 or, failing these, Latin-1."""
    has_mark = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    unmarked = "utf-16-le" if not any(data[1:20:2]) else "utf-16-be" if not any(data[:20:2]) else "utf-8-sig"
    for encoding in ("utf-16" if has_mark else unmarked, "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _read_text(text: str, path: Path) -> pd.DataFrame:
    is_boxed = text.startswith("|") and not text.rstrip().rpartition("\n")[2].startswith("|")
    formats = {
        "ascii.ecsv": text.startswith("# %ECSV"),
        "votable": "<VOTABLE" in text[:5000],
        "ascii.mrt": "Byte-by-byte" in text[:5000],
        "ascii.ipac": text.startswith("\\") or is_boxed,
        "ascii.sextractor": re.match(r"#\s*1\s+[A-Za-z]\w*", text),
    }
    if form := next((form for form, fits in formats.items() if fits), ""):
        return _from_astropy(Table.read(io.BytesIO(text.encode()) if form == "votable" else text, format=form))
    lines = [line for line in text.splitlines() if line.strip() and not re.fullmatch(r"[\s|+:=-]+", line)]
    comments = [line.lstrip("#%! ") for line in lines if line[0] in "#%!"]
    lines = [line for line in lines if line[0] not in "#%!"]
    if not lines:
        return pd.DataFrame()
    delimiter = _delimiter(lines)
    header, *rows = _cells(lines, delimiter)
    named = _cells(comments[-1:], delimiter) or _cells(comments[-1:], " ")
    if any(map(format_of, header)):  # no header at all
        rows = [header, *rows]
        texts = [cell for cell in header if not format_of(cell) and not re.fullmatch(r"[-+.,\d]*", cell)]
        label = texts[0] if len(texts) == 1 else header[1] if len(header) == 2 else None
        names = {cell: "file" for cell in header if format_of(cell)} | {label: "label"}
        header = [names.get(cell, f"column{number}") for number, cell in enumerate(header, 1)]
    elif named and len(named[0]) == len(header) and has_usual_name(named[0]) and not has_usual_name(header):
        header, rows = named[0], [header, *rows]  # "# file label": the header is a comment
    if repeated := {name for name in header if header.count(name) > 1 and name}:
        raise UserError(f"the catalogue {path} has two columns {min(repeated)!r}; rename one")
    for number, row in enumerate(rows, 1):
        if any(row[len(header) :]):
            advice = f"put quotes around text with {delimiter!r}"
            raise UserError(f"the catalogue {path} has more cells than columns in its row {number}; {advice}")
    return pd.DataFrame([(row + [""] * len(header))[: len(header)] for row in rows], columns=header, dtype=object)


def _delimiter(lines: list[str]) -> str:
    """Return what cuts the first lines into equally many cells, the most of all; blanks where no sign does."""
    counts = {sign: [len(row) for row in _cells(lines[:50], sign)] for sign in ",;\t| "}
    even = {sign: count[0] for sign, count in counts.items() if len(set(count)) == 1 and count[0] > 1}
    if set(even) != {" "}:
        even.pop(" ", None)
    return max(even or ",;\t|", key=lambda sign: counts[sign][0])


def _cells(lines: list[str], delimiter: str) -> list[list[str]]:
    if delimiter in "| ":
        lines = [line.strip().strip(delimiter) for line in lines]
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in rows]


class FileFinder:
    """Finds the file that a catalogue in `folder` means: by path, name, name without suffix or case, or bare number."""

    def __init__(self, files: Sequence[str], folder: str = "") -> None:
        self.folder = folder
        self.paths = set(files)
        self.files_by: defaultdict[tuple[int, str], set[str]] = defaultdict(set)  # (how it is named, name) → files
        for file in files:
            *_, stem = keys = self._keys(file)
            for key in (*enumerate(keys), *((3, str(int(number))) for number in re.findall(r"\d+", stem))):
                self.files_by[key].add(file)

    @staticmethod
    def _keys(path: str) -> tuple[str, str, str]:
        name = path.rpartition("/")[2]
        return name, name.lower(), re.sub(r"(\.(fits|fit|csv))?\.[a-z][a-z0-9]{0,6}(#\d+)?$", "", name.lower())

    def __call__(self, text: str, numbers: bool = False) -> set[str]:
        """Return the files that may be meant: one if it is clear, none or several if not."""
        parts = [part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in ("/", ".", "..")]
        path = "/".join(parts)
        for exact in (f"{self.folder}/{path}", path):
            if exact in self.paths:
                return {exact}
        number = str(int(path)) if numbers and path.isdecimal() else ""
        for key in enumerate((*self._keys(path), number)):
            if candidates := self.files_by.get(key) if path else None:
                folders = [part.lower() for part in parts[-2::-1]]
                pairs = {file: zip(folders, file.lower().split("/")[-2::-1], strict=False) for file in candidates}
                shared = {file: len(list(takewhile(lambda ab: ab[0] == ab[1], p))) for file, p in pairs.items()}
                return {file for file in candidates if shared[file] == max(shared.values())}
        return set()


def match_rows(
    table: pd.DataFrame, files: Sequence[str], wanted: str = "", folder: str = ""
) -> tuple[dict[str, int], dict[int, str], str]:
    """Find the row of each file: (file → row, row → why it has no file, the column).

    Of the columns with usual names of files and ids, then of all other texts, the one that finds most files is taken.

    Args:
        table: the catalogue.
        files: paths; a file of many images has one `file#row` for each.
        wanted: the column of file names, if the user names it.
        folder: of the catalogue, within that of the files.

    Raises:
        UserError: No column finds a file.
    """
    finder = FileFinder(files, folder)
    usual = usual_columns(list(table), "file") + usual_columns(list(table), "id")
    texts = [c for c in table if c not in usual and not pd.api.types.is_numeric_dtype(table[c])]
    columns = [find_column(list(table), "file", wanted)] if wanted else usual + texts
    sample = table.iloc[np.unique(np.linspace(0, len(table) - 1, 200).astype(int))]
    counts = {name: [len(finder(cell, name in usual)) for cell in as_text(sample[name])] for name in columns}
    column = max(columns, key=lambda name: counts[name].count(1), default="")
    if not column or 1 not in counts[column]:
        if not usual and not wanted:
            listed = ", ".join(table)[:200]
            raise UserError(f"it names no files: it has the columns {listed}; name one by --file_column")
        column = column if wanted else usual[0]
        cell, most = as_text(table[column])[0], max(counts[column])
        problem = f"which fits {most} files; add folders" if most else f"the folder with {(files or ['nothing'])[0]!r}"
        raise UserError(f"no row fits a file: its column {column!r} begins with {cell!r}, {problem} (--file_column)")
    rows: dict[str, int] = {}
    orphans: dict[int, str] = {}
    for row, cell in enumerate(as_text(table[column])):
        candidates = finder(cell, column in usual or bool(wanted))
        if len(candidates) != 1:
            problem = f"fits {len(candidates)} files" if candidates else "no such file"
            orphans[row] = f"in the catalogue, but {problem}"
        elif rows.setdefault(next(iter(candidates)), row) != row:
            orphans[row] = "the catalogue names this file twice; its first row was taken"
    return rows, orphans, column
