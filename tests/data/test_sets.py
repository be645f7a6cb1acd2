"""Files of many images: each format gives back what its own library wrote, whatever the layout."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from zwicky.data.config import IngestConfig
from zwicky.data.cutouts import Cutouts, make_table
from zwicky.data.ingest import IngestReport, ingest
from zwicky.data.labels import Labels, read_labels, write_labels
from zwicky.data.readers import hdf5
from zwicky.data.splits import Split, write_split
from zwicky.data.store import StoreWriter, open_store
from zwicky.errors import UserError

RNG = np.random.default_rng(0)
N, H, W = 9, 8, 10
GREY = RNG.normal(size=(N, H, W)).astype(np.float32)
BANDS = RNG.normal(size=(N, 3, H, W)).astype(np.float32)
COLOUR = RNG.integers(0, 256, (N, H, W, 3), np.uint8)
RA, DEC = np.linspace(10, 11, N), np.linspace(-5, 5, N)
IDS = [f"obj{row}" for row in range(N)]


def read(tmp_path: Path, **options) -> tuple[Cutouts, IngestReport]:
    report = ingest(tmp_path / "in", tmp_path / "s", config=IngestConfig(**options))
    assert report.read + len(report.set_aside) == report.found
    return open_store(tmp_path / "s"), report


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


# ---------------------------------------------------------------------------------------------------- HDF5


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 1, H, W), "compression": "gzip"}])
@pytest.mark.parametrize("block", [1, 4 * BANDS[0].nbytes, 2**24])
def test_hdf5_with_columns(tmp_path, folder, monkeypatch, options, block):
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", block)
    with h5py.File(folder / "survey.hdf5", "w") as file:
        data = file.create_dataset("images", data=BANDS, **options)
        data.attrs["bands"] = ["g", "r", "z"]
        file["ra"], file["dec"], file["object_id"] = RA, DEC, IDS
        file["redshift"], file["flag"] = np.arange(N) / 10, np.arange(N) % 2 == 0
        file["label"] = np.array([b"lens", b"nonlens", b""] * 3)
        file["spectrum"] = np.zeros((N, 50))
    cutouts, report = read(tmp_path)
    np.testing.assert_array_equal(cutouts.images, BANDS)
    assert cutouts.bands == ("g", "r", "z")
    assert list(cutouts.ids) == IDS
    np.testing.assert_array_equal(cutouts.column("ra"), RA)
    np.testing.assert_array_equal(cutouts.column("redshift"), np.arange(N) / 10)
    assert cutouts.column("flag").tolist() == [True, False] * 4 + [True]
    assert report.classes == {"nonlens": 3, "lens": 3}
    assert "spectrum" in "".join(report.warnings)


def test_hdf5_galaxy_zoo_style(tmp_path, folder):
    with h5py.File(folder / "Galaxy10.h5", "w") as file:
        file["images"], file["ans"], file["pxscale"] = COLOUR, np.arange(N) % 2, np.full(N, 0.262)
        file["ra"], file["dec"] = RA, DEC
    cutouts, report = read(tmp_path)
    np.testing.assert_array_equal(cutouts.images, COLOUR.transpose(0, 3, 1, 2))
    assert list(cutouts.ids)[:2] == ["Galaxy10.h5#0", "Galaxy10.h5#1"]
    assert (report.classes, cutouts.pixel_scale) == ({"0": 5, "1": 4}, 0.262)


def test_hdf5_of_multimodal_universe(tmp_path, folder):
    with h5py.File(folder / "001.hdf5", "w") as file:
        file["image_array"], file["object_id"] = BANDS, np.arange(N) + 10**12
        file["image_band"] = np.array([[b"DES-G", b"DES-R", b"DES-Z"]] * N)
        file["image_psf_fwhm"] = np.tile([1.1, 1.2, 1.3], (N, 1))
        file["image_scale"], file["image_ivar"] = np.full((N, 3), 0.262), BANDS
    cutouts, _ = read(tmp_path)
    np.testing.assert_array_equal(cutouts.images, BANDS)
    assert cutouts.bands == ("DES-G", "DES-R", "DES-Z")
    assert cutouts.ids[0] == "1000000000000"
    assert cutouts.column("psf_fwhm").tolist() == [[1.1, 1.2, 1.3]] * N
    assert cutouts.pixel_scale == 0.262


@pytest.mark.parametrize("array", [GREY, BANDS, COLOUR, (GREY * 1000).astype(">i2"), (GREY > 0)])
def test_hdf5_axes_and_types(tmp_path, folder, array):
    with h5py.File(folder / "a.h5", "w") as file:
        file["sub/images"] = array
    cutouts, _ = read(tmp_path)
    expected = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2) if array.dtype == "u1" else array
    np.testing.assert_array_equal(cutouts.images, expected)


# ---------------------------------------------------------------------------------------------------- .npz


def test_npz_with_columns(tmp_path, folder):
    np.savez_compressed(
        folder / "a.npz", images=BANDS.astype("f8"), labels=np.arange(N) % 2, z=RA, objects=np.array([{}] * N)
    )
    cutouts, report = read(tmp_path)
    np.testing.assert_array_equal(cutouts.images, BANDS)
    np.testing.assert_array_equal(cutouts.column("z"), RA)
    assert (report.labelled, cutouts.ids[3]) == (N, "a.npz#3")
    assert "objects" in report.warnings[0]


@pytest.mark.parametrize(
    ("array", "count"), [(GREY, N), (BANDS, N), (COLOUR, N), (GREY[0], 1), (BANDS[0], 1), (COLOUR[0], 1)]
)
@pytest.mark.parametrize("fortran", [False, True])
def test_npz_shapes(tmp_path, folder, array, count, fortran):
    np.savez(folder / "a.npz", np.asfortranarray(array) if fortran else array)
    cutouts, _ = read(tmp_path)
    expected = array if len(array) == N else array[None]
    expected = expected[:, None] if expected.ndim == 3 else expected
    np.testing.assert_array_equal(
        cutouts.images, expected.transpose(0, 3, 1, 2) if expected.dtype == "u1" else expected
    )
    assert len(cutouts) == count


# ---------------------------------------------------------------------------------------------------- FITS


def fits_table(shape: tuple[int, ...], array: np.ndarray, code: str, **column) -> fits.BinTableHDU:
    size = int(np.prod(shape))
    dim = None if len(shape) == 1 else str(tuple(reversed(shape)))
    return fits.BinTableHDU.from_columns(
        [
            fits.Column("OBJID", "K", array=np.arange(N) + 2**60),
            fits.Column("IMAGE", f"{size}{code}", dim=dim, array=array.reshape(N, *shape), **column),
            fits.Column("RA", "D", array=RA),
            fits.Column("DEC", "D", array=DEC),
            fits.Column("MAG", "E", array=RA),
            fits.Column("CLASS", "8A", array=["lens", "non", ""] * 3),
            fits.Column("GOOD", "L", array=np.arange(N) % 2 == 0),
            fits.Column("LIST", "PE()", array=np.array([[1.0]] * N, dtype=object)),
        ]
    )


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz"])
@pytest.mark.parametrize(
    ("shape", "array", "code", "column"),
    [
        ((3, H, W), BANDS, "E", {}),
        ((H, W), GREY, "E", {}),
        ((H, W), (GREY * 100).astype(np.int16), "I", {}),
        ((H, W), RNG.integers(0, 2**16, (N, H, W)).astype(np.uint16), "I", {"bzero": 2**15}),
        ((100,), RNG.normal(size=(N, 10, 10)), "D", {}),
    ],
)
def test_fits_table_of_images(tmp_path, folder, name, shape, array, code, column):
    fits.HDUList([fits.PrimaryHDU(), fits_table(shape, array, code, **column)]).writeto(folder / name)
    cutouts, report = read(tmp_path)
    expected = array if array.ndim == 4 else array[:, None]
    np.testing.assert_array_equal(cutouts.images, expected.astype("u2" if expected.dtype == "u2" else "f4"))
    assert cutouts.images.dtype == (np.uint16 if array.dtype == np.uint16 else np.float32)
    assert cutouts.ids[0] == str(2**60)
    np.testing.assert_array_equal(cutouts.column("ra"), RA)
    np.testing.assert_array_equal(cutouts.column("MAG"), RA.astype("f4"))
    assert cutouts.column("GOOD").tolist() == [True, False] * 4 + [True]
    assert report.classes == {"non": 3, "lens": 3}
    assert "LIST" in report.warnings[0]


def test_fits_cubes_of_many(tmp_path, folder):
    fits.PrimaryHDU(GREY).writeto(folder / "planes.fits")
    (tmp_path / "other").mkdir()
    header = fits.Header({"BAND0": "g", "BAND1": "r", "BAND2": "z"})
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(BANDS, header)]).writeto(tmp_path / "other" / "cubes.fits.gz")
    cutouts, _ = read(tmp_path)
    np.testing.assert_array_equal(cutouts.images[:, 0], GREY)
    ingest(tmp_path / "other", tmp_path / "t")
    cutouts = open_store(tmp_path / "t")
    np.testing.assert_array_equal(cutouts.images, BANDS)
    assert cutouts.bands == ("g", "r", "z")


@pytest.mark.parametrize("cards", [{"BANDS": "grz"}, {"BANDS": "g,r,z"}, {"BAND0": "g", "BAND1": "r", "BAND2": "z"}])
def test_a_fits_cube_is_one_image_with_its_bands(tmp_path, folder, cards):
    for row in range(3):
        fits.PrimaryHDU(BANDS[row], fits.Header(cards)).writeto(folder / f"{row}.fits")
    cutouts, _ = read(tmp_path)
    np.testing.assert_array_equal(cutouts.images, BANDS[:3])
    assert cutouts.bands == ("g", "r", "z")


# ---------------------------------------------------------------------------------------------------- Parquet


def nested(array: np.ndarray, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(array.tolist(), kind or nested_type(array.ndim - 1))


def nested_type(depth: int, value: pa.DataType | None = None) -> pa.DataType:
    kind = value or pa.float32()
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind


def multimodal(form: str) -> pa.Array:
    names = ["DES-G", "DES-R", "DES-Z"]
    rows = [
        {
            "band": names,
            "flux": BANDS[row].tolist(),
            "ivar": BANDS[row].tolist(),
            "psf_fwhm": [1.0, 2.0, 3.0],
            "scale": [0.262] * 3,
        }
        for row in range(N)
    ]
    if form == "record of lists":
        return pa.array(rows)
    return pa.array([[{key: values[band] for key, values in row.items()} for band in range(3)] for row in rows])


@pytest.mark.parametrize("form", ["record of lists", "list of records"])
def test_parquet_of_multimodal_universe(tmp_path, folder, form):
    table = pa.table({"image": multimodal(form), "ra": RA, "dec": DEC, "object_id": IDS, "EBV": RA.astype("f4")})
    pq.write_table(table, folder / "train-00000-of-00001.parquet", row_group_size=4)
    cutouts, _ = read(tmp_path)
    np.testing.assert_array_equal(cutouts.images, BANDS)
    assert cutouts.bands == ("DES-G", "DES-R", "DES-Z")
    assert list(cutouts.ids) == IDS
    assert cutouts.column("psf_fwhm").tolist() == [[1, 2, 3]] * N
    assert cutouts.pixel_scale == 0.262
    np.testing.assert_array_equal(cutouts.column("EBV"), RA.astype("f4"))


def test_parquet_with_a_column_a_band_and_missing_ones(tmp_path, folder):
    red = nested(BANDS[:, 1]).to_pylist()
    red[2] = None
    table = pa.table({"id": IDS, "image_g": nested(BANDS[:, 0]), "image_r": pa.array(red, nested_type(2)), "mag": RA})
    pq.write_table(table, folder / "a.parquet")
    cutouts, _ = read(tmp_path)
    expected = BANDS[:, :2].copy()
    expected[2, 1] = np.nan
    np.testing.assert_array_equal(cutouts.images, expected)
    assert cutouts.bands == ("g", "r")
    assert cutouts.column("bands_present")[2] == ["g"]


def tensor(array: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (nested(GREY), GREY[:, None]),
        (nested(BANDS), BANDS),
        (nested(COLOUR, nested_type(3, pa.uint8())), COLOUR.transpose(0, 3, 1, 2)),
        (tensor(BANDS), BANDS),
        (tensor(GREY), GREY[:, None]),
    ],
)
def test_parquet_image_columns(tmp_path, folder, column, expected):
    pq.write_table(pa.table({"image": column, "z": RA}), folder / "a.parquet", row_group_size=4)
    cutouts, _ = read(tmp_path)
    np.testing.assert_array_equal(cutouts.images, expected)
    assert cutouts.images.dtype == expected.dtype


@pytest.mark.parametrize("record", [False, True])
def test_parquet_of_encoded_pictures(tmp_path, folder, record):
    cells = []
    for image in COLOUR:
        stream = io.BytesIO()
        PIL.Image.fromarray(image).save(stream, "PNG")
        cells.append({"bytes": stream.getvalue(), "path": "x.png"} if record else stream.getvalue())
    cells[4] = None
    pq.write_table(pa.table({"image": pa.array(cells), "label": np.arange(N)}), folder / "a.parquet")
    cutouts, report = read(tmp_path)
    np.testing.assert_array_equal(cutouts.images, np.delete(COLOUR, 4, 0).transpose(0, 3, 1, 2))
    assert cutouts.bands == ("R", "G", "B")
    assert report.set_aside == (("a.parquet#4", "has no image"),)


def test_a_hats_catalogue(tmp_path, folder):
    table = pa.table(
        {"_healpix_29": np.arange(N), "object_id": IDS, "RAJ": RA, "DEJ": DEC, "image": multimodal("record of lists")}
    )
    for order, pixel, rows in ((1, 44, slice(0, 4)), (2, 180, slice(4, N))):
        place = folder / "cat" / "dataset" / f"Norder={order}" / "Dir=0"
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(rows.start, rows.stop - rows.start), place / f"Npix={pixel}.parquet")
    pq.write_metadata(table.schema, folder / "cat" / "dataset" / "_metadata")
    pq.write_table(table.slice(0, 2), folder / "cat" / "dataset" / "data_thumbnail.parquet")
    (folder / "cat" / "partition_info.csv").write_text("Norder,Npix\n1,44\n2,180\n")
    (folder / "cat" / "hats.properties").write_text("# HATS\nhats_col_ra=RAJ\nhats_col_dec = DEJ\n")
    cutouts, report = read(tmp_path)
    np.testing.assert_array_equal(cutouts.images, BANDS)
    assert list(cutouts.ids) == IDS
    np.testing.assert_array_equal(cutouts.column("ra"), RA)
    np.testing.assert_array_equal(cutouts.column("dec"), DEC)
    assert {Path(file).name for file, _ in report.set_aside} == {
        "_metadata",
        "data_thumbnail.parquet",
        "partition_info.csv",
        "hats.properties",
    }
    inner = ingest(folder / "cat" / "dataset", tmp_path / "t")
    assert (inner.read, inner.classes) == (N, {})  # partitions are no classes


def test_sets_of_two_sizes_are_refused_with_sizes_and_counts(tmp_path, folder):
    small = GREY[:7, :6, :6]
    with h5py.File(folder / "a.h5", "w") as file:
        file["images"] = GREY
    np.savez(folder / "b.npz", images=small, z=RA[:7])
    with pytest.raises(UserError, match=r"8×10 float32 \(9 images\), 1 band of 6×6 float32 \(7 images\)") as raised:
        ingest(folder, tmp_path / "s")
    assert "--size" in str(raised.value)
    cutouts, report = read(tmp_path, size=6)
    assert (len(cutouts), report.set_aside) == (16, ())
    np.testing.assert_array_equal(cutouts.images[:, 0], [*GREY[:, 1:7, 2:8], *small])


@pytest.mark.skip(reason="ingest does not read the new stores yet")
def test_stores_can_be_joined(tmp_path, folder):
    for name, bands in (("a", ("g", "r")), ("b", ("r", "z"))):
        with StoreWriter(folder / name, bands, (H, W), "float32") as writer:
            writer.append(BANDS[:, :2], make_table([f"{name}{row}" for row in range(N)], {"survey": [name] * N}))
    cutouts, _ = read(tmp_path)
    assert cutouts.bands == ("g", "r", "z")
    assert list(cutouts.ids[[0, -1]]) == ["a0", "b8"]
    np.testing.assert_array_equal(cutouts.images[:N, :2], BANDS[:, :2])
    np.testing.assert_array_equal(cutouts.images[N:, 1:], BANDS[:, :2])
    assert np.isnan(cutouts.images[:N, 2]).all()
    assert cutouts.column("bands_present")[0] == ["g", "r"]
    assert cutouts.column("survey")[-1] == "b"


@pytest.mark.skip(reason="ingest does not read the new stores yet")
def test_a_store_read_again_keeps_its_labels(tmp_path, folder):
    """By object, though two stores call an object alike; where one has labels its folder is no class."""
    said = {"a": {"x1": "lens", "x2": "nonlens"}, "b": {"x1": "nonlens"}}
    for name in said:
        with StoreWriter(folder / name, ("g", "r"), (H, W), "float32") as writer:
            writer.append(BANDS[:, :2], make_table([f"x{row}" for row in range(N)]))
            write_labels(writer.folder, Labels(said[name], "experts"))
    write_split(folder / "b" / "_splits", Split("holdout", {"x1": "train"}))
    _, report = read(tmp_path)
    assert report.read == 2 * N
    labels = read_labels(tmp_path / "s")
    second = "b/part-00000-of-00001.parquet#1"
    assert (labels.values, labels.source) == ({"x1": "lens", "x2": "nonlens", second: "nonlens"}, "experts")
    assert dict(report.set_aside)["b/_splits/holdout.parquet"] == "a split of a store, which is not carried over"
    assert not [file for file, _ in report.set_aside if file.endswith("_labels.parquet")]
    (folder / "a" / "_labels.parquet").write_bytes(b"none")
    damaged = ingest(folder / "a", tmp_path / "t")
    assert (damaged.read, damaged.labelled) == (N, 0)
    assert ("_labels.parquet", "the labels of a store, which cannot be read") in damaged.set_aside


def test_a_file_of_many_may_be_given_itself(tmp_path, folder):
    np.savez(folder / "a.npz", images=GREY, z=RA)
    assert ingest(folder / "a.npz", tmp_path / "s").read == N


def test_labels_survive_from_a_store(tmp_path, folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file["images"], file["label"] = GREY, ["lens"] * 4 + ["unlabelled"] * 5
    read(tmp_path)
    assert list(read_labels(tmp_path / "s").values) == [f"a.h5#{row}" for row in range(4)]


# ---------------------------------------------------------------------------------------------------- ids, access


def test_repeated_ids_lose_no_row(tmp_path, folder):
    for name in ("a.h5", "b.h5"):
        with h5py.File(folder / name, "w") as file:
            file["images"], file["id"] = GREY, ["x", "x", "y", "", "a.h5#1", "z", "w", "v", "u"]
    cutouts, report = read(tmp_path)
    assert report.read == 2 * N
    assert len(set(cutouts.ids)) == 2 * N
    assert list(cutouts.ids[:5]) == ["x", "a.h5#1", "y", "a.h5#3", "a.h5#4"]
    np.testing.assert_array_equal(cutouts.images[:N, 0], GREY)
    assert "10 ids were given before" in report.warnings[0]


def test_files_that_may_not_be_read_are_listed(tmp_path, folder, monkeypatch):
    """Emulated, since tests may run as root, who may read all."""
    np.save(folder / "good.npy", GREY[0])
    for name in ("a.npy", "b.fits", "c.png"):
        (folder / name).write_bytes(b"x" * 100)
    real = Path.open

    def refuse(path: Path, *arguments, **options):
        if path.parent == folder and path.name != "good.npy":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    _, report = read(tmp_path)
    assert report.read == 1
    reasons = dict(report.set_aside)
    assert "Permission denied" in reasons["a.npy"]
    assert "Permission denied" in reasons["c.png"]
    assert set(reasons) == {"a.npy", "b.fits", "c.png"}


def test_a_damaged_block_costs_its_own_rows(tmp_path, folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("images", data=GREY, chunks=(3, H, W), fletcher32=True)
        place = file["images"].id.get_chunk_info(1).byte_offset
    with (folder / "a.h5").open("r+b") as stream:
        stream.seek(place + 7)
        stream.write(b"????")
    cutouts, report = read(tmp_path)
    assert [file for file, _ in report.set_aside] == ["a.h5#3", "a.h5#4", "a.h5#5"]
    np.testing.assert_array_equal(cutouts.images[:, 0], np.delete(GREY, [3, 4, 5], 0))


def test_a_damaged_row_group_costs_its_own_rows(tmp_path, folder):
    table = pa.table({"image": nested(GREY)})
    pq.write_table(table, folder / "a.parquet", row_group_size=3, write_page_checksum=True, compression="none")
    place = pq.ParquetFile(folder / "a.parquet").metadata.row_group(1).column(0).data_page_offset
    with (folder / "a.parquet").open("r+b") as stream:
        stream.seek(place + 200)
        stream.write(b"????")
    cutouts, report = read(tmp_path)
    assert [file for file, _ in report.set_aside] == ["a.parquet#3", "a.parquet#4", "a.parquet#5"]
    np.testing.assert_array_equal(cutouts.images[:, 0], np.delete(GREY, [3, 4, 5], 0))


def test_hdf5_without_h5py_says_what_to_install(tmp_path, folder, monkeypatch):
    import sys

    (folder / "a.h5").write_bytes(b"x" * 100)
    np.save(folder / "good.npy", GREY[0])
    monkeypatch.delitem(sys.modules, "zwicky.data.readers.hdf5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    _, report = read(tmp_path)
    assert report.set_aside == (("a.h5", "is HDF5, which needs h5py: pip install 'zwicky[hdf5]'"),)
