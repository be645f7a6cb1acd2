"""Folders as people have them: classes, parts of their own split, bands, stray folders, indices."""

import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from astropy.io import fits

from zwicky.data.cutouts import Cutouts
from zwicky.data.ingest import IngestReport, ingest
from zwicky.data.labels import read_labels
from zwicky.data.readers import Unreadable
from zwicky.data.source import read_folders, read_index
from zwicky.data.splits import read_split
from zwicky.data.store import open_store

RNG = np.random.default_rng(0)
STACK = RNG.normal(size=(10, 8, 8)).astype(np.float32)


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


def read(tmp_path: Path) -> tuple[Cutouts, IngestReport]:
    report = ingest(tmp_path / "in", tmp_path / "s")
    return open_store(tmp_path / "s"), report


def roles(tmp_path: Path, name: str = "holdout") -> dict[str, str]:
    return read_split(tmp_path / "s" / "splits" / f"{name}.csv").roles


FOLDERS = """lens/a lens/b non/a d unlabelled/c = lens lens non - - =
lenses/a nonlenses/b = lenses nonlenses =
class:lens/a class:non/b = lens non =
a b = - - =
lens/a lens/b = - - =
train/lens/a train/non/b test/lens/c = lens non lens = train train test
train/a val/b test/c = - - - = train validation test
train_L/a train_N/b test_L/c test_N/d = L N L N = train train test test
ringTrain/a otherTrain/b ringTest/c otherTest/d = ring other ring other = train train test test
L_train_v2/a N_train_v2/b L_test_v2/c N_test_v2/d = L_v2 N_v2 L_v2 N_v2 = train train test test
train_set/L/a trainval/N/b test-data/L/c eval/N/d = L N L N = train train test test
train_1 train_2 test_1 = - - - = train train test
train-00000-of-00001 val-00000-of-00001 = - - = train validation
train_1 b_2 test_1 = - - - =
L-test/a L-train/b N-train/c = L L N = test train train
Model_I/no_sub/a Model_I/cdm/b Model_I_test/no_sub/c = no_sub cdm no_sub = train train test
lens/train/a non/train/b lens/test/c non/test/d = lens non lens non = train train test test
hsc/lens/a hsc/lens/b hsc/non/c kids/lens/d kids/non/e = lens lens non lens non =
lens/a non/b plots/c = lens non - =
lens/sis/a lens/sie/b non/star/c non/spiral/d = lens lens non non =
set/lens/a set/non/b = lens non =
training/unlabelled/a training/lens/b training/non/c testing/non/d = - lens non non = train train train test
o1/a o2/a o3/a o4/a o5/a = - - - - - =
Norder:1/Dir:0/a Norder:2/Dir:0/b = - - =""".splitlines()  # a folder an object; HATS


@pytest.mark.parametrize("case", FOLDERS)
def test_classes_and_roles_of_folders(case):
    files, classes, roles = (part.split() for part in case.split("="))
    files = [f"{file}.npy".replace(":", "=") for file in files]
    class_of, role_of = read_folders(files)
    assert [class_of.get(file, "-") for file in files] == classes
    assert [role_of.get(file) for file in files] == (roles or [None] * len(files))


def test_the_users_own_division_becomes_the_split_holdout(tmp_path):
    counts = {"train_lenses": 5, "train_nonlenses": 4, "test_lenses": 3, "test_nonlenses": 2}
    for folder, count in counts.items():
        write(tmp_path / "in" / folder / "{}.npy", count)
    _, report = read(tmp_path)
    assert (report.classes, report.splits) == ({"nonlenses": 6, "lenses": 8}, ("holdout",))
    assert roles(tmp_path) == {f"{f}/{n}.npy": f.split("_")[0] for f, count in counts.items() for n in range(count)}
    assert "holdout (train 9, test 5)" in report.text()


