"""Each format gives back what its own library wrote, whatever the layout of bands, axes and columns."""

import io
import json
import pickle
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.testing import assert_array_equal

from zwicky.data.bands import by_wavelength, group_files, parse_bands, wavelength_rank
from zwicky.data.cutouts import make_table
from zwicky.data.readers import ReadOptions, Record, Unreadable, find_axes, format_of, read, read_image, to_image
from zwicky.data.store import write_store

from .conftest import RNG, noise, write

GREY8 = RNG.integers(0, 256, (5, 7), np.uint8)
GREY16 = RNG.integers(0, 65536, (5, 7), np.uint16)
COLOUR = RNG.integers(0, 256, (5, 7, 3), np.uint8)
N = 9
FLOAT, STACK, CUBES, NINE = noise(5, 7), noise(N, 8, 10), noise(N, 3, 8, 10), noise(9, 8, 8)
RA = np.linspace(10, 11, N)


def records(path: Path, **options) -> list[Record | Unreadable]:
    return list(read(path, ReadOptions(**options)))


def images(path: Path, **options) -> np.ndarray:
    return np.stack([record.image for record in records(path, **options)])


def column(path: Path, name: str) -> list:
    return [record.columns.get(name) for record in records(path)]


# ---------------------------------------------------------------------------------------------------- axes

ALONE = "32x30=HW 3x32x32=BHW 32x32x3=HWB 32x3x32=HBW 9x32x32=BHW 32x32x17=HWB 32x9x32=HBW 4x30x32=BHW 500x32x32=NHW"
STACKS = "8x3x32x32=NBHW 8x32x32x12=NHWB 8x32x5x32=NHBW 32x32x3x100=HWBN"
WITH_FACTS = [
    ("9x30x32=BHW", {}, 9, ()),
    ("30x32x9=HWB", {"bands": tuple("ugrizYJHK")}, 0, ()),
    ("9x32x32=NHW", {"stacks": True}, 0, ()),
    ("9x32x32=BHW", {"stacks": True}, 9, ()),
    ("3x32x32=NHW", {}, 0, (3,)),
    ("32x32x500=HWN", {}, 0, (500,)),
    ("3x32x32x100=BHWN", {}, 0, (100,)),
    ("100x32x32x3=NHWB", {}, 0, (3,)),
    ("32x32x32=HWB", {"axes": "HWB"}, 0, ()),
    *((case, {}, 0, ()) for case in f"{ALONE} {STACKS}".split()),
]


@pytest.mark.parametrize(("case", "options", "bands", "rows"), WITH_FACTS)
def test_axes(case, options, bands, rows):
    shape, axes = case.split("=")
    assert find_axes(tuple(map(int, shape.split("x"))), ReadOptions(**options), bands, rows) == axes


@pytest.mark.parametrize("case", ["32,32,32=", "9,30,32=", "9,32,32=gri", "2,2,2,2,2="])
def test_ambiguous_axes_are_asked_for(case):
    shape, bands = case.split("=")
    with pytest.raises(Unreadable, match=r"axes|no axis of 3 bands"):
        find_axes(tuple(map(int, shape.split(","))), ReadOptions(bands=tuple(bands)))


@pytest.mark.parametrize("order", ["BHW", "HBW", "HWB"])
@pytest.mark.parametrize("dtype", [">f4", "<f8", ">i2", "<u2", ">u2", "u1"])
def test_any_place_of_the_bands_and_any_byte_order(order, dtype):
    image = (NINE * 50 + 120).clip(0, 255).astype(dtype)
    result = to_image(image.transpose(["BHW".index(axis) for axis in order]), order)
    assert_array_equal(result, image)
    assert result.dtype.isnative
    assert result.dtype == (np.dtype(dtype).newbyteorder("=") if "u" in dtype else np.float32)


def test_infinite_and_masked_pixels_become_invalid():
    pixels = to_image(np.ma.array([[1.0, np.inf], [3, 1e300]], mask=[[0, 0], [1, 0]]), "HW")
    assert_array_equal(pixels, np.array([[[1, np.nan], [np.nan, np.nan]]], np.float32))
    masked = to_image(np.ma.array(np.arange(4, dtype=np.uint8).reshape(2, 2), mask=[[0, 1], [0, 0]]), "HW")
    assert_array_equal(masked, np.array([[[0, np.nan], [2, 3]]], np.float32))


# ---------------------------------------------------------------------------------------------------- bands in names

