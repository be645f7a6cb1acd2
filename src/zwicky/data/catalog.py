"""A CSV catalogue beside the images: which row speaks of which file, and what it says."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from zwicky.data.cutouts import STANDARD_COLUMNS
from zwicky.data.readers.columns import EMPTY, ID_COLUMNS, LABEL_COLUMNS
from zwicky.errors import UserError

FILE_COLUMNS = ("file", "filename", "file_name", "path", "filepath", "image", "image_path", "name")


@dataclass(frozen=True)
class Catalog:
    """Rows of text, as read. columns: the header. rows: one list of len(columns) cells each."""

    path: Path
    columns: list[str]
    rows: list[list[str]]

    def find(self, names: tuple[str, ...]) -> list[int]:
        """Positions of the columns with these names, upper or lower case, in the order of `names`."""
        lowered = [column.lower() for column in self.columns]
        return [lowered.index(name) for name in names if name in lowered]


@dataclass(frozen=True)
class Match:
    """row_of: file → its row. orphans: (what the row calls its file, reason) of rows that have none."""

    row_of: dict[str, int]
    orphans: list[tuple[str, str]]
    column: int


def read_catalog(path: Path) -> Catalog:
    """Read a CSV with a header; comma, semicolon or tab. Raises UserError for what is none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            head = stream.readline()
            delimiter = max(",;\t", key=head.count)
            stream.seek(0)
            lines = [line for line in csv.reader(stream, delimiter=delimiter) if any(cell.strip() for cell in line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the catalogue {path}: {error}; it must be a CSV file in UTF-8") from error
    if len(lines) < 2:
        raise UserError(f"the catalogue {path} has no rows; it needs a header and one row a file")
    columns = [cell.strip() for cell in lines[0]]
    repeated = [name for name, count in Counter(name.lower() for name in columns).items() if count > 1]
    if repeated:
        raise UserError(f"the catalogue {path} has two columns {repeated[0]!r}; rename one")
    for number, line in enumerate(lines):
        if any("\0" in cell for cell in line):
            raise UserError(f"the catalogue {path} holds a NUL in its row {number}; it must be a CSV file in UTF-8")
        if any(cell.strip() for cell in line[len(columns) :]):
            raise UserError(
                f"the catalogue {path} has more cells than columns in its row {number}; "
                f"put quotes around text with {delimiter!r}"
            )
    rows = [[cell.strip() for cell in (line + [""] * len(columns))[: len(columns)]] for line in lines[1:]]
    return Catalog(path, columns, rows)


def match_files(catalog: Catalog, files: list[str]) -> Match:
    """Find each row's file: by path, else by the end of the path, else by name without suffix.

    Of the columns that may hold file names or ids, the one that finds most files is taken; UserError if none does.
    """
    candidates = catalog.find(FILE_COLUMNS) + catalog.find(ID_COLUMNS)
    if not candidates:
        raise UserError(
            f"the catalogue {catalog.path} names no files: it has the columns {', '.join(catalog.columns)}; "
            f"call one {FILE_COLUMNS[0]!r} or {ID_COLUMNS[0]!r}"
        )
    find = FileFinder(files)
    best = max((_match(catalog, column, find) for column in candidates), key=lambda match: len(match.row_of))
    if not best.row_of:
        column = candidates[0]
        raise UserError(
            f"no row of the catalogue {catalog.path} fits a file: its column {catalog.columns[column]!r} begins with "
            f"{catalog.rows[0][column]!r}, the folder with {files[0] if files else 'nothing'!r}; "
            "check that they belong together"
        )
    return best


def _match(catalog: Catalog, column: int, find: FileFinder) -> Match:
    row_of: dict[str, int] = {}
    orphans: list[tuple[str, str]] = []
    for number, row in enumerate(catalog.rows):
        file = find(row[column])
        said = row[column] or f"catalogue row {number + 1}"
        if file is None:
            orphans.append((said, "in the catalogue, but no such file"))
        elif file in row_of:
            orphans.append((said, "the catalogue names this file twice; its first row was taken"))
        else:
            row_of[file] = number
    return Match(row_of, orphans, column)


class FileFinder:
    """From what a catalogue calls a file to the file, None where there is none or more than one."""

    def __init__(self, files: list[str]) -> None:
        self.files = set(files)
        self.by_name: dict[str, list[str]] = {}
        self.by_stem: dict[str, list[str]] = {}
        for file in files:
            name = PurePosixPath(file).name
            self.by_name.setdefault(name, []).append(file)
            self.by_stem.setdefault(name.split(".")[0], []).append(file)
            stem = re.sub(r"(\.fits)?\.[^.]*$", "", name)
            if stem != name.split(".")[0]:
                self.by_stem.setdefault(stem, []).append(file)

    def __call__(self, said: str) -> str | None:
        parts = PurePosixPath(said.replace("\\", "/")).parts
        if not parts:
            return None
        if "/".join(parts) in self.files:
            return "/".join(parts)
        named = self.by_name.get(parts[-1]) or self.by_stem.get(parts[-1], [])
        fitting = [file for file in named if _same_end(PurePosixPath(file).parts[:-1], parts[:-1])]
        return fitting[0] if len(fitting) == 1 else None


def _same_end(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether the shorter of two folder paths is the end of the longer."""
    shared = min(len(one), len(other))
    return one[len(one) - shared :] == other[len(other) - shared :]


def labels_of(catalog: Catalog) -> list[str | None] | None:
    """The label of each row, None where the cell is empty; None altogether where there is no label column."""
    found = catalog.find(LABEL_COLUMNS)
    if not found:
        return None
    return [None if row[found[0]].lower() in EMPTY else row[found[0]] for row in catalog.rows]


def unique_ids(catalog: Catalog, rows: list[int]) -> dict[int, str] | None:
    """Row → catalogue id, where an id column is filled and unique over `rows`."""
    for column in catalog.find(ID_COLUMNS):
        ids = {row: catalog.rows[row][column] for row in rows}
        if all(ids.values()) and len(set(ids.values())) == len(ids):
            return ids
    return None


def properties(catalog: Catalog, match: Match) -> tuple[dict[str, list], dict[str, pa.DataType], list[str]]:
    """All columns but file, label and position: (name → one value a row, name → type, warnings).

    `ra` and `dec` come first, in degrees, None where the cell is empty or no such angle. A column is float64 if all
    its cells are numbers, else text; whole numbers too long for a float stay text.
    """
    values: dict[str, list] = {}
    kinds: dict[str, pa.DataType] = {}
    warnings: list[str] = []
    skip = {match.column, *catalog.find(LABEL_COLUMNS)[:1]}
    limits = {"ra": (0.0, 360.0), "dec": (-90.0, 90.0)}
    for position, column in enumerate(catalog.columns):
        cells = [row[position] for row in catalog.rows]
        if column.lower() in limits:
            low, high = limits[column.lower()]
            angles = [_number(cell) for cell in cells]
            values[column.lower()] = [angle if angle is not None and low <= angle <= high else None for angle in angles]
            kinds[column.lower()] = pa.float64()
            filled = sum(cell.lower() not in EMPTY for cell in cells)
            lost = filled - sum(angle is not None for angle in values[column.lower()])
            if lost:
                warnings.append(
                    f"{lost} cells of the catalogue's column {column!r} are no angle in degrees: taken as unknown"
                )
        elif position not in skip and column:
            name = f"catalog_{column}" if column in STANDARD_COLUMNS or column == "image" else column
            while name in values or name in limits:
                name += "_"
            numbers = [_number(cell) for cell in cells]
            filled = sum(cell.lower() not in EMPTY for cell in cells)
            numeric = 0 < filled == sum(number is not None for number in numbers)
            values[name] = numbers if numeric else [cell or None for cell in cells]
            kinds[name] = pa.float64() if numeric else pa.string()
    if ("ra" in values) != ("dec" in values):
        warnings.append("the catalogue has only one of `ra` and `dec`; positions were left unknown")
        values.pop("ra", None), values.pop("dec", None)
    return values, kinds, warnings


_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*|(\d*\.\d*))([eE][+-]?\d+)?")


def _number(cell: str) -> float | None:
    """The cell as a finite float, None where it is none or would not survive (a long integer, a code like 0012)."""
    if not _NUMBER.fullmatch(cell) or not any(character.isdigit() for character in cell):
        return None
    number = float(cell)
    exact = "." in cell or "e" in cell.lower() or abs(number) <= 2**53
    return number if exact and math.isfinite(number) else None
