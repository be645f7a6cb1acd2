"""Catalogues in every format and dialect; columns by usual names; unknown values; positions; names of files."""

import json
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
import pytest
import yaml
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table

from zwicky.data import columns as catalog
from zwicky.data.catalog import read_catalog
from zwicky.data.columns import (
    as_text,
    clean_labels,
    clean_property,
    exact_types,
    find_position_columns,
    is_unknown,
    merge_spellings,
    parse_positions,
)
from zwicky.data.matching import FileFinder, match_rows
from zwicky.errors import UserError

from .conftest import write

FILES = [f"img{n:03d}.npy" for n in range(6)]
LABELS = ["non", "lens"] * 3
PAIRS = list(zip(FILES, LABELS, strict=True))
TABLE = Table({"file": FILES, "label": LABELS})
ROWS = "".join(f"{file},{label}\n" for file, label in PAIRS)
TEXT = "file,label\n" + ROWS


def pair(path: Path) -> tuple[list[str], list[str]]:
    table = read_catalog(path)
    return list(table[catalog.find_column(list(table), "file")]), catalog.find_labels(table)[0].tolist()


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "   ", " | ", ", "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_separators_and_encodings(tmp_path, separator, encoding):
    assert pair(write(tmp_path / "c.csv", TEXT.replace(",", separator).encode(encoding))) == (FILES, LABELS)


DIALECTS = [
    "# made by hand\n# 2026, by me\n" + TEXT,
    "# file,label\n" + ROWS,  # the header is a comment
    "# file label\n" + ROWS.replace(",", " "),
    ROWS,  # no header
    "".join(f"{file},150.1,{label}\n" for file, label in PAIRS),
    TEXT.replace(",", "    "),
    "\n\n" + TEXT.replace("\n", "\r\n"),
    TEXT.replace("\n", "\r"),
    "Catalogue of lenses\n" + TEXT,
    "| file | label |\n|---|---|\n" + "".join(f"| {file} | {label} |\n" for file, label in PAIRS),
    '"file","label"\n' + "".join(f'"{file}","{label}"\n' for file, label in PAIRS),
    "'file','label'\n" + "".join(f"b'{file}',b'{label}'\n" for file, label in PAIRS),
]


@pytest.mark.parametrize("content", DIALECTS)
def test_dialects(tmp_path, content):
    assert pair(write(tmp_path / "c.txt", content)) == (FILES, LABELS)


ENCODINGS = ["cp1251 линза", "gbk 透镜", "shift_jis レンズ", "cp1252 étoile", "utf-16 линза", "latin-1 nön"]


@pytest.mark.parametrize("case", ENCODINGS)
def test_encodings_by_option_and_quoted_commas(tmp_path, case):
    encoding, name = case.split()
    write(tmp_path / "c.csv", f'file;label;note\na.npy;{name};"x;y"\n'.encode(encoding))
    table = read_catalog(tmp_path / "c.csv", "" if encoding == "latin-1" else encoding)
    assert table.to_numpy().tolist() == [["a.npy", name, "x;y"]]
    assert table.attrs["encoding"] == ("cp1252" if encoding == "latin-1" else "")  # a guess


def test_rows_that_begin_with_a_sign_of_comments_are_not_lost_silently(tmp_path):
    write(tmp_path / "c.csv", b'# made by hand, today\nfile,label\na.npy,lens\n#b.npy,non\n"#c.npy",non\n# done\n')
    with pytest.warns(UserWarning, match=r"read as comments \(1\)"):
        assert pair(tmp_path / "c.csv") == (["a.npy", "#c.npy"], ["lens", "non"])


def test_a_list_without_a_header(tmp_path):
    bare = [file.removesuffix(".npy") for file in FILES]
    assert pair(write(tmp_path / "c.csv", ROWS.replace(".npy", ""))) == (bare, LABELS)
    table = read_catalog(write(tmp_path / "labels.txt", "1\n0\n1\n"))
    assert table.to_dict("list") == {"labels": ["1", "0", "1"]}


