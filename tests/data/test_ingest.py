"""From folders to stores: every file is read or listed with a reason, and what was assumed is printed."""

import json
import os
import shutil
import tarfile
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from zwicky.data import image_format
from zwicky.data import ingest as ingest_module
from zwicky.data.cutouts import make_table
from zwicky.data.ingest import ingest
from zwicky.data.labels import Labels, order_classes
from zwicky.data.store import open_store, write_store
from zwicky.errors import UserError

from .conftest import RNG, SIZE, listed, noise, plane, write, write_noise, write_planes

NAN = np.nan
RAMP, STACK = np.arange(6.0), np.stack([plane(n) for n in range(6)])


# ---------------------------------------------------------------------------------------------------- labels


def test_class_folders_are_labels_and_the_assumptions_are_printed(folder, read):
    write_planes(folder, "lenses/a.npy lenses/b.npy nonlenses/a.npy unlabelled/c.npy d.npy")
    write(folder / "README.md", "x")
    cutouts, report, labels, _ = read(pixel_scale=0.2, survey="toy", simulated=True)
    assert (report.read, report.labelled, report.unlabelled) == (5, 3, 2)
    assert list(report.classes.items()) == [("nonlenses", 1), ("lenses", 2)]  # the positive class comes last
    assert labels.values == {"lenses/a.npy": "lenses", "lenses/b.npy": "lenses", "nonlenses/a.npy": "nonlenses"}
    assert (labels.source, bool(labels.time)) == ("class folders", True)
    facts = (cutouts.pixel_scale, set(cutouts.column("survey")), set(cutouts.column("simulated")))
    assert facts == (0.2, {"toy"}, {True})
    assert_array_equal(cutouts.images[cutouts.rows_of(["nonlenses/a.npy"])[0]][0], plane(2))
    parts = "5 of 6 images read|bands: gray|labels: nonlenses 1, lenses 2|positive class: lenses (--positive)"
    for part in f"{parts}|positions: none|--ra_column|splits: none given|1 × not an image".split("|"):
        assert part in report.text()


def test_the_positive_class_by_option(folder, read):
    write_planes(folder, "lens/a.npy random/a.npy")
    for option, positive in (("", "lens"), ("random", "random")):
        _, report, labels, _ = read(positive=option)
        assert list(report.classes)[-1] == labels.classes[-1] == positive
    with pytest.raises(UserError, match="no class 'ring'; the classes are"):
        read(positive="ring")


PAIRS = "random|lens non_lens|lens not_lens|lens no-lens|lens other|lens spiral|lens unlensed|lensed normal|anomaly"
PAIRS += " no_sub|sub non-merger|merger C|A X|C|B|A grade_B|grade_A 0|1"


@pytest.mark.parametrize("pair", PAIRS.split())
def test_the_positive_class_by_name(pair):
    assert order_classes(set(pair.split("|"))) == tuple(pair.split("|"))


# ---------------------------------------------------------------------------------------------------- catalogues

CATALOG = """file,label,origin,object,grade,ra,dec,code
a.npy,lens,sw,x,2.5,10.5,-3.25,007
b.npy,nonlens,,x,,nonsense,1,008
c.npy,,field,y,1,,,009
gone.npy,lens,sw,z,3,1,1,010
a.npy,lens,sw,z,3,1,1,011
"""


def test_catalogue_gives_labels_positions_and_properties(folder, read):
    write_planes(folder, "a.npy b.npy c.npy extra.npy")
    cutouts, report, labels, _ = read(write(folder.parent / "cat.csv", CATALOG))
    assert (report.found, report.read, report.unlabelled) == (6, 4, 2)
    assert report.classes == {"nonlens": 1, "lens": 1}
    assert [file for file, _ in report.set_aside] == ["gone.npy", "a.npy"]
    for part in ("1 images are not in the catalogue", "1 positions in ra, dec"):
        assert part in report.text()
    assert list(cutouts.ids) == ["a.npy", "b.npy", "c.npy", "extra.npy"]
    assert_array_equal(cutouts.numbers(["ra", "grade"]).T, [[10.5, NAN, NAN, NAN], [2.5, NAN, 1, NAN]])
    assert cutouts.column("origin").tolist() == ["sw", None, "field", None]
    assert cutouts.column("code").tolist() == ["007", "008", "009", None]  # a code, no number
    assert "cat.csv" in labels.source


