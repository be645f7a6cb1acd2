"""One test a claim about each file format; files are made by the libraries that define the formats."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from zwicky.data.readers import Unreadable, is_image_name, read_image
from zwicky.data.readers.record import as_pixels

RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (5, 7), np.uint8)
GREY16 = RNG.integers(0, 65536, (5, 7), np.uint16)
COLOUR = RNG.integers(0, 256, (5, 7, 3), np.uint8)
FLOAT = RNG.normal(size=(5, 7)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "array", "bands"),
    [
        ("a.png", GREY8, ("gray",)),
        ("a.png", GREY16, ("gray",)),
        ("a.png", COLOUR, ("R", "G", "B")),
        ("a.tif", GREY8, ("gray",)),
        ("a.TIFF", GREY16, ("gray",)),
        ("a.tif", FLOAT, ("gray",)),
        ("a.tiff", COLOUR, ("R", "G", "B")),
    ],
)
def test_lossless_pictures_keep_values_and_type(tmp_path, name, array, bands):
    PIL.Image.fromarray(array).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.pixels.dtype == array.dtype
    assert image.bands == bands
    np.testing.assert_array_equal(image.pixels, array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def test_jpeg_keeps_shape_and_roughly_the_values(tmp_path):
    smooth = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1))
    PIL.Image.fromarray(smooth).save(tmp_path / "a.JPG", quality=95)
    pixels = read_image(tmp_path / "a.JPG").pixels
    assert (pixels.shape, pixels.dtype) == ((1, 24, 24), np.uint8)
    assert abs(pixels[0].astype(int) - smooth).max() < 12


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path):
    alpha = np.full((5, 7, 1), 255, np.uint8)
    PIL.Image.fromarray(np.concatenate([COLOUR, alpha], axis=2)).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png").pixels, COLOUR.transpose(2, 0, 1))
    alpha[2, 3] = 0
    PIL.Image.fromarray(np.concatenate([COLOUR, alpha], axis=2)).save(tmp_path / "holes.png")
    with pytest.raises(Unreadable, match="transparent"):
        read_image(tmp_path / "holes.png")


def test_palette_becomes_colour(tmp_path):
    picture = PIL.Image.fromarray(COLOUR).quantize(colors=64)
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.png").pixels, np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    )


def png_of_16_bit_colour(path: Path) -> None:
    """Pillow cannot write one: made by hand after the PNG specification."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(12)) for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_colour_is_never_cut_to_8_bits_silently(tmp_path):
    png_of_16_bit_colour(tmp_path / "a.png")
    assert PIL.Image.open(tmp_path / "a.png").mode == "RGB"  # what Pillow makes of it
    with pytest.raises(Unreadable, match="16 bits a channel"):
        read_image(tmp_path / "a.png")


def test_other_pictures_are_refused_with_the_reason(tmp_path):
    PIL.Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(Unreadable, match="CMYK"):
        read_image(tmp_path / "a.jpg")
    page = PIL.Image.fromarray(GREY8)
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    with pytest.raises(Unreadable, match="several images"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (FLOAT, FLOAT[None]),
        (FLOAT.astype(">f8"), FLOAT[None]),
        (GREY16.astype(">u2"), GREY16[None]),
        (GREY8 > 100, (GREY8 > 100).astype(np.uint8)[None]),
        (GREY8.astype(np.int64) - 100, GREY8.astype(np.float32)[None] - 100),
        (np.repeat(COLOUR, 2, axis=0), np.repeat(COLOUR, 2, axis=0).transpose(2, 0, 1)),
        (np.ascontiguousarray(COLOUR.transpose(2, 0, 1)), COLOUR.transpose(2, 0, 1)),
        (FLOAT[None, None], FLOAT[None]),
    ],
)
def test_npy(tmp_path, array, expected):
    np.save(tmp_path / "a.npy", array)
    pixels = read_image(tmp_path / "a.npy").pixels
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == expected.dtype
    assert pixels.dtype.isnative


def test_infinite_values_become_invalid():
    pixels = as_pixels(np.array([[1.0, np.inf], [-np.inf, 1e300]]))
    np.testing.assert_array_equal(pixels, np.array([[[1, np.nan], [np.nan, np.nan]]], np.float32))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"some text, no array", "not a NumPy file"),
        (np.array([GREY8, "mass"], dtype=object), "never unpickled"),
        (np.array(["text"] * 4).reshape(2, 2), "not real numbers"),
        (GREY8 + 1j, "not real numbers"),
        (np.full((4, 4), np.nan), "no valid pixel"),
        (np.zeros((0, 4)), "no pixels"),
        (np.zeros(4), "axes"),
        (np.zeros((7, 3, 7)), "no axis of at most 6"),
    ],
)
def test_bad_npy_gives_the_reason(tmp_path, content, reason):
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(Unreadable, match=reason):
        read_image(path)


