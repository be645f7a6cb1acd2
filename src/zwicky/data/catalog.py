"""Catalogues: tables in any usual format."""

import bz2
import csv
import gzip
import html
import io
import json
import lzma
import re
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from itertools import dropwhile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import yaml
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Column, Table

from zwicky.data.columns import IS_UNIT, as_text, has_usual_name, to_text
from zwicky.data.readers import format_of
from zwicky.errors import UserError

_PANDAS = {".parquet": "parquet", ".pq": "parquet", ".feather": "feather", ".orc": "orc", ".xlsx": "excel"}
_PANDAS |= {".xls": "excel", ".ods": "excel", ".dta": "stata", ".sas7bdat": "sas", ".sav": "spss"}
_TEXTS = tuple(".csv .tsv .tab .cat .tbl .ecsv .vot .votable .mrt .jsonl .ndjson .htm .html".split())
_MAYBE = tuple(".txt .dat .asc .xml .list .lst .json .md .rst .tex .rdb .yaml .yml".split())  # may be anything
_PACKED = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ": lzma.decompress}


def is_catalog_name(name: str, sure: bool = False) -> bool:
    """Return whether a file of this name may be, or is `sure` to be, a table."""
    name = re.sub(r"\.(gz|bz2|xz|zip)$", "", name.lower())
    return name.endswith((*_PANDAS, *_TEXTS, *(() if sure else _MAYBE)))


def read_catalog(path: Path, encoding: str = "") -> pd.DataFrame:
    """Read a table: CSV and its dialects, ECSV, VOTable, FITS, Parquet and what else pandas and astropy read.

    Columns are as in the file; text tables hold strings. `attrs["units"]` has the units of columns that have one, and
    `attrs["encoding"]` that of a text which is not Unicode, where it is a guess because no `encoding` is given.
    UserError if it cannot be read or holds no rows.
    """
    name, kind = path.name.lower(), _PANDAS.get(path.suffix.lower())
    if not path.exists():
        raise UserError(f"there is no file {path}; give the path of the table")
    try:
        if kind in ("parquet", "feather", "orc"):  # pandas makes floats of whole numbers beside missing cells
            module = import_module(f"pyarrow.{kind}")
            table = module.read_table(path).to_pandas(integer_object_nulls=True)
        elif kind == "excel":  # the first sheet with usual names of columns
            sheets = [*pd.read_excel(path, sheet_name=None).values()]
            table = next((sheet for sheet in sheets if has_usual_name([*map(to_text, sheet)])), sheets[0])
        elif kind:
            table = getattr(pd, f"read_{kind}")(path)
        elif "fits" in format_of(name):
            with fits.open(path) as hdus:
                columns = {number: hdu.columns.names for number, hdu in enumerate(hdus) if hasattr(hdu, "columns")}
            number = next((number for number, names in columns.items() if has_usual_name(names)), None)
            table = _from_astropy(Table.read(path, hdu=number, unit_parse_strict="silent"))
        elif name.endswith((".hdf5", ".h5", ".hdf")):
            table = _from_astropy(Table.read(path))
        else:
            table = _read_text(_unpack(path.read_bytes()), path, encoding)
    except UserError:
        raise
    except ImportError as error:
        package = re.search(r"install the (\S+) package", str(error))
        needed = f"pip install {package[1]}" if package else str(error)
        raise UserError(f"cannot read {path} without another package: {needed}; or save it as CSV") from error
    except Exception as error:  # pandas and astropy raise many kinds
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"cannot read the catalogue {path}: {reason}; save it as CSV with a header") from error
    if not len(table):
        raise UserError(f"the catalogue {path} has no rows; it needs a header and one row an image")
    table.columns = [to_text(column) for column in table.columns]
    table = table.loc[:, [bool(name) or as_text(table.iloc[:, n]).any() for n, name in enumerate(table)]]
    if len(repeated := table.columns[table.columns.duplicated()]):
        if not all(repeated):
            raise UserError(f"the catalogue {path} has columns without a name; remove the lines above its header")
        raise UserError(f"the catalogue {path} has two columns {repeated[0]!r}; rename one")
    return table.reset_index(drop=True)


def read_sidecars(folder: Path, files: Sequence[str]) -> pd.DataFrame:
    """Read a file an image, `file` is its path without suffix: what JSON or YAML says, else its one word as `label`."""
    rows = []
    for file in files:
        text = _decode((folder / file).read_bytes(), "")[0].strip()
        facts = {"label": text} if len(text) <= 50 and "\n" not in text else {}
        with suppress(ValueError, yaml.YAMLError):
            parsed = json.loads(text) if file.endswith(".json") else yaml.load(text, yaml.BaseLoader)
            facts = parsed if isinstance(parsed, dict) else facts
        rows.append(_flatten(facts) | {"file": file.rpartition(".")[0]})
    return pd.DataFrame(rows, dtype=object)