@pytest.mark.parametrize("name", ["c.csv", "c.txt", "c.dat", "c.ecsv", "c.vot", "c.fits", "c.parquet"])
def test_a_catalogue_in_the_folder_is_used(folder, read, name):
    write_planes(folder, 4)
    files, classes = [f"IMG{n:03d}.png" for n in range(4)], ["nön", "lens"] * 2
    table = pd.DataFrame({"file_loc": files, "label": classes, "RAJ2000": [1.0] * 4, "DEJ2000": [2.0] * 4})
    if name.endswith((".csv", ".txt", ".dat")):
        encoding = {"c.csv": "utf-16", "c.txt": "latin-1"}.get(name, "utf-8")
        write(folder / name, ("# by hand\n" + table.to_csv(index=False)).encode(encoding))
    elif name == "c.parquet":
        table.to_parquet(folder / name)
    else:
        table["label"] = classes = ["non", "lens"] * 2
        form = {"c.ecsv": "ascii.ecsv", "c.vot": "votable"}.get(name)
        Table.from_pandas(table).write(folder / name, format=form)
    cutouts, report, *_ = read()
    assert (report.classes, report.set_aside) == (dict.fromkeys(classes[:2], 2), ())
    assert report.catalog.endswith(name)
    assert cutouts.column("ra").tolist() == [1.0] * 4
    assert "RAJ2000, DEJ2000" in report.text()


UNUSED = {
    "file,label\nother.npy,x\n": "no row fits a file",
    "a,b\n1,2\n": "it names no files",
    "file,label\n": "no rows",
}


@pytest.mark.parametrize(("content", "reason"), UNUSED.items())
def test_a_catalogue_that_was_found_and_not_used_is_named(folder, read, content, reason):
    write_planes(folder, 2)
    catalog = write(folder / "c.csv", content)
    assert any(line.startswith("c.csv was not used") and reason in line for line in read().report.warnings)
    with pytest.raises(UserError, match=reason):
        read(catalog)


def test_of_two_catalogues_the_better_is_used_and_the_other_named(folder, read):
    write_planes(folder, 4)
    write(folder / "a.csv", "file,label\nimg000.npy,1\n")
    write(folder / "b.csv", "file,label\nimg000.npy,x\nimg001.npy,y\n")
    write(folder / "c.csv", "file,z\nimg001.npy,3\n")  # other columns: joined
    cutouts, report, *_ = read()
    assert report.catalog.endswith("c.csv")
    assert report.classes == {"x": 1, "y": 1}
    assert_array_equal(cutouts.column("z"), [NAN, 3, NAN, NAN])
    assert "a.csv also fits 1 images" in report.text()


def test_columns_by_option(folder, read):
    write_planes(folder, 2)
    lines = ["which,kind,label,obj,x,y,file", "img000.npy,ring,0,x1,10,20,q", "img001.npy,arc,1,x2,11,21,q"]
    catalog = write(folder.parent / "c.csv", "\n".join(lines))
    options = {"file_column": "which", "label_column": "kind", "id_column": "obj", "ra_column": "x", "dec_column": "y"}
    cutouts, _, labels, _ = read(catalog, **options)
    assert (list(cutouts.ids), cutouts.column("dec").tolist()) == (["x1", "x2"], [20, 21])
    assert labels.values == {"x1": "ring", "x2": "arc"}
    with pytest.raises(UserError, match="no column 'sort'"):
        read(catalog, label_column="sort")
    with pytest.raises(UserError, match="file_column: no catalogue"):
        read(**options)


def test_unknown_values_are_counted_and_printed(folder, read):
    write_planes(folder, 6)
    cells = ["1,0,0,0.5", "--,0,0,-99", "-1,0,0,-99", "0,0,0,0.7", "1,5,5,0.1", ",,,"]
    write(folder / "c.csv", "\n".join(["file,label,ra,dec,z", *(f"img{n:03d},{cell}" for n, cell in enumerate(cells))]))
    cutouts, report, *_ = read()
    assert (report.classes, report.unlabelled) == ({"0": 1, "1": 2}, 3)
    assert_array_equal(cutouts.numbers(["ra", "z"]).T, [[NAN, NAN, NAN, NAN, 5, NAN], [0.5, NAN, NAN, 0.7, 0.1, NAN]])
    for part in ("1 × '--', 1 × '-1' in column 'label'", "4 positions in ra, dec", "2 × '-99' in column 'z'"):
        assert part in report.text()