ASTROPY = "c.ecsv=ascii.ecsv c.vot=votable c.xml=votable c.fits=fits c.tbl=ascii.ipac c.mrt=ascii.mrt"
ASTROPY += " c.txt=ascii.fixed_width c.dat=ascii.commented_header c.csv=csv c.tex=ascii.latex"
ASTROPY += " c.rst=ascii.rst c.rdb=ascii.rdb"
PANDAS = "c.parquet=parquet c.feather=feather c.json=json c.csv.gz=csv c.tsv=csv c.csv.bz2=csv c.csv.xz=csv "
PANDAS += "c.csv.zip=csv c.dta=stata c.html=html c.xml=xml c.yaml=yaml"


@pytest.mark.parametrize("case", [*ASTROPY.split(), *PANDAS.split()])
def test_formats(tmp_path, case):
    name, form = case.split("=")
    if form == "html":
        rows = "".join(f"<tr><td>{file}</td><td><b>{label}</b></td></tr>" for file, label in PAIRS)
        write(tmp_path / name, f"<TABLE><tr><th>file</th><th>label</th></tr>{rows}</TABLE>")
    elif form == "yaml":
        write(tmp_path / name, yaml.safe_dump(PAIRED))
    elif form == "xml":
        rows = "".join(f"<row file='{file}'><label>{label}</label></row>" for file, label in PAIRS)
        write(tmp_path / name, f"<?xml version='1.0'?><data>{rows}</data>")
    elif case in ASTROPY.split():
        TABLE.write(tmp_path / name, format=form)
    else:
        options = {"index": False, "sep": "\t" if "tsv" in name else ","} if form == "csv" else {}
        options |= {"write_index": False} if form == "stata" else {}
        getattr(TABLE.to_pandas(), f"to_{form}")(tmp_path / name, **options)
    assert pair(tmp_path / name) == (FILES, LABELS)


PAIRED = dict(PAIRS)
RECORDS = [{"file": file, "label": label} for file, label in PAIRS]
BY_LABEL = {name: [file for file, label in PAIRS if label == name] for name in ("lens", "non")}
JSON = [RECORDS, {"images": RECORDS}, {"file": FILES, "label": LABELS}, PAIRED, BY_LABEL]
JSON += [{file: {"label": label} for file, label in PAIRS}, {"columns": ["file", "label"], "data": PAIRS}]


@pytest.mark.parametrize("data", JSON)
def test_json(tmp_path, data):
    files, labels = pair(write(tmp_path / "c.json", json.dumps(data)))
    assert dict(zip(files, labels, strict=True)) == PAIRED


LONG = [1234567890123456789, None, 7]


@pytest.mark.parametrize("name", ["c.json", "c.yaml", "c.parquet", "c.feather", "c.orc", "c.vot"])
def test_long_ids_beside_missing_ones_keep_every_digit(tmp_path, name):
    path, table = tmp_path / name, pd.DataFrame({"id": pd.array(LONG, "Int64"), "z": [0.5, np.nan, 1.0]})
    if name.endswith((".json", ".yaml")):
        write(path, json.dumps([{"id": number, "z": 0.5} for number in LONG]))
    elif name == "c.vot":
        Table({"id": np.ma.array([n or 0 for n in LONG], mask=[n is None for n in LONG])}).write(path, format="votable")
    else:
        getattr(table, f"to_{path.suffix[1:]}")(path)
    table = read_catalog(path)
    for ids in (table["id"], exact_types(table)["id"]):
        assert [None if is_unknown(text) else text for text in as_text(ids)] == [str(LONG[0]), None, "7"]


def test_types_of_columns():
    cells = {"a": [LONG[0], None], "b": [1.5, None], "c": [True, None], "d": [2**63 + 11, None], "e": ["x", None]}
    table = exact_types(pd.DataFrame(cells, dtype=object))
    assert list(table.dtypes.map(str)) == ["Int64", "float64", "boolean", "object", "string"]
    assert (table["a"][0], table["d"][0]) == (LONG[0], 2**63 + 11)


