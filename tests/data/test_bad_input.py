"""Bad input: each case ends with rows read, rows set aside with a reason, or one line for the user; nothing is run.

Read and set aside always add up to what was offered, and every folder holds good images too, which must be read.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zwicky.data.config import IngestConfig
from zwicky.data.ingest import ingest
from zwicky.data.readers import Unreadable
from zwicky.data.readers.pickles import read_pickle
from zwicky.data.store import open_store
from zwicky.errors import UserError

SIZE = (8, 9)
GOOD = 12
SET = np.random.default_rng(0).normal(size=(6, *SIZE)).astype(np.float32)


class Payload:
    """A pickle of this, unpickled, would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.path),)


def good_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(GOOD):
        np.save(folder / f"good{number:02d}.npy", np.full(SIZE, number, np.float32))


# ---------------------------------------------------------------------------------------------------- whole files


def image_fits() -> bytes:
    stream = io.BytesIO()
    fits.PrimaryHDU(SET[0]).writeto(stream)
    return stream.getvalue()


def table_fits() -> bytes:
    stream = io.BytesIO()
    columns = [fits.Column("IMAGE", "72E", dim="(9,8)", array=SET), fits.Column("RA", "D", array=np.arange(6.0))]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(stream)
    return stream.getvalue()


def cube_fits() -> bytes:
    stream = io.BytesIO()
    fits.PrimaryHDU(np.concatenate([SET, SET])).writeto(stream)
    return stream.getvalue()


def hdf5(**options) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("images", data=SET, **options)
        file["ra"], file["id"] = np.arange(6.0), [f"x{row}" for row in range(6)]
    return stream.getvalue()


def npz(compressed: bool = False) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, images=SET, ra=np.arange(6.0))
    return stream.getvalue()


def parquet(**columns) -> bytes:
    stream = io.BytesIO()
    kind = pa.list_(pa.list_(pa.float32()))
    table = pa.table(columns or {"image": pa.array(SET.tolist(), kind), "ra": np.arange(6.0)})
    pq.write_table(table, stream, row_group_size=2, write_page_checksum=True)
    return stream.getvalue()


def npy(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def axion(mass: object = 1e-23) -> bytes:
    array = np.empty(2, object)
    array[0], array[1] = SET[0].astype("f8"), mass
    return npy(array, allow_pickle=True)


def png() -> bytes:
    import PIL.Image

    stream = io.BytesIO()
    PIL.Image.fromarray(np.zeros(SIZE, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


WHOLE: dict[str, tuple[bytes, int]] = {
    "a.fits": (image_fits(), 1),
    "table.fits": (table_fits(), 6),
    "cube.fits": (cube_fits(), 12),
    "a.hdf5": (hdf5(), 6),
    "chunks.h5": (hdf5(chunks=(2, *SIZE), compression="gzip", fletcher32=True), 6),
    "a.npz": (npz(), 6),
    "deflated.npz": (npz(True), 6),
    "a.parquet": (parquet(), 6),
    "a.npy": (npy(SET[0]), 1),
    "axion.npy": (axion(), 1),
    "a.png": (png(), 1),
}


def check(folder: Path, out: Path, **options) -> tuple[int, dict[str, str]]:
    """Ingest and hold the promises; how many rows beside the good files were read, and what was set aside."""
    report = ingest(folder, out, config=IngestConfig(workers=1, **options))
    assert report.read + len(report.set_aside) == report.found
    assert all(reason and "\n" not in reason and str(folder) not in reason for _, reason in report.set_aside)
    cutouts = open_store(out)
    assert len(set(cutouts.ids)) == len(cutouts) == report.read
    names = set(cutouts.ids)
    assert {f"good{number:02d}.npy" for number in range(GOOD)} <= names
    return report.read - GOOD, dict(report.set_aside)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_are_read(tmp_path, name):
    good_files(tmp_path / "in")
    (tmp_path / "in" / name).write_bytes(WHOLE[name][0])
    if name == "a.png":  # another type of pixels: not lost, but listed
        assert check(tmp_path / "in", tmp_path / "s")[1].keys() == {"a.png"}
    else:
        assert check(tmp_path / "in", tmp_path / "s") == (WHOLE[name][1], {})


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.999])
@pytest.mark.parametrize("name", WHOLE)
def test_truncated_anywhere(tmp_path, name, share):
    good_files(tmp_path / "in")
    data, rows = WHOLE[name]
    (tmp_path / "in" / name).write_bytes(data[: int(share * len(data))])
    read, aside = check(tmp_path / "in", tmp_path / "s")
    assert read + len(aside) in (1, rows)  # the file as a whole, or each of its rows
    if not aside:  # only padding was cut
        (tmp_path / "in" / name).write_bytes(data)
        check(tmp_path / "in", tmp_path / "t")
        np.testing.assert_array_equal(open_store(tmp_path / "s").images, open_store(tmp_path / "t").images)


# ---------------------------------------------------------------------------------------------------- odd content


def huge_npy_header() -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_2_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**9)})
    return stream.getvalue()