IDS = [
    ("objid,label", "1,a", "0,b", ["0", "1"]),
    ("file,id", "img000.npy,7", "img001.npy,7", ["img000.npy", "img001.npy"]),  # repeated: properties
]


@pytest.mark.parametrize("case", IDS)
def test_unique_catalogue_ids_name_the_objects_and_repeated_ones_do_not(folder, read, case):
    write_planes(folder, 2)
    *lines, ids = case
    cutouts = read(write(folder.parent / "c.csv", "\n".join(lines))).cutouts
    assert list(cutouts.ids) == ids
    assert "catalog_id" not in cutouts.table or cutouts.column("catalog_id").tolist() == [7, 7]


@pytest.mark.parametrize("form", ["c.csv", "c.json", "c.parquet", "sidecars", "images.parquet"])
def test_long_ids_beside_missing_ones_keep_every_digit(folder, read, form):
    ids = {"a.npy": 1234567890123456789, "b.npy": None, "c.npy": 1234567890123456790}
    if form == "images.parquet":  # of several batches
        ids |= {f"{n}.npy": 2**63 + n for n in range(64)}
        pixels = pa.array([plane(n).tolist() for n in range(len(ids))])
        write(folder / form, {"object_id": pa.array(ids.values(), pa.uint64()), "image": pixels})
    else:
        write_planes(folder, " ".join(ids))
    table = {"file": list(ids), "object_id": list(ids.values())}
    for name, number in ids.items() if form == "sidecars" else ():
        facts = {"object_id": number, "shape": {"q": number if name == "a.npy" else None}}
        write((folder / name).with_suffix(".json"), json.dumps(facts))
    if form == "c.parquet":
        write(folder / form, table)
    elif form.startswith("c."):
        rows = "file,object_id\n" + "".join(f"{name},{number or ''}\n" for name, number in ids.items())
        write(folder / form, json.dumps(table) if form == "c.json" else rows)
    cutouts = read().cutouts
    missing = f"{form}#1" if form == "images.parquet" else "b.npy"
    assert set(cutouts.ids) == {missing if number is None else str(number) for number in ids.values()}
    if form == "sidecars":
        assert cutouts.table["shape.q"].dropna().tolist() == [ids["a.npy"]]


@pytest.mark.parametrize("name", ["{}.fits", "cut_{}.0000_-2.5000.npy"])
def test_a_catalogue_of_positions_alone(folder, read, name):
    for number in range(4):
        cards = {"RA": 150.0 + number, "DEC": -2.5} if name == "{}.fits" else {}
        write(folder / name.format(150 + number), plane(number), **cards)
    rows = [f"{150.0001 + number},-2.5,{'ab'[number % 2]}" for number in range(5)]
    write(folder / "c.csv", "\n".join(["RAJ2000,DEJ2000,class", *rows]))
    report = read().report
    assert report.classes == {"a": 2, "b": 2}
    assert report.set_aside == (("c.csv row 5", "in the catalogue, but no image is there"),)
    assert "4 were matched by their positions on the sky" in report.text()


def test_a_row_of_an_unreadable_image_is_no_other_object(folder, read):
    write_planes(folder, "0.npy 1.npy 2.npy 3.npy")
    write(folder / "x/4.npy", b"")
    rows = [f"{number}.npy,{'ab'[number % 2]}\n" for number in range(6)]
    write(folder / "c.csv", "file,label\n" + "".join([*rows, "y/4.npy,a\n"]))
    report = read().report
    assert [name for name, _ in report.set_aside] == ["x/4.npy", "5.npy", "y/4.npy"]
    assert report.found == 7


def test_columns_that_hold_no_positions_are_kept(folder, read):
    write_planes(folder, 2)
    write(folder / "c.csv", "file,l,b\nimg000.npy,short,x\nimg001.npy,long,y\n")
    cutouts, report, *_ = read()
    assert cutouts.column("l").tolist() == ["short", "long"]
    assert "2 positions in l, b taken as unknown" in report.text()


