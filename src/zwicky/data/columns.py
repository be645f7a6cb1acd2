"""The meaning of columns and cells: usual names, labels, positions, unknown values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from astropy.coordinates import Angle

from zwicky.errors import UserError

# Usual names, without case, blanks and signs; the first that a table has is taken.
USUAL = {
    "file": "file filename filenames fname fileloc filepath path imagepath image imagefile imagename img cutout stamp "
    "name file1 filelocation location url",
    "id": "id objectid objid sourceid targetid objectname objname object source idstr candidateid uid index",
    "label": "label labels class classes classification classname islens lens target y type truth category grade "
    "finalgrade ans groundtruth gt subtype morphology expertgrade expertlabel",
    "split": "split subset role partition set fold usage dataset",
    "pixel_scale": "pixelscale pixscale pxscale imagescale",
    "survey": "survey",
}
_IDS = set("id objectid objid sourceid targetid objectname objname uid candidateid".split())  # that name objects
_PAIRS = [("ra", "dec"), ("ra", "de"), ("rightascension", "declination"), ("right_ascension", "declination")]
_PAIRS += [("alpha", "delta"), ("x_world", "y_world"), ("xworld", "yworld")]
_NO_POSITION = re.compile(r"err|sigma|^e_|^pm|_pm|unc|std|rms|^s_|^u_")
UNKNOWN = set(
    "nan null none n/a na <na> nat - -- --- . .. ... ? ?? unknown unlabelled unlabeled masked missing undefined "
    "unclassified undetermined".split()
) | {"", "not labelled", "not labeled", "no label", "not available"}
ROLES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
    **dict.fromkeys(("unlabelled", "unlabeled"), "unlabelled"),
}
_NINES = re.compile(r"-9{2,}(\.[09]*)?")  # -99, -999.0, -9999
_CODE = re.compile(r"[+-]?0\d")  # 007 is no number
MAX_CLASSES = 50


def plain_name(name: str) -> str:
    """Return a name of a column without case, blanks and signs."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def has_usual_name(names: Sequence[str]) -> bool:
    """Return whether some column has a usual name, as a header has."""
    words = {word for role in USUAL.values() for word in role.split()} | {"ra", "dec"}
    return any(plain_name(name) in words for name in names)


def find_column(columns: Sequence[str], role: str, wanted: str = "") -> str:
    """Return the column of a role, "" if there is none.

    Args:
        columns: of the table.
        role: a key of USUAL.
        wanted: the column the user names; it must exist, in whatever case.

    Raises:
        UserError: There is no column `wanted`.
    """
    if wanted:
        match = [column for column in columns if column == wanted] or [
            c for c in columns if plain_name(c) == plain_name(wanted)
        ]
        if not match:
            raise UserError(f"there is no column {wanted!r}; the columns are {', '.join(columns)[:200]}")
        return match[0]
    names = {plain_name(column): column for column in reversed(columns)}
    return next((names[name] for name in USUAL[role].split() if name in names), "")


def is_id(column: str) -> bool:
    """Return whether a column has a usual name of object ids."""
    return plain_name(column) in _IDS


def likely_labels(table: pd.DataFrame) -> list[str]:
    """Return the columns with a usual name of labels whose values may be classes, the likeliest first."""
    names = {plain_name(column): column for column in reversed(table.columns)}
    columns = [names[name] for name in USUAL["label"].split() if name in names]
    return [column for column in columns if _may_be_classes(table[column], column)]


def _may_be_classes(values: pd.Series, name: str) -> bool:
    distinct = [text for text in values.astype(object).map(to_text).unique() if text.lower() not in UNKNOWN]
    numbers = pd.to_numeric(pd.Series(distinct, dtype=object), errors="coerce")
    whole = numbers.isna().any() or (numbers == numbers.round()).all()
    return len(distinct) > 0 and whole and (plain_name(name) in ("label", "class") or len(distinct) <= MAX_CLASSES)


def find_position_columns(columns: Sequence[str], ra: str = "", dec: str = "") -> tuple[str, str] | None:
    """Return the columns of right ascension and declination: those the user names, else a pair named alike.

    `ra` and `dec`, RAJ2000 and DEJ2000, coord_ra and coord_dec, ALPHA_J2000 and DELTA_J2000, …

    Raises:
        UserError: A column the user names does not exist, or one of the two is not named.
    """
    if ra or dec:
        if not (ra and dec):
            raise UserError("name both columns of the position: --ra_column and --dec_column")
        return find_column(columns, "id", ra), find_column(columns, "id", dec)
    names = {column.lower(): column for column in reversed(columns)}
    pairs = [
        (name, other)
        for name in names
        for first, second in _PAIRS
        if first in name and not _NO_POSITION.search(name) and (other := name.replace(first, second, 1)) in names
    ]
    return min(((names[a], names[b]) for a, b in pairs), key=lambda pair: len(pair[0]), default=None)