def test_cells_that_hold_lists_are_text(tmp_path):
    lists = pd.Series([np.array(["g", "r"], object), None, []], dtype=object)
    pd.DataFrame({"file": ["a.npy", "b.npy", "c.npy"], "bands": lists}).to_parquet(tmp_path / "c.parquet")
    assert as_text(read_catalog(tmp_path / "c.parquet")["bands"]).tolist() == ["['g' 'r']", "", "[]"]


@pytest.mark.parametrize("row", ["-,[h],deg,mag", ",h,deg,AB", "str,hours,degrees,float", "none,hms,(deg),"])
def test_units_in_a_row_of_their_own(tmp_path, row):
    table = read_catalog(write(tmp_path / "c.csv", f"file,ra,dec,mag\n{row}\na.npy,10.5,2,20\nb.npy,10.6,2,21\n"))
    assert table["file"].tolist() == ["a.npy", "b.npy"]
    assert parse_positions(table, ["ra", "dec"])[0].tolist() == pytest.approx([157.5, 159])


@pytest.mark.parametrize("rows", ["AB\nB\nAB", "none,int\nlens,text", "a.npy,h\nb.npy,x"])
def test_a_row_of_values_is_no_row_of_units(tmp_path, rows):
    text = ("label,grade\n" if "," in rows else "label\n") + rows
    assert len(read_catalog(write(tmp_path / "c.csv", text))) == len(rows.split())


def test_the_table_with_usual_names_of_several_extensions(tmp_path):
    hdus = [fits.PrimaryHDU(), *(fits.BinTableHDU(table) for table in (Table({"x": [1]}), TABLE))]
    fits.HDUList(hdus).writeto(tmp_path / "c.fits")
    assert pair(tmp_path / "c.fits") == (FILES, LABELS)


def test_the_sheet_with_usual_names_of_a_workbook(tmp_path):
    with pd.ExcelWriter(tmp_path / "c.xlsx") as book:
        pd.DataFrame({"note": ["of two people"]}).to_excel(book, sheet_name="README", index=False)
        pd.DataFrame({"file": FILES, "label": LABELS}).to_excel(book, sheet_name="lenses", index=False)
    assert pair(tmp_path / "c.xlsx") == (FILES, LABELS)


def test_units_and_coordinates_of_a_table(tmp_path):
    positions = SkyCoord([1] * 6, [2] * 6, unit="deg")
    Table({"file": FILES, "pos": positions, "q": [0.5] * 6 * u.hourangle}).write(tmp_path / "c.ecsv")
    table = read_catalog(tmp_path / "c.ecsv")
    assert (list(table), table["ra"][0], table.attrs["units"]) == (["file", "q", "ra", "dec"], 1, {"q": "hourangle"})


UNUSABLE = {"": "no rows", "file,label\n": "no rows", "file,file\na.png,b.png\n": "two columns"}
UNUSABLE |= {"file,label\na.png,lens,sw\n": "more cells than columns in its row 1", None: "there is no file"}
UNUSABLE |= {"My lenses,,\n,,\nfile,label,z\na.png,lens,1\n": "remove the lines above its header"}


@pytest.mark.parametrize(("content", "message"), UNUSABLE.items())
def test_unusable_catalogues(tmp_path, content, message):
    path = tmp_path / "none.csv" if content is None else write(tmp_path / "c.csv", content)
    with pytest.raises(UserError, match=message):
        read_catalog(path)


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
POSITIONS += " Right~Ascension~(deg)|Declination~(deg) RADEC coords R.A.|Decl. ra_hours|dec_deg RA[deg]|Dec[deg]"
POSITIONS += " RAh|RAm|RAs|DE-|DEd|DEm|DEs GLON|GLAT l|b gal_l|gal_b"


@pytest.mark.parametrize("columns", POSITIONS.split())
def test_columns_of_positions(columns):
    pair = tuple(columns.replace("~", " ").split("|"))
    assert find_position_columns(["grade", "e_RAJ2000", "e_DEJ2000", "pmRA", "pmDE", *reversed(pair)]) == pair


def test_columns_that_are_no_positions():
    assert find_position_columns(["grade", "gdece", "ra", "decl"]) == ("ra", "decl")
    assert find_position_columns(["RA_1", "DEC_1", "RA_2", "DEC_2"]) == ("RA_1", "DEC_1")
    assert find_position_columns(["ra", "z"]) == ()
    assert find_position_columns(["lon", "lat"], "lon", "LAT") == ("lon", "lat")
    with pytest.raises(UserError, match="both columns"):
        find_position_columns(["lon", "lat"], "lon")