@pytest.mark.parametrize("names", ["longitude,latitude", "elon,elat", "ra,flat", "dec,plate"])
def test_columns_that_may_be_positions_are_named(folder, read, names):
    write_planes(folder, 2)
    write(folder / "c.csv", f"file,{names}\nimg000.npy,1,2\nimg001.npy,3,4\n")
    expected = names.partition(",")[0] if names.endswith(("flat", "plate")) else names.replace(",", ", ")
    assert f"no position was taken from column {expected};" in read().report.text()


SIDECARS = [("txt", "{}"), ("cls", "{}\n"), ("json", '{{\n\t"label": {}, "sky": {{"ra": 150.5, "dec": 2}}}}')]
SIDECARS += [("yaml", "label: {}\nra: 10:02:00\ndec: +02:00:00\nmag: 2e1\ncode: 010\nseen: no\n")]  # a tab above


@pytest.mark.parametrize(("suffix", "content"), SIDECARS)
def test_a_text_beside_each_image(folder, read, suffix, content):
    for number in range(4):
        write(folder / "ab"[number % 2] / f"{number}.npy", plane(number))
        write(folder / "ab"[number % 2] / f"{number}.{suffix}", content.format(number // 2))
    cutouts, report, labels, _ = read()
    assert (report.classes, report.set_aside) == ({"0": 2, "1": 2}, ())
    assert labels.values["a/2.npy"] == "1"
    assert cutouts.column("ra")[0] == pytest.approx(150.5) or suffix in ("txt", "cls")
    if suffix == "yaml":  # texts, as they are written
        assert [cutouts.column(name)[0] for name in ("mag", "code", "seen")] == [20, "010", "no"]


MAYBE = [*((name, ("A", "B")) for name in ("consensus", "lens_flag", "GRADE_FINAL")), ("label", ("0", "0.5", "1"))]


@pytest.mark.parametrize(("name", "classes"), MAYBE)
def test_columns_that_may_hold_labels_are_named(folder, read, name, classes):
    """A usual name too, where the values are not those of labels."""
    write_planes(folder, 6)
    lines = [f"file,{name},z", *(f"img{n:03d}.npy,{classes[n % len(classes)]},0.{n}5" for n in range(6))]
    write(folder / "c.csv", "\n".join(lines))
    assert f"no column is known to hold labels; if one of {name} does: --label_column" in read().report.text()
    report = read(label_column=name).report
    assert report.classes == dict.fromkeys(classes, 6 // len(classes))
    assert ("labels such as 0.5 are numbers" in report.text()) == ("0.5" in classes)


# ---------------------------------------------------------------------------------------------------- files of many


def test_columns_of_a_file_of_many_images(folder, read):
    ids, numbers = [2**60 + n for n in range(6)], np.arange(6)
    texts = {"name": [f"n{n}" for n in range(6)], "flag": numbers % 2 == 0}
    columns = {"object_id": ids, "label": [0, 1, -1] * 2, "z": numbers, "RAJ2000": numbers, "DEJ2000": RAMP}
    write(folder / "a.h5", {"images": STACK} | columns | texts)
    cutouts, report, *_ = read()
    assert list(cutouts.ids) == list(map(str, ids))
    assert (report.classes, report.unlabelled) == ({"0": 2, "1": 2}, 2)
    assert_array_equal(cutouts.column("dec"), [NAN, 1, 2, 3, 4, 5])
    assert_array_equal(cutouts.column("z"), numbers)
    assert_array_equal(cutouts.images[3][0], plane(3))
    table = pd.read_parquet(folder.parent / "s" / "objects.parquet")  # types survive
    assert {name: table[name].tolist() for name in texts} == {"name": texts["name"], "flag": [True, False] * 3}


def test_columns_of_files_named_like_those_of_a_store_or_with_an_underscore(folder, read):
    """One number an image is that of all bands; `_name` and `_RAJ2000` are columns like others."""
    columns = {"psf_fwhm": np.arange(6.0), "_name": np.arange(6), "_RAJ2000": RAMP + 10, "_DEJ2000": RAMP}
    columns |= {"survey": ["N/A", "x"] * 3, "bands_present": RAMP}
    write(folder / "a.h5", {"images": np.stack([STACK, STACK], 1), **columns})
    cutouts = read().cutouts
    assert cutouts.column("psf_fwhm").tolist() == [[n, n] for n in range(6)]
    assert_array_equal(cutouts.numbers(["_name", "ra", "catalog_bands_present"]).T, [RAMP, RAMP + 10, RAMP])
    assert cutouts.column("survey").tolist() == [None, "x"] * 3


ORDER = [3, 1, 0, 5, 4, 2]
OF_STACKS = [  # a catalogue goes by number from 0 or 1, id or order
    *(["index,label", *(f"{n + first},{'ab'[n % 2]}" for n in ORDER)] for first in (0, 1)),
    ["object_id,label", *(f"{n + 100},{'ab'[n % 2]}" for n in ORDER)],
    ["label,z", *(f"{'ab'[n % 2]},{n}" for n in range(6))],
    ["a", "b"] * 3,
]


@pytest.mark.parametrize("lines", OF_STACKS)
def test_a_catalogue_of_a_file_of_many_images(folder, read, lines):
    ids = {"object_id": np.arange(100, 106)} if lines[0].startswith("object_id") else {}
    write(folder / "a.h5", {"images": STACK} | ids)
    write(folder / ("labels.txt" if len(lines) == 6 else "c.csv"), "\n".join(lines))
    _, report, labels, _ = read()
    assert list(labels.values.values()) == ["a", "b"] * 3
    is_ordered = "label" not in lines[0] or lines[0] == "label,z"
    assert ("rows were taken in their order" in report.text()) == is_ordered


def test_a_hats_catalogue(folder, read):
    names = [f"o{n}" for n in range(6)]
    columns = {"object_id": names, "RAJ": RAMP, "DEJ": RAMP, "image": STACK.tolist()}
    for path, some in {"Norder=1/Dir=0/Npix=44": slice(4), "Norder=4/Dir=0/Npix=180": slice(4, 6)}.items():
        rows = {name: values[some] for name, values in columns.items()}
        write(folder / "cat" / "dataset" / f"{path}.parquet", rows)
    write(folder / "cat" / "hats.properties", "# HATS\nhats_col_ra=RAJ\nhats_col_dec = DEJ\n")
    cutouts, report, *_ = read()
    assert (list(cutouts.ids), report.classes) == (names, {})
    assert_array_equal(cutouts.column("ra"), [NAN, 1, 2, 3, 4, 5])


def test_stores_can_be_joined(folder, read):
    for name, bands in (("a", ("g", "r")), ("b", ("r", "z"))):
        images = np.stack([np.stack([plane(row), plane(row + 1)]) for row in range(4)])
        table = make_table([f"{name}{row}" for row in range(4)], {"survey": [name] * 4, "z": np.arange(4.0)})
        labels = Labels({f"{name}0": "lens"} if name == "a" else {})
        write_store(images, table, folder / name, bands=bands, truth=("z",), labels=labels)
    cutouts, _, labels, _ = read()
    assert (cutouts.bands, cutouts.truth, labels.values) == (("g", "r", "z"), ("z",), {"a0": "lens"})
    assert list(cutouts.ids[[0, -1]]) == ["a0", "b3"]
    assert_array_equal(cutouts.images[0][:2], [plane(0), plane(1)])
    assert cutouts.column("survey").tolist() == ["a"] * 4 + ["b"] * 4
    write_noise(folder / "c.npy", 1)  # the files that a store was made of, perhaps
    cutouts, report, *_ = read()
    assert (list(cutouts.ids), len(report.set_aside)) == (["c.npy"], 2)
    assert all("a store among other files" in reason for _, reason in report.set_aside)


@pytest.mark.parametrize("form", ["zip", "tar", "gztar", "xztar"])
def test_archives(tmp_path, folder, read, form):
    write_noise(folder / "lens" / "{}.npy", 3)
    write_noise(folder / "non" / "{}.npy", 2)
    archive = Path(shutil.make_archive(str(tmp_path / "a"), form, folder))
    assert read(source=archive.name).report.classes == {"non": 2, "lens": 3}
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "in", "s"}
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "windows.zip", "w") as file:
            for path in folder.rglob("*.npy"):
                file.write(path, "\\".join(path.relative_to(tmp_path).parts))
        assert read(source="windows.zip").report.classes == {"non": 2, "lens": 3}
    shutil.copy(archive, folder)
    assert "zwicky ingest a." in read().report.set_aside[0][1]
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(source=archive.name)
    assert {path.name for path in tmp_path.iterdir()} - {"windows.zip"} == {archive.name, "in"}


@pytest.mark.parametrize(("offset", "value", "reason"), [(8, 9, "compression"), (6, 1, "encrypted")])
def test_a_zip_that_python_does_not_unpack_is_one_line(tmp_path, read, offset, value, reason):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.npy", b"pixels")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for header in (0, content.index(b"PK\x01\x02") + 2):  # the local one, and that of the directory
        content[header + offset] = value
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match=f"cannot be unpacked .*{reason}"):
        read(source="a.zip")


