"""Folders as people have them: classes, parts of their own split, bands, stray folders, indices."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from zwicky.data.readers import Unreadable
from zwicky.data.source import read_folders, read_index

from .conftest import noise, write, write_noise

STACK = noise(10, 8, 8)

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


def test_the_users_own_division_becomes_the_split_holdout(folder, read):
    counts = {"train_lenses": 5, "train_nonlenses": 4, "test_lenses": 3, "test_nonlenses": 2}
    for name, count in counts.items():
        write_noise(folder / name / "{}.npy", count)
    _, report, _, splits = read()
    assert report.classes == {"nonlenses": 6, "lenses": 8}
    holdout = {f"{name}/{n}.npy": name.split("_")[0] for name, count in counts.items() for n in range(count)}
    assert splits == {"holdout": holdout}
    assert "holdout (train 9, test 5)" in report.text()
    (folder / "test_lenses" / "x.npy").write_bytes((folder / "train_lenses" / "1.npy").read_bytes())
    assert "1 images are both in train and in test" in read().report.text()


def test_splits_of_catalogues(folder, read):
    """A column `split`, or a catalogue a part."""
    write_noise(folder / "{}.npy", 4)
    write(folder / "c.csv", "file,label,split\n0.npy,a,Train\n1.npy,b,val\n2.npy,a,TEST\n3.npy,,\n")
    assert list(read().splits["holdout"].values()) == ["train", "validation", "test", "unlabelled"]
    for part, label in (("train", "a"), ("test", "b")):
        write_noise(folder.parent / "parts" / part / "{}.npy", 2)
        write(folder.parent / "parts" / f"{part}.csv", f"file,label\n{part}/0.npy,{label}\n{part}/1.npy,a\n")
    _, report, _, splits = read(source="parts")
    assert report.classes == {"a": 3, "b": 1}
    assert splits["holdout"] == {f"{part}/{n}.npy": part for part in ("test", "train") for n in range(2)}


# ---------------------------------------------------------------------------------------------------- bands

PATTERNS = """lens/o{}_BAND.fits=ugriZYJHK=lens/o0,lens/o1 BAND/{}.npy=gri=0,1 HSC-BAND/{}.fits=GRI=0,1
{}_HSC-BAND2.fits=RI=0,1 {}_wide_HSC-BAND.png=GRI=0_wide,1_wide"""


@pytest.mark.parametrize("case", PATTERNS.split())
def test_files_that_are_bands(folder, read, case):
    pattern, bands, ids = case.split("=")
    for band in bands:
        write_noise(folder / pattern.replace("BAND", band), 2)
    cutouts, report, *_ = read()
    assert list(cutouts.ids) == ids.split(",")
    assert ([band.rstrip("2")[-1] for band in cutouts.bands], report.classes) == (list(bands), {})
    assert "from the file names" in report.text()


def test_the_lenses_of_euclids_quick_release(folder, read):
    """One file of many extensions an object, in a folder of its own, and a catalogue with grades for labels."""
    lines = ["id_str,right_ascension,declination,subset,grade"]
    for number, grade in enumerate("ABC"):
        name = f"1020186660{number}_NEG570040238507752998"
        hdus = fits.HDUList([fits.PrimaryHDU()])
        for band in ("VIS", "NIR_Y", "NIR_J", "NIR_H"):
            hdus += [fits.ImageHDU(noise(8, 8), name=f"{band}_{kind}") for kind in ("BGSUB", "PSF", "RMS")]
        (folder / name).mkdir(parents=True)
        hdus.writeto(folder / name / f"{name}.fits")
        lines.append(f"{name},{57 + number},-48.5,discovery_engine,{grade}")
    cutouts, _, labels, _ = read(write(folder.parent / "lenses.csv", "\n".join(lines)))
    assert cutouts.bands == ("VIS", "NIR_Y", "NIR_J", "NIR_H")
    assert list(labels.of(cutouts.ids)) == ["A", "B", "C"]
    assert cutouts.table["ra"].tolist() == [57, 58, 59]


def test_an_object_that_lacks_a_band(folder, read):
    for name in ("a_g", "a_r", "b_r"):
        write_noise(folder / f"{name}.fits")
    cutouts = read().cutouts
    assert [list(bands) for bands in cutouts.column("bands_present")] == [["g", "r"], ["r"]]
    assert np.isnan(cutouts.images[1][0]).all()


MISFITS = [((9, 9), "differ in size or type: g 8×8, r 9×9"), ((3, 8, 8), "has 3 bands, and its name is that of one")]


@pytest.mark.parametrize(("shape", "reason"), MISFITS)
def test_bands_that_do_not_belong_together_are_listed(folder, read, shape, reason):
    write_noise(folder / "{}_g.fits", 12)
    write_noise(folder / "{}_r.fits", 12)
    (folder / "0_r.fits").unlink()
    write_noise(folder / "0_r.fits", 1, *shape)
    report = read().report
    ((file, why),) = report.set_aside
    assert (report.read, file) == (11, "0")
    assert reason in why


MAPS = ["{}_g {}_r {}_g_wht {}_r_wht", "{}_sci {}_rms", "{}_sci {}_sci_wht", "{} {}_mask"]
ASIDE = dict.fromkeys(MAPS, "a map of weights, errors or masks") | {"{} {}.png": "a picture of "}


@pytest.mark.parametrize(("names", "reason"), ASIDE.items())
def test_maps_of_weights_and_masks_and_pictures_of_files_are_set_aside(folder, read, names, reason):
    for name in names.split():
        write_noise(folder / (name if "." in name else f"{name}.fits"), 3)
    report = read().report
    assert (report.read, len(report.set_aside)) == (3, 3 * (len(names.split()) // 2))
    assert all(why.startswith(reason) for _, why in report.set_aside)


HINTS = {
    "chanA/{}.fits chanB/{}.fits": "--bands '[chanA, chanB]'",
    "lens_{}.npy nonlens_{}.npy": "file names begin with lens 6, nonlens 6",
    "o{}_a.npy o{}_b.npy o{}_c.npy": "they are bands: --bands '[a, b, c]'",
}


@pytest.mark.parametrize(("names", "hint"), HINTS.items())
def test_folders_and_names_that_may_be_bands_or_classes_are_reported(folder, read, names, hint):
    for name in names.split():
        write_noise(folder / name, 6)
    assert hint in read().report.text()


# ---------------------------------------------------------------------------------------------------- files of many

LABELS = np.arange(10) % 2
PARTS = [
    ({"images": STACK, "labels": LABELS, "z": np.arange(10.0)}, {"0": 5, "1": 5}),
    ({"X": STACK, "y": LABELS, "z": np.arange(10.0)}, {"0": 5, "1": 5}),
    ({"x_train": STACK, "y_train": LABELS, "x_test": STACK[:3] + 1, "y_test": np.ones(3)}, {"0": 5, "1": 8}),
    ({f"{part}_{name}": STACK + n for n, part in enumerate(("train", "test")) for name in ("lens", "nonlens")}, 2),
    ({"lens": STACK, "nonlens": STACK[:8] + 1}, {"nonlens": 8, "lens": 10}),
    ({"g": STACK, "r": STACK + 1}, {}),
]


@pytest.mark.parametrize(("arrays", "classes"), PARTS)
def test_arrays_of_a_folder_are_columns_parts_classes_or_bands(folder, read, arrays, classes):
    for name, array in arrays.items():
        write(folder / f"{name}.npy", array)
    cutouts, report, _, splits = read()
    assert (report.classes, report.set_aside) == ({"nonlens": 20, "lens": 20} if classes == 2 else classes, ())
    assert list(splits) == ["holdout"] * any("train" in name for name in arrays)
    assert cutouts.bands == (("g", "r") if "g" in arrays else ("gray",))
    if "z" in arrays:
        assert cutouts.column("z").tolist() == list(range(10))
        np.testing.assert_array_equal(cutouts.images[:][:, 0], STACK)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18)])  # nothing, and an empty .npz
def test_a_damaged_array_in_a_folder_is_listed(folder, read, content):
    write_noise(folder / "{}.npy", 2)
    write(folder / "2.npy", content)
    cutouts, report, *_ = read()
    assert (list(cutouts.ids), [name for name, _ in report.set_aside]) == (["0.npy", "1.npy"], ["2.npy"])


@pytest.mark.parametrize("count", [1, 20])
def test_a_stray_folder_is_no_class(folder, read, count):
    for name in ("lens/{}.npy", "nonlens/{}.npy"):
        write_noise(folder / name, 6)
    write_noise(folder / "plots" / "{}.png", count)
    write_noise(folder / ".ipynb_checkpoints" / "a.npy")
    write_noise(folder / "__MACOSX" / "lens" / "._a.npy")
    report = read().report
    assert (report.classes, report.read, len(report.set_aside)) == ({"nonlens": 6, "lens": 6}, 12, count + 2)
    assert "folder 'plots' holds other images" in report.text()


# ---------------------------------------------------------------------------------------------------- indices

INDEX = {"train": {"lenses": ["0.npy", "1.npy"], "nonlenses": ["0.npy", "gone.npy"]}}
INDEX |= {"test": {"lenses": ["2.npy"], "nonlenses": ["1.npy"]}}
EXPECTED = dict.fromkeys(["lenses/0.npy", "lenses/1.npy", "nonlenses/0.npy"], "train")
EXPECTED |= dict.fromkeys(["lenses/2.npy", "nonlenses/1.npy"], "test")


@pytest.mark.parametrize(("container", "leak"), [(list, ""), (np.array, "2.npy")])
def test_an_index_pickle_becomes_a_split(folder, read, container, leak):
    for name in ("lenses", "nonlenses"):
        write_noise(folder / name / "{}.npy", 4)
    index = {role: {name: container(files) for name, files in names.items()} for role, names in INDEX.items()}
    write(folder / "indices.pkl", pickle.dumps(index))
    write(folder / "train_indices_300.pkl", pickle.dumps({"lenses": ["1.npy", leak or "1.npy"]}))
    _, report, _, splits = read()
    assert (report.found, report.read) == (9, 8)
    assert report.set_aside == (("indices.pkl: nonlenses/gone.npy", "in the index, but no such file"),)
    few = {f"lenses/{name}": "train" for name in ("1.npy", leak) if name}
    assert splits == {"indices": EXPECTED, "train_indices_300": few}
    warning = "1 objects of train in split train_indices_300 are of test in split indices"
    assert (warning in report.text()) == bool(leak)


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