def huge_fits_header() -> bytes:
    header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", 9), ("NAXIS2", 8)])
    for number in range(3_000):
        header.add_comment(f"line {number}")
    return header.tostring(padding=True).encode()


def claiming_fits(*sides: int) -> bytes:
    cards = [("SIMPLE", True), ("BITPIX", -32), ("NAXIS", len(sides))]
    cards += [(f"NAXIS{axis + 1}", side) for axis, side in enumerate(sides)]
    return fits.Header(cards).tostring(padding=True).encode() + bytes(2880)


def claiming_table() -> bytes:
    return table_fits().replace(b"NAXIS2  =                    6", b"NAXIS2  =           1000000000")


def claiming_hdf5(shape: tuple[int, ...], **options) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("images", shape, "f4", **options)
    return stream.getvalue()


def linking_hdf5() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["images"] = h5py.ExternalLink("/etc/passwd", "/x")
    return stream.getvalue()


def archive(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return stream.getvalue()


def arrays(**members) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **members)
    return stream.getvalue()


def h5_of(**members) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, value in members.items():
            file[name] = value
    return stream.getvalue()


def endless_hdf5(label: bool, piece: bytes = bytes(16)) -> bytes:
    """The first text in the heap says it is a free piece of no bytes: reading any text, HDF5's library hangs."""
    texts = np.array(["lens", "non"] * 3, object)
    data = bytearray(h5_of(images=SET, label=texts) if label else h5_of(images=SET, bands=texts[:1]))
    start = data.index(b"GCOL") + 16
    data[start : start + 16] = piece
    return bytes(data)


