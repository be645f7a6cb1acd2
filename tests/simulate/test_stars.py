"""A band seen through the image of a star in a file, against a literal convolution; and files that are none."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
import yaml
from astropy.io import fits
from scipy.signal import fftconvolve

from zwicky.errors import UserError
from zwicky.simulate.api import simulate, simulate_store
from zwicky.simulate.population_yaml import load_instruments
from zwicky.simulate.psf import PROFILES, transfer
from zwicky.simulate.render import MARGIN

SIZE, CELLS = 24, 2
DES = load_instruments()["des"]
SCALE = DES.pixel_scale / CELLS
BAND = asdict(DES.bands["r"])


def lopsided(width=15):
    """A round star with a second one beside it, so that a turned or mirrored one is another."""
    y, x = np.mgrid[:width, :width] - width // 2
    return (np.exp(-(x**2 + y**2) / 6) + 0.3 * np.exp(-((x - 4) ** 2 + (y - 1) ** 2) / 2)).astype(np.float32)


def description(tmp_path, psf, seeing=1.0):
    """One round galaxy without noise."""
    numbers = {"lens_x": 0.1, "lens_y": -0.2, "lens_e1": 0.0, "lens_e2": 0.0, "lens_R": 0.5, "lens_n": 1.0}
    told = {
        "description": "one galaxy",
        "instrument": {"name": "mine", "pixel_scale": DES.pixel_scale, "bands": {"r": {**BAND, "psf": str(psf)}}},
        "size": SIZE,
        "supersampling": CELLS,
        "noise": "none",
        "common": {name: {"value": value} for name, value in {"seeing": seeing, **numbers}.items()},
        "light": {"lens": {"band": "r", "magnitude": {"value": 20.0}}},
        "classes": {"galaxy": {"label": "galaxy", "fraction": 1, "layers": {"lens": "sersic_lens"}}},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(told, sort_keys=False))
    return str(path)


@pytest.mark.parametrize("suffix", ["npy", "fits"])
def test_the_star_is_the_point_spread_function(tmp_path, suffix):
    """An exponential galaxy on the fine grid, convolved by scipy with the star and summed into pixels."""
    path = tmp_path / f"star.{suffix}"
    np.save(path, 7 * lopsided()) if suffix == "npy" else fits.writeto(path, 7 * lopsided())
    found = simulate(description(tmp_path, path), 1, 0)[0].images[0, 0]
    fine = CELLS * (SIZE + 2 * MARGIN)
    axis = (np.arange(fine) - (fine - 1) / 2) * SCALE
    r = np.hypot(axis[None, :] - 0.1, axis[:, None] + 0.2)
    light = np.exp(-1.67834699 * r / 0.5)  # b of a Sérsic index of 1
    seen = fftconvolve(light / light.sum(), lopsided() / lopsided().sum(), mode="same") * 10 ** (-0.4 * (20 - 22.5))
    pixels = seen.reshape(fine // CELLS, CELLS, fine // CELLS, CELLS).sum((1, 3))[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert np.abs(found - pixels).max() < 1e-4 * pixels.max()


def test_a_sampled_profile_is_that_profile(tmp_path):
    y, x = (np.mgrid[:31, :31] - 15) * SCALE
    sigma = 0.9 / 2.35482
    np.save(tmp_path / "star.npy", np.exp(-(x**2 + y**2) / (2 * sigma**2)))
    given = transfer(str(tmp_path / "star.npy"), torch.tensor([0.9]), 80, SCALE)
    assert given.shape == (1, 80, 41)
    assert (given - PROFILES["gaussian"](torch.tensor([0.9]), 80, SCALE)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("star", "words"),
    [
        (lopsided(14), "odd"),
        (lopsided()[:, :13], "square"),
        (np.stack([lopsided()] * 3), "one band"),
        (lopsided(99), "at most 65"),
        (np.where(np.eye(5, dtype=bool), np.nan, np.float32(1)), "finite"),
        (np.full((5, 5), np.nan, np.float32), "no valid pixel"),
        (np.zeros((5, 5), np.float32), "above 0"),
        (np.full((5, 5), -1e38, np.float32), "above 0"),
        ("moffatt", "moffatt"),
    ],
)
def test_what_is_no_star_is_one_line(tmp_path, star, words):
    path = tmp_path / "star.npy"
    if isinstance(star, str):
        path = star
    else:
        np.save(path, star)
    with pytest.raises(UserError, match=words) as caught:
        simulate(description(tmp_path, path), 1)
    assert "\n" not in str(caught.value)


def test_a_star_has_one_width(tmp_path):
    np.save(tmp_path / "star.npy", lopsided())
    with pytest.raises(UserError, match="seeing"):
        simulate(description(tmp_path, tmp_path / "star.npy", seeing=1.2), 1)


def test_another_star_is_another_simulation(tmp_path, monkeypatch):
    from zwicky.simulate import api, psf

    np.save(tmp_path / "star.npy", lopsided())
    name = description(tmp_path, tmp_path / "star.npy")
    monkeypatch.setattr(api, "_unite", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        simulate_store(name, 3, 0, tmp_path / "store")
    np.save(tmp_path / "star.npy", lopsided()[::-1])
    psf.read_star.cache_clear()
    with pytest.raises(UserError, match="another simulation"):
        simulate_store(name, 3, 0, tmp_path / "store")


def test_a_star_goes_to_the_device(tmp_path):
    np.save(tmp_path / "star.npy", lopsided())
    where = transfer(str(tmp_path / "star.npy"), torch.ones(2, device="meta"), 80, SCALE)
    assert where.device.type == "meta"


def test_a_device_that_is_not_there_is_one_line():
    for name in ("cuda:99", "toaster", "meta", "hpu", "mkldnn"):
        with pytest.raises(UserError, match=name) as caught:
            simulate("demo-lenses", 1, device=name)
        assert "\n" not in str(caught.value)