def test_a_test_image_that_is_also_in_train_is_reported(tmp_path):
    write(tmp_path / "in" / "train" / "{}.npy", 3)
    (tmp_path / "in" / "test").mkdir()
    (tmp_path / "in" / "test" / "x.npy").write_bytes((tmp_path / "in" / "train" / "1.npy").read_bytes())
    assert "1 images are both in train and in test" in read(tmp_path)[1].text()


def test_a_column_split_of_a_catalogue(tmp_path):
    write(tmp_path / "in" / "{}.npy", 4)
    (tmp_path / "in" / "c.csv").write_text("file,label,split\n0.npy,a,Train\n1.npy,b,val\n2.npy,a,TEST\n3.npy,,\n")
    read(tmp_path)
    assert list(roles(tmp_path).values()) == ["train", "validation", "test", "unlabelled"]


def test_catalogues_of_train_and_test(tmp_path):
    for part, label in (("train", "a"), ("test", "b")):
        write(tmp_path / "in" / part / "{}.npy", 2)
        (tmp_path / "in" / f"{part}.csv").write_text(f"file,label\n{part}/0.npy,{label}\n{part}/1.npy,a\n")
    assert read(tmp_path)[1].classes == {"a": 3, "b": 1}
    assert roles(tmp_path) == {f"{part}/{n}.npy": part for part in ("test", "train") for n in range(2)}


# ---------------------------------------------------------------------------------------------------- bands

PATTERNS = """lens/o{}_BAND.fits=ugriZYJHK=lens/o0,lens/o1 BAND/{}.npy=gri=0,1 HSC-BAND/{}.fits=GRI=0,1
{}_HSC-BAND2.fits=RI=0,1 {}_wide_HSC-BAND.png=GRI=0_wide,1_wide"""


@pytest.mark.parametrize("case", PATTERNS.split())
def test_files_that_are_bands(tmp_path, case):
    pattern, bands, ids = case.split("=")
    for band in bands:
        write(tmp_path / "in" / pattern.replace("BAND", band), 2)
    cutouts, report = read(tmp_path)
    assert list(cutouts.ids) == ids.split(",")
    assert ([band.rstrip("2")[-1] for band in cutouts.bands], report.classes) == (list(bands), {})
    assert "from the file names" in report.text()


def test_the_lenses_of_euclids_quick_release(tmp_path):
    """One file of many extensions an object, in a folder of its own, and a catalogue with grades for labels."""
    lines = ["id_str,right_ascension,declination,subset,grade"]
    for number, grade in enumerate("ABC"):
        name = f"1020186660{number}_NEG570040238507752998"
        hdus = fits.HDUList([fits.PrimaryHDU()])
        for band in ("VIS", "NIR_Y", "NIR_J", "NIR_H"):
            hdus += [fits.ImageHDU(RNG.normal(size=(8, 8)), name=f"{band}_{kind}") for kind in ("BGSUB", "PSF", "RMS")]
        (tmp_path / "in" / name).mkdir(parents=True)
        hdus.writeto(tmp_path / "in" / name / f"{name}.fits")
        lines.append(f"{name},{57 + number},-48.5,discovery_engine,{grade}")
    (tmp_path / "lenses.csv").write_text("\n".join(lines))
    ingest(tmp_path / "in", tmp_path / "s", tmp_path / "lenses.csv")
    cutouts, labels = open_store(tmp_path / "s"), read_labels(tmp_path / "s")
    assert cutouts.bands == ("VIS", "NIR_Y", "NIR_J", "NIR_H")
    assert list(labels.of(cutouts.ids)) == ["A", "B", "C"]
    assert cutouts.table["ra"].tolist() == [57, 58, 59]


def test_an_object_that_lacks_a_band(tmp_path):
    for name in ("a_g", "a_r", "b_r"):
        write(tmp_path / "in" / f"{name}.fits")
    cutouts, _ = read(tmp_path)
    assert [list(bands) for bands in cutouts.column("bands_present")] == [["g", "r"], ["r"]]
    assert np.isnan(cutouts.images[1][0]).all()


MISFITS = [(9, 0, "differ in size or type: g 8×8, r 9×9"), (8, 3, "has 3 bands, and its name is that of one")]