NAN = np.full((6, *SIZE), np.nan, np.float32)
LISTS = pa.list_(pa.list_(pa.float32()))
ODD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "text as npy": ("a.npy", lambda: b"ra,dec\n1,2\n"),
    "text as fits": ("a.fits", lambda: b"ra,dec\n1,2\n"),
    "text as hdf5": ("a.hdf5", lambda: b"ra,dec\n1,2\n"),
    "text as npz": ("a.npz", lambda: b"ra,dec\n1,2\n"),
    "text as parquet": ("a.parquet", lambda: b"ra,dec\n1,2\n"),
    "text as png": ("a.png", lambda: b"ra,dec\n1,2\n"),
    "fits as npy": ("a.npy", image_fits),
    "npy as hdf5": ("a.h5", lambda: npy(SET)),
    "hdf5 as parquet": ("a.parquet", hdf5),
    "parquet as npz": ("a.npz", parquet),
    "npz as fits": ("a.fits", npz),
    "nan npy": ("a.npy", lambda: npy(NAN[0])),
    "nan fits": ("a.fits", lambda: image_fits()[:2880] + np.full(720, np.nan, ">f4").tobytes()),
    "nan hdf5": ("a.h5", lambda: h5_of(images=NAN)),
    "nan npz": ("a.npz", lambda: arrays(images=NAN, z=np.arange(6))),
    "nan parquet": ("a.parquet", lambda: parquet(image=pa.array(NAN.tolist(), LISTS))),
    "no bands npy": ("a.npy", lambda: npy(np.zeros((0, *SIZE)))),
    "no bands hdf5": ("a.h5", lambda: h5_of(images=np.zeros((6, 0, *SIZE)))),
    "no bands npz": ("a.npz", lambda: arrays(images=np.zeros((6, 0, *SIZE)))),
    "no bands parquet": ("a.parquet", lambda: parquet(image=pa.array([[]] * 6, pa.list_(LISTS)))),
    "no rows hdf5": ("a.h5", lambda: h5_of(images=np.zeros((0, *SIZE)))),
    "no rows npz": ("a.npz", lambda: arrays(images=np.zeros((0, *SIZE)))),
    "one pixel npy": ("a.npy", lambda: npy(np.zeros((1, 1)))),
    "one pixel hdf5": ("a.h5", lambda: h5_of(images=np.zeros((1, 1, 1)))),
    "one pixel npz": ("a.npz", lambda: arrays(images=np.zeros((1, 1, 1)))),
    "one pixel fits": ("a.fits", lambda: claiming_fits(1, 1)),
    "60,000 bands npy": ("a.npy", lambda: npy(np.zeros((60_000, 2, 7), np.uint8))),
    "60,000 bands hdf5": ("a.h5", lambda: h5_of(images=np.zeros((1, 60_000, 8, 9), np.uint8))),
    "60,000 bands npz": ("a.npz", lambda: arrays(images=np.zeros((1, 60_000, 8, 9), np.uint8))),
    "600 bands parquet": ("a.parquet", lambda: parquet(**{f"image_{n}": pa.array([[[0.0]]]) for n in range(600)})),
    "huge npy header": ("a.npy", huge_npy_header),
    "npy header of 10 MB": ("a.npy", lambda: b"\x93NUMPY\x02\x00" + (10**7).to_bytes(4, "little") + b"{" * 10**7),
    "npy header runs code": ("a.npy", lambda: b"\x93NUMPY\x01\x00\x40\x00" + b"__import__('os').mkdir('x')".ljust(64)),
    "npy of version 9": ("a.npy", lambda: b"\x93NUMPY\x09\x00" + bytes(100)),
    "huge fits header": ("a.fits", huge_fits_header),
    "fits claims a terabyte": ("a.fits", lambda: claiming_fits(10**6, 10**6)),
    "fits cube claims a terabyte": ("a.fits", lambda: claiming_fits(1000, 1000, 10**6)),
    "fits set claims a terabyte": ("a.fits", lambda: claiming_fits(64, 64, 3, 10**8)),
    "fits table claims a billion rows": ("a.fits", claiming_table),
    "fits negative sides": ("a.fits", lambda: claiming_fits(-4, -4)),
    "fits without axes": ("a.fits", lambda: claiming_fits()),
    "fits table without images": (
        "a.fits",
        lambda: table_fits().replace(b"TDIM1   = '(9,8)   '", b"COMMENT x           ").replace(b"72E", b"72J"),
    ),
    "hdf5 claims a terabyte": ("a.h5", lambda: claiming_hdf5((10**8, 64, 64), chunks=(1, 64, 64))),
    "hdf5 of one huge image": ("a.h5", lambda: claiming_hdf5((2, 10**5, 10**5), chunks=(1, 64, 64))),
    "hdf5 links elsewhere": ("a.h5", linking_hdf5),
    "hdf5 with a heap without end": ("a.h5", lambda: endless_hdf5(label=True)),
    "hdf5 with a heap without end of bands": ("a.h5", lambda: endless_hdf5(label=False)),
    "hdf5 with a heap beyond its end": ("a.h5", lambda: endless_hdf5(True, b"\1" + bytes(7) + b"\xf0" + b"\xff" * 7)),
    "hdf5 of text": ("a.h5", lambda: h5_of(images=["a", "b"])),
    "hdf5 of complex": ("a.h5", lambda: h5_of(images=SET + 1j)),
    "hdf5 empty": ("a.h5", lambda: h5_of()),
    "hdf5 of two sets": ("a.h5", lambda: h5_of(one=SET, two=SET)),
    "hdf5 of five axes": ("a.h5", lambda: h5_of(images=np.zeros((2, 2, 2, 8, 9)))),
    "npz with a pickle": ("a.npz", lambda: archive(images=npy(np.array([{}] * 3, object), allow_pickle=True))),
    "npz of text": ("a.npz", lambda: archive(images=b"no array")),
    "npz empty": ("a.npz", lambda: archive()),
    "npz of two sets": ("a.npz", lambda: arrays(one=SET, two=SET)),
    "npz claims a terabyte": ("a.npz", lambda: archive(images=huge_npy_header())),
    "parquet without images": ("a.parquet", lambda: parquet(x=[1, 2])),
    "parquet of ragged lists": ("a.parquet", lambda: parquet(image=pa.array([[[1.0], [1.0, 2.0]]] * 3, LISTS))),
    "parquet of nulls": ("a.parquet", lambda: parquet(image=pa.array([None] * 3, LISTS))),
    "parquet of broken pictures": ("a.parquet", lambda: parquet(image=pa.array([b"x", b"", png()[:40]]))),
    "parquet of bands of two sizes": (
        "a.parquet",
        lambda: parquet(image_g=pa.array([[[1.0]]]), image_r=pa.array([[[1.0, 2.0]]])),
    ),
    "parquet of no band names": (
        "a.parquet",
        lambda: parquet(image=pa.array([{"band": ["g"], "flux": [[[1.0]], [[2.0]]]}])),
    ),
    "parquet of text lists": ("a.parquet", lambda: parquet(image=pa.array([[["a"]]] * 2))),
    "axion mass is text": ("a.npy", lambda: axion("heavy")),
    "axion of three": ("a.npy", lambda: npy(np.array([SET[0], 1.0, 2.0], object), allow_pickle=True)),
    "axion of a list": ("a.npy", lambda: npy(np.array([[1, 2], 1.0], object), allow_pickle=True)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ODD)