GROUPS = """a_g.fits a_r.fits => a: g r
HSC-G/0.fits HSC-R/0.fits HSC-R/1.fits => 0: HSC-G HSC-R; 1: HSC-R
3641_7_wide_HSC-G.fits 3641_7_wide_HSC-Y.fits => 3641_7_wide: HSC-G HSC-Y
g_0001.fits r_0001.fits => 0001: g r
Band1/imageSDSS_R-10.fits Band4/imageSDSS_U-10.fits => imageSDSS_10: R U
calexp-HSC-I-98-4,5.fits calexp-HSC-R-98-4,5.fits => calexp-98-4,5: HSC-I HSC-R
cut_5_DECam_g.npy cut_5_DECam_z.npy => cut_5: DECam_g DECam_z
lens/obj1/g.fits lens/obj1/r.fits => lens/obj1: g r
a_F814W.fits a_f606w.fits => a: F814W f606w
a.VIS.fits.gz a.NIR_H.fits => a: VIS NIR_H
a_red.png a_blue.png => a: red blue
a_1.fits a_2.fits given 1 2 => a: 1 2
a_1_1.fits a_1_2.fits a_2_1.fits a_2_2.fits given 1 2 => a_1: 1 2; a_2: 1 2
o1-w1.fits o1-w2.fits => o1: w1 w2
o1_g-band.fits o1_i-band.fits => o1: g-band i-band
a_g.fits a_g.fits.gz a_r.fits => a: g r; a_g.fits.gz: g
a.fits a_g.fits a_r.fits => a: g r
lens1g.fits lens1r.fits lens2g.fits lens2r.fits => lens1: g r; lens2: g r
lens1g.fits lens1r.fits lens2g.fits =>
a_VIS.fits b_VIS.fits =>
x/a_g.fits y/a_r.fits =>
a_1.fits a_2.fits =>
A/1.fits B/1.fits =>""".splitlines()  # the last: grades


@pytest.mark.parametrize("case", GROUPS)
def test_one_file_a_band(case):
    files, _, objects = case.partition("=>")
    files, _, given = files.partition("given")
    groups = group_files(files.split(), given.split())
    assert "; ".join(f"{name}: {' '.join(bands)}" for name, bands in groups.items()) == objects.strip()


def test_names_of_bands():
    assert parse_bands("grz") == parse_bands(b"g, r, z") == parse_bands(["g", "r", "z"]) == ("g", "r", "z")
    assert parse_bands("VIS") == ("VIS",)
    assert by_wavelength(("HSC-Y", "HSC-G", "HSC-I")) == ("HSC-G", "HSC-I", "HSC-Y")
    assert by_wavelength(("f277w", "f444w", "f115w")) == ("f115w", "f277w", "f444w")
    assert by_wavelength(("i-band", "g-band")) == ("g-band", "i-band")
    assert by_wavelength(("F160W", "F814W", "F475W")) == ("F475W", "F814W", "F160W")
    assert by_wavelength(("ks", "unknown", "vis", "v", "h", "j")) == ("v", "vis", "j", "h", "ks", "unknown")
    assert wavelength_rank("unknown") is None


# ---------------------------------------------------------------------------------------------------- pictures

FORMS = {"a.png": (GREY8, GREY16, COLOUR), "a.bmp": (GREY8, COLOUR)}
FORMS |= dict.fromkeys(("a.tif", "a.TIFF"), (GREY8, GREY16, COLOUR, FLOAT))
PICTURES = [(name, array) for name, arrays in FORMS.items() for array in arrays]


@pytest.mark.parametrize(("name", "array"), PICTURES)
def test_pictures_keep_values_and_type(tmp_path, name, array):
    record = read_image(write(tmp_path / name, array))
    assert record.bands == (("gray",) if array.ndim == 2 else ("R", "G", "B"))
    assert record.image.dtype == array.dtype
    assert_array_equal(record.image, array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "1"])
def test_palette_and_opaque_alpha(tmp_path, mode):
    picture = PIL.Image.fromarray(COLOUR).convert(mode)
    picture.save(tmp_path / "a.png")
    expected = np.asarray(picture.convert("RGB" if mode in "RGBAP" else "L")) // (255 if mode == "1" else 1)
    image = read_image(tmp_path / "a.png").image
    assert_array_equal(image, expected.transpose(2, 0, 1) if mode in "RGBAP" else expected[None])


def test_pictures_that_would_lose_something_are_refused(tmp_path):
    alpha = np.full((5, 7, 1), 255, np.uint8)
    alpha[2, 3] = 0
    PIL.Image.fromarray(np.concatenate([COLOUR, alpha], axis=2)).save(tmp_path / "a.png")
    PIL.Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "b.jpg")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, rows = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0), (b"\0" + bytes(range(12))) * 2
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    for name, reason in {"a.png": "transparent", "b.jpg": "CMYK", "c.png": "16 bits a channel"}.items():
        with pytest.raises(Unreadable, match=reason):
            read_image(tmp_path / name)