@pytest.mark.parametrize(("side", "bands", "reason"), MISFITS)
def test_bands_that_do_not_belong_together_are_listed(tmp_path, side, bands, reason):
    for number in range(12):
        write(tmp_path / "in" / f"{number}_g.fits")
        write(tmp_path / "in" / f"{number}_r.fits", 1, *((side, bands) if number == 0 else ()))
    _, report = read(tmp_path)
    ((file, why),) = report.set_aside
    assert (report.read, file) == (11, "0")
    assert reason in why


ASIDE = dict.fromkeys(
    ["{}_g {}_r {}_g_wht {}_r_wht", "{}_sci {}_rms", "{}_sci {}_sci_wht", "{} {}_mask"],
    "a map of weights, errors or masks",
)
ASIDE["{} {}.png"] = "a picture of "


@pytest.mark.parametrize(("names", "reason"), ASIDE.items())
def test_maps_of_weights_and_masks_and_pictures_of_files_are_set_aside(tmp_path, names, reason):
    for name in names.split():
        write(tmp_path / "in" / (name if "." in name else f"{name}.fits"), 3)
    _, report = read(tmp_path)
    assert report.read == 3
    assert len(report.set_aside) == 3 * (len(names.split()) // 2)
    assert all(why.startswith(reason) for _, why in report.set_aside)


def test_folders_and_names_that_may_be_bands_or_classes_are_reported(tmp_path):
    for folder in ("chanA", "chanB"):
        write(tmp_path / "in" / folder / "{}.fits", 6)
    assert "--bands '[chanA, chanB]'" in read(tmp_path)[1].text()
    for name in ("lens_{}.npy", "nonlens_{}.npy"):
        write(tmp_path / "names" / name, 3)
    assert "file names begin with lens 3, nonlens 3" in ingest(tmp_path / "names", tmp_path / "t").text()
    for end in "abc":
        write(tmp_path / "ends" / ("o{}_" + f"{end}.npy"), 3)
    assert "they are bands: --bands '[a, b, c]'" in ingest(tmp_path / "ends", tmp_path / "u").text()


# ---------------------------------------------------------------------------------------------------- files of many


def save(folder: Path, **arrays) -> None:
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


@pytest.mark.parametrize("names", ["images labels", "X y"])
def test_arrays_beside_an_array_of_images_are_columns(tmp_path, names):
    images, labels = names.split()
    save(tmp_path / "in", **{images: STACK, labels: np.arange(10) % 2, "z": np.arange(10.0)})
    cutouts, report = read(tmp_path)
    assert (report.classes, report.set_aside) == ({"0": 5, "1": 5}, ())
    assert cutouts.column("z").tolist() == list(range(10))
    np.testing.assert_array_equal(cutouts.images[:][:, 0], STACK)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18)])  # nothing, and an empty .npz
def test_a_damaged_array_in_a_folder_is_listed(tmp_path, content):
    write(tmp_path / "in" / "{}.npy", 2)
    (tmp_path / "in" / "2.npy").write_bytes(content)
    cutouts, report = read(tmp_path)
    assert (list(cutouts.ids), [name for name, _ in report.set_aside]) == (["0.npy", "1.npy"], ["2.npy"])


def test_arrays_of_parts_classes_and_bands(tmp_path):
    save(tmp_path / "in", x_train=STACK, y_train=np.arange(10) % 2, x_test=STACK[:3] + 1, y_test=np.ones(3))
    _, report = read(tmp_path)
    assert (report.classes, report.splits) == ({"0": 5, "1": 8}, ("holdout",))
    arrays = {
        "train_lens": STACK,
        "train_nonlens": STACK[:9] + 1,
        "test_lens": STACK[:8] + 2,
        "test_nonlens": STACK + 3,
    }
    save(tmp_path / "classes", **arrays)
    report = ingest(tmp_path / "classes", tmp_path / "t")
    assert (report.classes, report.splits) == ({"nonlens": 19, "lens": 18}, ("holdout",))
    save(tmp_path / "few", lens=STACK, nonlens=STACK[:8] + 1)
    assert ingest(tmp_path / "few", tmp_path / "v").classes == {"nonlens": 8, "lens": 10}
    save(tmp_path / "bands", g=STACK, r=STACK + 1)
    ingest(tmp_path / "bands", tmp_path / "u")
    assert open_store(tmp_path / "u").bands == ("g", "r")