def _flatten(facts: dict, prefix: str = "") -> dict[str, Any]:
    """Return nested facts by their path: {"lens": {"z": 1}} is {"lens.z": 1}."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _unpack(data: bytes) -> bytes:
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(archive.namelist()[0])
    return next((unpack(data) for mark, unpack in _PACKED.items() if data.startswith(mark)), data)


def _from_astropy(table: Table) -> pd.DataFrame:
    """Return the columns of one value a row, a SkyCoord as `ra` and `dec`, and their units."""
    for name in [name for name in table.colnames if isinstance(table[name], SkyCoord)]:
        sky = table[name].icrs
        table["ra"], table["dec"] = sky.ra.deg, sky.dec.deg
    table.keep_columns([name for name in table.colnames if isinstance(table[name], Column) and table[name].ndim == 1])
    table.convert_bytestring_to_unicode()
    result = table.to_pandas(use_nullable_int=True)
    result.attrs["units"] = {name: str(table[name].unit) for name in table.colnames if table[name].unit is not None}
    return result


def _decode(data: bytes, encoding: str) -> tuple[str, str]:
    """Return text, and its encoding where that is not Unicode but a guess.

    Character sets of 8 bits are alike in short texts: detectors take cp1251 for cp1257, GBK for Shift-JIS.
    """
    marked = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    unmarked = "utf-16-le" if not any(data[1:20:2]) else "utf-16-be" if not any(data[:20:2]) else "utf-8-sig"
    unicode = next((encoding for mark, encoding in marked.items() if data.startswith(mark)), unmarked)
    for guess in (unicode, encoding or "cp1252"):
        with suppress(UnicodeDecodeError):
            return data.decode(guess), "" if guess in (unicode, encoding) else guess
    return data.decode("latin-1"), "latin-1"


def _read_text(data: bytes, path: Path, encoding: str) -> pd.DataFrame:
    text, encoding = _decode(data, encoding)
    is_boxed = text.startswith("|") and not text.rstrip().rpartition("\n")[2].startswith("|")
    start = text[:5000]
    formats = {
        "ascii.ecsv": start.startswith("# %ECSV"),
        "votable": "<VOTABLE" in start,
        "ascii.latex": "\\begin{tab" in start,
        "ascii.rst": re.match(r"=+ +=", start),
        "ascii.mrt": "Byte-by-byte" in start,
        "ascii.ipac": start.startswith("\\") or is_boxed,
        "ascii.sextractor": re.match(r"#\s*1\s+[A-Za-z]\w*", start),
        "ascii.daophot": start.startswith("#N "),
        "ascii.rdb": re.search(r"^(\d*[SN]\t)+\d*[SN]\s*$", start, re.MULTILINE),
    }
    if form := next((form for form, fits in formats.items() if fits), ""):
        table = _from_astropy(Table.read(io.BytesIO(data) if form == "votable" else text, format=form))
    elif text.lstrip()[:1] in ("{", "["):
        try:
            table = _from_objects(json.loads(text))
        except json.JSONDecodeError:
            table = _from_objects([json.loads(line) for line in text.splitlines() if line.strip()])
    elif path.suffix.lower() in (".yaml", ".yml"):
        table = _from_objects(yaml.load(text, yaml.BaseLoader))  # all is text: 007 is no octal, 10:00:42 no number
    elif text.lstrip().startswith("<?xml") or path.suffix.lower() == ".xml":
        records = [row.attrib | {cell.tag: cell.text or "" for cell in row} for row in ElementTree.fromstring(text)]
        table = pd.DataFrame(records)
    elif "<table" in text[:5000].lower():
        rows = [re.findall(r"(?is)<t[hd].*?>(.*?)</t[hd]>", row) for row in re.findall(r"(?is)<tr.*?</tr>", text)]
        header, *rows = [[html.unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in row] for row in rows]
        table = pd.DataFrame(rows, columns=header)
    else:
        table = _read_cells(text, path)
    table.attrs["encoding"] = encoding
    return table


def _from_objects(data: Any) -> pd.DataFrame:
    """Return a table of objects: of records, of columns, of records by name, of labels by name or of names by label."""
    while isinstance(data, dict) and "columns" not in data:  # records in a wrapper: {"images": [{…}, …]}
        lists = [value for value in data.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if not lists:
            break
        data = max(lists, key=len)
    lists_files = isinstance(data, dict) and all(
        isinstance(files, list) and all(format_of(str(file)) for file in files) for files in data.values()
    )
    if not isinstance(data, dict) or (has_usual_name(list(data)) and not (lists_files and len(data) > 1)):
        return pd.DataFrame(data, dtype=object)
    if {"columns", "data"} <= set(data):
        return pd.DataFrame(data["data"], columns=data["columns"], dtype=object)
    if all(isinstance(value, dict) for value in data.values()):
        return pd.DataFrame.from_dict(data, orient="index", dtype=object).rename_axis("file").reset_index()
    pairs: list[tuple[Any, Any]] = []
    for key, value in data.items():
        pairs += [(item, key) for item in value] if isinstance(value, list) else [(key, value)]
    return pd.DataFrame(pairs, columns=["file", "label"])


def _read_cells(text: str, path: Path) -> pd.DataFrame:
    text = re.sub(r"(?i)^\"?sep=.\"?\s*\n", "", text)  # Excel's
    lines = [line for line in text.splitlines() if line.strip() and not re.fullmatch(r"[\s|+:=-]+", line)]
    comments = [line.lstrip("#%! ") for line in lines if line[0] in "#%!"]
    below_header = list(dropwhile(lambda line: line[0] in "#%!", lines))
    lines = [line for line in below_header if line[0] not in "#%!"]
    if not lines:
        return pd.DataFrame()
    below = _delimiter(lines[1:] or lines)
    if [len(row) for row in _cells(lines[:2], below)] > [1, 1] and len(_cells(lines[:1], below)[0]) == 1:
        lines = lines[1:]  # a title
    delimiter = _delimiter(lines)
    header, *rows = _cells(lines, delimiter)
    maybe_rows = _cells([line for line in below_header if line[0] in "#%!"], delimiter)
    if count := sum(len(row) == len(header) > 1 for row in maybe_rows):
        problem = f"rows of {path} that begin with #, % or ! were read as comments ({count})"
        warnings.warn(f"{problem}; if they are none, quote them")
    named = _cells(comments[-1:], delimiter) or _cells(comments[-1:], " ")
    if named and len(named[0]) == len(header) and has_usual_name(named[0]) and not has_usual_name(header):
        header, rows = named[0], [header, *rows]  # "# file label": the header is a comment
    elif _is_data(header, rows):
        header, rows = _name_columns(header, path), [header, *rows]
    for number, row in enumerate(rows, 1):
        if any(row[len(header) :]):
            advice = f"put quotes around text with {delimiter!r}"
            raise UserError(f"the catalogue {path} has more cells than columns in its row {number}; {advice}")
    units = _units(header, rows)
    rows = [(row + [""] * len(header))[: len(header)] for row in rows[bool(units) :]]
    table = pd.DataFrame(rows, columns=header, dtype=object)
    table.attrs["units"] = units
    return table


def _units(header: list[str], rows: list[list[str]]) -> dict[str, str]:
    """Return the units of columns where the first row holds nothing else, some above a number; else {}."""
    if len(rows) < 2 or not all(matches := [IS_UNIT.fullmatch(cell) for cell in rows[0]]):
        return {}
    units = [match[1].strip("-") for match in matches if match]
    is_above = [unit and re.fullmatch(r"[-+\d.:, ]+", cell) for unit, cell in zip(units, rows[1], strict=False)]
    return dict(zip(header, units, strict=False)) if any(is_above) else {}


def _is_data(header: list[str], rows: list[list[str]]) -> bool:
    """Return whether the first row is no header: it names a file, or is like the next but for digits."""
    pairs = zip(header, rows[0] if rows else [], strict=False)
    is_alike = any(re.search(r"\d", a) and re.sub(r"\d+", "0", a) == re.sub(r"\d+", "0", b) for a, b in pairs)
    is_list = len(header) == 1 and header[0] in [row[0] for row in rows]  # of labels
    return any(map(format_of, header)) or (not has_usual_name(header) and (is_alike or is_list))


def _name_columns(cells: list[str], path: Path) -> list[str]:
    """Return names of the columns of a table without a header: the file, the label, and numbers for others."""
    if len(cells) == 1:
        return ["file" if format_of(cells[0]) else path.name.partition(".")[0]]
    file = next((number for number, cell in enumerate(cells) if format_of(cell)), 0)
    others = [number for number in range(len(cells)) if number != file]
    texts = [number for number in others if not re.fullmatch(r"[-+.,\d]*", cells[number])]
    label = others[0] if len(others) == 1 else texts[0] if len(texts) == 1 else None
    return [{file: "file", label: "label"}.get(number, f"column{number + 1}") for number in range(len(cells))]


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
    return [[to_text(cell) for cell in row] for row in rows]