def test_a_tar_stays_in_its_folder_and_its_links_are_files(tmp_path, folder, read):
    write_planes(folder, "lens/0.npy lens/1.npy non/2.npy non/3.npy")
    (folder / "lens" / "9.npy").symlink_to("../non/2.npy")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder, "in")
    assert read(source="a.tar").report.classes == {"non": 2, "lens": 3}
    for name, link, reason in (
        ("../out.npy", "", "outside of its folder"),
        ("/tmp/out.npy", "", "outside of its folder"),
        ("in/0.npy", "/etc/hostname", "cannot be unpacked"),
    ):
        member = tarfile.TarInfo(name)
        if link:
            member.type, member.linkname = tarfile.SYMTYPE, link
        with tarfile.open(tmp_path / "b.tar", "w") as tar:
            tar.addfile(member)
        with pytest.raises(UserError, match=reason):
            read(source="b.tar")


# ------------------------------------------------------------------------------------------- bands, sizes, types


def test_mixed_surveys_are_a_union_of_bands(folder, read):
    for row in range(6):
        write(folder / f"hsc{row}.fits", np.stack([plane(row), plane(row + 1)]), BANDS="gr", SURVEY="HSC")
        write(folder / f"euclid{row}.fits", plane(row).astype(np.uint16), FILTER="VIS", SURVEY="Euclid")
    cutouts = read().cutouts
    vis, euclid = cutouts.bands.index("VIS"), cutouts.column("survey") == "Euclid"
    assert sorted(cutouts.bands) == ["VIS", "g", "r"]
    assert_array_equal(np.isnan(cutouts.images[:]).all((2, 3))[:, vis], ~euclid)
    assert_array_equal(cutouts.images[cutouts.rows_of(["euclid3.fits"])[0]][vis], plane(3))


