"""Which row of a catalogue is about which file."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile, zip_longest
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd

from zwicky.data.columns import as_text, find_column, usual_columns
from zwicky.errors import UserError


class FileFinder:
    """Finds the file that a catalogue in `folder` means: by path, name, name without suffix or case, or bare number."""

    def __init__(self, files: Sequence[str], folder: str = "") -> None:
        self.folder = folder
        self.paths = set(files)
        self.files_by: defaultdict[tuple[int, str], set[str]] = defaultdict(set)  # (how it is named, name) → files
        numbers = {file: re.findall(r"\d+", self._keys(file)[2]) for file in files}
        constant = [len(set(values)) == 1 < len(numbers) for values in zip_longest(*numbers.values())]  # 64x64
        for file in files:
            varying = [number for number, same in zip(numbers[file], constant, strict=False) if not same]
            for key in (*enumerate(self._keys(file)), *((3, str(int(number))) for number in varying)):
                self.files_by[key].add(file)

    @staticmethod
    def _keys(path: str) -> tuple[str, str, str]:
        name = unicodedata.normalize("NFC", path.rpartition("/")[2])  # é in one character or two
        return name, name.lower(), re.sub(r"(\.(fits|fit|csv))?\.[a-z][a-z0-9]{0,6}(#\d+)?$", "", name.lower())

    def __call__(self, text: str, numbers: bool = False) -> set[str]:
        """Return the files that may be meant: one if it is clear, none or several if not."""
        if "://" in text:
            text = unquote(urlsplit(text).path)
        parts = [part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in ("/", ".", "..")]
        path = "/".join(parts)
        for exact in (f"{self.folder}/{path}", path):
            if exact in self.paths:
                return {exact}
        number = str(int(path.split(".")[0])) if numbers and re.fullmatch(r"\d+(\.0*)?", path) else ""
        for key in enumerate((*self._keys(path), number)):
            if candidates := self.files_by.get(key) if path else None:
                folders = [part.lower() for part in parts[-2::-1]]
                pairs = {file: zip(folders, file.lower().split("/")[-2::-1], strict=False) for file in candidates}
                shared = {file: len(list(takewhile(lambda ab: ab[0] == ab[1], p))) for file, p in pairs.items()}
                return {file for file in candidates if shared[file] == max(shared.values())}
        *_, last = path.split() or [""]
        return self(last) if last != path and re.fullmatch(r"[A-Z]*\d.{6,}", last) else set()  # SDSS J100042.5+021221


def match_rows(
    table: pd.DataFrame, files: Sequence[str], wanted: str = "", folder: str = ""
) -> tuple[dict[str, int], list[tuple[str, str]], str]:
    """Find the row of each file: (file → row, (name, why it has no file) of other rows, the column).

    Of the columns with usual names of files and ids, then of all other texts, the one is taken whose names find most
    files in some rows or, where few are found there, in all; only where no name finds one, numbers of the usual columns
    count. Where names fit several files, one with the folder in another column is taken. `files` are paths; a file of
    many images has one `file#row` for each. `wanted` is the column of file names, if the user names it; `folder` is
    that of the catalogue, within that of the files. UserError if no column finds a file, or numbers find less than half
    of them.
    """
    finder = FileFinder(files, folder)
    usual = usual_columns(list(table), "file") + usual_columns(list(table), "id")
    usual += [c for c in table if re.search(r"(?i)[^a-z]id$|[a-z]I[dD]$", c) and c not in usual]
    texts = [c for c in table if c not in usual and not pd.api.types.is_numeric_dtype(table[c])]
    usual, texts = ([find_column(list(table), "file", wanted)], []) if wanted else (usual, texts)
    cells = {c: as_text(table[c]) for c in usual + texts}
    sample = np.unique(np.linspace(0, len(table) - 1, 200).astype(int))

    def count(columns: Sequence[str], numbers: bool) -> dict[str, list[int]]:
        """How many files each cell fits, by column: of some rows or, where hardly one of them fits, of all."""
        some = {c: [len(finder(cell, numbers and c in usual)) for cell in cells[c].iloc[sample]] for c in columns}
        if any(counts.count(1) > len(sample) // 10 for counts in some.values()):
            return some
        return some | {c: [len(finder(cell, numbers)) for cell in cells[c]] for c in columns if c in usual}

    def share(column: str) -> float:
        return fits[column].count(1) / len(fits[column])

    for numbers in (False, True):  # a bare number is weaker evidence than a name
        fits = count(list(cells), numbers)
        column = max(fits, key=share, default="")
        if column and share(column):
            break
    if column and 1 not in fits[column] and max(fits[column]):  # a column with the folder may tell
        cells |= {f"{c}/{column}": cells[c] + "/" + cells[column] for c in cells if c != column}
        fits |= count([c for c in cells if c not in fits], False)
        column = max(fits, key=share)
    if not column or 1 not in fits[column]:
        if not usual:
            listed = ", ".join(table)[:200]
            raise UserError(f"it names no files: it has the columns {listed}; name one by --file_column")
        column = usual[0]
        most = max(fits[column])
        problem = f"which fits {most} files; add folders" if most else f"the folder with {(files or ['nothing'])[0]!r}"
        first = cells[column].iloc[0]
        raise UserError(f"no row fits a file: its column {column!r} begins with {first!r}, {problem} (--file_column)")
    rows: dict[str, int] = {}
    orphans = []
    for row, cell in enumerate(cells[column]):
        candidates = finder(cell, numbers and column in usual)
        if len(candidates) != 1:
            problem = f"fits {len(candidates)} files" if candidates else "no such file"
            orphans.append((cell or f"row {row + 1}", f"in the catalogue, but {problem}"))
        elif rows.setdefault(next(iter(candidates)), row) != row:
            orphans.append((cell, "the catalogue names this file twice; its first row was taken"))
    if numbers and not wanted and 2 * len(rows) < min(len(files), len(table)):
        problem = f"the numbers of its column {column!r} are in the names of only {len(rows)} of {len(files)} files"
        raise UserError(f"{problem}; if they name them: --file_column {column}")
    return rows, orphans, column