def test_odd_content_is_listed(tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a payload would leave its mark
    good_files(tmp_path / "in")
    name, content = ODD[case]
    (tmp_path / "in" / name).write_bytes(content())
    read, aside = check(tmp_path / "in", tmp_path / "s")
    assert read == 0
    assert aside
    assert {path.name for path in tmp_path.iterdir()} == {"in", "s"}


@pytest.mark.parametrize("case", ODD)
def test_odd_content_alone_is_one_line(tmp_path, case):
    (tmp_path / "in").mkdir()
    name, content = ODD[case]
    (tmp_path / "in" / name).write_bytes(content())
    if "one pixel" in case or case == "600 bands parquet":
        return  # of itself a picture of one pixel is a picture
    with pytest.raises(UserError) as raised:
        ingest(tmp_path / "in", tmp_path / "s")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# ---------------------------------------------------------------------------------------------------- pickles


GLOBALS = ["os.system", "posix.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "numpy.load"]
GLOBALS += ["numpy.core.multiarray.fromfile", "numpy.f2py.compile", "builtins.getattr", "operator.attrgetter"]


def call(name: str, protocol: int, argument: str = "touch payload") -> bytes:
    """A pickle that calls `name(argument)`."""
    module, _, function = name.rpartition(".")
    if protocol < 4:
        return f"c{module}\n{function}\n(V{argument}\ntR.".encode()
    text = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, function))
    return b"\x80\x04" + text + b"\x93\x8c" + bytes([len(argument)]) + argument.encode() + b"\x85R."


def object_npy(data: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (2,)})
    return stream.getvalue() + data


@pytest.mark.parametrize("where", ["a.npy", "indices.pkl"])
@pytest.mark.parametrize("protocol", [0, 4])
@pytest.mark.parametrize("name", GLOBALS)
def test_no_pickle_runs_anything(tmp_path, monkeypatch, name, protocol, where):
    monkeypatch.chdir(tmp_path)
    good_files(tmp_path / "in")
    data = call(name, protocol)
    (tmp_path / "in" / where).write_bytes(object_npy(data) if where == "a.npy" else data)
    read, aside = check(tmp_path / "in", tmp_path / "s")
    assert (read, list(aside)) == (0, [where])
    assert f"asks for {name}" in aside[where]
    assert {path.name for path in tmp_path.iterdir()} == {"in", "s"}


@pytest.mark.parametrize("protocol", range(6))
def test_a_real_payload_stays_unrun(tmp_path, protocol):
    data = pickle.dumps([np.zeros(2), Payload(tmp_path / "run")], protocol)
    with pytest.raises(Unreadable, match="never run"):
        read_pickle(data)
    assert not (tmp_path / "run").exists()
    pickle.loads(data)  # the payload does work: the test can fail
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"", "does not end|damaged"),
        (b".", "damaged"),
        (b"(.", "without data"),
        (b"\x80\x04]\x94\x8c\x01ab.", "no array"),
        (b"cnumpy\nndarray\n}b.", "no array"),
        (b"cnumpy\ndtype\n(VO8\nI00\nI01\ntR(I3\nV|\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffI0\ntb.", "without data"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntVb\ntR.", "odd way"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged"),
        (b"Pid\n.", "PERSID"),
        (b"\x82\x01.", "EXT1"),
        (b"(cnumpy\nndarray\no.", "OBJ"),
        (b"(inumpy\nndarray\n.", "INST"),
        (b"cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"}(]Nu.", "odd keys"),
        (b"(NN}u.", "damaged"),
        (b"h\x05.", "damaged"),
        (b"NR.", "damaged"),
    ],
)
def test_pickle_programs_that_are_no_data(program, message):
    with pytest.raises(Unreadable, match=message):
        read_pickle(program)


def test_a_memo_of_two_billion_places_is_no_memory():
    assert read_pickle(b"]r\xff\xff\xff\x7f.") == []


def test_deep_and_circular_pickles_do_not_crash():
    assert isinstance(read_pickle(b"]" * 20_000 + b"a" * 19_999 + b"."), list)
    circle = read_pickle(pickle.dumps((lambda box: box.append(box) or box)([])))
    assert circle[0] is circle


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_pickles(data):
    original = pickle.dumps(
        {"train": {"lens": ["a", "b"], "x": np.arange(3)}, "t": (1, 2.5, b"x")}, data.draw(st.integers(0, 5))
    )
    program = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Unreadable):  # anything else that is raised fails the test
        read_pickle(bytes(program))
        names = {code.name for code, _, _ in pickletools.genops(bytes(program))}
        assert not names & {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"}


plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(plain_data, st.integers(3, 5))
def test_plain_data_reads_as_pickle_does(value, protocol):
    assert read_pickle(pickle.dumps(value, protocol)) == value


# ---------------------------------------------------------------------------------------------------- fuzzing


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_bytes(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp("fuzz")
    good_files(folder / "in")
    content = bytearray(WHOLE[name][0])
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(4000, len(content) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    (folder / "in" / name).write_bytes(content)
    check(folder / "in", folder / "s")
