"""Catalogues in every format and dialect; columns by usual names; unknown values; positions; names of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table

from zwicky.data import columns as catalog
from zwicky.data.catalog import FileFinder, match_rows, read_catalog
from zwicky.data.columns import clean_labels, clean_property, find_position_columns, parse_positions
from zwicky.errors import UserError

FILES = [f"img{n:03d}.npy" for n in range(6)]
LABELS = ["non", "lens"] * 3
PAIRS = list(zip(FILES, LABELS, strict=True))
TABLE = Table({"file": FILES, "label": LABELS})
ROWS = "".join(f"{file},{label}\n" for file, label in PAIRS)
TEXT = "file,label\n" + ROWS


def pair(path: Path) -> tuple[list[str], list[str]]:
    table = read_catalog(path)
    return list(table[catalog.find_column(list(table), "file")]), list(table[catalog.likely_labels(table)[0]])


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ", "   ", " | ", ", "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_separators_and_encodings(tmp_path, separator, encoding):
    (tmp_path / "c.csv").write_bytes(TEXT.replace(",", separator).encode(encoding))
    assert pair(tmp_path / "c.csv") == (FILES, LABELS)


DIALECTS = [
    "# made by hand\n# 2026, by me\n" + TEXT,
    "# file,label\n" + ROWS,  # the header is a comment
    "# file label\n" + ROWS.replace(",", " "),
    ROWS,  # no header
    "".join(f"{file},150.1,{label}\n" for file, label in PAIRS),
    TEXT.replace(",", "    "),
    "\n\n" + TEXT.replace("\n", "\r\n"),
    "| file | label |\n|---|---|\n" + "".join(f"| {file} | {label} |\n" for file, label in PAIRS),
    '"file","label"\n' + "".join(f'"{file}","{label}"\n' for file, label in PAIRS),
]


@pytest.mark.parametrize("content", DIALECTS)
def test_dialects(tmp_path, content):
    (tmp_path / "c.txt").write_text(content)
    assert pair(tmp_path / "c.txt") == (FILES, LABELS)


def test_latin1_and_quoted_commas(tmp_path):
    (tmp_path / "c.csv").write_bytes('file;label;note\na.npy;nön;"x;y"\nb.npy;lens;\n'.encode("latin-1"))
    assert read_catalog(tmp_path / "c.csv").to_numpy().tolist() == [["a.npy", "nön", "x;y"], ["b.npy", "lens", ""]]


ASTROPY = "c.ecsv=ascii.ecsv c.vot=votable c.xml=votable c.fits=fits c.tbl=ascii.ipac c.mrt=ascii.mrt"
ASTROPY += " c.txt=ascii.fixed_width c.dat=ascii.commented_header c.csv=csv"
PANDAS = "c.parquet=parquet c.feather=feather c.json=json c.csv.gz=csv c.tsv=csv"


@pytest.mark.parametrize("case", [*ASTROPY.split(), *PANDAS.split()])
def test_formats(tmp_path, case):
    name, form = case.split("=")
    if case in ASTROPY.split():
        TABLE.write(tmp_path / name, format=form)
    else:
        options = {"index": False, "sep": "\t" if "tsv" in name else ","} if form == "csv" else {}
        getattr(TABLE.to_pandas(), f"to_{form}")(tmp_path / name, **options)
    assert pair(tmp_path / name) == (FILES, LABELS)


UNUSABLE = {"": "no rows", "file,label\n": "no rows", "file,file\na.png,b.png\n": "two columns"}
UNUSABLE |= {"file,label\na.png,lens,sw\n": "more cells than columns in its row 1", None: "cannot read the catalogue"}


@pytest.mark.parametrize(("content", "message"), UNUSABLE.items())
def test_unusable_catalogues(tmp_path, content, message):
    if content is not None:
        (tmp_path / "c.csv").write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        read_catalog(tmp_path / "c.csv")
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------------------------------------------- columns

USUAL = """a,Label,class|label|Label   is_lens,z|label|is_lens   x,Grade|label|Grade   target,y|label|target
CLASSIFICATION|label|CLASSIFICATION   file_loc,id|file|file_loc   File_Name,id|file|File_Name
image_path|file|image_path   OBJID,z|id|OBJID   redshift,split|split|split   a,b|label|"""


@pytest.mark.parametrize("case", USUAL.split())
def test_usual_names(case):
    header, role, column = case.split("|")
    assert catalog.find_column(header.replace("_N", " N").split(","), role) == column.replace("_N", " N")


def test_a_named_column_must_exist():
    assert catalog.find_column(["a", "My Label"], "label", "my_label") == "My Label"
    with pytest.raises(UserError, match="no column 'kind'; the columns are a, label"):
        catalog.find_column(["a", "label"], "label", "kind")


POSITIONS = "ra|dec RA|DEC RAJ2000|DEJ2000 ra_deg|dec_deg raMean|decMean coord_ra|coord_dec ALPHA_J2000|DELTA_J2000"
POSITIONS += " right_ascension|declination RA_ICRS|DE_ICRS TARGET_RA|TARGET_DEC X_WORLD|Y_WORLD _RAJ2000|_DEJ2000"


@pytest.mark.parametrize("columns", POSITIONS.split())
def test_columns_of_positions(columns):
    pair = tuple(columns.split("|"))
    assert find_position_columns(["grade", "e_RAJ2000", "e_DEJ2000", "pmRA", "pmDE", *reversed(pair)]) == pair


def test_columns_that_are_no_positions():
    assert find_position_columns(["grade", "gdece", "ra", "decl"]) in (None, ("grade", "gdece"))
    assert find_position_columns(["ra", "z"]) is None
    assert find_position_columns(["lon", "lat"], "lon", "LAT") == ("lon", "lat")
    with pytest.raises(UserError, match="both columns"):
        find_position_columns(["lon", "lat"], "lon")


# ---------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("unknown", ["", None, *"nan NaN null None NA n/a -- - ? <NA> unknown".split()])
@pytest.mark.parametrize("pair", [("0", "1"), ("lens", "non"), (0.0, 1.0)])
def test_unknown_labels(unknown, pair):
    labels, spellings = clean_labels(pd.Series([pair[0], unknown, pair[1]], dtype=object))
    assert list(labels) == [catalog.to_text(pair[0]), None, catalog.to_text(pair[1])]
    assert spellings == ({unknown: 1} if unknown else {})


CODES = [
    ([0, 1, -1], ["0", "1", None]),
    (["0", "1", "-99"], ["0", "1", None]),
    ([0.0, np.nan, 1.0], ["0", None, "1"]),
    (["0.0", "1.0", ""], ["0", "1", None]),
    ([-1, 1, 1], ["-1", "1", "1"]),  # the two classes of a support vector machine
    (["007", "008"], ["007", "008"]),
    ([True, False], ["True", "False"]),
    (["A", "-1"], ["A", "-1"]),
    (np.ma.array(["a", "b"], mask=[0, 1]).filled(""), ["a", None]),
]


@pytest.mark.parametrize(("values", "labels"), CODES)
def test_codes_of_labels(values, labels):
    assert clean_labels(pd.Series(pd.Categorical(["x", "y"])))[1] == {}
    assert list(clean_labels(pd.Series(list(values), dtype=object))[0]) == labels


ANGLES = [(150.177, 2.2058), ("150.177", "+2.2058"), ("150,177", "2,2058"), ("10:00:42.48", "+02:12:20.88")]
ANGLES += [("10 00 42.48", "+02 12 20.88"), ("10h00m42.48s", "2d12m20.88s"), ("150d10m37.2s", "2d12m20.88s")]


@pytest.mark.parametrize(("ra", "dec"), ANGLES)
def test_positions(ra, dec):
    a, d, unknown = parse_positions(pd.Series([ra]), pd.Series([dec]))
    assert (a[0], d[0], unknown) == (pytest.approx(150.177, abs=1e-6), pytest.approx(2.2058, abs=1e-6), 0)


def test_positions_by_unit():
    assert parse_positions(pd.Series([-100]), pd.Series([0]))[0] == [260]
    sky = SkyCoord(150.177, -2.2, unit="deg")
    for unit, ra in (("rad", sky.ra.rad), ("hourangle", sky.ra.hour)):
        a, _, _ = parse_positions(pd.Series([ra]), pd.Series([sky.dec.rad]), (unit, "rad"))
        assert a[0] == pytest.approx(150.177)
    table = pd.DataFrame({"ra_hours": [1.0], "RA [rad]": [1.0], "ra": [1.0]})
    table.attrs["units"] = {"ra": "deg"}
    assert [catalog.unit_of(table, name) for name in table] == ["hours", "rad", "deg"]


INVALID = [(0, 0), (0.0, "0.0"), (-99, -99), (-999.0, -999.0), (-1, -1), (10, 95), ("east", "north"), (400, 1)]
EMPTY = [("", ""), (np.nan, np.nan), (None, "--"), ("null", "")]


@pytest.mark.parametrize(("ra", "dec"), INVALID + EMPTY)
def test_unknown_positions(ra, dec):
    a, d, unknown = parse_positions(pd.Series([ra, 0], dtype=object), pd.Series([dec, 5], dtype=object))
    np.testing.assert_array_equal([a, d], [[np.nan, 0], [np.nan, 5]])
    assert unknown == ((ra, dec) in INVALID)


PROPERTIES = [
    (["1", "2.5", ""], [1, 2.5, np.nan]),
    (["1,5", "2"], [1.5, 2]),
    (["007", "008"], ["007", "008"]),
    (["a", "", "1"], ["a", None, "1"]),
    (["1234567890123456789", "1"], ["1234567890123456789", "1"]),
    (["0.5", "-99", "-99", "0.7"], [0.5, np.nan, np.nan, 0.7]),
    ([0.5, -999.0, -999.0, 0.7], [0.5, np.nan, np.nan, 0.7]),
    ([-99.0, -120.0, -99.0], [-99, -120, -99]),
    ([1, 2, 3], [1, 2, 3]),
]


@pytest.mark.parametrize(("cells", "values"), PROPERTIES)
def test_properties(cells, values):
    result = clean_property(pd.Series(cells))[0]
    np.testing.assert_array_equal(result if isinstance(values[0], str) else result.to_numpy(np.float64), values)


# ---------------------------------------------------------------------------------------------------- files

NAMES = r"""a/img1.npy=a/img1.npy ./a/img1.npy=a/img1.npy a\img1.npy=a/img1.npy C:\data\a\img1.npy=a/img1.npy
/data/someone/A/IMG1.PNG=a/img1.npy https://example.org/x/img2.fits.gz=b/img2.npy img2=b/img2.npy
elsewhere/img2.npy=b/img2.npy img1=a/img1.npy+b/img1.npy img3= ="""


@pytest.mark.parametrize("case", NAMES.split())
def test_names_as_other_machines_write_them(case):
    cell, files = case.split("=")
    assert FileFinder(["a/img1.npy", "b/img1.npy", "b/img2.npy"])(cell) == set(filter(None, files.split("+")))


def test_bare_numbers_and_a_catalogue_within_a_folder():
    assert FileFinder(["img007.npy", "img010.npy"])("7", numbers=True) == {"img007.npy"}
    assert FileFinder(["COSMOS_7_F814W.fits", "COSMOS_8_F814W.fits"])("7", numbers=True) == {"COSMOS_7_F814W.fits"}
    assert FileFinder(["img007.npy"])("7") == set()
    assert FileFinder(["train/0.npy", "test/0.npy"], folder="test")("0.npy") == {"test/0.npy"}


def test_the_column_that_finds_most_files_is_taken():
    table = pd.DataFrame({"id": ["9", "8"], "label": ["x", "y"], "where": ["a.npy", "b.npy"]})
    assert match_rows(table, ["b.npy", "a.npy", "c.npy"]) == ({"a.npy": 0, "b.npy": 1}, {}, "where")
    table = pd.DataFrame({"file": ["a.npy", "a.npy", "d.npy", "e"]})
    rows, orphans, _ = match_rows(table, ["a.npy", "x/e.npy", "y/e.npy"])
    assert rows == {"a.npy": 0}
    assert orphans == {
        1: "the catalogue names this file twice; its first row was taken",
        2: "in the catalogue, but no such file",
        3: "in the catalogue, but fits 2 files",
    }
    for table in (pd.DataFrame({"a": [1]}), pd.DataFrame({"file": ["other.png"]})):
        with pytest.raises(UserError, match="--file_column"):
            match_rows(table, ["a.npy"])