@pytest.mark.parametrize("count", [1, 20])
def test_a_stray_folder_is_no_class(tmp_path, count):
    for name in ("lens/{}.npy", "nonlens/{}.npy"):
        write(tmp_path / "in" / name, 6)
    write(tmp_path / "in" / "plots" / "{}.png", count)
    write(tmp_path / "in" / ".ipynb_checkpoints" / "a.npy")
    write(tmp_path / "in" / "__MACOSX" / "lens" / "._a.npy")
    _, report = read(tmp_path)
    assert (report.classes, report.read, len(report.set_aside)) == ({"nonlens": 6, "lens": 6}, 12, count + 2)
    assert "folder 'plots' holds other images" in report.text()


# ---------------------------------------------------------------------------------------------------- indices

INDEX = {"train": {"lenses": ["0.npy", "1.npy"], "nonlenses": ["0.npy", "gone.npy"]}}
INDEX |= {"test": {"lenses": ["2.npy"], "nonlenses": ["1.npy"]}}
EXPECTED = dict.fromkeys(["lenses/0.npy", "lenses/1.npy", "nonlenses/0.npy"], "train")
EXPECTED |= dict.fromkeys(["lenses/2.npy", "nonlenses/1.npy"], "test")


@pytest.mark.parametrize("container", [list, np.array])
def test_an_index_pickle_becomes_a_split(tmp_path, container):
    for name in ("lenses", "nonlenses"):
        write(tmp_path / "in" / name / "{}.npy", 4)
    index = {role: {name: container(files) for name, files in names.items()} for role, names in INDEX.items()}
    (tmp_path / "in" / "indices.pkl").write_bytes(pickle.dumps(index))
    (tmp_path / "in" / "train_indices_300.pkl").write_bytes(pickle.dumps({"lenses": ["1.npy"]}))
    _, report = read(tmp_path)
    assert (report.found, report.read, report.splits) == (9, 8, ("indices", "train_indices_300"))
    assert report.set_aside == (("indices.pkl: nonlenses/gone.npy", "in the index, but no such file"),)
    assert roles(tmp_path, "indices") == EXPECTED
    assert roles(tmp_path, "train_indices_300") == {"lenses/1.npy": "train"}
    assert "are of test" not in report.text()


def test_an_index_that_learns_from_tested_objects_is_reported(tmp_path):
    for name in ("lenses", "nonlenses"):
        write(tmp_path / "in" / name / "{}.npy", 4)
    for name, files in (("indices", INDEX), ("train_indices_2", {"lenses": ["1.npy", "2.npy"]})):
        (tmp_path / "in" / f"{name}.pkl").write_bytes(pickle.dumps(files))
    assert "1 objects of train in split train_indices_2 are of test in split indices" in read(tmp_path)[1].text()


REFUSED = [
    ({"train": {"lenses": ["0.npy"]}, "test": {"lenses": ["0.npy"]}}, "a leak"),
    ({"train": {"lenses": [0, 1]}}, "other things than names"),
    ({"a": 1}, "no index"),
    ({"train": {"lenses": ["gone.npy"]}}, "names no file"),
    (Path("x"), "never run"),
    (None, "damaged"),
]


@pytest.mark.parametrize(("index", "reason"), REFUSED)
def test_other_pickles_are_refused_with_the_reason(tmp_path, index, reason):
    path = tmp_path / "stuff.pkl"
    path.write_bytes(b"" if index is None else pickle.dumps(index))
    with pytest.raises(Unreadable, match=reason):
        read_index(path, "stuff.pkl", ["lenses/0.npy"])
