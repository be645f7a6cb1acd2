"""From folders to stores: every file is read or listed with a reason, whatever the folder holds."""

from __future__ import annotations

import csv
import os
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from zwicky.data import frame as frame_module
from zwicky.data import offers as offers_module
from zwicky.data.config import IngestConfig
from zwicky.data.ingest import ingest
from zwicky.data.labels import read_labels
from zwicky.data.store import open_store
from zwicky.errors import UserError

SIZE = (8, 9)


def picture(path: Path, value: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(((np.arange(size[0] * size[1]) + value) % 256).astype(np.uint8).reshape(size)).save(path)


def listed(store: Path) -> dict[str, str]:
    with (store / "set_aside.csv").open(newline="", encoding="utf-8") as stream:
        return {row["file"]: row["reason"] for row in csv.DictReader(stream)}


def test_class_folders_are_labels(tmp_path):
    for number, name in enumerate(["lenses/a.png", "lenses/b.png", "nonlenses/a.png", "unlabelled/c.png", "d.png"]):
        picture(tmp_path / "in" / name, number)
    report = ingest(tmp_path / "in", tmp_path / "s", config=IngestConfig(pixel_scale=0.2, survey="toy", simulated=True))
    assert (report.found, report.read, report.set_aside, report.labelled, report.unlabelled) == (5, 5, (), 3, 2)
    assert list(report.classes.items()) == [("nonlenses", 1), ("lenses", 2)]  # the positive class comes last
    cutouts, labels = open_store(tmp_path / "s"), read_labels(tmp_path / "s")
    assert labels.values == {"lenses/a.png": "lenses", "lenses/b.png": "lenses", "nonlenses/a.png": "nonlenses"}
    assert labels.source == "class folders"
    assert labels.time
    assert cutouts.pixel_scale == 0.2
    assert cutouts.column("survey").tolist() == ["toy"] * 5
    assert cutouts.column("simulated").tolist() == [True] * 5
    row = cutouts.rows_of(["nonlenses/a.png"])[0]
    assert cutouts.images[row, 0, 0, :3].tolist() == [2, 3, 4]


def test_classes_within_train_and_test_folders(tmp_path):
    for number, name in enumerate(["train/lens/a.png", "train/non/b.png", "test/lens/c.png"]):
        picture(tmp_path / "in" / name, number)
    assert ingest(tmp_path / "in", tmp_path / "s").classes == {"lens": 2, "non": 1}


def test_flat_folder_has_no_labels_and_takes_band_names(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3):
        np.save(tmp_path / "in" / f"{number}.npy", np.full((3, *SIZE), number, np.float64))
    report = ingest(tmp_path / "in", tmp_path / "s", config=IngestConfig(bands=("g", "r", "i")))
    assert (report.labelled, report.unlabelled) == (0, 3)
    cutouts = open_store(tmp_path / "s")
    assert (cutouts.bands, cutouts.images.dtype, cutouts.size) == (("g", "r", "i"), np.float32, SIZE)
    assert not (tmp_path / "s" / "_labels.parquet").exists()
    with pytest.raises(UserError, match="2 band names"):
        ingest(tmp_path / "in", tmp_path / "t", config=IngestConfig(bands=("g", "r")))
    assert not (tmp_path / "t").exists()


CATALOG = """file,label,origin,object,grade,ra,dec,code
a.png,lens,sw,x,2.5,10.5,-3.25,007
b.png,nonlens,,x,,nonsense,1,008
c.png,,field,y,1,,,009
gone.png,lens,sw,z,3,1,1,010
a.png,lens,sw,z,3,1,1,011
"""


def test_catalogue_gives_labels_positions_and_properties(tmp_path):
    for number, name in enumerate(["a.png", "b.png", "c.png", "extra.png"]):
        picture(tmp_path / "in" / name, number)
    (tmp_path / "cat.csv").write_text(CATALOG)
    report = ingest(tmp_path / "in", tmp_path / "s", tmp_path / "cat.csv")
    assert (report.found, report.read, len(report.set_aside)) == (6, 3, 3)
    assert (report.labelled, report.unlabelled, report.classes) == (2, 1, {"nonlens": 1, "lens": 1})
    reasons = dict(report.set_aside)
    assert "not in the catalogue" in reasons["extra.png"]
    assert "no such file" in reasons["gone.png"]
    assert "twice" in reasons["a.png"]
    assert any("'ra'" in warning for warning in report.warnings)
    cutouts = open_store(tmp_path / "s")
    assert list(cutouts.ids) == ["a.png", "b.png", "c.png"]
    np.testing.assert_array_equal(cutouts.column("ra"), [10.5, np.nan, np.nan])
    np.testing.assert_array_equal(cutouts.column("grade"), [2.5, np.nan, 1])
    assert cutouts.column("origin").tolist() == ["sw", None, "field"]
    assert cutouts.column("code").tolist() == ["007", "008", "009"]  # a code, no number
    assert read_labels(tmp_path / "s").source == "cat.csv"


@pytest.mark.parametrize(
    ("header", "call"),
    [
        ("file", "{}.png"),
        ("Filename", "sub/{}.png"),
        ("path", "/elsewhere/in/sub/{}.png"),
        ("name", "{}"),
        ("id", "{}"),
    ],
)
def test_ways_a_catalogue_may_name_files(tmp_path, header, call):
    for number, stem in enumerate(["a", "b"]):
        picture(tmp_path / "in" / "sub" / f"{stem}.png", number)
    rows = "".join(f"{call.format(stem)};{label}\n" for stem, label in [("b", "lens"), ("a", "not")])
    (tmp_path / "in" / "catalog.csv").write_text(f"\ufeff{header};CLASS\n{rows}", encoding="utf-8")
    report = ingest(tmp_path / "in", tmp_path / "s")  # the only CSV of the folder is found
    assert (report.found, report.read, report.labelled) == (2, 2, 2)
    ids = {"a": "a", "b": "b"} if header == "id" else {"a": "sub/a.png", "b": "sub/b.png"}
    assert read_labels(tmp_path / "s").values == {ids["a"]: "not", ids["b"]: "lens"}


def test_unique_catalogue_ids_name_the_objects_and_repeated_ones_do_not(tmp_path):
    for stem in "ab":
        picture(tmp_path / "in" / f"{stem}.png", ord(stem))
    (tmp_path / "unique.csv").write_text("file,object_id\na.png,1234567890123456789\nb.png,1234567890123456790\n")
    ingest(tmp_path / "in", tmp_path / "s", tmp_path / "unique.csv")
    assert list(open_store(tmp_path / "s").ids) == ["1234567890123456789", "1234567890123456790"]
    (tmp_path / "repeated.csv").write_text("file,id\na.png,7\nb.png,7\n")
    ingest(tmp_path / "in", tmp_path / "t", tmp_path / "repeated.csv")
    assert list(open_store(tmp_path / "t").ids) == ["a.png", "b.png"]
    assert open_store(tmp_path / "t").column("catalog_id").tolist() == [7, 7]


def test_same_name_in_two_folders_is_not_guessed(tmp_path):
    for number, folder in enumerate(["x", "y"]):
        picture(tmp_path / "in" / folder / "a.png", number)
    (tmp_path / "c.csv").write_text("file,label\nx/a.png,lens\na.png,other\n")
    report = ingest(tmp_path / "in", tmp_path / "s", tmp_path / "c.csv")
    assert read_labels(tmp_path / "s").values == {"x/a.png": "lens"}
    assert {file for file, _ in report.set_aside} == {"a.png", "y/a.png"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("file,label\n", "no rows"),
        ("a,b\n1,2\n", "names no files"),
        ("file,label\nother.png,lens\n", "no row of the catalogue"),
        ("file,File\na.png,a.png\n", "two columns"),
        ("file,label\na.png,lens,sw\n", "more cells"),
        (b"file,label\na.png,\xff\xfe\n", "cannot read the catalogue"),
        (None, "cannot read the catalogue"),
    ],
)
def test_catalogues_that_will_not_do(tmp_path, text, message):
    picture(tmp_path / "in" / "a.png")
    if text is not None:
        (tmp_path / "c.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=message) as raised:
        ingest(tmp_path / "in", tmp_path / "s", tmp_path / "c.csv")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "s").exists()


