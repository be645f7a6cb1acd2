"""From folders to stores: every file is read or listed with a reason, and what was assumed is printed."""

import csv
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
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from zwicky.data import image_format
from zwicky.data import ingest as ingest_module
from zwicky.data.cutouts import Cutouts, make_table
from zwicky.data.image_format import IngestConfig
from zwicky.data.ingest import IngestReport, ingest
from zwicky.data.labels import Labels, order_classes, read_labels
from zwicky.data.store import open_store, write_store
from zwicky.errors import UserError

SIZE = (8, 9)
RNG = np.random.default_rng(0)
NAN = np.nan


def plane(value: float = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return (np.arange(size[0] * size[1]).reshape(size) + 1000 * value).astype(np.float32)


def write(path: Path, array: np.ndarray, **cards) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".png":
        PIL.Image.fromarray(array).save(path)
    else:
        fits.PrimaryHDU(array, fits.Header(cards)).writeto(path)


def planes(folder: Path, names: str | int) -> None:
    """Write different planes under these names, or as so many img000.npy, img001.npy, …"""
    files = [f"img{n:03d}.npy" for n in range(names)] if isinstance(names, int) else names.split()
    for number, name in enumerate(files):
        write(folder / name, plane(number))


def stack(folder: Path, count: int = 6, **columns) -> None:
    folder.mkdir(parents=True)
    with h5py.File(folder / "a.h5", "w") as file:
        file["images"] = np.stack([plane(n) for n in range(count)])
        for name, values in columns.items():
            file[name] = values


def read(tmp_path: Path, catalog: Path | None = None, **options) -> tuple[Cutouts, IngestReport]:
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    report = ingest(tmp_path / "in", tmp_path / "s", catalog, IngestConfig(**options))
    assert report.read + len(report.set_aside) == report.found
    assert report.text().count("\n") < 10
    assert listed(tmp_path / "s") == list(report.set_aside)
    return open_store(tmp_path / "s"), report


def listed(store: Path) -> list[tuple[str, str]]:
    with (store / "set_aside.csv").open(newline="", encoding="utf-8") as stream:
        return [(row["file"], row["reason"]) for row in csv.DictReader(stream)]


# ---------------------------------------------------------------------------------------------------- labels


def test_class_folders_are_labels_and_the_assumptions_are_printed(tmp_path):
    planes(tmp_path / "in", "lenses/a.npy lenses/b.npy nonlenses/a.npy unlabelled/c.npy d.npy")
    (tmp_path / "in" / "README.md").write_text("x")
    cutouts, report = read(tmp_path, pixel_scale=0.2, survey="toy", simulated=True)
    assert (report.read, report.labelled, report.unlabelled) == (5, 3, 2)
    assert list(report.classes.items()) == [("nonlenses", 1), ("lenses", 2)]  # the positive class comes last
    labels = read_labels(tmp_path / "s")
    assert labels.values == {"lenses/a.npy": "lenses", "lenses/b.npy": "lenses", "nonlenses/a.npy": "nonlenses"}
    assert (labels.source, bool(labels.time)) == ("class folders", True)
    facts = (cutouts.pixel_scale, set(cutouts.column("survey")), set(cutouts.column("simulated")))
    assert facts == (0.2, {"toy"}, {True})
    assert_array_equal(cutouts.images[cutouts.rows_of(["nonlenses/a.npy"])[0],][0], plane(2))
    parts = "5 of 6 images read|bands: gray|labels: nonlenses 1, lenses 2|positive class: lenses (--positive)"
    for part in f"{parts}|positions: none|--ra_column|splits: none given|1 × not an image".split("|"):
        assert part in report.text()


@pytest.mark.parametrize(
    "case", ["lens,non lens::lens", "lens,random::lens", "0,1::1", "A,C:C:C", "lens,random:random:random"]
)
def test_the_positive_class(tmp_path, case):
    names, option, positive = case.split(":")
    for name in names.split(","):
        planes(tmp_path / "in" / name, 2)
    _, report = read(tmp_path, positive=option)
    assert list(report.classes)[-1] == positive
    assert read_labels(tmp_path / "s").classes[-1] == positive
    with pytest.raises(UserError, match="no class 'ring'; the classes are"):
        ingest(tmp_path / "in", tmp_path / "t", config=IngestConfig(positive="ring"))


PAIRS = "random|lens non_lens|lens not_lens|lens no-lens|lens other|lens spiral|lens unlensed|lensed normal|anomaly"


@pytest.mark.parametrize("pair", [*PAIRS.split(), "no_sub|sub", "non-merger|merger", "C|A", "grade_B|grade_A", "0|1"])
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


def test_catalogue_gives_labels_positions_and_properties(tmp_path):
    planes(tmp_path / "in", "a.npy b.npy c.npy extra.npy")
    (tmp_path / "cat.csv").write_text(CATALOG)
    cutouts, report = read(tmp_path, tmp_path / "cat.csv")
    assert (report.found, report.read, report.unlabelled) == (6, 4, 2)
    assert report.classes == {"nonlens": 1, "lens": 1}
    assert [file for file, _ in report.set_aside] == ["gone.npy", "a.npy"]
    for part in ("1 images are not in the catalogue", "1 positions in ra, dec"):
        assert part in report.text()
    assert list(cutouts.ids) == ["a.npy", "b.npy", "c.npy", "extra.npy"]
    assert_array_equal(cutouts.numbers(["ra", "grade"]).T, [[10.5, NAN, NAN, NAN], [2.5, NAN, 1, NAN]])
    assert cutouts.column("origin").tolist() == ["sw", None, "field", None]
    assert cutouts.column("code").tolist() == ["007", "008", "009", None]  # a code, no number
    assert "cat.csv" in read_labels(tmp_path / "s").source


FOUND = """c.csv utf-16 file,label {file},{label} nön lens
c.txt latin-1 #~by~hand|file~label {file}~{label} nön lens
c.csv utf-8 file_loc,label /data/someone/IMG{n:03d}.png,{label} non lens
c.csv utf-8 id;class {n};{label} 0.0 1.0
c.csv utf-8 name,grade img{n:03d},{label} C A"""


@pytest.mark.parametrize("case", FOUND.splitlines())  # ~ is a blank, | a new line
def test_a_catalogue_in_the_folder_is_used(tmp_path, case):
    planes(tmp_path / "in", 12)
    name, encoding, header, form, *labels = case.split()
    rows = [form.format(n=n, label=labels[n % 2], file=f"img{n:03d}.npy") for n in range(12)]
    content = "\n".join([header, *rows, ""]).replace("~", " ").replace("|", "\n")
    (tmp_path / "in" / name).write_bytes(content.encode(encoding))
    _, report = read(tmp_path)
    assert report.catalog.endswith(name)
    assert report.classes == {label.removesuffix(".0"): 6 for label in labels}
    assert (report.found, report.set_aside) == (12, ())


@pytest.mark.parametrize("name", ["c.ecsv", "c.vot", "c.fits", "c.parquet"])
def test_a_table_of_astropy_in_the_folder_is_used(tmp_path, name):
    planes(tmp_path / "in", 4)
    columns = {"file": [f"img{n:03d}.npy" for n in range(4)], "label": ["a", "b"] * 2}
    table = Table(columns | {"RAJ2000": [1.0] * 4, "DEJ2000": [2.0] * 4})
    if name == "c.parquet":
        table.to_pandas().to_parquet(tmp_path / "in" / name)
    else:
        table.write(tmp_path / "in" / name, format={"c.ecsv": "ascii.ecsv", "c.vot": "votable"}.get(name))
    cutouts, report = read(tmp_path)
    assert (report.classes, report.set_aside) == ({"a": 2, "b": 2}, ())
    assert cutouts.column("ra").tolist() == [1.0] * 4
    assert "RAJ2000, DEJ2000" in report.text()


UNUSED = {
    "file,label\nother.npy,x\n": "no row fits a file",
    "a,b\n1,2\n": "it names no files",
    "file,label\n": "no rows",
}


@pytest.mark.parametrize(("content", "reason"), UNUSED.items())
def test_a_catalogue_that_was_found_and_not_used_is_named(tmp_path, content, reason):
    planes(tmp_path / "in", 2)
    (tmp_path / "in" / "c.csv").write_text(content)
    _, report = read(tmp_path)
    assert any(warning.startswith("c.csv was not used") and reason in warning for warning in report.warnings)
    with pytest.raises(UserError, match=reason):
        ingest(tmp_path / "in", tmp_path / "t", tmp_path / "in" / "c.csv")


def test_of_two_catalogues_the_better_is_used_and_the_other_named(tmp_path):
    planes(tmp_path / "in", 4)
    (tmp_path / "in" / "a.csv").write_text("file,label\nimg000.npy,1\n")
    (tmp_path / "in" / "b.csv").write_text("file,label\nimg000.npy,x\nimg001.npy,y\n")
    (tmp_path / "in" / "c.csv").write_text("file,z\nimg001.npy,3\n")  # other columns: joined
    cutouts, report = read(tmp_path)
    assert report.catalog.endswith("c.csv")
    assert report.classes == {"x": 1, "y": 1}
    assert_array_equal(cutouts.column("z"), [NAN, 3, NAN, NAN])
    assert "a.csv also fits 1 images" in report.text()


def test_columns_by_option(tmp_path):
    planes(tmp_path / "in", 2)
    lines = ["which,kind,label,obj,x,y,file", "img000.npy,ring,0,x1,10,20,q", "img001.npy,arc,1,x2,11,21,q"]
    (tmp_path / "c.csv").write_text("\n".join(lines))
    options = {"file_column": "which", "label_column": "kind", "id_column": "obj", "ra_column": "x", "dec_column": "y"}
    cutouts, _ = read(tmp_path, tmp_path / "c.csv", **options)
    assert (list(cutouts.ids), cutouts.column("dec").tolist()) == (["x1", "x2"], [20, 21])
    assert read_labels(tmp_path / "s").values == {"x1": "ring", "x2": "arc"}
    with pytest.raises(UserError, match="no column 'sort'"):
        ingest(tmp_path / "in", tmp_path / "t", tmp_path / "c.csv", IngestConfig(label_column="sort"))


def test_unknown_values_are_counted_and_printed(tmp_path):
    planes(tmp_path / "in", 6)
    cells = ["1,0,0,0.5", "--,0,0,-99", "-1,0,0,-99", "0,0,0,0.7", "1,5,5,0.1", ",,,"]
    lines = [f"img{n:03d}.npy,{cell}" for n, cell in enumerate(cells)]
    (tmp_path / "in" / "c.csv").write_text("\n".join(["file,label,ra,dec,z", *lines]))
    cutouts, report = read(tmp_path)
    assert (report.classes, report.unlabelled) == ({"0": 1, "1": 2}, 3)
    expected = [[NAN, NAN, NAN, NAN, 5, NAN], [0.5, NAN, NAN, 0.7, 0.1, NAN]]
    assert_array_equal(cutouts.numbers(["ra", "z"]).T, np.array(expected))
    for part in ("1 × '--', 1 × '-1' in column 'label'", "4 positions in ra, dec", "2 × '-99' in column 'z'"):
        assert part in report.text()


IDS = [
    ("file,object_id", "img000.npy,1234567890123456789", "img001.npy,1234567890123456790"),
    ("objid,label", "1,a", "0,b"),
    ("file,id", "img000.npy,7", "img001.npy,7"),
]


def test_unique_catalogue_ids_name_the_objects_and_repeated_ones_do_not(tmp_path):
    planes(tmp_path / "in", 2)
    expected = [["1234567890123456789", "1234567890123456790"], ["0", "1"], ["img000.npy", "img001.npy"]]
    for lines, ids in zip(IDS, expected, strict=True):
        (tmp_path / "c.csv").write_text("\n".join(lines))
        cutouts, _ = read(tmp_path, tmp_path / "c.csv")
        assert list(cutouts.ids) == ids
    assert cutouts.column("catalog_id").tolist() == [7, 7]


def test_a_catalogue_of_positions_alone(tmp_path):
    for number in range(4):
        write(tmp_path / "in" / f"{number}.fits", plane(number), RA=150.0 + number, DEC=-2.5)
        write(tmp_path / "names" / f"cut_{150 + number}.0000_-2.5000.npy", plane(number))
    rows = [f"{150.0001 + number},-2.5,{'ab'[number % 2]}" for number in range(5)]
    for folder in ("in", "names"):
        (tmp_path / folder / "c.csv").write_text("\n".join(["RAJ2000,DEJ2000,class", *rows]))
    for folder in ("in", "names"):
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        report = ingest(tmp_path / folder, tmp_path / "s")
        assert report.classes == {"a": 2, "b": 2}
        assert report.set_aside == (("c.csv row 5", "in the catalogue, but no image is there"),)
        assert "4 were matched by their positions on the sky" in report.text()


@pytest.mark.parametrize("names", ["longitude,latitude", "elon,elat", "ra,flat", "dec,plate"])
def test_columns_that_may_be_positions_are_named(tmp_path, names):
    planes(tmp_path / "in", 2)
    (tmp_path / "in" / "c.csv").write_text(f"file,{names}\nimg000.npy,1,2\nimg001.npy,3,4\n")
    expected = names.partition(",")[0] if names.endswith(("flat", "plate")) else names.replace(",", ", ")
    assert f"no position was taken from column {expected};" in read(tmp_path)[1].text()


SIDECARS = [("txt", "{}"), ("cls", "{}\n"), ("json", '{{\n\t"label": {}, "sky": {{"ra": 150.5, "dec": 2}}}}')]
SIDECARS += [("yaml", "label: {}\nra: 10:02:00\ndec: +02:00:00\nmag: 2e1\ncode: 010\nseen: no\n")]  # a tab above


@pytest.mark.parametrize(("suffix", "content"), SIDECARS)
def test_a_text_beside_each_image(tmp_path, suffix, content):
    for number in range(4):
        write(tmp_path / "in" / "ab"[number % 2] / f"{number}.npy", plane(number))
        (tmp_path / "in" / "ab"[number % 2] / f"{number}.{suffix}").write_text(content.format(number // 2))
    cutouts, report = read(tmp_path)
    assert (report.classes, report.set_aside) == ({"0": 2, "1": 2}, ())
    assert read_labels(tmp_path / "s").values["a/2.npy"] == "1"
    assert cutouts.column("ra")[0] == pytest.approx(150.5) or suffix in ("txt", "cls")
    if suffix == "yaml":  # texts, as they are written
        assert [cutouts.column(name)[0] for name in ("mag", "code", "seen")] == [20, "010", "no"]


@pytest.mark.parametrize("name", ["consensus", "lens_flag", "GRADE_FINAL"])
def test_columns_that_may_hold_labels_are_named(tmp_path, name):
    planes(tmp_path / "in", 4)
    lines = [f"file,{name},z", *(f"img{n:03d}.npy,{'AB'[n % 2]},0.{n}5" for n in range(4))]
    (tmp_path / "in" / "c.csv").write_text("\n".join(lines))
    assert f"if one of {name} does: --label_column" in read(tmp_path)[1].text()
    assert read(tmp_path, label_column=name)[1].classes == {"A": 2, "B": 2}


def test_labels_of_a_stack_in_a_list(tmp_path):
    stack(tmp_path / "in")
    (tmp_path / "in" / "labels.txt").write_text("0\n1\n" * 3)
    _, report = read(tmp_path)
    assert report.classes == {"0": 3, "1": 3}


# ---------------------------------------------------------------------------------------------------- files of many


def test_columns_of_a_file_of_many_images(tmp_path):
    ids, numbers = [2**60 + n for n in range(6)], np.arange(6)
    texts = {"name": [f"n{n}" for n in range(6)], "flag": numbers % 2 == 0}
    positions = {"RAJ2000": numbers, "DEJ2000": numbers.astype(float)}
    stack(tmp_path / "in", object_id=ids, label=[0, 1, -1] * 2, z=numbers, **positions, **texts)
    cutouts, report = read(tmp_path)
    assert list(cutouts.ids) == list(map(str, ids))
    assert (report.classes, report.unlabelled) == ({"0": 2, "1": 2}, 2)
    assert_array_equal(cutouts.column("dec"), [NAN, 1, 2, 3, 4, 5])
    assert_array_equal(cutouts.column("z"), numbers)
    assert_array_equal(cutouts.images[3][0], plane(3))
    table = pd.read_parquet(tmp_path / "s" / "objects.parquet")  # types survive
    assert {name: table[name].tolist() for name in texts} == {"name": texts["name"], "flag": [True, False] * 3}


def test_long_ids_beside_missing_ones_keep_every_digit(tmp_path):
    ids = [1234567890123456789, None, *range(100, 163), 2**63 + 11, None]  # of several batches
    table = pa.table({"object_id": pa.array(ids, pa.uint64())})
    table = table.append_column("image", pa.array([plane(n).tolist() for n in range(len(ids))]))
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    expected = [f"a.parquet#{row}" if number is None else str(number) for row, number in enumerate(ids)]
    assert read(tmp_path)[0].ids.tolist() == expected


@pytest.mark.parametrize("form", ["c.json", "c.parquet", "sidecars"])
def test_long_ids_of_a_catalogue_keep_every_digit(tmp_path, form):
    planes(tmp_path / "in", "a.npy b.npy c.npy")
    ids = {"a.npy": 1234567890123456789, "b.npy": None, "c.npy": 1234567890123456790}
    table = {"file": list(ids), "object_id": list(ids.values())}
    if form == "sidecars":
        for name, number in ids.items():
            facts = {"object_id": number, "shape": {"q": 1234567890123456789 if name == "a.npy" else None}}
            (tmp_path / "in" / name).with_suffix(".json").write_text(json.dumps(facts))
    elif form == "c.json":
        (tmp_path / "in" / form).write_text(json.dumps(table))
    else:
        pq.write_table(pa.table(table), tmp_path / "in" / form)
    cutouts, _ = read(tmp_path)
    assert sorted(cutouts.ids) == ["1234567890123456789", "1234567890123456790", "b.npy"]
    if form == "sidecars":
        assert pq.read_table(tmp_path / "s" / "objects.parquet")["shape.q"].to_pylist() == [ids["a.npy"], None, None]


@pytest.mark.parametrize("first", [0, 1])
def test_a_catalogue_of_a_file_of_many_goes_by_number(tmp_path, first):
    stack(tmp_path / "in")
    rows = [f"{n + first},{'ab'[n % 2]}" for n in (3, 1, 0, 5, 4, 2)]
    (tmp_path / "in" / "c.csv").write_text("\n".join(["index,label", *rows]))
    read(tmp_path)
    assert read_labels(tmp_path / "s").values == {f"a.h5#{n}": "ab"[n % 2] for n in range(6)}


@pytest.mark.parametrize(("header", "offset"), [("object_id,label", 100), ("label,z", 0)])
def test_a_catalogue_of_a_file_of_many_goes_by_id_or_order(tmp_path, header, offset):
    stack(tmp_path / "in", object_id=np.arange(100, 106))
    rows = [f"{n + offset},{'ab'[n % 2]}" if offset else f"{'ab'[n % 2]},{n}" for n in range(6)]
    (tmp_path / "in" / "c.csv").write_text("\n".join([header, *rows]))
    _, report = read(tmp_path)
    assert report.classes == {"a": 3, "b": 3}
    assert read_labels(tmp_path / "s").values["103"] == "b"
    assert offset or "rows were taken in their order" in report.text()


def test_a_hats_catalogue(tmp_path):
    table = pa.table({"object_id": [f"o{n}" for n in range(6)], "RAJ": np.arange(6.0), "DEJ": np.arange(6.0)})
    table = table.append_column("image", pa.array([plane(n).tolist() for n in range(6)]))
    for path, rows in {"Norder=1/Dir=0/Npix=44": (0, 4), "Norder=4/Dir=0/Npix=180": (4, 2)}.items():
        file = tmp_path / "in" / "cat" / "dataset" / f"{path}.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(table.slice(*rows), file)
    (tmp_path / "in" / "cat" / "hats.properties").write_text("# HATS\nhats_col_ra=RAJ\nhats_col_dec = DEJ\n")
    cutouts, report = read(tmp_path)
    assert (list(cutouts.ids), report.classes) == ([f"o{n}" for n in range(6)], {})
    assert_array_equal(cutouts.column("ra"), [NAN, 1, 2, 3, 4, 5])


def test_stores_can_be_joined(tmp_path):
    for name, bands in (("a", ("g", "r")), ("b", ("r", "z"))):
        images = np.stack([np.stack([plane(row), plane(row + 1)]) for row in range(4)])
        table = make_table([f"{name}{row}" for row in range(4)], {"survey": [name] * 4, "z": np.arange(4.0)})
        labels = Labels({f"{name}0": "lens"} if name == "a" else {})
        write_store(images, table, tmp_path / "in" / name, bands=bands, truth=("z",), labels=labels)
    cutouts, report = read(tmp_path)
    assert (cutouts.bands, cutouts.truth, report.classes) == (("g", "r", "z"), ("z",), {"lens": 1})
    assert list(cutouts.ids[[0, -1]]) == ["a0", "b3"]
    assert_array_equal(cutouts.images[0][:2], [plane(0), plane(1)])
    assert cutouts.column("survey").tolist() == ["a"] * 4 + ["b"] * 4
    assert read_labels(tmp_path / "s").values == {"a0": "lens"}


@pytest.mark.parametrize("form", ["zip", "tar", "gztar"])
def test_archives(tmp_path, form):
    planes(tmp_path / "in" / "lens", 3)
    planes(tmp_path / "in" / "non", 2)
    archive = shutil.make_archive(str(tmp_path / "a"), form, tmp_path / "in")
    assert ingest(archive, tmp_path / "t").classes == {"non": 2, "lens": 3}
    assert not any(path.is_dir() and path.name not in ("in", "t") for path in tmp_path.iterdir())
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "windows.zip", "w") as file:
            for path in (tmp_path / "in").rglob("*.npy"):
                file.write(path, "\\".join(path.relative_to(tmp_path).parts))
        assert ingest(tmp_path / "windows.zip", tmp_path / "u").classes == {"non": 2, "lens": 3}
    shutil.move(archive, tmp_path / "in")
    assert "zwicky ingest a." in read(tmp_path)[1].set_aside[0][1]


@pytest.mark.parametrize("form", ["zip", "tar", "gztar", "xztar"])
def test_a_damaged_archive_is_one_line(tmp_path, form):
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for k in range(4):
        np.save(tmp_path / "in" / f"{k}.npy", random.normal(size=(3, 16, 16)))
    archive = Path(shutil.make_archive(str(tmp_path / "a"), form, tmp_path / "in"))
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be unpacked"):
        ingest(archive, tmp_path / "t")
    assert sorted(path.name for path in tmp_path.iterdir()) == [archive.name, "in"]


@pytest.mark.parametrize(("offset", "value", "reason"), [(8, 9, "compression"), (6, 1, "encrypted")])
def test_a_zip_that_python_does_not_unpack_is_one_line(tmp_path, offset, value, reason):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.npy", b"pixels")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for header in (0, content.index(b"PK\x01\x02") + 2):  # the local one, and that of the directory
        content[header + offset] = value
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match=f"cannot be unpacked .*{reason}"):
        ingest(tmp_path / "a.zip", tmp_path / "t")


def test_a_tar_stays_in_its_folder_and_its_links_are_files(tmp_path):
    planes(tmp_path / "in" / "lens", 2)
    planes(tmp_path / "in" / "non", 2)
    (tmp_path / "in" / "lens" / "9.npy").symlink_to(
        "../non/" + min(p.name for p in (tmp_path / "in" / "non").iterdir())
    )
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "in", "in")
    assert ingest(tmp_path / "a.tar", tmp_path / "t").classes == {"non": 2, "lens": 3}
    for name in ("../out.npy", "/tmp/out.npy"):
        with tarfile.open(tmp_path / "b.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo(name))
        with pytest.raises(UserError, match="outside of its folder"):
            ingest(tmp_path / "b.tar", tmp_path / "u")
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        member = tarfile.TarInfo("in/0.npy")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(member)
    with pytest.raises(UserError, match="cannot be unpacked"):
        ingest(tmp_path / "c.tar", tmp_path / "v")


# ------------------------------------------------------------------------------------------- bands, sizes, types


def test_mixed_surveys_are_a_union_of_bands(tmp_path):
    for row in range(6):
        write(tmp_path / "in" / f"hsc{row}.fits", np.stack([plane(row), plane(row + 1)]), BANDS="gr", SURVEY="HSC")
        write(tmp_path / "in" / f"euclid{row}.fits", plane(row).astype(np.uint16), FILTER="VIS", SURVEY="Euclid")
    cutouts, _ = read(tmp_path)
    vis, euclid = cutouts.bands.index("VIS"), cutouts.column("survey") == "Euclid"
    assert sorted(cutouts.bands) == ["VIS", "g", "r"]
    assert_array_equal(np.isnan(cutouts.images[:]).all((2, 3))[:, vis], ~euclid)
    assert_array_equal(cutouts.images[cutouts.rows_of(["euclid3.fits"])[0]][vis], plane(3))


def test_bands_go_by_name_and_can_be_chosen(tmp_path):
    for row in range(4):
        names = "gri" if row % 2 else "irg"
        write(tmp_path / "in" / f"{row}.fits", np.stack([plane("gri".index(n) + 10 * row) for n in names]), BANDS=names)
    cutouts, _ = read(tmp_path, bands=("i", "g"))
    assert_array_equal(cutouts.images[:], [[plane(2 + 10 * row), plane(10 * row)] for row in range(4)])


def test_names_for_bands_and_stacks_of_varying_length(tmp_path):
    for number in range(3):
        write(tmp_path / "in" / f"{number}.npy", RNG.normal(size=(9, 12, 12)))
    assert read(tmp_path, bands=tuple("ugriZYJHK"))[0].bands == tuple("ugriZYJHK")
    with pytest.raises(UserError, match="no axis of 2 bands"):
        ingest(tmp_path / "in", tmp_path / "t", config=IngestConfig(bands=("g", "r")))
    assert not (tmp_path / "t").exists()
    write(tmp_path / "in" / "3.npy", RNG.normal(size=(15, 12, 12)))
    assert read(tmp_path)[1].read == 3 * 9 + 15  # of varying length: stacks of images


def test_a_band_the_sample_missed_is_not_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest_module, "SAMPLE", 2)
    for row in range(20):
        write(tmp_path / "in" / f"{row:02d}.fits", np.stack([plane(row)] * 2), BANDS="gz" if row == 11 else "gr")
    _, report = read(tmp_path)
    assert report.set_aside == (("11.fits", "has the band z, which no sampled image had; name all bands by --bands"),)