ONE_HOT = """lens,nonlens 01,10,10 nonlens,lens,lens lens, nonlens
lens,nonlens 00,10,01 none,lens,nonlens lens, nonlens
is_lens,is_star,is_spiral 100,010,001 lens,star,spiral is_lens, is_star, is_spiral
class_0,class_1 01,10,10 1,0,0 class_0, class_1
is_lens,is_bad 10,00,01 1,0,0 is_lens
is_lens,is_train 10,01,01 1,0,0 is_lens
label,flag 10,01,01 1,0,0 label
true_label,z 10,01,01 1,0,0 true_label
z,lensClass 10,01,01 0,1,1 lensClass
a,b 10,01,01 None b, a""".splitlines()


@pytest.mark.parametrize("case", ONE_HOT)
@pytest.mark.parametrize("zero_and_one", [("0", "1"), ("0.0", "1.0"), ("False", "True"), (0, 1), (0.0, 1.0)])
def test_columns_of_labels(case, zero_and_one):
    header, cells, expected, columns = case.split(" ", 3)
    rows = [[zero_and_one[int(cell)] for cell in row] for row in cells.split(",")]
    labels, column, _, others = catalog.find_labels(pd.DataFrame(rows, columns=header.split(",")))
    if labels is None:
        assert (expected, set(others)) == ("None", set(columns.split(", ")))
        return
    assert column == columns
    assert [str(label).lower().replace("true", "1").replace("false", "0") for label in labels] == expected.split(",")


# ---------------------------------------------------------------------------------------------------- values


UNKNOWN = r"nan NaN null None NA n/a N.A. #N/A -- - – ? * <NA> (null) #NULL! [] \N nil unknown unk INDEF TBD tbc masked"


@pytest.mark.parametrize("unknown", ["", None, *UNKNOWN.split(), "not labelled", "no data"])
@pytest.mark.parametrize("pair", [("0", "1"), ("lens", "non"), (0.0, 1.0)])
def test_unknown_labels(unknown, pair):
    labels, spellings = clean_labels(pd.Series([pair[0], unknown, pair[1]], dtype=object))
    assert list(labels) == [catalog.to_text(pair[0]), None, catalog.to_text(pair[1])]
    assert spellings == ({unknown: 1} if unknown else {})


CODES = [
    ([0, 1, -1], ["0", "1", None]),
    *((["0", "1", code], ["0", "1", None]) for code in ("-99", "-99.0", "99", "-9999", "1e20", str(-(2**63)))),
    (["1", "33", "99"], ["1", "33", "99"]),
    (["透镜", "非"], ["透镜", "非"]),
    (["+", "-1"], ["+", "-1"]),
    ([0.0, np.nan, 1.0], ["0", None, "1"]),
    (["0.0", "1.0", ""], ["0", "1", None]),
    ([-1, 1, 1], ["-1", "1", "1"]),  # the two classes of a support vector machine
    (["007", "008"], ["007", "008"]),
    ([True, False], ["True", "False"]),
    (["A", "-1"], ["A", "-1"]),
    (["lens", "non", "-99"], ["lens", "non", None]),
    (np.ma.array(["a", "b"], mask=[0, 1]).filled(""), ["a", None]),
]


@pytest.mark.parametrize(("values", "labels"), CODES)
def test_codes_of_labels(values, labels):
    assert clean_labels(pd.Series(pd.Categorical(["x", "y"])))[1] == {}
    assert list(clean_labels(pd.Series(list(values), dtype=object))[0]) == labels


ANGLES = [(150.177, 2.2058), ("150.177", "+2.2058"), ("150,177", "2,2058"), ("10:00:42.48", "+02:12:20.88")]
ANGLES += [("10 00 42.48", "+02 12 20.88"), ("10h00m42.48s", "2d12m20.88s"), ("150d10m37.2s", "2d12m20.88s")]