BLACK = {"photometric": "minisblack"}
TIFFS = [
    (CUBES[0], CUBES[0], BLACK, ()),  # pages
    (NINE, NINE, BLACK, ()),
    (np.moveaxis(NINE[:5], 0, 2), NINE[:5], BLACK | {"planarconfig": "contig"}, ()),
    (NINE[:5], NINE[:5], BLACK | {"planarconfig": "separate"}, ()),
    (*[np.moveaxis(COLOUR, 2, 0).astype(np.uint16) * 257] * 2, {"photometric": "rgb"}, ("R", "G", "B")),
    ((FLOAT * 9).astype(np.int16), (FLOAT * 9).astype(np.int16)[None], {"compression": "zlib"}, ("gray",)),
]


@pytest.mark.parametrize(("array", "expected", "options", "bands"), TIFFS)
def test_tiff_pages_and_samples_are_bands(tmp_path, array, expected, options, bands):
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    record = read_image(tmp_path / "a.tif")
    assert_array_equal(record.image, expected)
    assert record.bands == bands


# ---------------------------------------------------------------------------------------------------- NumPy

ARRAYS = [
    (FLOAT, FLOAT[None, None]),
    (FLOAT.astype(">f8"), FLOAT[None, None]),
    (GREY16.astype(">u2"), GREY16[None, None]),
    (GREY8 > 100, (GREY8 > 100).astype(np.uint8)[None, None]),
    (COLOUR, COLOUR.transpose(2, 0, 1)[None]),
    (NINE, NINE[None]),
    (CUBES.astype(">f4"), CUBES),
    (np.asfortranarray(CUBES), CUBES),
    (CUBES[0][..., None], CUBES[:1]),
]


@pytest.mark.parametrize(("array", "expected"), ARRAYS)
def test_npy(tmp_path, array, expected):
    assert_array_equal(images(write(tmp_path / "a.npy", array)), expected)


UNUSABLE = [
    (b"", "empty"),
    (b"some text, no array", "cannot be read"),
    (np.array([GREY8, "mass"], dtype=object), "other than .image, mass."),
    (np.array(["text"] * 4).reshape(2, 2), "not real numbers"),
    (GREY8 + 1j, "not real numbers"),
    (np.full((4, 4), np.nan), "no valid pixel"),
    (np.zeros((0, 4)), "no pixels"),
    (np.zeros(4), "axes"),
]


@pytest.mark.parametrize(("content", "reason"), UNUSABLE)
def test_unusable_npy_gives_the_reason(tmp_path, content, reason):
    with pytest.raises(Unreadable, match=reason):
        read_image(write(tmp_path / "a.npy", content))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", [b"numpy.core.", b"numpy._core."])
def test_axion_arrays_of_old_and_new_numpy(tmp_path, protocol, core):
    pair = np.empty(2, object)
    pair[:] = [FLOAT.astype("f8"), np.float64(2e-24)]
    program = pickle.dumps(pair, protocol)
    if protocol < 4:  # later protocols count the bytes of a name
        program = program.replace(b"numpy._core.", core)
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (2,)})
    (tmp_path / "a.npy").write_bytes(stream.getvalue() + program)
    options = ReadOptions()
    (record,) = read(tmp_path / "a.npy", options)
    assert_array_equal(record.image[0], FLOAT)
    assert (record.columns, options.truth) == ({"axion_mass": 2e-24}, {"axion_mass"})


def test_a_pickle_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    pair = np.empty(2, object)
    pair[:] = [FLOAT, Evil()]
    with pytest.raises(Unreadable, match="never run"):
        read_image(write(tmp_path / "a.npy", pair))
    assert not (tmp_path / "touched").exists()


X = STACK[:3]
ARCHIVES = [
    ({"images": CUBES, "labels": np.arange(N) % 2, "z": RA}, CUBES, {"labels": [0, 1, 0], "z": list(RA[:3])}),
    ({"arr_0": STACK}, STACK[:, None], {}),
    ({"arr_0": CUBES[0]}, CUBES[:1], {}),
    ({"x": X, "y": np.array([[1], [0], [1]])}, X[:, None], {"y": [1, 0, 1]}),  # as Keras writes them
    ({"x": X, "y": np.eye(3)[[2, 0, 1]]}, X[:, None], {"y": [2, 0, 1]}),  # one-hot
    ({"g": STACK, "r": STACK + 1, "id": RA}, np.stack([STACK, STACK + 1], 1), {}),
    ({f"{b}_flux": NINE.reshape(9, 64) + n for n, b in enumerate("gr")} | {"z": RA}, np.stack([NINE, NINE + 1], 1), {}),
    ({"image": CUBES[0], "label": "lens", "z": 0.5}, CUBES[:1], {"label": ["lens"], "z": [0.5]}),
    ({"image": FLOAT, "label": np.int64(1)}, FLOAT[None, None], {"label": [1]}),
    ({"lens": STACK, "nonlens": X}, np.concatenate([STACK, X])[:, None], {"label": ["lens"] * 9 + ["nonlens"] * 3}),
    ({"images": np.moveaxis(CUBES, 0, 3), "ids": np.arange(N)}, CUBES, {"ids": [0, 1, 2]}),
    (
        {"x_test": STACK[:3], "x_train": STACK[3:], "y_test": [1, 1, 0], "y_train": np.arange(6) % 2},
        STACK[:, None],
        {"split": ["test"] * 3 + ["train"] * 6, "y": [1, 1, 0, 0, 1, 0, 1, 0, 1]},
    ),
]