def test_grey_and_colour_pictures(tmp_path):
    grey, colour = RNG.integers(0, 256, (8, 8), np.uint8), RNG.integers(0, 256, (8, 8, 3), np.uint8)
    for number in range(4):
        write(tmp_path / "in" / f"{number}.png", grey if number == 0 else colour)
    cutouts, report = read(tmp_path)
    assert_array_equal(cutouts.images[0], [grey] * 3)
    assert "1 grey pictures repeated into R, G, B" in report.text()
    for number in range(4):
        write(tmp_path / "mixed" / f"{number}.npy", grey) if number else write(tmp_path / "mixed" / "0.png", grey)
    ingest(tmp_path / "mixed", tmp_path / "t")
    assert open_store(tmp_path / "t").bands == ("gray",)  # whatever the order of a set
    cutouts, _ = read(tmp_path, bands=("gray",))
    luminance = np.asarray(PIL.Image.fromarray(colour).convert("L")).astype(int)
    assert abs(cutouts.images[1][0] - luminance).max() <= 1


@pytest.mark.parametrize("size", [1, 2, 5, 8, 9, 12])
def test_size_crops_and_pads_around_the_centre(tmp_path, size):
    shapes = {"a": (8, 9), "b": (12, 5), "c": (3, 3)}
    for name, shape in shapes.items():
        write(tmp_path / "in" / f"{name}.npy", plane(1, shape))
    with pytest.raises(UserError, match="--size N"):
        ingest(tmp_path / "in", tmp_path / "s")
    cutouts, _ = read(tmp_path, size=size)
    for row, shape in enumerate(shapes.values()):
        have, literal = plane(1, shape), np.full((size, size), NAN, np.float32)
        for y in range(size):
            for x in range(size):
                i = y + (shape[0] - size) // 2 if shape[0] >= size else y - (size - shape[0]) // 2
                j = x + (shape[1] - size) // 2 if shape[1] >= size else x - (size - shape[1]) // 2
                if 0 <= i < shape[0] and 0 <= j < shape[1]:
                    literal[y, x] = have[i, j]
        assert_array_equal(cutouts.images[row][0], literal)