ROW = {"rah": "10", "ram": "0", "ras": "42.48", "de-": "-", "ded": "2", "dem": "12", "des": "20.88"}
FORMS = [{"coords": text} for text in ("10:00:42.48 -02:12:20.88", "10 00 42.48 -02 12 20.88", "(150.177; −2.2058)")]
FORMS += [{f"ra_{word}": 150.177, f"dec_{word}": -2.2058} for word in ("truth", "match", "epoch")]
FORMS += [{name: 10.0118, "dec": -2.2058} for name in ("ra_hr", "RA hours", "RA.h", "RAhour", "ra-h")]
FORMS += [ROW, {"ra_rad": np.radians(150.177), "dec_rad": np.radians(-2.2058)}, {"RA [h]": "10.0118", "dec": -2.2058}]
GALACTIC = SkyCoord(150.177, -2.2058, unit="deg").galactic
B1950 = SkyCoord(150.177, -2.2058, unit="deg").fk4
FORMS += [
    {f"RA{name}1950": B1950.ra.deg, f"DE{end}1950": B1950.dec.deg} for name, end in (("B", "B"), ("", "C"), ("_", "_"))
]
FORMS += [{"GLON": GALACTIC.l.deg, "GLAT": GALACTIC.b.deg}, {"l": GALACTIC.l.deg, "b": GALACTIC.b.deg}]


@pytest.mark.parametrize(
    ("row", "dec"), [*(({"ra": ra, "dec": dec}, 2.2058) for ra, dec in ANGLES), *((row, -2.2058) for row in FORMS)]
)
def test_positions(row, dec):
    table = pd.DataFrame([row])
    a, d, unknown = parse_positions(table, find_position_columns(list(table)))
    assert (a[0], d[0], unknown) == (pytest.approx(150.177, abs=1e-6), pytest.approx(dec, abs=1e-6), 0)


def test_units_of_positions():
    assert parse_positions(pd.DataFrame({"ra": [-100], "dec": [0]}), ["ra", "dec"])[0] == [260]
    table = pd.DataFrame({"dec": [0.0], "ra_hours": [1.0], "RA [rad]": [1.0], "ra": [1.0], "alpha": [1.0]})
    table.attrs["units"] = {"ra": "deg", "alpha": "hourangle"}
    degrees = [parse_positions(table, [name, "dec"])[0][0] for name in list(table)[1:]]
    assert degrees == pytest.approx([15, 180 / np.pi, 1, 15])


INVALID = [(0, 0), (0.0, "0.0"), (-99, -99), (-999.0, -999.0), (-1, -1), (10, 95), ("east", "north"), (400, 1)]
EMPTY = [("", ""), (np.nan, np.nan), (None, "--"), ("null", "")]


@pytest.mark.parametrize(("ra", "dec"), INVALID + EMPTY)
def test_unknown_positions(ra, dec):
    table = pd.DataFrame({"ra": [ra, 0], "dec": [dec, 5]}, dtype=object)
    a, d, unknown = parse_positions(table, ["ra", "dec"])
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
    ([20.0, 99.0, 25.0, 99.0], [20, np.nan, 25, np.nan]),
    ([1e20, 1e20, 11.2], [np.nan, np.nan, 11.2]),
    ([5, -32768, 7, -32768], [5, np.nan, 7, np.nan]),
    ([97, 99, 98, 99], [97, 99, 98, 99]),
    ([1, 2, 3], [1, 2, 3]),
]


@pytest.mark.parametrize(("cells", "values"), PROPERTIES)
def test_properties(cells, values):
    result = clean_property(pd.Series(cells))[0]
    np.testing.assert_array_equal(result if isinstance(values[0], str) else result.to_numpy(np.float64), values)


# ---------------------------------------------------------------------------------------------------- files