def test_bands_go_by_name_and_can_be_chosen(folder, read):
    for row in range(4):
        names = "gri" if row % 2 else "irg"
        write(folder / f"{row}.fits", np.stack([plane("gri".index(n) + 10 * row) for n in names]), BANDS=names)
    cutouts = read(bands=("i", "g")).cutouts
    assert_array_equal(cutouts.images[:], [[plane(2 + 10 * row), plane(10 * row)] for row in range(4)])


def test_names_for_bands_and_stacks_of_varying_length(folder, read):
    write_noise(folder / "{}.npy", 3, 9, 12, 12)
    assert read(bands=tuple("ugriZYJHK")).cutouts.bands == tuple("ugriZYJHK")
    with pytest.raises(UserError, match="no axis of 2 bands"):
        read(bands=("g", "r"))
    assert [path.name for path in folder.parent.iterdir()] == ["in"]
    write(folder / "3.npy", noise(15, 12, 12))
    assert read().report.read == 3 * 9 + 15  # of varying length: stacks of images


def test_a_band_the_sample_missed_is_not_dropped(folder, read, monkeypatch):
    monkeypatch.setattr(ingest_module, "SAMPLE", 2)
    for row in range(20):
        write(folder / f"{row:02d}.fits", np.stack([plane(row)] * 2), BANDS="gz" if row == 11 else "gr")
    reason = "has the band z, which no sampled image had; name all bands by --bands"
    assert read().report.set_aside == (("11.fits", reason),)