def test_eight_bits_stay_when_cropped_and_become_float_when_padded(tmp_path):
    for number, side in enumerate([20, 24, 30]):
        write(tmp_path / "in" / f"{number}.png", RNG.integers(0, 256, (side, side), np.uint8))
    assert read(tmp_path, size=20)[0].images.dtype == np.uint8
    cutouts, _ = read(tmp_path, size=26)
    assert cutouts.images.dtype == np.float32
    assert np.isnan(cutouts.images[0]).sum() == 26**2 - 20**2


@pytest.mark.parametrize(("shape", "dtype", "advice"), [((12, 12), "f4", True), (SIZE, "u2", False)])
def test_several_kinds_are_refused_with_counts_and_fitting_advice(tmp_path, monkeypatch, shape, dtype, advice):
    for number in range(10):
        write(tmp_path / "in" / f"{number}.npy", plane(0) if number < 6 else np.zeros(shape, dtype))
    with pytest.raises(UserError, match=r"8×9 float32 \(6 images\), 1 band of .* \(4 images\)") as raised:
        ingest(tmp_path / "in", tmp_path / "s")
    assert ("--size" in str(raised.value)) is advice
    monkeypatch.setattr(ingest_module, "SAMPLE", 1)  # it misses the majority
    for number in range(20):
        write(tmp_path / "in" / f"{number}.npy", plane(0) if number == 0 else np.zeros(shape, dtype))
    with pytest.raises(UserError, match=r"\(19 images\)"):
        ingest(tmp_path / "in", tmp_path / "s")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_invalid_pixels_and_absent_bands(tmp_path):
    for number, holes in enumerate([0, 3, 5]):
        write(tmp_path / "in" / f"{number}.npy", np.where(np.arange(8) < holes, NAN, 1).reshape(2, 4))
    assert read(tmp_path)[1].set_aside == (("2.npy", "62% of its pixels are invalid"),)
    shutil.rmtree(tmp_path / "in")
    write(tmp_path / "in" / "a.npy", np.stack([plane(), plane() * NAN, plane()]))
    assert list(read(tmp_path)[0].column("bands_present")[0]) == ["band1", "band3"]


