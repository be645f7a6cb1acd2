"""Point spread functions against literal convolutions, and files that are none."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from astropy.io import fits
from scipy.signal import fftconvolve

from zwicky.errors import UserError
from zwicky.simulate.instruments import BETA, moffat, read_star
from zwicky.simulate.population import load_instruments
from zwicky.simulate.render import MARGIN
from zwicky.simulate.simulation import Simulation, simulate_population

SIZE, SCALE = 128, 0.1
STAMP, CELLS = 24, 2
DES = load_instruments()["des"]
CELL = DES.pixel_scale / CELLS


def convolve(image: torch.Tensor, fwhm: float) -> np.ndarray:
    spectrum = torch.fft.rfft2(image) * moffat(torch.tensor(fwhm), SIZE, SCALE)
    return torch.fft.irfft2(spectrum, s=(SIZE, SIZE)).numpy()


@pytest.mark.parametrize("fwhm", [0.5, 0.7, 1.0])
def test_matches_a_sampled_moffat_kernel(fwhm):
    axis = (np.arange(SIZE) - SIZE // 2) * SCALE
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / BETA) - 1))
    wide = (np.arange(4 * SIZE + 1) - 2 * SIZE) * SCALE  # wings far beyond the image, for the normalisation
    kernel = (1 + (wide[:, None] ** 2 + wide[None, :] ** 2) / alpha**2) ** -BETA
    kernel /= kernel.sum()
    image = np.exp(-0.5 * ((axis[:, None] - 0.4) ** 2 + (axis[None, :] + 0.7) ** 2) / 0.3**2)
    expected = fftconvolve(image, kernel[SIZE : 3 * SIZE + 1, SIZE : 3 * SIZE + 1], mode="same")
    assert np.abs(convolve(torch.from_numpy(image).float(), fwhm) - expected).max() < 2e-4 * expected.max()


def lopsided(width=15):
    """A round star with a second one beside it, so that a turned or mirrored one is another."""
    y, x = np.mgrid[:width, :width] - width // 2
    return (np.exp(-(x**2 + y**2) / 6) + 0.3 * np.exp(-((x - 4) ** 2 + (y - 1) ** 2) / 2)).astype(np.float32)


@pytest.fixture
def through_star(one_galaxy, write_population):
    """A function that writes a population of one round exponential galaxy, without noise, with this PSF."""

    def write(psf, seeing=1.0):
        band = {**asdict(DES.bands["r"]), "psf": str(psf)}
        instrument = {"name": "mine", "pixel_scale": DES.pixel_scale, "bands": {"r": band}}
        common = one_galaxy["common"] | {"seeing": {"value": seeing}, "lens_R": {"value": 0.5}}
        light = {"lens": {"band": "r", "magnitude": {"value": 20.0}}}
        changes = {"instrument": instrument, "size": STAMP, "supersampling": CELLS, "noise": "none"}
        return write_population(one_galaxy | changes | {"common": common, "light": light})

    return write


@pytest.mark.parametrize("suffix", ["npy", "fits"])
def test_the_image_of_a_star_is_the_point_spread_function(tmp_path, suffix, through_star):
    """An exponential galaxy on the fine grid, convolved by scipy with the star and summed into pixels."""
    path = tmp_path / f"star.{suffix}"
    np.save(path, 7 * lopsided()) if suffix == "npy" else fits.writeto(path, 7 * lopsided())
    image = simulate_population(through_star(path), 1)[0].images[0, 0]
    fine = CELLS * (STAMP + 2 * MARGIN)
    axis = (np.arange(fine) - (fine - 1) / 2) * CELL
    r = np.hypot(axis[None, :] - 0.1, axis[:, None] + 0.2)
    light = np.exp(-1.67834699 * r / 0.5)  # b_n of a Sérsic index of 1
    blurred = fftconvolve(light / light.sum(), lopsided() / lopsided().sum(), mode="same") * 10 ** (-0.4 * (20 - 22.5))
    pixels = blurred.reshape(fine // CELLS, CELLS, fine // CELLS, CELLS).sum((1, 3))[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert np.abs(image - pixels).max() < 1e-4 * pixels.max()


@pytest.mark.parametrize(
    ("star", "message"),
    [
        (lopsided(14), "odd"),
        (lopsided()[:, :13], "square"),
        (np.stack([lopsided()] * 3), "one band"),
        (lopsided(99), "at most 65"),
        (np.where(np.eye(5, dtype=bool), np.nan, np.float32(1)), "finite"),
        (np.zeros((5, 5), np.float32), "above 0"),
        (lopsided(), "seeing"),
        ("moffatt", "moffatt"),
    ],
)
def test_what_is_no_star_is_one_line(tmp_path, star, message, through_star):
    path = star if isinstance(star, str) else tmp_path / "star.npy"
    if not isinstance(star, str):
        np.save(path, star)
    with pytest.raises(UserError, match=message):
        simulate_population(through_star(path, seeing=1.2 if message == "seeing" else 1.0), 1)


def test_another_star_is_another_simulation(tmp_path, through_star):
    name, identities = through_star(tmp_path / "star.npy"), []
    for star in (lopsided(), lopsided()[::-1]):
        np.save(tmp_path / "star.npy", star)
        read_star.cache_clear()  # as in another process
        identities.append(Simulation.open(name, 3).identity())
    assert identities[0] != identities[1]