NAMES = r"""a/img1.npy=a/img1.npy ./a/img1.npy=a/img1.npy a\img1.npy=a/img1.npy C:\data\a\img1.npy=a/img1.npy
/data/someone/A/IMG1.PNG=a/img1.npy https://example.org/x/img2.fits.gz=b/img2.npy img2=b/img2.npy
https://x.org/a%2Fimg2.npy?raw=1=b/img2.npy file:///x/img2.npy=b/img2.npy
C:\data\my%20cuts\img2.NPY=b/img2.npy file:///C:/my%20cuts/img2.npy=b/img2.npy \\server\share\img2.npy=b/img2.npy
s3://bucket/x/img2.npy?versionId=3=b/img2.npy elsewhere/img2.npy=b/img2.npy img1=a/img1.npy+b/img1.npy img3= ="""


@pytest.mark.parametrize("case", NAMES.split())
def test_names_as_other_machines_write_them(case):
    cell, _, files = case.rpartition("=")
    assert FileFinder(["a/img1.npy", "b/img1.npy", "b/img2.npy"])(cell) == set(filter(None, files.split("+")))


MEANT = [  # cell, whether numbers count, the first of the files or none
    ("7", True, "img007.npy", "img010.npy"),
    ("7", True, "COSMOS_7_F814W.fits", "COSMOS_8_F814W.fits"),
    ("64.0", True, "o_64_64x64.npy", "o_1_64x64.npy"),
    ("7", False, "", "img007.npy"),
    ("0.npy", False, "test/0.npy", "train/0.npy"),  # for a catalogue in test/
    ("\u00e9toile.npy", False, "e\u0301toile.npy"),  # as disks of macOS have accents
    ("SDSS J100042.5+021221", False, "J100042.5+021221.npy"),
    ("lens 5", False, "", "5.npy", "galaxy.npy"),
    ("a galaxy", False, "", "galaxy.npy"),
]


@pytest.mark.parametrize("case", MEANT)
def test_numbers_folders_and_names_in_other_letters(case):
    cell, numbers, *files = case
    assert FileFinder([*filter(None, files)], folder="test")(cell, numbers) == set(filter(None, files[:1]))


def test_the_column_that_finds_most_files_is_taken():
    table = pd.DataFrame({"id": ["9", "8"], "label": ["x", "y"], "where": ["a.npy", "b.npy"]})
    assert match_rows(table, ["b.npy", "a.npy", "c.npy"]) == ({"a.npy": 0, "b.npy": 1}, [], "where")
    table = pd.DataFrame({"COADD_OBJECT_ID": [7, 8]})
    assert match_rows(table, ["img008.npy", "img007.npy"])[0] == {"img007.npy": 0, "img008.npy": 1}
    table = pd.DataFrame({"dir": ["a", "b"], "name": ["1.npy", "1.npy"]})
    assert match_rows(table, ["a/1.npy", "b/1.npy"]) == ({"a/1.npy": 0, "b/1.npy": 1}, [], "dir/name")
    table = pd.DataFrame({"file": ["a.npy", "a.npy", "d.npy", "e"]})
    rows, orphans, _ = match_rows(table, ["a.npy", "x/e.npy", "y/e.npy"])
    assert rows == {"a.npy": 0}
    assert orphans == [
        ("a.npy", "the catalogue names this file twice; its first row was taken"),
        ("d.npy", "in the catalogue, but no such file"),
        ("e", "in the catalogue, but fits 2 files"),
    ]
    for table in (pd.DataFrame({"a": [1]}), pd.DataFrame({"file": ["other.png"]})):
        with pytest.raises(UserError, match="--file_column"):
            match_rows(table, ["a.npy"])


@pytest.mark.parametrize(
    ("labels", "positive", "expected", "joined"),
    [
        ("lens Lens lens nonlens Non-Lens", "", "lens lens lens Non-Lens Non-Lens", 2),
        ("lens Lens lens x", "Lens", "Lens Lens Lens x", 1),
        ("no_sub no-sub NoSub cdm", "", "NoSub NoSub NoSub cdm", 1),
        ("A A+ B -1 1 1-0 10", "", "A A+ B -1 1 1-0 10", 0),
    ],
)
def test_spellings_of_one_class_are_joined(labels, positive, expected, joined):
    result, sentences = merge_spellings(pd.Series([*labels.split(), None], dtype=object), positive)
    assert [*result[:-1]] == expected.split()
    assert result.iloc[-1] is None
    assert len(sentences) == joined
