"""The meaning of columns and cells: usual names, labels, positions, unknown values."""

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from astropy.coordinates import Angle, SkyCoord

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
_PAIRS += [("alpha", "delta"), ("x_world", "y_world"), ("xworld", "yworld"), ("glon", "glat")]
_GALACTIC = {"l": "b", "lii": "bii", "gall": "galb", "gallon": "gallat", "galacticl": "galacticb"}
_GALACTIC |= {"galacticlon": "galacticlat", "galacticlongitude": "galacticlatitude"}  # glon and glat are _PAIRS
_PARTS = ("rah", "ram", "ras", "de-", "ded", "dem", "des")  # a column each, as CDS writes them
_BOTH = set("radec coord coords coordinate coordinates position positions skycoord radecj2000".split())
_NO_POSITION = re.compile(r"err|sigma|^e_|^pm|_pm|unc|std|rms|^s_|^u_")
_UNIT = re.compile(r"[-_. (\[]*(deg|degree|rad|radian|hour|(?<![a-z0-9])hr?)s?[)\]]?$")  # no hours in ra_truth
UNKNOWN = set(
    "nan null none na nat nil unk unknown unlabelled unlabeled masked missing undefined undef indef unclassified "
    "undetermined unspecified notlabelled notlabeled nolabel notavailable notclassified nodata tbd tbc tobechecked "
    "pending todo skip skipped".split()
) | {""}
ROLES = {
    **dict.fromkeys(("train", "training", "trainval", "train_val"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout", "heldout", "eval", "evaluation"), "test"),
    **dict.fromkeys(("unlabelled", "unlabeled"), "unlabelled"),
}
_CODE = r"9{2,}(\.9*)?|1e\+\d\d|32768|2147483648|9\.223372037e\+18"  # as numbers are written where there is none
_NO_NUMBER = r"[+-]?(0\d.*|\d{16,})"  # codes such as 007, and whole numbers too long for a float
_QUOTED = re.compile(r"b?(['\"])(.*)\1")
_BINARY = set("0 1 0.0 1.0 true false".split())
_LABEL_WORD = re.compile(r"((?<![A-Za-z])(?i:label|class)|(?<=[a-z])(Label|Class))(?i:e?s)?(?![a-z])")
# Cells of a row of units or types below the names of columns.
_UNITS = (
    r"|-+|none|unitless|deg(ree)?s?|h|hr|hours?|hourangle|hms|dms|rad(ian)?s?|arcsec|arcmin|mas|pix(el)?s?|px|mag|ab|vega|"
    r"[munk]?jy|nmgy|[km]pc|km/s|str(ing)?|char|text|int\d*|float\d*|double|bool(ean)?"
)
IS_UNIT = re.compile(rf"[\[(]?({_UNITS})[\])]?", re.IGNORECASE)
# Columns of positions that may be of another frame, or lack the other half.
MAYBE_POSITION = re.compile(
    r"(ra|dec|(e|ecl|ecliptic|g|gal|galactic|sg|sgal)?[._ ]?l(on|at)(g|gitude|itude)?([._ ]?deg)?)", re.IGNORECASE
)
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

    UserError if there is no column `wanted`.
    """
    if not wanted:
        return next(iter(usual_columns(columns, role)), "")
    alike = [column for column in columns if plain_name(column) == plain_name(wanted)]
    if not alike:
        raise UserError(f"there is no column {wanted!r}; the columns are {', '.join(columns)[:200] or 'none'}")
    return wanted if wanted in alike else alike[0]


def is_id(column: str) -> bool:
    """Return whether a column has a usual name of object ids."""
    return plain_name(column) in _IDS


# ------------------------------------------------------------------------------------------------- cells


def to_text(value: Any) -> str:
    """Return a cell as text, "" where it is missing; whole numbers have no point, 'a' and b'a' no quotes."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = text.encode("utf-8", "backslashreplace").decode().replace("\0", "").strip()
    return quoted[2] if (quoted := _QUOTED.fullmatch(text)) else text


def as_text(values: pd.Series) -> pd.Series:
    """Return a column of Python strings, "" where a cell is missing."""
    return values.astype(object).map(to_text).astype(object)


def exact_types(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a type for each column of objects, nullable unless of floats.

    Whole numbers keep all digits, also beside missing cells; those longer than 64 bits stay Python's.
    """
    columns = {}
    for name, values in table.items():
        if values.dtype != object or pd.api.types.infer_dtype(values) != "integer":
            columns[name] = values.convert_dtypes(convert_floating=False)
        else:  # pandas would make floats of them
            is_long = values.dropna().map(lambda value: abs(value) >= 2**63).any()
            columns[name] = values if is_long else values.astype("Int64")
    return pd.DataFrame(columns, table.index)


def is_unknown(text: str) -> bool:
    """Return whether a text means that there is no value: "", --, N/A, <NA>, #NULL!, unknown, not labelled."""
    return text == "\\N" or ("+" not in text and re.sub(r"[\W_]", "", text.lower()) in UNKNOWN)


def sentinels(values: np.ndarray) -> np.ndarray:
    """Return [N] bool: numbers that stand for "unknown", such as -99, -999.0, 99, 1e20 and the least integers.

    They occur twice or more; negative ones are less than all other values, positive ones far larger.
    """
    numbers, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    is_code = np.array([bool(re.fullmatch(_CODE, f"{abs(number):.10g}")) for number in numbers], bool)
    rest = numbers[~is_code]
    if not rest.size or not is_code.any():
        return np.zeros(len(values), bool)
    is_far = np.where(numbers < 0, numbers < rest.min(), numbers > 3 * np.abs(rest).max())
    return np.isin(values, numbers[is_code & is_far & (counts > 1)])


def clean_property(values: pd.Series) -> tuple[pd.Series, dict[str, int]]:
    """Return a column as numbers if all its cells are numbers, else as text, and how often -99 and the like occur.

    Codes (007), and whole numbers too long for a float, stay text.
    """
    if pd.api.types.is_bool_dtype(values):
        return values, {}
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_complex_dtype(values):
        text = as_text(values)
        filled = text[~text.map(is_unknown)]
        numbers = pd.to_numeric(filled.str.replace(r"^([+-]?\d*),(\d+)$", r"\1.\2", regex=True), errors="coerce")
        if not len(filled) or not np.isfinite(numbers).all() or filled.str.fullmatch(_NO_NUMBER).any():
            return text.where(text != "", None), {}
        values = numbers.reindex(values.index)
    is_code = sentinels(values.to_numpy(np.float64, na_value=np.nan))
    if not is_code.any():
        return values, {}
    return values.astype(np.float64).where(~is_code), as_text(values[is_code]).value_counts().to_dict()


# ------------------------------------------------------------------------------------------------- labels


def find_labels(table: pd.DataFrame, wanted: str = "") -> tuple[pd.Series | None, str, dict[str, int], list[str]]:
    """Return class names (None where unknown), their column, spellings of unknown, other columns that may hold labels.

    Without a column `wanted` one with a usual name is taken, else one whose name holds `label` or `class`, else several
    of 0 and 1 that are a class each.
    """
    others: list[str] = []
    if not wanted:
        usual = usual_columns(list(table), "label")
        few = [name for name in table if name and as_text(table[name].head(1000)).nunique() <= MAX_CLASSES + 1]
        texts = {name: as_text(table[name]) for name in dict.fromkeys(usual + few)}
        distinct = {name: {text for text in set(column) if not is_unknown(text)} for name, column in texts.items()}
        names = [name for name in usual if _may_be_classes(distinct[name], plain_name(name) in ("label", "class"))]
        few = [name for name in few if len(distinct[name]) > 1 and _may_be_classes(distinct[name])]
        if not names or "lens" in plain_name(names[0]):
            labels, columns = _one_hot([name for name in few if {t.lower() for t in distinct[name]} <= _BINARY], texts)
            if columns:
                return labels, columns, {}, []
        names += [name for name in few if _LABEL_WORD.search(name) and name not in names]
        if not names:
            return None, "", {}, [*dict.fromkeys(usual + [name for name in few if len(distinct[name]) <= 10])][:5]
        wanted, *others = names
    labels, spellings = clean_labels(table[wanted])
    return labels, wanted, spellings, others


def _may_be_classes(distinct: set[str], is_sure: bool = False) -> bool:
    """Return whether distinct texts may be classes: not too many, and no broken numbers."""
    numbers = pd.to_numeric(pd.Series(sorted(distinct), dtype=object), errors="coerce")
    is_whole = numbers.isna().any() or (numbers == numbers.round()).all()
    return bool(distinct) and is_whole and (is_sure or len(distinct) <= MAX_CLASSES)


def _one_hot(binary: Sequence[str], texts: dict[str, pd.Series]) -> tuple[pd.Series | None, str]:
    """Return the classes of columns of 0 and 1 of which nearly each row has one, and their names; "" without such.

    The names begin alike (is_lens, is_star; class_0, class_1), or speak of lenses (lens, nonlens: rows may have none).
    """
    words = {n: re.split(r"[\W_]", n.lower()) for n in binary if not re.search(r"(?i)(class|label)(es|s)?$", n)}
    words = {name: parts for name, parts in words.items() if not set(parts) & set(ROLES)}
    prefixes = {name: parts[0] if parts[1:] else "" for name, parts in words.items()}
    for prefix in (*dict.fromkeys(prefixes.values()), None):
        names = [name for name in words if prefix in (prefixes[name], None)]
        about_lenses = ["lens" in name.lower() for name in names]
        values = np.stack([texts[name].str.lower().isin(["1", "1.0", "true"]) for name in names] or [[]], axis=1)
        share = 0.1 if all(about_lenses) else 0.9  # of rows with a class
        is_named = len(names) > 1 and (prefix in ("is", "class", "label", "type") or any(about_lenses))
        if is_named and values.any(0).all() and values.any(1).mean() > share > values.sum(1).max() - 1:
            start = len(prefix) + 1 if prefix else 0
            classes = np.array([name[start:] for name in names], dtype=object)
            labels = np.where(values.any(1), classes[values.argmax(1)], None)
            return pd.Series(labels, texts[names[0]].index, dtype=object), ", ".join(names)
    return None, ""


def clean_labels(values: pd.Series) -> tuple[pd.Series, dict[str, int]]:
    """Return class names, None where unknown, and how often each spelling of unknown occurs.

    Negative numbers beside two other classes are unknown and, where all labels are numbers, codes such as 99 or 1e20
    far above the others; 0.0 and 1.0 are the classes 0 and 1.
    """
    text = as_text(values)
    unknown = text.map(is_unknown).astype(bool)
    numbers = pd.to_numeric(text.where(~unknown), errors="coerce")
    are_numbers = numbers[~unknown].notna().all()
    if (numbers[numbers >= 0] if are_numbers else text[~unknown & numbers.isna()]).nunique() > 1:
        unknown |= numbers < 0
    if are_numbers:
        unknown |= sentinels(np.tile(numbers.to_numpy(float), 2))[: len(numbers)]
        whole = (numbers == numbers.round()) & text.str.contains(r"[.eE]") & ~unknown
        text = text.where(~whole, numbers.where(whole, 0).astype(np.int64).astype(str))
    spellings = text[unknown & (text != "")].value_counts().to_dict()
    return text.where(~unknown, None), spellings


def merge_spellings(labels: pd.Series, positive: str = "") -> tuple[pd.Series, list[str]]:
    """Join classes that differ in case, or in blanks and signs between letters: Non-lens, nonlens.

    The class has the spelling of `positive`, else the most frequent. Returns the labels, and what was joined.
    """
    counts = labels.value_counts()
    groups: dict[str, list[str]] = {}
    for name in sorted(counts.index, key=lambda name: (name != positive, -counts[name], name)):
        groups.setdefault(re.sub(r"(?<=[^\W\d_])[\s_-]+(?=[^\W\d_])", "", name.lower()), []).append(name)
    joined = [names for names in groups.values() if len(names) > 1]
    labels = labels.replace({name: names[0] for names in joined for name in names[1:]})
    return labels, [", ".join(f"{name} {counts[name]}" for name in names) for names in joined]


# ------------------------------------------------------------------------------------------------- positions


def find_position_columns(columns: Sequence[str], ra: str = "", dec: str = "") -> tuple[str, ...]:
    """Return the columns of positions: those the user names, else a pair named alike, seven parts or one for both.

    `ra` and `dec`, RAJ2000 and DEJ2000, coord_ra and coord_dec, ALPHA_J2000 and DELTA_J2000; RAh … DEs; `radec`, …
    UserError if a column the user names does not exist, or one of the two is not named.
    """
    if ra or dec:
        if not (ra and dec):
            raise UserError("name both columns of the position: --ra_column and --dec_column")
        return find_column(columns, "id", ra), find_column(columns, "id", dec)
    names = {re.sub(r"[. ]", "", column.lower()): column for column in reversed(columns)}
    if set(_PARTS) <= set(names):
        return tuple(names[part] for part in _PARTS)
    names = {re.sub(r"[. ]", "", _UNIT.sub("", column.lower()) or column.lower()): column for column in names.values()}
    pairs = [
        (names[name], names[other])
        for name in reversed(names)
        for first, second in [*_PAIRS, ("ra", "decl")]
        if first in name and not _NO_POSITION.search(name) and (other := name.replace(first, second, 1)) in names
    ]
    plain = {plain_name(name): column for name, column in names.items()}
    pairs = pairs or [(plain[a], plain[b]) for a, b in _GALACTIC.items() if a in plain and b in plain]
    both = [(column,) for column in columns if plain_name(column) in _BOTH]
    return min(pairs, key=lambda pair: len(pair[0]), default=next(iter(both), ()))


def parse_positions(table: pd.DataFrame, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return right ascension and declination in degrees, NaN where unknown, and how many filled cells are unknown.

    Decimal degrees (with point or comma, from -180 or 0), sexagesimal text, hours and radians by unit, galactic
    coordinates and those of B1950 by name. (0, 0), -99 and what is no angle are unknown; without `names` all are.
    """
    if not names:
        return np.full(len(table), np.nan), np.full(len(table), np.nan), 0
    texts = [as_text(table[name]).str.lower().str.replace("−", "-") for name in names]
    given, named = table.attrs.get("units", {}), [_UNIT.search(name.lower()) for name in names]  # ra_hours, RA [rad]
    units = [given.get(name) or (match[1] if match else "") for name, match in zip(names, named, strict=True)]
    if len(names) == len(_PARTS):
        h, m, s, sign, *rest = texts
        texts, units = [h + ":" + m + ":" + s, sign + rest[0] + ":" + rest[1] + ":" + rest[2]], ["", ""]
    elif len(names) == 1:  # "10:00:42 +02:12:21", "(150.1, 2.2)"
        words = texts[0].str.strip("()[] ").str.replace(r"[,;]", " ", regex=True).str.split()
        texts = [words.map(lambda w: " ".join(w[: len(w) // 2])), words.map(lambda w: " ".join(w[len(w) // 2 :]))]
        units *= 2
    a, d = _parse_angles(texts[0], units[0], "hourangle"), _parse_angles(texts[1], units[1], "deg")
    is_known = (a >= -180) & (a <= 360) & (np.abs(d) <= 90) & ~((a == d) & np.isin(a, (0, -1)))
    for text in texts:
        is_known &= ~text.str.fullmatch(r"-9{2,}(\.[09]*)?").to_numpy(bool)
    filled = ~np.all([text.map(is_unknown).to_numpy(bool) for text in texts], axis=0)
    a, d = np.where(is_known, a % 360, np.nan), np.where(is_known, d, np.nan)
    if (frame := frame_of(names[0])) != "icrs" and is_known.any():
        sky = SkyCoord(a[is_known], d[is_known], unit="deg", frame=frame).icrs
        a[is_known], d[is_known] = sky.ra.deg, sky.dec.deg
    return a, d, int((filled & ~is_known).sum())


def positions_of(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return right ascension and declination in degrees, NaN where unknown, also where no column is of positions."""
    return parse_positions(table, find_position_columns(list(table)))[:2]


def frame_of(name: str) -> str:
    """Return the frame of a column of longitudes by its name: galactic, fk4 (B1950) or icrs."""
    is_galactic = "glon" in name.lower() or plain_name(_UNIT.sub("", name.lower())) in _GALACTIC
    return "galactic" if is_galactic else "fk4" if "1950" in name else "icrs"


def _parse_angles(text: pd.Series, unit: str, sexagesimal: str) -> np.ndarray:
    text = text.str.replace(r"(\d),(\d)", r"\1.\2", regex=True)
    degrees = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
    degrees *= 180 / np.pi if unit.lower().startswith("rad") else 15 if unit.lower().startswith("h") else 1
    for row in np.flatnonzero(np.isnan(degrees) & ~text.map(is_unknown).to_numpy(bool)):
        with suppress(Exception):  # astropy raises many kinds here, all meaning "not an angle"
            degrees[row] = Angle(text.iloc[row], "deg" if "d" in text.iloc[row] else sexagesimal).deg
    return degrees
