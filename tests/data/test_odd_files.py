"""Files and catalogues that are unusual and plausible: nothing of them is lost or misread."""

import tracemalloc

import h5py
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from astropy.io import fits
from astropy.table import Table

from zwicky import cli
from zwicky.data.catalog import read_catalog
from zwicky.data.matching import match_rows
from zwicky.data.store import open_store, write_store
from zwicky.errors import UserError

from .conftest import noise, write, write_noise

SIZE = (16, 16)


def labels_of(result):
    return result.labels.of(result.cutouts.ids).tolist()


def test_names_count_before_numbers():
    """A running number fits the number in many names; the column of names is one row off."""
    names = [f"img_{(number + 50) % 20_000:06d}.npy" for number in range(20_000)]
    files = [f"img_{number:06d}.npy" for number in np.linspace(0, 19_999, 200).astype(int)]
    rows, _, column = match_rows(pd.DataFrame({"id": range(20_000), "file": names}), files)
    assert column == "file"
    assert [names[row] for row in rows.values()] == list(rows)
    assert len(rows) == 200


def test_few_numbers_are_no_match():
    positions = np.random.default_rng(0).uniform(1, 200, (200, 2))
    files = [f"cutout_{ra:.4f}_{dec:.4f}.npy" for ra, dec in positions]
    with pytest.raises(UserError, match="numbers"):
        match_rows(pd.DataFrame({"id": range(200), "label": "a"}), files)


def test_rows_that_are_rare_are_found():
    names = [f"a{number}.npy" for number in range(20_000)]
    assert len(match_rows(pd.DataFrame({"file": names}), names[1:100])[0]) == 99


def test_the_primary_header_of_an_image_in_an_extension(folder, read):
    for row in range(4):
        cards = {"LABEL": "ab"[row % 2], "RA": 150.0 + row, "DEC": 2.0, "FILTER": "F814W", "PIXSCALE": 0.05}
        write(folder / f"{row}.fits", {name: noise(*SIZE) for name in ("SCI", "ERR")}, **cards)
    result = read()
    assert labels_of(result) == list("abab")
    assert (result.cutouts.bands, result.cutouts.pixel_scale) == (("F814W",), 0.05)
    assert result.cutouts.column("ra").tolist() == [150, 151, 152, 153]


def test_a_group_of_hdf5_a_band(folder, read):
    write(folder / "a.h5", {f"{band}/images": noise(80, *SIZE) for band in "irg"})
    cutouts = read().cutouts
    assert (cutouts.bands, len(cutouts)) == (("g", "r", "i"), 80)


def test_attributes_of_hdf5_hold_for_all_images(folder, read):
    write(folder / "a.h5", {"images": noise(80, *SIZE), "note": np.array(["é".encode("latin-1")] * 80)})
    with h5py.File(folder / "a.h5", "a") as file:
        file.attrs["pixel_scale"], file["images"].attrs["survey"] = 0.2, "HSC"
    cutouts = read().cutouts
    assert (len(cutouts), cutouts.pixel_scale, set(cutouts.column("survey"))) == (80, 0.2, {"HSC"})


@pytest.mark.parametrize("text", ["sep=;\nfile;label\na.npy;x\nb.npy;y\n", "file,label,,\na.npy,x,,\nb.npy,y,,\n"])
def test_csv_of_excel(tmp_path, text):
    assert list(read_catalog(write(tmp_path / "c.csv", text))) == ["file", "label"]


@pytest.mark.parametrize("layout", ["extensions", "files", "hdf5"])
def test_an_object_that_lacks_a_band_is_kept(folder, read, layout):
    planes = noise(9, 3, *SIZE)
    planes[1, 2] = np.nan
    if layout == "hdf5":
        write(folder / "a.h5", {f"image_{band}": planes[:, row] for row, band in enumerate("gri")})
    for row, image in enumerate(planes if layout != "hdf5" else []):
        if layout == "files":
            for plane, band in zip(image, "gri", strict=True):
                write(folder / f"o{row}_{band}.fits", plane)
        else:
            write(folder / f"{row}.fits", dict(zip("GRI", image, strict=True)))
    cutouts = read().cutouts
    assert len(cutouts) == 9
    assert list(cutouts.column("bands_present")[1]) == list(cutouts.bands[:2])