@pytest.mark.parametrize(("arrays", "expected", "columns"), ARCHIVES)
@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.h5"])
def test_arrays_by_name(tmp_path, arrays, expected, columns, name):
    """An archive, a pickled dictionary, or HDF5."""
    path = write(tmp_path / name, arrays)
    assert_array_equal(images(path), expected)
    for key, values in columns.items():
        assert column(path, key)[: len(values)] == values


def test_an_array_of_records(tmp_path):
    array = np.array(list(zip(X, [1, 0, 1], strict=True)), [("images", "f4", (8, 10)), ("labels", "i4")])
    path = write(tmp_path / "a.npy", array)
    assert_array_equal(images(path), X[:, None])
    assert column(path, "labels") == [1, 0, 1]


# ---------------------------------------------------------------------------------------------------- HDF5


@pytest.mark.parametrize("image", [FLOAT, CUBES[0]])
def test_hdf5_of_one_image_with_attributes(tmp_path, image):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"], file.attrs["label"] = image, "lens"
        file["image"].attrs["ra"] = 10.5
    record = read_image(tmp_path / "a.h5")
    assert_array_equal(record.image, image.reshape(-1, *image.shape[-2:]))
    assert record.columns == {"label": "lens", "ra": 10.5}


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 1, 8, 10), "compression": "gzip"}])
def test_hdf5_with_columns(tmp_path, options):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("sub/images", data=CUBES, **options).attrs["bands"] = ["g", "r", "z"]
        file["sub/ra"], file["sub/flag"], file["sub/spectrum"] = RA, RA > 10.5, np.zeros((N, 50))
        file["sub/name"] = np.array([b"lens", b"nonlens", b""] * 3)
    notes = ReadOptions()
    held = list(read(tmp_path / "a.h5", notes))
    assert_array_equal(np.stack([record.image for record in held]), CUBES)
    assert held[3].columns == {"ra": RA[3], "flag": False, "name": "lens"}
    assert (held[2].columns["name"], held[3].bands, held[3].row) == (None, ("g", "r", "z"), 3)
    assert any("spectrum" in note for note in notes.notes)


def test_hdf5_of_multimodal_universe(tmp_path):
    arrays = {"image_array": CUBES, "object_id": np.arange(N) + 10**12, "image_scale": np.full((N, 3), 0.262)}
    arrays |= {"image_band": [[b"DES-G", b"DES-R", b"DES-Z"]] * N, "image_psf_fwhm": [[1.1, 1.2, 1.3]] * N}
    record = records(write(tmp_path / "a.hdf5", arrays | {"image_ivar": CUBES}))[4]
    assert_array_equal(record.image, CUBES[4])
    assert record.bands == ("DES-G", "DES-R", "DES-Z")
    assert record.columns == {"object_id": 10**12 + 4, "psf_fwhm": (1.1, 1.2, 1.3), "pixel_scale": (0.262,) * 3}


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_hdf5_of_arrays_with_a_number_a_band(tmp_path, axes):
    """Their length is that of the bands and not of the images, wherever the bands are."""
    arrays = {"images": CUBES.transpose(axes), "bands": [b"g", b"r", b"z"], "psf_fwhm": [1.0, 2.0, 3.0]}
    path = write(tmp_path / "a.h5", arrays)
    assert_array_equal(images(path), CUBES)
    assert {(item.bands, item.columns["psf_fwhm"]) for item in records(path)} == {(("g", "r", "z"), (1, 2, 3))}


@pytest.mark.parametrize(("first", "second", "key"), [("train", "test", "split"), ("lens", "non", "label")])
def test_hdf5_groups_are_a_split_or_classes(tmp_path, first, second, key):
    path = write(tmp_path / "a.h5", {f"{first}/images": STACK[:4], f"{second}/images": STACK[4:]})
    pairs = dict(zip(column(path, key), images(path)[:, 0], strict=True))
    assert_array_equal([pairs[first], pairs[second]], STACK[[3, 8]])


@pytest.mark.parametrize(("name", "image"), [("o{}", FLOAT), ("o{}/image", FLOAT), ("o{}/image", CUBES[0])])
def test_hdf5_of_an_array_or_group_an_object(tmp_path, name, image):
    arrays = {name.format(number): image + number for number in range(4)}
    arrays |= {f"o{number}/z": 0.5 * number for number in range(4)} if "/" in name else {}
    held = records(write(tmp_path / "a.h5", arrays))
    assert_array_equal(held[3].image, np.reshape(image, (-1, *image.shape[-2:])) + 3)
    assert held[2].columns == {"id": "o2"} | ({"z": 1.0} if "/" in name else {})