def test_a_catalogue_without_a_column_of_labels_says_so(tmp_path):
    for number in range(3):
        picture(tmp_path / "in" / f"{number}.png", number)
    (tmp_path / "list.csv").write_text("file,klass\n0.png,a\n1.png,b\n2.png,b\n")
    report = ingest(tmp_path / "in", tmp_path / "s", tmp_path / "list.csv")
    assert (report.read, report.labelled) == (3, 0)
    (warning,) = report.warnings
    assert "gives no labels" in warning
    assert "klass" in warning
    (tmp_path / "list.csv").write_text("file,class\n0.png,a\n1.png,\n2.png,b\n")
    assert ingest(tmp_path / "in", tmp_path / "t", tmp_path / "list.csv").warnings == ()


def test_a_lone_csv_that_is_no_catalogue_is_just_listed(tmp_path):
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "notes.csv").write_text("x,y\n1,2\n")
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert report.set_aside == (("notes.csv", "not an image"),)


GOOD = ("good",)
BAD = (
    "empty",
    "garbage",
    "cut",
    "text",
    "hidden",
    "unknown",
    "allnan",
    "bands",
    "size",
    "broken",
    "pipe",
    "objects",
    "folder",
)


def make(folder: Path, number: int, kind: str) -> None:
    name = folder / f"{number:03d}"
    if kind == "good":
        np.save(f"{name}.npy", np.full(SIZE, number, np.float32))
    elif kind == "empty":
        Path(f"{name}.png").touch()
    elif kind == "garbage":
        Path(f"{name}.fits").write_bytes(np.random.default_rng(number).bytes(300))
    elif kind == "cut":
        picture(Path(f"{name}.png"), number, (40, 40))
        data = Path(f"{name}.png").read_bytes()
        Path(f"{name}.png").write_bytes(data[: len(data) // 2])
    elif kind == "text":
        Path(f"{name}.npy").write_text("not an array")
    elif kind == "hidden":
        picture(folder / f".{number}.png")
    elif kind == "unknown":
        Path(f"{name}.doc").write_text("x")
    elif kind == "allnan":
        np.save(f"{name}.npy", np.full(SIZE, np.nan, np.float32))
    elif kind == "bands":
        np.save(f"{name}.npy", np.zeros((3, *SIZE), np.float32))
    elif kind == "size":
        np.save(f"{name}.npy", np.zeros((20, 20), np.float32))
    elif kind == "broken":
        os.symlink(folder / "nowhere.png", f"{name}.png")
    elif kind == "pipe":
        os.mkfifo(f"{name}.png")
    elif kind == "objects":
        np.save(f"{name}.npy", np.array([1, "x"], dtype=object), allow_pickle=True)
    elif kind == "folder":
        Path(f"{name}.png").mkdir()  # empty, so it holds no file


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(BAD), max_size=8), st.integers(0, 30))
def test_nothing_is_lost(bad, good):
    """Whatever the mix: read + set aside == found, and every single bad file is listed."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_module, "MINORITY", 1.0)
        patch.setattr(offers_module, "SAMPLE", 5)  # the sample may well miss the good ones
        patch.setattr(offers_module, "BATCH_BYTES", 1)
        source, out = Path(folder) / "in", Path(folder) / "s"
        source.mkdir()
        kinds = bad + ["good"] * good
        for number, kind in enumerate(kinds):
            make(source, number, kind)
        images = sum(kind in ("good", "bands", "size") for kind in kinds)
        files = sum(kind != "folder" for kind in kinds)
        if not images:
            with pytest.raises(UserError, match="empty" if not files else "no image could be read"):
                ingest(source, out)
            assert list(Path(folder).iterdir()) == [source]
            return
        report = ingest(source, out)
        assert report.found == files
        assert report.read + len(report.set_aside) == report.found
        assert len(listed(out)) == len(report.set_aside)
        cutouts = open_store(out)
        assert len(cutouts) == report.read
        if cutouts.size == SIZE and len(cutouts.bands) == 1:
            expected = {f"{number:03d}.npy" for number, kind in enumerate(kinds) if kind == "good"}
            assert set(cutouts.ids) == expected
            for identifier, image in zip(cutouts.ids, cutouts.images, strict=True):
                assert (image == int(identifier[:3])).all()


def test_mixed_sizes_are_refused_with_sizes_and_counts(tmp_path):
    for number in range(10):
        picture(tmp_path / "in" / f"{number}.png", number, SIZE if number < 6 else (12, 12))
    with pytest.raises(UserError, match=r"8×9 uint8 \(6 images\), 1 band of 12×12 uint8 \(4 images\)"):
        ingest(tmp_path / "in", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_small_minority_of_another_size_is_set_aside(tmp_path):
    for number in range(20):
        picture(tmp_path / "in" / f"{number:02d}.png", number, SIZE if number else (12, 12))
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert report.read == 19
    assert report.set_aside == (("00.png", "has 1 band of 12×12 uint8, the others 1 band of 8×9 uint8"),)


def test_a_majority_the_sample_missed_is_still_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(offers_module, "SAMPLE", 2)  # the first and the last file
    for number in range(20):
        picture(tmp_path / "in" / f"{number:02d}.png", number, SIZE if number in (0, 19) else (12, 12))
    with pytest.raises(UserError, match=r"\(18 images\)"):
        ingest(tmp_path / "in", tmp_path / "s")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_links_loops_and_odd_names(tmp_path):
    picture(tmp_path / "in" / "sub" / "a.png", 1)
    picture(tmp_path / "elsewhere" / "b.png", 2)
    os.symlink(tmp_path / "in", tmp_path / "in" / "sub" / "loop")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "linked")
    with open(os.fsencode(tmp_path / "in") + b"/bad\xff.png", "wb") as stream:
        stream.write((tmp_path / "elsewhere" / "b.png").read_bytes())
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert set(open_store(tmp_path / "s").ids) == {"linked/b.png", "sub/a.png"}
    reasons = listed(tmp_path / "s")
    assert "link" in reasons["sub/loop"]
    assert "UTF-8" in reasons["bad\\udcff.png"]
    assert report.read + len(report.set_aside) == report.found == 4


def test_a_folder_that_may_not_be_read_is_listed(tmp_path, monkeypatch):
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "locked" / "b.png")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert report.set_aside == (("locked", "folder cannot be read: Permission denied"),)


def test_too_many_invalid_pixels(tmp_path):
    (tmp_path / "in").mkdir()
    for number, holes in enumerate([0, 3, 5]):
        image = np.ones((2, 4), np.float32)
        image.ravel()[:holes] = np.nan
        np.save(tmp_path / "in" / f"{number}.npy", image)
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert report.set_aside == (("2.npy", "62% of its pixels are invalid"),)


def test_a_band_without_pixels_is_not_present(tmp_path):
    (tmp_path / "in").mkdir()
    cube = np.ones((3, *SIZE), np.float32)
    np.save(tmp_path / "in" / "0.npy", cube)
    cube[1] = np.nan
    np.save(tmp_path / "in" / "1.npy", cube)
    ingest(tmp_path / "in", tmp_path / "s", config=IngestConfig(bands=("g", "r", "i")))
    assert open_store(tmp_path / "s").column("bands_present").tolist() == [["g", "r", "i"], ["g", "i"]]


def test_fits_positions_and_scale_reach_the_table(tmp_path):
    (tmp_path / "in").mkdir()
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0}
    cards |= {"CRPIX1": 5.0, "CRPIX2": 4.5, "CDELT1": -0.2 / 3600, "CDELT2": 0.2 / 3600}
    header = fits.Header(cards)
    fits.PrimaryHDU(np.ones(SIZE, np.float32), header).writeto(tmp_path / "in" / "a.fits")
    ingest(tmp_path / "in", tmp_path / "s")
    cutouts = open_store(tmp_path / "s")
    assert cutouts.column("ra")[0] == pytest.approx(150.0)
    assert cutouts.column("dec")[0] == pytest.approx(2.0)
    assert cutouts.pixel_scale == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("prepare", "config", "message"),
    [
        (lambda path: None, IngestConfig(), "does not exist"),
        (lambda path: path.write_text("x"), IngestConfig(), "is a file"),
        (lambda path: path.mkdir(), IngestConfig(), "is empty"),
        (lambda path: picture(path / "a.png"), IngestConfig(pixel_scale=-1.0), "pixel scale"),
        (lambda path: picture(path / "a.png"), IngestConfig(bands=("g", "g")), "repeat a name"),
    ],
)
def test_mistakes_are_said_in_one_line(tmp_path, prepare, config, message):
    prepare(tmp_path / "in")
    with pytest.raises(UserError, match=message) as raised:
        ingest(tmp_path / "in", tmp_path / "s", config=config)
    assert "\n" not in str(raised.value)


def test_an_existing_store_is_refused_before_anything_is_read(tmp_path):
    picture(tmp_path / "in" / "a.png")
    ingest(tmp_path / "in", tmp_path / "s")
    with pytest.raises(UserError, match="exists already"):
        ingest(tmp_path / "in", tmp_path / "s")


def test_the_report_says_what_happened(tmp_path):
    picture(tmp_path / "in" / "lens" / "a.png")
    picture(tmp_path / "in" / "non" / "b.png", 1)
    (tmp_path / "in" / "README.txt").write_text("x")
    text = ingest(tmp_path / "in", tmp_path / "s").text()
    assert "2 of 3 files read" in text
    assert "1 × not an image" in text
    assert "lens 1" in text