@pytest.mark.parametrize("numbered", [True, False])
def test_an_image_of_a_stack_that_is_set_aside_has_a_row(folder, read, numbered):
    images = noise(100, *SIZE)
    images[7] = np.nan
    write(folder / "cube.npy", images)
    numbers = {"id": np.arange(100)} if numbered else {"z": np.arange(100) / 2}
    table = pd.DataFrame({"label": list("ab") * 50} | numbers)
    write(folder / "c.csv", table.to_csv(index=False))
    assert labels_of(read()) == [label for row, label in enumerate(table["label"]) if row != 7]


@pytest.mark.parametrize(("option", "bands"), [("--hdu=[1, 3]", ("G", "I")), ("--bands=[475, 606, 814]", None)])
def test_numbers_name_extensions_and_bands(folder, tmp_path, option, bands):
    for row in range(4):
        write(folder / f"{row}.fits", dict(zip("GRI", noise(3, *SIZE), strict=True)))
    cli.run(["ingest", str(folder), option, "--out", str(tmp_path / "store")])
    assert open_store(tmp_path / "store").bands == (bands or ("475", "606", "814"))


def test_memory_does_not_grow_with_the_number_of_stacks(folder, read):
    for number in range(8):
        write(folder / f"s{number}.npy", np.full((1500, 32, 32), number, np.float32))
    tracemalloc.start()
    read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


@pytest.mark.parametrize("bands", ["", "GRI"])
def test_blank_pixels_of_unsigned_fits_are_unknown(folder, read, bands):
    """In one image, or an extension a band; and signed BLANK, which astropy undoes."""
    folder.mkdir(exist_ok=True)
    pixels = np.where(np.eye(16), -32768, 100).astype("i2")
    for row, zero in enumerate((32768, 0)):
        hdus = [fits.ImageHDU(pixels, name=band) for band in bands] or [fits.PrimaryHDU(pixels)]
        for hdu in hdus:
            hdu.header["BLANK"], hdu.header["BZERO"] = -32768, zero
        fits.HDUList([fits.PrimaryHDU()] * bool(bands) + hdus).writeto(folder / f"{row}.fits")
    images = read().cutouts.images
    assert np.isnan(images[:]).sum(axis=(2, 3)).tolist() == [[16] * (len(bands) or 1)] * 2
    assert np.nanmax(images[0]) == 100 + 32768


def test_tiff_of_16_bits_with_lzw(folder, read):
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 60_000, SIZE, dtype=np.uint16)
    PIL.Image.fromarray(pixels).save(folder / "a.tif", compression="tiff_lzw")
    PIL.Image.fromarray(pixels + 1).save(folder / "b.tif", compression="tiff_lzw")
    assert (read().cutouts.images[0, 0] == pixels).all()


def test_two_catalogues_by_one_id(folder, read):
    write_noise(folder / "o{}.npy", 4)
    table = pd.DataFrame({"id": [f"o{row}" for row in range(4)], "label": list("abab"), "z": range(4)})
    for name in ("label", "z"):
        write(folder / f"{name}.csv", table[["id", name]].to_csv(index=False))
    result = read()
    assert labels_of(result) == list("abab")
    assert result.cutouts.column("z").tolist() == [0, 1, 2, 3]


def test_a_complex_column_is_text(folder, read):
    write_noise(folder / "o{}.npy", 4)
    files = [f"o{row}.npy" for row in range(4)]
    Table({"file": files, "label": list("abab"), "shear": np.ones(4, complex)}).write(folder / "c.fits")
    assert labels_of(read()) == list("abab")


def test_a_store_of_images_without_an_axis_of_bands(tmp_path):
    write_store(np.ones((5, 8, 8), np.float32), pd.DataFrame({"id": range(5)}), tmp_path / "s", bands=["r"])
    assert open_store(tmp_path / "s").images.shape == (5, 1, 8, 8)