# ---------------------------------------------------------------------------------------------------- FITS


def test_fits_position_is_the_image_centre_and_scale_comes_from_the_wcs(tmp_path):
    angle, step, wcs = np.radians(30), 0.2 / 3600, WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.1, 2.2], [10, -3]
    wcs.wcs.cd = step * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    fits.PrimaryHDU(FLOAT, wcs.to_header()).writeto(tmp_path / "a.fits")
    columns = read_image(tmp_path / "a.fits").columns
    assert columns["pixel_scale"] == pytest.approx(0.2, rel=1e-4)
    # By hand: FITS centre of 7 columns × 5 rows is pixel (4, 3), so (-6, +6) from the reference pixel.
    east = step * (-np.cos(angle) * -6 + np.sin(angle) * 6)
    north = step * (np.sin(angle) * -6 + np.cos(angle) * 6)
    expected = SkyCoord(150.1 + east / np.cos(np.radians(2.2)), 2.2 + north, unit="deg")
    assert SkyCoord(columns["ra"], columns["dec"], unit="deg").separation(expected).arcsec < 0.001


TAN = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.1, "CRVAL2": 2.2, "CRPIX1": 40.0, "CRPIX2": -90.0}
TAN |= {"CD1_1": -7e-5, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 7e-5}
SIP = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-3, "B_0_2": 2e-3}
STOKES = {"CTYPE3": "STOKES", "CRVAL3": 1.0, "CRPIX3": 1.0, "CD3_3": 1.0}
GALACTIC = {"CTYPE1": "GLAT-CAR", "CTYPE2": "GLON-CAR"}
TPV = {"PV1_0": 0.0, "PV1_1": 1.01, "PV2_0": 0.0, "PV2_1": 0.98}


@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
@pytest.mark.parametrize("cards", [{"RADESYS": "FK5"}, {"EQUINOX": 1950.0}, SIP, STOKES, GALACTIC, TPV])
def test_fits_position_is_that_of_astropy(tmp_path, cards):
    hdu = fits.PrimaryHDU(FLOAT, fits.Header(TAN | cards))
    hdu.writeto(tmp_path / "a.fits")
    centre = WCS(hdu.header).celestial.pixel_to_world(3, 2).icrs
    columns = read_image(tmp_path / "a.fits").columns
    assert (columns["ra"], columns["dec"]) == pytest.approx((centre.ra.deg, centre.dec.deg), rel=1e-12)


CARDS = [
    ({"RA": 150.1, "DEC": 2.2}, (150.1, 2.2)),
    ({"RA": "10:00:24.0", "DEC": "+02:12:00"}, (150.1, 2.2)),
    ({"RA": "150.1", "DEC": " +2.2"}, (150.1, 2.2)),
    ({"RA": 150.1, "DEC": 99.0}, (None, None)),
    ({"RA": "nan", "DEC": "nan"}, (None, None)),
    ({"RA": "east", "DEC": "north"}, (None, None)),
    ({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0}, (None, None)),  # no CDELT
    ({}, (None, None)),
]


@pytest.mark.parametrize(("cards", "expected"), CARDS)
def test_fits_position_from_keywords(tmp_path, cards, expected):
    columns = read_image(write(tmp_path / "a.fits", FLOAT, **cards)).columns
    position = (columns.get("ra"), columns.get("dec"))
    assert position == (expected if expected[0] is None else pytest.approx(expected))
    assert "pixel_scale" not in columns
    record = read_image(write(tmp_path / "b.fits", FLOAT, **cards, PIXSCALE=0.2, LABEL=1))
    assert record.columns == columns | {"pixel_scale": 0.2, "label": "1"}


def test_fits_kinds_of_pixels(tmp_path):
    assert read_image(write(tmp_path / "unsigned.fits", GREY16)).image.dtype == np.uint16
    scaled = fits.PrimaryHDU(np.array([[0, 1], [2, -7]], np.int16))
    scaled.header["BSCALE"], scaled.header["BZERO"], scaled.header["BLANK"] = 0.5, 10.0, -7
    big = RNG.integers(0, 1000, (40, 50)).astype(np.int32)
    scaled.writeto(tmp_path / "scaled.fits")
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(big)]).writeto(tmp_path / "tiles.fits.fz")
    write(tmp_path / "radio.fits.gz", FLOAT[None, None])
    expected = {"scaled.fits": np.array([[10, 10.5], [11, np.nan]]), "tiles.fits.fz": big, "radio.fits.gz": FLOAT}
    for name, array in expected.items():
        assert_array_equal(read_image(tmp_path / name).image[0], array)