def to_text(value: Any) -> str:
    """Return a cell as text, "" where it is missing; whole numbers have no point."""
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "").strip()


def clean_labels(values: pd.Series) -> tuple[pd.Series, dict[str, int]]:
    """Return class names, None where unknown, and how often each spelling of unknown occurs.

    Negative numbers are unknown where all other labels are numbers from 0; 0.0 and 1.0 are the classes 0 and 1.
    """
    text = values.astype(object).map(to_text)
    unknown = text.str.lower().isin(UNKNOWN)
    numbers = pd.to_numeric(text.where(~unknown), errors="coerce")
    if numbers[~unknown].notna().all():
        negative = (numbers < 0) & ~unknown
        if numbers[~unknown & ~negative].nunique() > 1:
            unknown |= negative
        whole = numbers.notna() & (numbers == numbers.round()) & text.str.contains(r"[.eE]")
        text = text.where(~whole, numbers.fillna(0).astype(np.int64).astype(str))
    spellings = text[unknown & (text != "")].value_counts().to_dict()
    return text.astype(object).where(~unknown, None), spellings


def parse_positions(
    ra: pd.Series, dec: pd.Series, units: Sequence[str] = ("", "")
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return right ascension and declination in degrees, NaN where unknown, and how many filled cells are unknown.

    Decimal degrees (with point or comma, from -180 or 0), sexagesimal text, hours and radians by unit. (0, 0), -99
    and what is no angle are unknown.
    """
    texts = [values.astype(object).map(to_text).str.lower() for values in (ra, dec)]
    a, d = _parse_angles(texts[0], units[0], "hourangle"), _parse_angles(texts[1], units[1], "deg")
    is_known = (a >= -180) & (a <= 360) & (np.abs(d) <= 90) & ~((a == d) & np.isin(a, (0, -1)))
    is_known &= ~np.any([text.str.fullmatch(_NINES.pattern).to_numpy(bool) for text in texts], axis=0)
    filled = ~np.all([text.isin(UNKNOWN).to_numpy(bool) for text in texts], axis=0)
    return np.where(is_known, a % 360, np.nan), np.where(is_known, d, np.nan), int((filled & ~is_known).sum())


def _parse_angles(text: pd.Series, unit: str, sexagesimal: str) -> np.ndarray:
    text = text.str.replace(r"(\d),(\d)", r"\1.\2", regex=True)
    degrees = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
    unit = unit.lower()
    degrees *= 180 / np.pi if unit.startswith("rad") else 15 if unit in ("h", "hr", "hour", "hours", "hourangle") else 1
    rest = np.flatnonzero(np.isnan(degrees) & ~text.isin(UNKNOWN).to_numpy(bool))
    for row in rest:
        try:
            degrees[row] = Angle(text.iloc[row], "deg" if "d" in text.iloc[row] else sexagesimal).deg
        except Exception:  # astropy raises many kinds here, all meaning "not an angle"
            continue
    return degrees


def unit_of(table: pd.DataFrame, column: str) -> str:
    """Return the unit of a column, from the table or from its name: ra_hours, RA [rad]."""
    named = re.search(r"[_ (\[](rad|h|hr|hours?)(?:ians)?[)\]]?$", column.lower())
    return table.attrs.get("units", {}).get(column, "") or (named[1] if named else "")


def clean_property(values: pd.Series) -> tuple[pd.Series, dict[str, int]]:
    """Return a column as numbers if all its cells are numbers, else as text, and how often -99 and the like occur.

    Codes (007), and whole numbers too long for a float, stay text. Nines below all other values are unknown.
    """
    spellings: dict[str, int] = {}
    if pd.api.types.is_bool_dtype(values):
        return values, spellings
    if not pd.api.types.is_numeric_dtype(values):
        text = values.astype(object).map(to_text)
        filled = text[~text.str.lower().isin(UNKNOWN)]
        decimal = filled.str.replace(r"^([+-]?\d*),(\d+)$", r"\1.\2", regex=True)
        numbers = pd.to_numeric(decimal, errors="coerce")
        long = filled.str.fullmatch(r"[+-]?\d{16,}")
        if (
            not len(filled)
            or numbers.isna().any()
            or filled.str.match(_CODE.pattern).any()
            or long.any()
            or np.isinf(numbers).any()
        ):
            return text.astype(object).where(text != "", None), spellings
        values = numbers.reindex(values.index)
    nines = values.astype(object).map(to_text).str.fullmatch(_NINES.pattern).to_numpy(bool) & (
        values < values[values > -99].min()
    ).fillna(False)
    if nines.sum() > 1:
        spellings = values[nines].astype(object).map(to_text).value_counts().to_dict()
        values = values.astype(np.float64).where(~nines)
    return values, spellings
