"""Folders as people have them: classes, parts of their own split, bands, stray folders, indices."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from astropy.io import fits

from zwicky.data.ingest import IngestReport, ingest
from zwicky.data.readers import Unreadable
from zwicky.data.source import read_folders, read_index
from zwicky.data.splits import read_split
from zwicky.data.store import open_store

RNG = np.random.default_rng(0)


def write(path: Path, count: int = 1, side: int = 8, bands: int = 0) -> None:
    """Write arrays of noise, `count` of them if the path has a `{}`."""
    for number in range(count):
        file = Path(str(path).format(number))
        file.parent.mkdir(parents=True, exist_ok=True)
        array = RNG.normal(size=(bands, side, side) if bands else (side, side)).astype(np.float32)
        if file.suffix == ".npy":
            np.save(file, array)
        elif file.suffix == ".png":
            PIL.Image.fromarray((array * 50 + 120).clip(0, 255).astype(np.uint8)).save(file)
        else:
            fits.PrimaryHDU(array).writeto(file)


def roles(store: Path, name: str = "holdout") -> dict[str, str]:
    return read_split(store / "splits" / f"{name}.csv").roles


@pytest.mark.parametrize(
    ("files", "classes", "roles"),
    [
        ("lens/a lens/b non/a d unlabelled/c", "lens lens non - -", ""),
        ("lenses/a nonlenses/b", "lenses nonlenses", ""),
        ("a b", "- -", ""),
        ("lens/a lens/b", "- -", ""),
        ("train/lens/a train/non/b test/lens/c", "lens non lens", "train train test"),
        ("train/a val/b test/c", "- - -", "train validation test"),
        (
            "train_lenses/a train_nonlenses/b test_lenses/c test_nonlenses/d",
            "lenses nonlenses " * 2,
            "train train test test",
        ),
        ("lenses-test/a lenses-train/b nonlenses-train/c", "lenses lenses nonlenses", "test train train"),
        ("Model_I/no_sub/a Model_I/cdm/b Model_I_test/no_sub/c", "no_sub cdm no_sub", "train train test"),
        ("lens/train/a non/train/b lens/test/c non/test/d", "lens non lens non", "train train test test"),
        ("hsc/lens/a hsc/lens/b hsc/non/c kids/lens/d kids/non/e", "lens lens non lens non", ""),
        ("lens/sis/a lens/sie/b non/star/c non/spiral/d", "lens lens non non", ""),
        ("set/lens/a set/non/b", "lens non", ""),
        (
            "training/unlabelled/a training/lens/b training/non/c testing/non/d",
            "- lens non non",
            "train train train test",
        ),
        ("o1/a o2/a o3/a o4/a o5/a", "- - - - -", ""),  # a folder an object
        ("Norder=1/Dir=0/a Norder=2/Dir=0/b", "- -", ""),  # HATS
    ],
)
def test_classes_and_roles_of_folders(files, classes, roles):
    found = read_folders([f"{file}.npy" for file in files.split()])
    names = [f"{file}.npy" for file in files.split()]
    assert [found[0].get(name, "-") for name in names] == classes.split()
    assert [found[1].get(name) for name in names] == (roles.split() or [None] * len(names))


def test_the_users_own_division_becomes_the_split_holdout(tmp_path):
    for folder, count in (("train_lenses", 5), ("train_nonlenses", 4), ("test_lenses", 3), ("test_nonlenses", 2)):
        write(tmp_path / "in" / folder / "{}.npy", count)
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert (report.classes, report.splits) == ({"nonlenses": 6, "lenses": 8}, ("holdout",))
    held = roles(tmp_path / "s")
    assert {name: role for name, role in held.items() if role == "test"} == dict.fromkeys(
        [f"test_lenses/{n}.npy" for n in range(3)] + [f"test_nonlenses/{n}.npy" for n in range(2)], "test"
    )
    assert set(held.values()) == {"train", "test"}
    assert "holdout (train 9, test 5)" in report.text()


def test_a_test_image_that_is_also_in_train_is_reported(tmp_path):
    write(tmp_path / "in" / "train" / "{}.npy", 3)
    (tmp_path / "in" / "test").mkdir()
    (tmp_path / "in" / "test" / "x.npy").write_bytes((tmp_path / "in" / "train" / "1.npy").read_bytes())
    assert any(
        "1 images are both in train and in test" in line for line in ingest(tmp_path / "in", tmp_path / "s").warnings
    )


def test_a_column_split_of_a_catalogue(tmp_path):
    write(tmp_path / "in" / "{}.npy", 4)
    (tmp_path / "in" / "c.csv").write_text("file,label,split\n0.npy,a,Train\n1.npy,b,val\n2.npy,a,TEST\n3.npy,,\n")
    ingest(tmp_path / "in", tmp_path / "s")
    assert list(roles(tmp_path / "s").values()) == ["train", "validation", "test", "unlabelled"]


def test_catalogues_of_train_and_test(tmp_path):
    for part, label in (("train", "a"), ("test", "b")):
        write(tmp_path / "in" / part / "{}.npy", 2)
        (tmp_path / "in" / f"{part}.csv").write_text(f"file,label\n{part}/0.npy,{label}\n{part}/1.npy,a\n")
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert report.classes == {"a": 3, "b": 1}
    assert roles(tmp_path / "s") == {f"{part}/{n}.npy": part for part in ("test", "train") for n in range(2)}


# ---------------------------------------------------------------------------------------------------- bands


@pytest.mark.parametrize(
    ("pattern", "bands", "ids"),
    [
        ("lens/o{}_{band}.fits", "ugriZYJHK", ["lens/o0", "lens/o1"]),
        ("{band}/{}.npy", "gri", ["0", "1"]),
        ("HSC-{band}/{}.fits", "GRI", ["0", "1"]),
        ("{}_wide_HSC-{band}.png", "GRI", ["0_wide", "1_wide"]),
    ],
)
def test_files_that_are_bands(tmp_path, pattern, bands, ids):
    for band in bands:
        write(tmp_path / "in" / pattern.replace("{band}", band), 2)
    report = ingest(tmp_path / "in", tmp_path / "s")
    cutouts = open_store(tmp_path / "s")
    assert list(cutouts.ids) == ids
    assert [band[-1] for band in cutouts.bands] == list(bands)
    assert report.classes == {}
    assert "from the file names" in report.text()


def test_the_lens_finding_challenge(tmp_path):
    for number, band in enumerate("RIGU", 1):
        write(tmp_path / "in" / "Public" / f"Band{number}" / ("imageSDSS_" + band + "-10{}.fits"), 3)
    report = ingest(tmp_path / "in", tmp_path / "s")
    cutouts = open_store(tmp_path / "s")
    assert (report.read, cutouts.bands, report.classes) == (3, ("U", "G", "R", "I"), {})


def test_an_object_that_lacks_a_band(tmp_path):
    for name in ("a_g", "a_r", "b_r"):
        write(tmp_path / "in" / f"{name}.fits")
    ingest(tmp_path / "in", tmp_path / "s")
    cutouts = open_store(tmp_path / "s")
    assert [list(bands) for bands in cutouts.column("bands_present")] == [["g", "r"], ["r"]]
    assert np.isnan(cutouts.images[1][0]).all()


@pytest.mark.parametrize(
    ("side", "bands", "reason"),
    [(9, 0, "differ in size or type: g 8×8, r 9×9"), (8, 3, "has 3 bands, and its name is that of one")],
)
def test_bands_that_do_not_belong_together_are_listed(tmp_path, side, bands, reason):
    for number in range(12):
        write(tmp_path / "in" / f"{number}_g.fits")
        write(tmp_path / "in" / f"{number}_r.fits", 1, *((side, bands) if number == 0 else ()))
    report = ingest(tmp_path / "in", tmp_path / "s")
    ((file, why),) = report.set_aside
    assert (report.read, file) == (11, "0")
    assert reason in why


def test_class_folders_that_may_be_bands_are_reported(tmp_path):
    for folder in ("chanA", "chanB"):
        write(tmp_path / "in" / folder / "{}.fits", 6)
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert any("--bands '[chanA, chanB]'" in warning for warning in report.warnings)


# ---------------------------------------------------------------------------------------------------- files of many


def save(folder: Path, **arrays) -> None:
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


STACK = RNG.normal(size=(10, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("names", ["images labels", "X y"])
def test_arrays_beside_an_array_of_images_are_columns(tmp_path, names):
    images, labels = names.split()
    save(tmp_path / "in", **{images: STACK, labels: np.arange(10) % 2, "z": np.arange(10.0)})
    report = ingest(tmp_path / "in", tmp_path / "s")
    cutouts = open_store(tmp_path / "s")
    assert (report.classes, report.set_aside) == ({"0": 5, "1": 5}, ())
    assert cutouts.column("z").tolist() == list(range(10))
    np.testing.assert_array_equal(cutouts.images[:][:, 0], STACK)


def test_arrays_of_train_and_test(tmp_path):
    save(tmp_path / "in", x_train=STACK, y_train=np.arange(10) % 2, x_test=STACK[:3] + 1, y_test=np.ones(3))
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert (report.classes, report.splits) == ({"0": 5, "1": 8}, ("holdout",))


def test_an_array_a_class(tmp_path):
    save(
        tmp_path / "in", train_lens=STACK, train_nonlens=STACK[:9] + 1, test_lens=STACK[:8] + 2, test_nonlens=STACK + 3
    )
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert (report.classes, report.splits) == ({"nonlens": 19, "lens": 18}, ("holdout",))
    save(tmp_path / "in2", g=STACK, r=STACK + 1)
    ingest(tmp_path / "in2", tmp_path / "t")
    assert open_store(tmp_path / "t").bands == ("g", "r")


def test_classes_in_file_names_are_named(tmp_path):
    write(tmp_path / "in" / "lens_{}.npy", 3)
    write(tmp_path / "in" / "nonlens_{}.npy", 3)
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert any("file names begin with lens 3, nonlens 3" in warning for warning in report.warnings)


# ---------------------------------------------------------------------------------------------------- stray folders


def check_stray(report: IngestReport, classes: dict[str, int]) -> None:
    assert report.classes == classes
    assert "folder 'plots' holds other images" in report.text()


@pytest.mark.parametrize("count", [1, 20])
def test_a_stray_folder_is_no_class(tmp_path, count):
    write(tmp_path / "in" / "lens" / "{}.npy", 6)
    write(tmp_path / "in" / "nonlens" / "{}.npy", 6)
    write(tmp_path / "in" / "plots" / "{}.png", count)
    write(tmp_path / "in" / ".ipynb_checkpoints" / "a.npy")
    write(tmp_path / "in" / "__MACOSX" / "lens" / "._a.npy")
    report = ingest(tmp_path / "in", tmp_path / "s")
    check_stray(report, {"nonlens": 6, "lens": 6})
    assert report.read == 12
    assert len(report.set_aside) == count + 2


# ---------------------------------------------------------------------------------------------------- indices

INDEX = {
    "train": {"lenses": ["0.npy", "1.npy"], "nonlenses": ["0.npy", "gone.npy"]},
    "test": {"lenses": ["2.npy"], "nonlenses": ["1.npy"]},
}
EXPECTED = {"lenses/0.npy": "train", "lenses/1.npy": "train", "nonlenses/0.npy": "train"} | {
    "lenses/2.npy": "test",
    "nonlenses/1.npy": "test",
}


@pytest.mark.parametrize("arrays", [False, True])
def test_an_index_pickle_becomes_a_split(tmp_path, arrays):
    for name in ("lenses", "nonlenses"):
        write(tmp_path / "in" / name / "{}.npy", 4)
    index = {k: {c: np.array(n) for c, n in v.items()} for k, v in INDEX.items()} if arrays else INDEX
    (tmp_path / "in" / "indices.pkl").write_bytes(pickle.dumps(index))
    (tmp_path / "in" / "train_indices_300.pkl").write_bytes(pickle.dumps({"lenses": ["1.npy"]}))
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert (report.found, report.read, report.splits) == (9, 8, ("indices", "train_indices_300"))
    assert report.set_aside == (("indices.pkl: nonlenses/gone.npy", "in the index, but no such file"),)
    assert roles(tmp_path / "s", "indices") == EXPECTED
    assert roles(tmp_path / "s", "train_indices_300") == {"lenses/1.npy": "train"}


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"train": {"lenses": ["0.npy"]}, "test": {"lenses": ["0.npy"]}}, "a leak"),
        ({"train": {"lenses": [0, 1]}}, "other things than names"),
        ({"a": 1}, "no index"),
        ({"train": {"lenses": ["gone.npy"]}}, "names no file"),
        (Path("x"), "never run"),
        (b"", "damaged"),
    ],
)
def test_other_pickles_are_refused_with_the_reason(tmp_path, index, reason):
    path = tmp_path / "stuff.pkl"
    path.write_bytes(b"" if index == b"" else pickle.dumps(index))
    with pytest.raises(Unreadable, match=reason):
        read_index(path, "stuff.pkl", ["lenses/0.npy"])