def test_fits_extensions_named_after_filters_are_bands(tmp_path):
    named = {"VIS": FLOAT, "NIR_Y": FLOAT + 1, "NIR_H": FLOAT + 2, "RMS": FLOAT}
    path = write(tmp_path / "a.fits", named)
    record = read_image(path)
    assert record.bands == ("VIS", "NIR_Y", "NIR_H")
    assert_array_equal(record.image, [FLOAT, FLOAT + 1, FLOAT + 2])
    assert_array_equal(images(path, hdu=("NIR_H",)), [[FLOAT + 2]])
    assert_array_equal(images(path, hdu=("4",)), [[FLOAT]])
    tables = [fits.BinTableHDU(Table({"image": STACK + n}), name=f"T{n}") for n in range(2)]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(tmp_path / "tables.fits")
    assert_array_equal(images(tmp_path / "tables.fits", hdu=("t1",))[:, 0], STACK + 1)
    with pytest.raises(Unreadable, match=r"no extension NIR_K .* it has PRIMARY, VIS, NIR_Y, NIR_H, RMS"):
        read_image(path, ReadOptions(hdu=("NIR_K",)))


def test_fits_extensions_that_are_masks_objects_or_bands(tmp_path):
    options = ReadOptions()
    named = {"DQ": FLOAT * 0, "SCI": FLOAT, "ERR": FLOAT, "OTHER": FLOAT}
    (record,) = read(write(tmp_path / "a.fits", named), options)
    assert_array_equal(record.image[0], FLOAT)
    assert any("DQ, ERR, OTHER" in note for note in options.notes)
    held = records(write(tmp_path / "b.fits", {f"OBJ{n}": FLOAT + n for n in range(3)} | {"BIG": STACK[0]}))
    assert [record.row for record in held] == [0, 1, 2, 3]
    assert_array_equal(held[2].image[0], FLOAT + 2)
    record = read_image(write(tmp_path / "d.fits", {"SCI_G": FLOAT, "ERR_G": FLOAT, "SCI_R": FLOAT + 1}))
    assert (record.bands, record.image.shape) == (("G", "R"), (2, 5, 7))
    unnamed = [fits.PrimaryHDU(), fits.ImageHDU(FLOAT), fits.ImageHDU(FLOAT + 1)]
    fits.HDUList(unnamed).writeto(tmp_path / "c.fits")
    assert read_image(tmp_path / "c.fits", ReadOptions(bands=("g", "r"))).bands == ("g", "r")


@pytest.mark.parametrize("cards", [{"BANDS": "u,g,r,i,Z,Y,J,H,Ks"}, {f"BAND{n}": b for n, b in enumerate("ugrizyJHK")}])
def test_fits_cube_of_nine_bands(tmp_path, cards):
    record = read_image(write(tmp_path / "a.fits", NINE, **cards), ReadOptions(stacks=True))
    assert_array_equal(record.image, NINE)
    assert len(record.bands) == 9


def test_fits_cubes_of_many(tmp_path):
    assert_array_equal(images(write(tmp_path / "planes.fits", STACK), stacks=True)[:, 0], STACK)
    header = fits.Header({"BAND0": "g", "BAND1": "r", "BAND2": "z"})
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(CUBES, header)]).writeto(tmp_path / "cubes.fits.gz")
    assert_array_equal(images(tmp_path / "cubes.fits.gz"), CUBES)
    assert records(tmp_path / "cubes.fits.gz")[5].bands == ("g", "r", "z")


COLUMNS = [
    (CUBES, "E", {}),
    (STACK, "E", {}),
    ((STACK * 100).astype(np.int16), "I", {}),
    (RNG.integers(0, 2**16, (N, 8, 10)).astype(np.uint16), "I", {"bzero": 2**15}),
    (RNG.normal(size=(N, 100)), "D", {}),  # flat squares
]


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz"])
@pytest.mark.parametrize(("array", "code", "options"), COLUMNS)
def test_fits_table_of_images(tmp_path, name, array, code, options):
    dim = None if array.ndim == 2 else str(array.shape[:0:-1])
    columns = [
        fits.Column("IMAGE", f"{array[0].size}{code}", dim=dim, array=array, **options),
        fits.Column("OBJID", "K", array=np.arange(N) + 2**60),
        fits.Column("CLASS", "8A", array=["lens", "non", ""] * 3),
        fits.Column("GOOD", "L", array=np.arange(N) % 2 == 0),
        fits.Column("LABEL", "I", null=-1, array=[1, -1, 0] * 3),
        fits.Column("LIST", "PE()", array=np.array([[1.0]] * N, dtype=object)),
    ]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(tmp_path / name)
    expected = array.reshape(N, 1, 10, 10) if array.ndim == 2 else array if array.ndim == 4 else array[:, None]
    assert_array_equal(images(tmp_path / name), expected.astype("u2" if array.dtype == "u2" else "f4"))
    facts = records(tmp_path / name)[1].columns
    assert facts == {"OBJID": 2**60 + 1, "CLASS": "non", "GOOD": False, "LABEL": None}  # TNULL is applied


