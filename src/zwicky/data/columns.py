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
_NINES = r"-9{2,}(\.[09]*)?"  # -99, -999.0, -9999
_NO_NUMBER = r"[+-]?(0\d.*|\d{16,})"  # codes such as 007, and whole numbers too long for a float
MAX_CLASSES = 50


def plain_name(name: str) -> str:
    """Return a name of a column without case, blanks and signs."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def has_usual_name(names: Sequence[str]) -> bool:
    """Return whether some column has a usual name, as a header has."""
    return any(usual_columns(names, role) for role in USUAL) or bool({"ra", "dec"} & set(map(plain_name, names)))


def usual_columns(columns: Sequence[str], role: str) -> list[str]:
    """Return the columns with a usual name of a role (a key of USUAL), the likeliest first."""
    names = {plain_name(column): column for column in reversed(columns)}
    return [names[name] for name in USUAL[role].split() if name in names]


def find_column(columns: Sequence[str], role: str, wanted: str = "") -> str:
    """Return the column that the user names, in whatever case, else that of a role, "" if there is none.

    Raises:
        UserError: There is no column `wanted`.
    """
    if not wanted:
        return next(iter(usual_columns(columns, role)), "")
    alike = [column for column in columns if plain_name(column) == plain_name(wanted)]
    if not alike:
        raise UserError(f"there is no column {wanted!r}; the columns are {', '.join(columns)[:200]}")
    return wanted if wanted in alike else alike[0]


def is_id(column: str) -> bool:
    """Return whether a column has a usual name of object ids."""
    return plain_name(column) in _IDS


def likely_labels(table: pd.DataFrame) -> list[str]:
    """Return the columns with a usual name of labels whose values may be classes, the likeliest first."""

    def may_be_classes(name: str) -> bool:
        texts = as_text(table[name])
        distinct = texts[~texts.str.lower().isin(UNKNOWN)].drop_duplicates()
        numbers = pd.to_numeric(distinct, errors="coerce")
        is_whole = numbers.isna().any() or (numbers == numbers.round()).all()
        return (
            len(distinct) > 0 and is_whole and (plain_name(name) in ("label", "class") or len(distinct) <= MAX_CLASSES)
        )

    return [column for column in usual_columns(list(table), "label") if may_be_classes(column)]


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
        (names[name], names[other])
        for name in names
        for first, second in _PAIRS
        if first in name and not _NO_POSITION.search(name) and (other := name.replace(first, second, 1)) in names
    ]
    return min(pairs, key=lambda pair: len(pair[0]), default=None)


def to_text(value: Any) -> str:
    """Return a cell as text, "" where it is missing; whole numbers have no point."""
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "").strip()


def as_text(values: pd.Series) -> pd.Series:
    """Return a column of Python strings, "" where a cell is missing."""
    return values.astype(object).map(to_text).astype(object)


def clean_labels(values: pd.Series) -> tuple[pd.Series, dict[str, int]]:
    """Return class names, None where unknown, and how often each spelling of unknown occurs.

    Negative numbers are unknown where all other labels are numbers from 0; 0.0 and 1.0 are the classes 0 and 1.
    """
    text = as_text(values)
    unknown = text.str.lower().isin(UNKNOWN)
    numbers = pd.to_numeric(text.where(~unknown), errors="coerce")
    if numbers[~unknown].notna().all():
        if numbers[numbers >= 0].nunique() > 1:
            unknown |= numbers < 0
        whole = (numbers == numbers.round()) & text.str.contains(r"[.eE]")
        text = text.where(~whole, numbers.where(whole, 0).astype(np.int64).astype(str))
    spellings = text[unknown & (text != "")].value_counts().to_dict()
    return text.where(~unknown, None), spellings


def parse_positions(
    ra: pd.Series, dec: pd.Series, units: Sequence[str] = ("", "")
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return right ascension and declination in degrees, NaN where unknown, and how many filled cells are unknown.

    Decimal degrees (with point or comma, from -180 or 0), sexagesimal text, hours and radians by unit. (0, 0), -99
    and what is no angle are unknown.
    """
    texts = [as_text(values).str.lower() for values in (ra, dec)]
    a, d = _parse_angles(texts[0], units[0], "hourangle"), _parse_angles(texts[1], units[1], "deg")
    is_known = (a >= -180) & (a <= 360) & (np.abs(d) <= 90) & ~((a == d) & np.isin(a, (0, -1)))
    for text in texts:
        is_known &= ~text.str.fullmatch(_NINES).to_numpy(bool)
    filled = ~np.all([text.isin(UNKNOWN).to_numpy(bool) for text in texts], axis=0)
    return np.where(is_known, a % 360, np.nan), np.where(is_known, d, np.nan), int((filled & ~is_known).sum())


def _parse_angles(text: pd.Series, unit: str, sexagesimal: str) -> np.ndarray:
    text = text.str.replace(r"(\d),(\d)", r"\1.\2", regex=True)
    degrees = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
    degrees *= 180 / np.pi if unit.lower().startswith("rad") else 15 if unit.lower().startswith("h") else 1
    for row in np.flatnonzero(np.isnan(degrees) & ~text.isin(UNKNOWN).to_numpy(bool)):
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
    if pd.api.types.is_bool_dtype(values):
        return values, {}
    text = as_text(values)
    if not pd.api.types.is_numeric_dtype(values):
        filled = text[~text.str.lower().isin(UNKNOWN)]
        numbers = pd.to_numeric(filled.str.replace(r"^([+-]?\d*),(\d+)$", r"\1.\2", regex=True), errors="coerce")
        if not len(filled) or not np.isfinite(numbers).all() or filled.str.fullmatch(_NO_NUMBER).any():
            return text.where(text != "", None), {}
        values = numbers.reindex(values.index)
        text = as_text(values)
    nines = text.str.fullmatch(_NINES).to_numpy(bool) & (values < values[values > -99].min()).fillna(False)
    if nines.sum() < 2:
        return values, {}
    return values.astype(np.float64).where(~nines), text[nines].value_counts().to_dict()