def test_grey_and_colour_pictures(folder, read):
    grey, colour = RNG.integers(0, 256, (8, 8), np.uint8), RNG.integers(0, 256, (8, 8, 3), np.uint8)
    for number in range(4):
        write(folder / f"{number}.png", colour if number else grey)
        write(folder.parent / "mixed" / f"{number}.{'npy' if number else 'png'}", grey)
    cutouts, report, *_ = read()
    assert_array_equal(cutouts.images[0], [grey] * 3)
    assert "1 grey pictures repeated into R, G, B" in report.text()
    luminance = np.asarray(PIL.Image.fromarray(colour).convert("L")).astype(int)
    assert abs(read(bands=("gray",)).cutouts.images[1][0] - luminance).max() <= 1
    assert read(source="mixed").cutouts.bands == ("gray",)  # whatever the order of a set
    assert read(bands=("i", "r", "g")).cutouts.bands == ("i", "r", "g")
    with pytest.raises(UserError, match=r"g, r, i run from blue to red; name .* in their order, as i, r, g"):
        read(bands=("g", "r", "i"))  # as of a network that has seen no pictures


@pytest.mark.parametrize("size", [1, 2, 5, 8, 9, 12])
def test_size_crops_and_pads_around_the_centre(folder, read, size):
    shapes = {"a": (8, 9), "b": (12, 5), "c": (3, 3)}
    for name, shape in shapes.items():
        write(folder / f"{name}.npy", plane(1, shape))
    with pytest.raises(UserError, match="--size N"):
        read()
    cutouts = read(size=size).cutouts
    for row, shape in enumerate(shapes.values()):
        padded = np.pad(plane(1, shape), 12, constant_values=NAN)
        top, left = (12 + int((side - size) / 2) for side in shape)  # towards zero
        assert_array_equal(cutouts.images[row][0], padded[top : top + size, left : left + size])


def test_eight_bits_stay_when_cropped_and_become_float_when_padded(folder, read):
    for side in (20, 24, 30):
        write_noise(folder / f"{side}.png", 1, side, side)
    assert read(size=20).cutouts.images.dtype == np.uint8
    cutouts = read(size=26).cutouts
    assert cutouts.images.dtype == np.float32
    assert np.isnan(cutouts.images[0]).sum() == 26**2 - 20**2


@pytest.mark.parametrize(("shape", "dtype", "advice"), [((12, 12), "f4", True), (SIZE, "u2", False)])
def test_several_kinds_are_refused_with_counts_and_fitting_advice(folder, read, monkeypatch, shape, dtype, advice):
    for number in range(10):
        write(folder / f"{number}.npy", plane(0) if number < 6 else np.zeros(shape, dtype))
    with pytest.raises(UserError, match=r"8×9 float32 \(6 images\), 1 band of .* \(4 images\)") as raised:
        read()
    assert ("--size" in str(raised.value)) is advice
    monkeypatch.setattr(ingest_module, "SAMPLE", 1)  # it misses the majority
    for number in range(20):
        write(folder / f"{number}.npy", plane(0) if number == 0 else np.zeros(shape, dtype))
    with pytest.raises(UserError, match=r"\(19 images\)"):
        read()
    assert [entry.name for entry in folder.parent.iterdir()] == ["in"]


def test_invalid_pixels_and_absent_bands(folder, read):
    for number, holes in enumerate([0, 3, 5]):
        write(folder / f"{number}.npy", np.where(np.arange(8) < holes, NAN, 1).reshape(2, 4))
    assert read().report.set_aside == (("2.npy", "62% of its pixels are invalid"),)
    write(folder.parent / "absent" / "a.npy", np.stack([plane(), plane() * NAN, plane()]))
    assert list(read(source="absent").cutouts.column("bands_present")[0]) == ["band1", "band3"]


@pytest.mark.parametrize("value", [-9999, 100])
def test_a_value_that_means_invalid_is_reported(folder, read, value):
    image = noise(12, 12)
    image[:2, :5] = value
    write(folder / "a.npy", image)
    assert f"--invalid {value} makes them NaN" in read().report.text()
    cutouts, report, *_ = read(invalid=value)
    assert (np.isnan(cutouts.images[:]).sum(), report.warnings) == (10, ())


# ---------------------------------------------------------------------------------------------------- nothing is lost