def test_fits_table_beside_its_images(tmp_path):
    table = fits.BinTableHDU(Table({"id": np.arange(N) + 2**60, "label": ["lens", "non", ""] * 3}), name="CAT")
    short = fits.BinTableHDU(Table({"id": [1, 2]}), name="PSF")
    fits.HDUList([fits.PrimaryHDU(STACK), table, short]).writeto(tmp_path / "cube.fits")
    planes = [fits.ImageHDU(plane, fits.Header({"LABEL": "own"} if n == 1 else {})) for n, plane in enumerate(STACK)]
    fits.HDUList([fits.PrimaryHDU(), table, *planes]).writeto(tmp_path / "planes.fits")
    for name, own in (("cube.fits", "non"), ("planes.fits", "own")):
        options = ReadOptions(stacks=True)
        first, second, third, *_ = read(tmp_path / name, options)
        assert first.columns == {"id": 2**60, "label": "lens"}
        assert (second.columns["label"], third.columns["label"]) == (own, None)
        assert any("PSF were not read" in note for note in options.notes) == (name == "cube.fits")


@pytest.mark.parametrize("images", [[FLOAT], [STACK], [FLOAT, FLOAT + 1], [STACK, FLOAT], []])
def test_fits_tables_that_are_not_read_are_named(tmp_path, images):
    table, options = Table({"id": [1] * (1 if len(images) == 1 else 2)}), ReadOptions(stacks=True)
    tables = [fits.BinTableHDU(Table({"image": CUBES}))] * (not images) + [fits.BinTableHDU(table, name="CAT")]
    if len(images) == 2 and images[0] is FLOAT:
        tables.append(fits.BinTableHDU(table, name="B"))  # either may be that of the images
    fits.HDUList([fits.PrimaryHDU(), *map(fits.ImageHDU, images), *tables]).writeto(tmp_path / "a.fits")
    assert not any("id" in item.columns for item in read(tmp_path / "a.fits", options))
    assert any("CAT" in note and "--catalog" in note for note in options.notes)


def test_fits_table_with_a_column_a_band_and_tnull_pixels(tmp_path):
    planes = (STACK * 100).astype(np.int16)
    planes[0, 0, 0] = -32768
    form = {"format": "80I", "dim": "(10,8)", "null": -32768}
    columns = [fits.Column(f"IMAGE_{band}", array=planes + n, **form) for n, band in enumerate("GRI")]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    record = records(tmp_path / "a.fits")[0]
    assert record.bands == ("G", "R", "I")
    assert np.isnan(record.image[0, 0, 0])
    assert_array_equal(record.image[1], (planes[0] + 1).astype("f4"))
    Table({"file": ["a"], "z": [1.0]}).write(tmp_path / "b.fits")
    with pytest.raises(Unreadable, match="no array of images"):
        read_image(tmp_path / "b.fits")


# ---------------------------------------------------------------------------------------------------- Parquet


def nested_type(depth: int, value: pa.DataType | None = None) -> pa.DataType:
    return pa.list_(nested_type(depth - 1, value)) if depth else value or pa.float32()


def nested(array: np.ndarray, value: pa.DataType | None = None) -> pa.Array:
    return pa.array(array.tolist(), nested_type(array.ndim - 1, value))


def tensor(array: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))


INTEGERS = np.arange(N * 64, dtype="u2").reshape(N, 1, 8, 8)
CELLS = [
    (nested(STACK), STACK[:, None]),
    (nested(CUBES), CUBES),
    (nested(CUBES.transpose(0, 2, 3, 1)), CUBES),
    (nested(NINE.reshape(9, 64)), NINE[:, None]),  # flat squares
    (nested(INTEGERS[:, 0], pa.uint16()), INTEGERS),
    (tensor(CUBES), CUBES),
    (tensor(STACK), STACK[:, None]),
]


@pytest.mark.parametrize(("cells", "expected"), CELLS)
def test_parquet_image_columns(tmp_path, cells, expected):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": cells, "z": RA}), path, row_group_size=4)
    assert_array_equal(images(path), expected)
    assert images(path).dtype == expected.dtype
    assert column(path, "z") == list(RA)


@pytest.mark.parametrize("is_list", [False, True])
def test_parquet_of_multimodal_universe(tmp_path, is_list):
    """An image is a record of lists, or a list of records."""
    facts = {"band": ["DES-G", "DES-R", "DES-Z"], "psf_fwhm": [1.0, 2.0, 3.0], "scale": [0.262] * 3}
    rows = [facts | {"flux": cube.tolist()} for cube in CUBES]
    if is_list:
        rows = [[{key: values[band] for key, values in row.items()} for band in range(3)] for row in rows]
    path = write(tmp_path / "a.parquet", {"image": pa.array(rows), "object_id": [f"o{n}" for n in range(N)]})
    assert_array_equal(images(path), CUBES)
    record = records(path)[7]
    assert record.bands == ("DES-G", "DES-R", "DES-Z")
    assert record.columns == {"psf_fwhm": (1.0, 2.0, 3.0), "pixel_scale": 0.262, "object_id": "o7"}