def test_npy_that_claims_a_terabyte_is_refused_before_reading(tmp_path):
    with (tmp_path / "a.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    with pytest.raises(Unreadable, match="cut short"):
        read_image(tmp_path / "a.npy")


def sky_header(size: tuple[int, int] = (7, 5)) -> fits.Header:
    """0.2″ pixels, turned by 30 degrees, with (150.1, 2.2) at FITS pixel (10, -3)."""
    angle, step = np.radians(30), 0.2 / 3600
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.1, 2.2], [10, -3]
    wcs.wcs.cd = step * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return wcs.to_header()


def test_fits_position_is_the_image_centre_and_scale_comes_from_the_wcs(tmp_path):
    header = sky_header()
    fits.PrimaryHDU(FLOAT, header).writeto(tmp_path / "a.fits")
    image = read_image(tmp_path / "a.fits")
    np.testing.assert_array_equal(image.pixels, FLOAT[None])
    assert image.pixel_scale == pytest.approx(0.2, rel=1e-4)
    # By hand: FITS centre of 7 columns × 5 rows is pixel (4, 3), so (-6, +6) from the reference pixel.
    angle, step = np.radians(30), 0.2 / 3600
    east = step * (-np.cos(angle) * -6 + np.sin(angle) * 6)
    north = step * (np.sin(angle) * -6 + np.cos(angle) * 6)
    expected = SkyCoord(150.1 + east / np.cos(np.radians(2.2)), 2.2 + north, unit="deg")
    assert SkyCoord(image.ra, image.dec, unit="deg").separation(expected).arcsec < 0.001


@pytest.mark.parametrize(
    ("ra", "dec", "expected"),
    [
        (150.1, 2.2, (150.1, 2.2)),
        ("10:00:24.0", "+02:12:00", (150.1, 2.2)),
        (150.1, 99.0, (None, None)),
        ("east", "north", (None, None)),
        (None, None, (None, None)),
    ],
)
def test_fits_position_from_keywords(tmp_path, ra, dec, expected):
    hdu = fits.PrimaryHDU(FLOAT)
    if ra is not None:
        hdu.header["RA"], hdu.header["DEC"] = ra, dec
    hdu.writeto(tmp_path / "a.fits")
    image = read_image(tmp_path / "a.fits")
    assert (image.ra, image.dec) == (expected if expected[0] is None else pytest.approx(expected))
    assert image.pixel_scale is None


def test_fits_kinds(tmp_path):
    """Scaled integers, unsigned 16 bits, BLANK, cubes, image extensions, compression by tiles and by gzip."""
    unsigned = fits.PrimaryHDU(GREY16)
    unsigned.writeto(tmp_path / "unsigned.fits")
    assert read_image(tmp_path / "unsigned.fits").pixels.dtype == np.uint16
    np.testing.assert_array_equal(read_image(tmp_path / "unsigned.fits").pixels[0], GREY16)

    scaled = fits.PrimaryHDU(np.array([[0, 1], [2, -7]], np.int16))
    scaled.header["BSCALE"], scaled.header["BZERO"], scaled.header["BLANK"] = 0.5, 10.0, -7
    scaled.writeto(tmp_path / "scaled.fits")
    np.testing.assert_array_equal(
        read_image(tmp_path / "scaled.fits").pixels[0], np.array([[10, 10.5], [11, np.nan]], "f4")
    )

    cube = np.stack([FLOAT, FLOAT + 1, FLOAT + 2])
    table = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=[1.0])])
    fits.HDUList([fits.PrimaryHDU(), table, fits.ImageHDU(cube)]).writeto(tmp_path / "cube.fits")
    np.testing.assert_array_equal(read_image(tmp_path / "cube.fits").pixels, cube)

    big = RNG.integers(0, 1000, (40, 50)).astype(np.int32)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(big)]).writeto(tmp_path / "tiles.fits.fz")
    np.testing.assert_array_equal(read_image(tmp_path / "tiles.fits.fz").pixels[0], big.astype("f4"))

    fits.PrimaryHDU(FLOAT).writeto(tmp_path / "a.fits.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.fits.gz").pixels[0], FLOAT)

    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "table.fits")
    with pytest.raises(Unreadable, match="no image HDU"):
        read_image(tmp_path / "table.fits")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.npy", "a.fits", "a.fits.gz"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_cut_files_are_unreadable_and_nothing_worse(tmp_path, name, share):
    noise = RNG.integers(0, 256, (90, 90), np.uint8)
    path = tmp_path / name
    if name == "a.npy":
        np.save(path, noise)
    elif ".fits" in name:
        fits.PrimaryHDU(noise).writeto(path)
    else:
        PIL.Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(Unreadable) as raised:
        read_image(path)
    assert str(tmp_path) not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "npy", "fits", "fits.gz", "fits.fz"])
def test_garbage_is_unreadable_and_nothing_worse(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    for seed in range(10):
        path.write_bytes(np.random.default_rng(seed).bytes(500))
        with pytest.raises(Unreadable):
            read_image(path)


def test_names():
    assert is_image_name("A.FITS.GZ")
    assert is_image_name("b.JPeg")
    assert not is_image_name("catalog.csv")
    assert not is_image_name("png")