ARRAYS = {"good": plane(), "allnan": plane() * NAN, "bands": np.stack([plane()] * 3), "size": plane(0, (20, 20))}
FILES = {"empty": "{}.png", "garbage": "{}.fits", "text": "{}.npy", "hidden": ".{}.png", "unknown": "{}.doc"}
BAD = [*FILES, "allnan", "bands", "size", "broken", "pipe", "objects", "folder"]


def make(folder: Path, number: int, kind: str) -> None:
    name = folder / f"{number:03d}"
    if kind in ARRAYS:
        np.save(f"{name}.npy", ARRAYS[kind] + 1000 * number)
    elif kind == "objects":
        np.save(f"{name}.npy", np.array([1, "x"], dtype=object), allow_pickle=True)
    elif kind == "broken":
        os.symlink(folder / "nowhere.png", f"{name}.png")
    elif kind == "pipe":
        os.mkfifo(f"{name}.png")
    elif kind == "folder":
        Path(f"{name}.png").mkdir()  # empty, so it holds no file
    else:
        (folder / FILES[kind].format(name.name)).write_text("" if kind == "empty" else "x" * 300)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(BAD), max_size=8), st.integers(0, 30))
def test_nothing_is_lost(bad, good):
    """Whatever the mix: read + set aside == found, and every bad file is listed."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_format, "MINORITY", 1.0)
        patch.setattr(ingest_module, "SAMPLE", 5)  # the sample may well miss the good ones
        source, out = Path(folder) / "in", Path(folder) / "s"
        source.mkdir()
        kinds = bad + ["good"] * good
        for number, kind in enumerate(kinds):
            make(source, number, kind)
        n_files = len(kinds) - kinds.count("folder")
        if not {"good", "bands", "size"} & set(kinds):
            with pytest.raises(UserError, match="no image could be read" if n_files else "empty"):
                ingest(source, out)
            assert list(Path(folder).iterdir()) == [source]
            return
        report = ingest(source, out)
        assert report.read + len(report.set_aside) == report.found == n_files
        assert listed(out) == list(report.set_aside)
        cutouts = open_store(out)
        if cutouts.size == SIZE and len(cutouts.bands) == 1:
            assert set(cutouts.ids) == {f"{number:03d}.npy" for number, kind in enumerate(kinds) if kind == "good"}
            assert_array_equal(cutouts.images[:][:, 0], [plane(int(identifier[:3])) for identifier in cutouts.ids])


def test_links_loops_and_odd_names(tmp_path, folder, read):
    write(folder / "sub" / "a.npy", plane(1))
    write(tmp_path / "elsewhere" / "b.npy", plane(2))
    os.symlink(folder, folder / "sub" / "loop")
    os.symlink(tmp_path / "elsewhere", folder / "linked")
    with open(os.fsencode(folder) + b"/bad\xff.npy", "wb") as stream:
        stream.write((tmp_path / "elsewhere" / "b.npy").read_bytes())
    cutouts, report, *_ = read()
    assert set(cutouts.ids) == {"linked/b.npy", "sub/a.npy"}
    assert "link" in dict(report.set_aside)["sub/loop"]
    assert "UTF-8" in dict(report.set_aside)["bad\\udcff.npy"]


MISTAKES = [
    ("", None, {}, "does not exist"),
    ("in", "text", {}, "is a file"),
    ("in/.hidden", "x", {}, "no image could be read"),
    *(("in/a.npy", plane(), {name: -1}, f"{name} is -1") for name in ("pixel_scale", "size", "max_invalid", "workers")),
    ("in/a.npy", plane(), {"bands": ("g", "g")}, "repeat a name"),
    ("in/a.npy", plane(), {"axes": "XY"}, "axes"),
    ("in/a.npy", plane(), {"encoding": "klingon"}, "no encoding 'klingon'"),
    ("in/a.npy", np.zeros(3), {}, "has 1 axes"),
]


@pytest.mark.parametrize(("name", "content", "options", "message"), MISTAKES)
def test_mistakes_are_one_line(tmp_path, read, name, content, options, message):
    if name:
        write(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        read(**options)


def test_reading_a_large_file_keeps_memory_flat(folder, read):
    folder.mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("images", (600, 3, 128, 128), "f4", chunks=(1, 3, 128, 128), fillvalue=1)
    tracemalloc.start()
    read(workers=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.5 * 600 * 3 * 128 * 128 * 4
