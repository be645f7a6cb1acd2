"""One FITS a band, mixed surveys, sizes that differ, DeepLense's pickles: what ends up in the store, and where."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from astropy.io import fits

from zwicky.augment.config import NormalisationConfig
from zwicky.augment.normalise import Normalisation
from zwicky.data.bands import group_bands
from zwicky.data.config import IngestConfig
from zwicky.data.ingest import ingest
from zwicky.data.labels import read_labels
from zwicky.data.splits import read_split
from zwicky.data.store import open_store
from zwicky.errors import UserError

RNG = np.random.default_rng(0)


def plane(value: float, size: tuple[int, int] = (8, 9)) -> np.ndarray:
    return (np.arange(size[0] * size[1]).reshape(size) + 1000 * value).astype(np.float32)


def write(path: Path, array: np.ndarray, **cards) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".png":
        PIL.Image.fromarray(array).save(path)
    else:
        fits.PrimaryHDU(array, fits.Header(cards)).writeto(path)


# ---------------------------------------------------------------------------------------------------- one FITS a band


def test_one_fits_a_band(tmp_path):
    for obj in range(3):
        for number, band in enumerate("gri"):
            if (obj, band) != (1, "r"):  # one band of one object was never taken
                write(tmp_path / "in" / "lens" / f"obj{obj}_{band}.fits", plane(10 * obj + number))
    write(tmp_path / "in" / "non" / "other_g.fits", plane(90))
    write(tmp_path / "in" / "non" / "other_r.fits", plane(91))
    report = ingest(tmp_path / "in", tmp_path / "s")
    cutouts = open_store(tmp_path / "s")
    assert (report.found, report.read) == (4, 4)
    assert cutouts.bands == ("g", "i", "r")  # as the names sort, unless --bands says otherwise
    assert list(cutouts.ids) == ["lens/obj0", "lens/obj1", "lens/obj2", "non/other"]
    np.testing.assert_array_equal(cutouts.images[2], [plane(20), plane(22), plane(21)])
    assert cutouts.column("bands_present").tolist()[1] == ["g", "i"]
    assert np.isnan(cutouts.images[1, 2]).all()
    assert read_labels(tmp_path / "s").values["non/other"] == "non"
    ingest(tmp_path / "in", tmp_path / "t", config=IngestConfig(bands=("g", "r", "i")))
    ordered = open_store(tmp_path / "t")
    assert ordered.bands == ("g", "r", "i")
    np.testing.assert_array_equal(ordered.images[:, [0, 2, 1]], cutouts.images)


@pytest.mark.parametrize(
    ("files", "given", "stems"),
    [
        (["a_g.fits", "a_r.fits"], (), {"a"}),
        (["a-HSC-G.fits", "a-HSC-R.fits"], (), set()),  # capital G and R are no filters we know
        (["a-HSC-G.fits", "a-HSC-R.fits"], ("HSC-G", "HSC-R"), {"a"}),
        (["a_F814W.fits", "a_f606w.fits"], (), {"a"}),
        (["a.VIS.fits.gz", "a.NIR_H.fits"], (), {"a"}),
        (["a_VIS.fits", "b_VIS.fits"], (), set()),  # nothing to join
        (["a_g.fits", "a_g.fits.gz", "a_r.fits"], (), {"a"}),
        (["x/a_g.fits", "y/a_r.fits"], (), set()),
        (["a_1.fits", "a_2.fits"], (), set()),
        (["a_1.fits", "a_2.fits"], ("1", "2"), {"a"}),
        (["a_g.png", "a_r.png"], (), set()),
        (["g.fits", "r.fits"], (), set()),
        (["a.fits", "a_g.fits", "a_r.fits"], (), {"a"}),
    ],
)
def test_what_counts_as_a_band(files, given, stems):
    groups = group_bands(files, given)
    assert set(groups) == stems
    joined = [file for group in groups.values() for _, file in group]
    assert len(joined) == len(set(joined))


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (plane(1, (8, 10)), "differ in size or type: g 8×9, r 8×10"),
        (np.stack([plane(1)] * 3), "has 3 bands, and its name speaks of one"),
        (plane(1).astype(np.int16).astype(">u2").astype(np.uint16), "differ in size or type"),
        (np.full((8, 9), np.nan), "no valid pixel"),
    ],
)
def test_bands_that_do_not_belong_together_are_listed(tmp_path, second, reason):
    for obj in range(10):
        write(tmp_path / "in" / f"{obj}_g.fits", plane(obj))
        write(tmp_path / "in" / f"{obj}_r.fits", plane(obj) if obj else second)
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert report.read == 9
    ((file, said),) = report.set_aside
    assert file == "0"
    assert reason in said


# ---------------------------------------------------------------------------------------------------- mixed surveys


def test_mixed_surveys_are_a_union_of_bands_and_validity_reaches_the_views(tmp_path):
    for row in range(6):
        write(tmp_path / "in" / f"hsc{row}.fits", np.stack([plane(row), plane(row + 1)]), BANDS="gr", SURVEY="HSC")
        write(tmp_path / "in" / f"euclid{row}.fits", plane(row).astype(np.uint16), FILTER="VIS", SURVEY="Euclid")
    report = ingest(tmp_path / "in", tmp_path / "s")
    cutouts = open_store(tmp_path / "s")
    assert report.read == 12
    assert set(cutouts.bands) == {"g", "r", "VIS"}
    vis = cutouts.bands.index("VIS")
    euclid = cutouts.column("survey") == "Euclid"
    assert [row == ["VIS"] for row in cutouts.column("bands_present")] == euclid.tolist()
    np.testing.assert_array_equal(np.isnan(cutouts.images).all((2, 3))[:, vis], ~euclid)
    np.testing.assert_array_equal(np.isnan(cutouts.images).any((2, 3)).sum(1), np.where(euclid, 2, 1))
    np.testing.assert_array_equal(cutouts.images[cutouts.rows_of(["euclid3.fits"])[0], vis], plane(3))
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands, NormalisationConfig(max_invalid=1.0))
    values, valid = normalisation.linear(torch.from_numpy(cutouts.images[:]))
    np.testing.assert_array_equal(valid.numpy(), ~np.isnan(cutouts.images))
    assert torch.isfinite(values).all()


def test_bands_are_told_by_name_not_by_place(tmp_path):
    for row in range(4):
        names = "gr" if row % 2 else "rg"
        write(tmp_path / "in" / f"{row}.fits", np.stack([plane("gr".index(n) + 10 * row) for n in names]), BANDS=names)
    ingest(tmp_path / "in", tmp_path / "s", config=IngestConfig(bands=("g", "r")))
    images = open_store(tmp_path / "s").images
    for row in range(4):
        np.testing.assert_array_equal(images[row], [plane(10 * row), plane(10 * row + 1)])


def test_some_bands_can_be_chosen(tmp_path):
    for row in range(4):
        write(tmp_path / "in" / f"{row}.fits", np.stack([plane(row), plane(row + 10), plane(row + 20)]), BANDS="gri")
    ingest(tmp_path / "in", tmp_path / "s", config=IngestConfig(bands=("i", "g")))
    np.testing.assert_array_equal(open_store(tmp_path / "s").images[1], [plane(21), plane(1)])


def test_a_band_the_sample_missed_is_never_dropped_in_silence(tmp_path, monkeypatch):
    from zwicky.data import offers

    monkeypatch.setattr(offers, "SAMPLE", 2)
    for row in range(20):
        names = "gz" if row == 10 else "gr"
        write(tmp_path / "in" / f"{row:02d}.fits", np.stack([plane(row), plane(row)]), BANDS=names)
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert report.set_aside == (("10.fits", "has the band z, which no sampled image had; name all bands by --bands"),)


# ---------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("size", [1, 2, 5, 8, 9, 12])
def test_size_crops_and_pads_around_the_centre(tmp_path, size):
    shapes = {"a": (8, 9), "b": (12, 5), "c": (3, 3)}
    for name, shape in shapes.items():
        write(tmp_path / "in" / f"{name}.npy", plane(1, shape))
    with pytest.raises(UserError, match="--size N"):
        ingest(tmp_path / "in", tmp_path / "s")
    ingest(tmp_path / "in", tmp_path / "s", config=IngestConfig(size=size))
    cutouts = open_store(tmp_path / "s")
    for name, image in zip(shapes, cutouts.images[:, 0], strict=True):
        have, literal = plane(1, shapes[name]), np.full((size, size), np.nan, np.float32)
        for y in range(size):
            for x in range(size):
                row = y + (have.shape[0] - size) // 2 if have.shape[0] >= size else y - (size - have.shape[0]) // 2
                column = x + (have.shape[1] - size) // 2 if have.shape[1] >= size else x - (size - have.shape[1]) // 2
                if 0 <= row < have.shape[0] and 0 <= column < have.shape[1]:
                    literal[y, x] = have[row, column]
        np.testing.assert_array_equal(image, literal)


def test_eight_bits_stay_when_cropped_and_become_float_when_padded(tmp_path):
    for number, side in enumerate([20, 24, 30]):
        write(tmp_path / "in" / f"{number}.png", RNG.integers(0, 256, (side, side), np.uint8))
    ingest(tmp_path / "in", tmp_path / "s", config=IngestConfig(size=20))
    assert open_store(tmp_path / "s").images.dtype == np.uint8
    ingest(tmp_path / "in", tmp_path / "t", config=IngestConfig(size=26))
    cutouts = open_store(tmp_path / "t")
    assert cutouts.images.dtype == np.float32
    assert np.isnan(cutouts.images[0, 0]).sum() == 26**2 - 20**2


def test_a_smaller_one_the_sample_missed_is_set_aside_where_there_is_no_nan(tmp_path, monkeypatch):
    from zwicky.data import offers

    monkeypatch.setattr(offers, "SAMPLE", 2)
    for row in range(20):
        write(tmp_path / "in" / f"{row:02d}.png", np.zeros((9 if row == 10 else 20, 20), np.uint8))
    report = ingest(tmp_path / "in", tmp_path / "s", config=IngestConfig(size=16))
    assert report.read == 19
    assert "smaller than the 16×16 asked for" in report.set_aside[0][1]


# ---------------------------------------------------------------------------------------------------- DeepLense


def axion(image: object, mass: object) -> np.ndarray:
    array = np.empty(2, object)
    array[0], array[1] = image, mass
    return array


@pytest.mark.parametrize("mass", [1e-23, np.float64(2e-24), np.array(3.5), np.float32(2)])
def test_axion_arrays_give_the_image_and_its_mass(tmp_path, mass):
    for number in range(3):
        write(tmp_path / "in" / "cdm" / f"{number}.npy", plane(number))
    (tmp_path / "in" / "axion").mkdir()
    np.save(tmp_path / "in" / "axion" / "a.npy", axion(plane(7).astype("f8"), mass), allow_pickle=True)
    report = ingest(tmp_path / "in", tmp_path / "s")
    cutouts = open_store(tmp_path / "s")
    assert report.classes == {"axion": 1, "cdm": 3}
    np.testing.assert_array_equal(cutouts.column("axion_mass"), [float(mass), np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(cutouts.images[0, 0], plane(7))
    assert cutouts.truth == ("axion_mass",)


def renamed(program: bytes, core: str) -> bytes:
    """The pickle as another version of numpy writes it: `core` is what it calls its package of arrays."""
    pieces, at = [], 0
    for code, argument, place in pickletools.genops(program):
        if code.name == "FRAME":  # whose length would no longer be right; a pickle does without
            pieces.append(program[at:place])
            at = place + 9
        named = re.match(r"numpy\._?core\.(\w+)(.*)", argument) if isinstance(argument, str) else None
        if named and code.name in ("GLOBAL", "SHORT_BINUNICODE"):
            module = f"numpy.{core}.{named[1]}"
            pieces.append(program[at:place])
            if code.name == "GLOBAL":
                name = named[2].strip()
                pieces.append(f"c{module}\n{name}\n".encode())
                at = place + len(f"c{argument}\n")
            else:
                pieces.append(b"\x8c" + bytes([len(module)]) + module.encode())
                at = place + 2 + len(argument)
    return b"".join([*pieces, program[at:]])


@pytest.mark.parametrize("core", ["core", "_core"])
@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_old_and_new_numpy(tmp_path, core, protocol):
    """As arrays in an `axion` file, and as index: numpy 1 says numpy.core, numpy 2 numpy._core."""
    program = renamed(pickle.dumps(axion(plane(7), np.float64(2e-24)), protocol), core)
    assert f"numpy.{core}.".encode() in program
    assert ("numpy._core." if core == "core" else "numpy.core.").encode() not in program
    np.testing.assert_array_equal(pickle.loads(program)[0], plane(7))  # a pickle it is
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (2,)})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.npy").write_bytes(stream.getvalue() + program)
    index = {"train": np.array(["a.npy"])}
    (tmp_path / "in" / "index.pkl").write_bytes(renamed(pickle.dumps(index, protocol), core))
    report = ingest(tmp_path / "in", tmp_path / "s")
    cutouts = open_store(tmp_path / "s")
    assert (report.read, report.set_aside, report.splits) == (1, (), ("index",))
    np.testing.assert_array_equal(cutouts.images[0, 0], plane(7))
    assert cutouts.column("axion_mass").tolist() == [2e-24]


def real_lenses(folder: Path) -> None:
    for name in ("lenses", "nonlenses"):
        for number in range(4):
            write(folder / name / f"{number}.npy", plane(number + 10 * (name == "lenses")))


INDEX = {
    "train": {"lenses": ["0.npy", "1.npy"], "nonlenses": ["0.npy", "gone.npy"]},
    "test": {"lenses": ["2.npy"], "nonlenses": ["1.npy"]},
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("arrays", [False, True])
def test_an_index_pickle_becomes_a_split(tmp_path, protocol, arrays):
    real_lenses(tmp_path / "in")
    index = {k: {c: np.array(n) for c, n in v.items()} for k, v in INDEX.items()} if arrays else INDEX
    (tmp_path / "in" / "indices.pkl").write_bytes(pickle.dumps(index, protocol))
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert (report.found, report.read, report.splits) == (9, 8, ("indices",))
    assert report.set_aside == (("indices.pkl: nonlenses/gone.npy", "in the index, but no such file"),)
    assert read_split(tmp_path / "s" / "splits" / "indices.csv").roles == {
        "lenses/0.npy": "train",
        "lenses/1.npy": "train",
        "nonlenses/0.npy": "train",
        "lenses/2.npy": "test",
        "nonlenses/1.npy": "test",
    }


def test_an_index_of_one_role_is_told_by_its_name(tmp_path):
    real_lenses(tmp_path / "in")
    (tmp_path / "in" / "train_indices_300.pkl").write_bytes(pickle.dumps({"lenses": ["1.npy"], "nonlenses": ["0.npy"]}))
    report = ingest(tmp_path / "in", tmp_path / "s")
    split = read_split(tmp_path / "s" / "splits" / "train_indices_300.csv")
    assert report.set_aside == ()
    assert split.roles == {"lenses/1.npy": "train", "nonlenses/0.npy": "train"}


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"train": {"lenses": ["0.npy"]}, "test": {"lenses": ["0.npy"]}}, "a leak"),
        ({"train": {"lenses": [0, 1]}}, "other things than names"),
        ({"a": 1}, "no index"),
        ([], "no index"),
        ({"train": {"lenses": ["gone.npy"]}}, "names no file"),
        (plane(0), "no index"),
    ],
)
def test_other_pickles_are_listed(tmp_path, index, reason):
    real_lenses(tmp_path / "in")
    (tmp_path / "in" / "stuff.pkl").write_bytes(pickle.dumps(index))
    report = ingest(tmp_path / "in", tmp_path / "s")
    assert (report.read, report.splits) == (8, ())
    ((file, said),) = report.set_aside
    assert file == "stuff.pkl"
    assert reason in said