def test_parquet_with_a_column_a_band_and_a_missing_one(tmp_path):
    red = CUBES[:, 1].tolist()
    red[2] = None
    arrays = {"image_g": nested(CUBES[:, 0]), "image_r": pa.array(red, nested_type(2))}
    held = records(write(tmp_path / "a.parquet", arrays))
    assert [record.bands for record in held[1:3]] == [("g", "r"), ("g",)]
    assert_array_equal(held[3].image, CUBES[3, :2])


def test_parquet_of_encoded_pictures_with_class_names(tmp_path):
    stream = io.BytesIO()
    PIL.Image.fromarray(COLOUR).save(stream, "PNG")
    picture = {"bytes": stream.getvalue(), "path": "x.png"}
    cells = [picture, picture, None, {"bytes": b"\0" * 35, "path": ""}]
    features = {"info": {"features": {"label": {"names": ["non", "lens"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": pa.array(cells), "label": [1, 0, -1, 0]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "a.parquet")
    first, second, missing, raw = records(tmp_path / "a.parquet")
    pq.write_table(pq.read_table(tmp_path / "a.parquet", columns=["image"]), tmp_path / "dropped.parquet")
    assert [item.row for item in records(tmp_path / "dropped.parquet")] == [0, 1, 2, 3]
    assert records(tmp_path / "dropped.parquet")[0].columns == {}
    assert_array_equal(first.image, COLOUR.transpose(2, 0, 1))
    assert (first.bands, first.columns, second.columns) == (("R", "G", "B"), {"label": "lens"}, {"label": "non"})
    assert (str(missing), missing.row) == ("has no image", 2)
    assert "35 bytes that are no picture" in str(raw)


BLANK = np.where(np.arange(N)[:, None, None] == 3, np.float32(np.nan), STACK)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "cube.fits", "a.fits", "a.h5", "store.json"])
def test_a_blank_image_among_many_is_listed_and_the_others_are_read(tmp_path, name):
    path = tmp_path / name
    if name == "store.json":
        write_store(BLANK[:, None], make_table([f"o{row}" for row in range(N)]), tmp_path / "s", bands=("g",))
        path = tmp_path / "s" / name
    elif name == "a.fits":
        write(path, {f"OBJ{row}": plane for row, plane in enumerate(BLANK)})
    else:
        write(path, BLANK if name in ("a.npy", "cube.fits") else {"images": BLANK, "id": np.arange(N)})
    held = records(path, stacks=True)
    assert [item.row for item in held] == list(range(N))
    assert [row for row, item in enumerate(held) if isinstance(item, Unreadable)] == [3]
    assert str(held[3]) == "has no valid pixel"
    assert_array_equal(held[8].image[0], STACK[8])


def test_a_damaged_fits_extension_among_many_is_listed_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.fits"
    planes = [fits.CompImageHDU(RNG.integers(0, 999, (40, 50)).astype(np.int32)) for _ in range(3)]
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((16, 16, 16))), *planes]).writeto(path)
    with fits.open(path) as file:
        info = file.fileinfo(3)
    content = bytearray(path.read_bytes())
    content[info["datLoc"] : info["datLoc"] + info["datSpan"]] = b"\xff" * info["datSpan"]
    path.write_bytes(content)
    held = records(path)
    assert [item.row for item in held] == [0, 1, 2, 3]
    assert [row for row, item in enumerate(held) if isinstance(item, Unreadable)] == [0, 2]
    assert "axes" in str(held[0])
    assert str(held[2]).startswith("cannot be read: ")


# ---------------------------------------------------------------------------------------------------- all


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", "png jpg tif npy npz fits fits.gz h5 parquet".split())
def test_cut_and_garbled_files_are_unreadable_and_nothing_worse(tmp_path, suffix):
    noise, path = RNG.integers(0, 256, (90, 90), np.uint8), tmp_path / f"a.{suffix}"
    arrays = {"npz": {"image": noise}, "h5": {"images": noise[None]}, "parquet": {"image": nested(noise[None])}}
    whole = write(path, arrays.get(suffix, noise)).read_bytes()
    for content in (whole[: len(whole) // 2], np.random.default_rng(0).bytes(500)):
        path.write_bytes(content)
        with pytest.raises(Unreadable) as raised:
            read_image(path)
        assert str(tmp_path) not in str(raised.value)
        assert "\n" not in str(raised.value)


def test_names():
    assert all(map(format_of, ["A.FITS.GZ", "b.JPeg", "c.pq"]))
    assert not any(map(format_of, ["catalog.csv", "png"]))