@pytest.mark.parametrize("value", [-9999, 100])
def test_a_value_that_means_invalid_is_reported(tmp_path, value):
    image = RNG.normal(size=(12, 12)).astype(np.float32)
    image[:2, :5] = value
    write(tmp_path / "in" / "a.npy", image)
    assert f"--invalid {value} makes them NaN" in read(tmp_path)[1].text()
    cutouts, report = read(tmp_path, invalid=value)
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


def test_links_loops_and_odd_names(tmp_path):
    write(tmp_path / "in" / "sub" / "a.npy", plane(1))
    write(tmp_path / "elsewhere" / "b.npy", plane(2))
    os.symlink(tmp_path / "in", tmp_path / "in" / "sub" / "loop")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "linked")
    with open(os.fsencode(tmp_path / "in") + b"/bad\xff.npy", "wb") as stream:
        stream.write((tmp_path / "elsewhere" / "b.npy").read_bytes())
    cutouts, report = read(tmp_path)
    assert set(cutouts.ids) == {"linked/b.npy", "sub/a.npy"}
    assert "link" in dict(report.set_aside)["sub/loop"]
    assert "UTF-8" in dict(report.set_aside)["bad\\udcff.npy"]


MISTAKES = [
    (None, {}, "does not exist"),
    ("text", {}, "is a file"),
    ("folder", {}, "is empty"),
    (plane(), {"pixel_scale": -1.0}, "pixel scale"),
    (plane(), {"bands": ("g", "g")}, "repeat a name"),
    (plane(), {"axes": "XY"}, "axes"),
    (np.zeros(3), {}, "has 1 axes"),
]


@pytest.mark.parametrize(("content", "options", "message"), MISTAKES)
def test_mistakes_are_one_line(tmp_path, content, options, message):
    if isinstance(content, np.ndarray):
        write(tmp_path / "in" / "a.npy", content)
    elif content:
        (tmp_path / "in").mkdir() if content == "folder" else (tmp_path / "in").write_text(content)
    with pytest.raises(UserError, match=message):
        ingest(tmp_path / "in", tmp_path / "s", config=IngestConfig(**options))


def test_reading_a_large_file_keeps_memory_flat(tmp_path):
    (tmp_path / "in").mkdir()
    with h5py.File(tmp_path / "in" / "a.h5", "w") as file:
        file.create_dataset("images", (600, 3, 128, 128), "f4", chunks=(1, 3, 128, 128), fillvalue=1)
    tracemalloc.start()
    read(tmp_path, workers=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.5 * 600 * 3 * 128 * 128 * 4
