"""Noise and colour composites against photon counting and literal formulas."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from astropy.io import fits
from scipy import ndimage
from scipy.signal import fftconvolve

from zwicky.errors import UserError
from zwicky.simulate.instruments import BETA, add_noise, moffat, signal_to_noise, sky_noise
from zwicky.simulate.light import companions, double_nucleus, field_galaxies, ring, sersic, sersic_flux, spiral_arms
from zwicky.simulate.population import Composite, load_instruments, read_population
from zwicky.simulate.render import MARGIN, grid, make_composite, resample
from zwicky.simulate.simulation import simulate_population

CFHTLS = load_instruments()["cfhtls-wide"]
COMPOSITE = Composite({"R": "i", "G": "r", "B": "g"}, (0.4, 0.6, 1.7), Q=1.0, alpha=0.09)


def test_noise_has_the_mean_and_variance_of_photon_counting():
    """Against counting itself: Poisson electrons of sky and source plus Gaussian read noise, sky subtracted."""
    levels = np.array([0.0, 0.01, 0.2], dtype=np.float32)
    clean = np.broadcast_to(levels[:, None, None, None], (3, 3, 300, 300))
    noisy = add_noise(clean, CFHTLS, np.random.default_rng(1))
    assert noisy.dtype == np.float32
    rng = np.random.default_rng(2)
    for index, band in enumerate(CFHTLS.bands.values()):
        gain = band.exposure_time * band.num_exposures * 10 ** (0.4 * (band.zero_point - 22.5))  # per nanomaggy
        sky = gain * 10 ** (0.4 * (22.5 - band.sky_brightness)) * CFHTLS.pixel_scale**2
        assert noisy[0, index].std() == pytest.approx(sky_noise(CFHTLS)[index], rel=0.02)
        for row, level in enumerate(levels):
            read_noise = rng.normal(0, band.read_noise * band.num_exposures**0.5, (300, 300))
            counted = rng.poisson(sky + level * gain, (300, 300)) + read_noise - sky
            assert noisy[row, index].std() == pytest.approx((counted / gain).std(), rel=0.02)
            assert noisy[row, index].mean() == pytest.approx(level, abs=5 * float(noisy[row, index].std()) / 300)


def test_signal_to_noise_is_the_scatter_of_a_matched_filter():
    rng = np.random.default_rng(3)
    axis = np.arange(24) - 11.5
    bump = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / 3.0**2).astype(np.float32)
    light = np.broadcast_to(0.01 * bump, (1, 3, 24, 24))
    clean = light + 0.2 * bump
    noise = add_noise(np.repeat(clean, 4000, 0), CFHTLS, rng) - clean
    filters = light / noise.var(0)
    amplitudes = (filters * (light + noise)).sum((1, 2, 3)) / (filters * light).sum()  # the best estimate of 1
    assert amplitudes.mean() == pytest.approx(1.0, abs=0.05)
    assert 1 / amplitudes.std() == pytest.approx(signal_to_noise(light, clean, CFHTLS)[0], rel=0.06)


def test_noise_of_deeplense_model_1():
    """Shot noise twice over and a sky of 0.01 counts per second."""
    clean = np.full((2, 1, 400, 400), 0.2, np.float32)
    instrument = read_population("deeplense-legacy-1").instrument
    noisy = add_noise(clean, instrument, np.random.default_rng(1), np.array([1000.0, 3000.0]))
    assert noisy.mean((1, 2, 3)) == pytest.approx([0.2, 0.2], abs=3e-4)
    expected = np.sqrt([2 * 0.2 / 1000 + 1e-4, 2 * 0.2 / 3000 + 1e-4])
    assert noisy.std((1, 2, 3)) == pytest.approx(expected, rel=0.01)


def test_each_pixel_of_a_composite_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    images = (0.002 * rng.standard_normal((2, 3, 9, 9)) + 0.02 * rng.random((2, 3, 9, 9)) ** 4).astype(np.float32)
    images[0, :, 0, 0] = 0.0
    images[0, :, 0, 1] = 5.0
    pictures = make_composite(images, ("g", "r", "i"), COMPOSITE, rng)
    assert pictures.dtype == np.uint8
    assert pictures[0, :, 0, 0].tolist() == [0, 0, 0]
    assert pictures[0, :, 0, 1].tolist() == [255, 255, 255]
    g, r, i = 1000 * images.astype(float).swapaxes(0, 1)  # magnitude 30 is a thousandth
    scaled = np.stack([0.4 / 0.9 * i, 0.6 / 0.9 * r, 1.7 / 0.9 * g], axis=1)
    total = scaled.sum(1, keepdims=True)
    expected = np.clip(255 * scaled * np.arcsinh(0.09 * total) / np.where(total, total, 1), 0, 255)
    tolerance = np.abs(expected - expected.round()) < 1e-3
    assert (np.abs(pictures - np.floor(expected)) <= tolerance).all()


@pytest.mark.parametrize("width", [1.0, 1.15])
def test_resampling_is_interpolation_by_a_triangle(width):
    pictures = np.random.default_rng(1).integers(0, 256, (4, 3, 12, 12), dtype=np.uint8)
    resampled = resample(pictures, width, np.random.default_rng(2))
    rng = np.random.default_rng(2)
    down, right = rng.uniform(-0.5, 0.5, 4), rng.uniform(-0.5, 0.5, 4)
    for n, channel in np.ndindex(4, 3):
        expected = pictures[n, channel].astype(float)
        for axis, shift in ((0, down[n]), (1, right[n])):
            weights = np.array([max(width - abs(step - shift), 0) for step in range(-2, 3)])
            expected = ndimage.correlate1d(expected, weights / weights.sum(), axis, mode="nearest")
        assert np.abs(resampled[n, channel] - expected).max() <= 0.501


def test_composites_are_black_sky_with_the_noise_of_the_survey():
    """Half of the sky of a native picture is below 0 and clipped; its noise in R, G, B was measured as 15, 16, 23."""
    cutouts, _ = simulate_population("lens-finding-cfht", 64)
    assert (cutouts.images.dtype, cutouts.bands) == (np.uint8, ("R", "G", "B"))
    assert cutouts.column("psf_fwhm")[0][0] < cutouts.column("psf_fwhm")[0][2]  # i is sharper than g
    sigma = np.array([0.54e-3, 1.05e-3, 1.47e-3], np.float32)[None, :, None, None]
    sky = sigma * np.random.default_rng(0).standard_normal((400, 3, 16, 16), dtype=np.float32)
    pictures = make_composite(sky, ("g", "r", "i"), COMPOSITE, np.random.default_rng(0))
    for channel, deviation in enumerate((15, 16, 23)):
        assert np.percentile(pictures[:, channel], 84.1) == pytest.approx(deviation, abs=1.6)
        assert (pictures[:, channel] == 0).mean() == pytest.approx(0.52, abs=0.02)


SIZE, SCALE = 128, 0.1
STAMP, CELLS = 24, 2
DES = load_instruments()["des"]
CELL = DES.pixel_scale / CELLS


@pytest.mark.parametrize("fwhm", [0.5, 0.7, 1.0])
def test_matches_a_sampled_moffat_kernel(fwhm):
    axis = (np.arange(SIZE) - SIZE // 2) * SCALE
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / BETA) - 1))
    wide = (np.arange(4 * SIZE + 1) - 2 * SIZE) * SCALE  # wings far beyond the image, for the normalisation
    kernel = (1 + (wide[:, None] ** 2 + wide[None, :] ** 2) / alpha**2) ** -BETA
    kernel /= kernel.sum()
    image = np.exp(-0.5 * ((axis[:, None] - 0.4) ** 2 + (axis[None, :] + 0.7) ** 2) / 0.3**2)
    expected = fftconvolve(image, kernel[SIZE : 3 * SIZE + 1, SIZE : 3 * SIZE + 1], mode="same")
    spectrum = torch.fft.rfft2(torch.from_numpy(image).float()) * moffat(torch.tensor(fwhm), SIZE, SCALE)
    convolved = torch.fft.irfft2(spectrum, s=(SIZE, SIZE)).numpy()
    assert np.abs(convolved - expected).max() < 2e-4 * expected.max()


def lopsided(width=15):
    """A round star with a second one beside it, so that a turned or mirrored one is another."""
    y, x = np.mgrid[:width, :width] - width // 2
    return (np.exp(-(x**2 + y**2) / 6) + 0.3 * np.exp(-((x - 4) ** 2 + (y - 1) ** 2) / 2)).astype(np.float32)


@pytest.fixture
def through_star(one_galaxy, write_population):
    """A function that writes a population of one round exponential galaxy, without noise, with this PSF."""

    def write(psf, seeing=1.0, R=0.5, size=STAMP, cells=CELLS):
        band = {**asdict(DES.bands["r"]), "psf": str(psf)}
        instrument = {"name": "mine", "pixel_scale": DES.pixel_scale, "bands": {"r": band}}
        prior = {"uniform": seeing} if isinstance(seeing, list) else {"value": seeing}
        common = one_galaxy["common"] | {"seeing": prior, "lens_R": {"value": R}}
        light = {"lens": {"band": "r", "magnitude": {"value": 20.0}}}
        changes = {"instrument": instrument, "size": size, "supersampling": cells, "noise": "none"}
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


def test_each_image_has_a_point_spread_function_of_its_seeing(through_star):
    """The second moment of a convolved galaxy is its own and that of the point spread function."""
    cutouts = simulate_population(through_star("gaussian", [0.7, 1.5], R=0.2, size=48, cells=4), 20)[0]
    x = (np.arange(48) - 23.5) * DES.pixel_scale - 0.1
    across = cutouts.images[:, 0].sum(1, dtype=np.float64)
    moment = (across * x**2).sum(1) / across.sum(1)
    (fwhm,) = np.array(cutouts.column("psf_fwhm").tolist()).T
    np.testing.assert_allclose(fwhm, DES.bands["r"].fwhm * cutouts.column("seeing"))
    own = moment - fwhm**2 / (8 * np.log(2))
    assert np.ptp(fwhm) > 0.5
    np.testing.assert_allclose(own, own.mean(), atol=2e-3)
    assert np.concatenate(cutouts.column("noise").tolist()).tolist() == [0] * 20  # images without noise


@pytest.mark.parametrize("seeing", [1.0, 8.0])
def test_the_margin_holds_the_wings_of_any_seeing(seeing, one_galaxy, write_population):
    """An image is the middle of a larger one, whose edges are far away."""
    changes = {"noise": "none", "common": one_galaxy["common"] | {"seeing": {"value": seeing}}}
    small, large = (
        simulate_population(write_population(one_galaxy | changes | {"size": size}), 1)[0].images[0, 0]
        for size in (40, 120)
    )
    assert np.abs(small - large[40:-40, 40:-40]).max() < 5e-3 * large.max()


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


def parameters(*values: float) -> list[torch.Tensor]:
    return [torch.full((1, 1, 1), value) for value in values]


@pytest.mark.parametrize("n", [0.6, 1.0, 2.0])
def test_sersic_flux_is_the_integral(n):
    x, y = grid(1200, 0.02)
    light = sersic(x.double(), y.double(), *parameters(0.0, 0.0, 0.2, -0.1, 0.5, n))
    assert float(light.sum()) * 0.02**2 == pytest.approx(float(sersic_flux(*parameters(0.5, n))), rel=1e-3)


def columns(**values: float) -> dict[str, torch.Tensor]:
    return dict(zip(values, parameters(*values.values()), strict=True))


CENTRED = dict.fromkeys(("lens_x", "lens_y", "disc_e1", "disc_e2", "ring_e1", "ring_e2"), 0.0)


def test_the_spiral_has_its_arms_where_the_formula_says():
    R, phase, pitch, sense = 1.2, 0.7, 0.3, -1.0
    p = columns(**CENTRED, arm_radius=R, arm_angle=phase, arm_pitch=pitch, arm_sense=sense, arm_sharpness=4.0)
    p |= columns(lopsided=0.0, lopsided_angle=0.0)
    r = torch.linspace(0.5, 3.0, 11).reshape(1, 1, -1)
    ridge = phase + sense * torch.log(r / R) / np.tan(pitch)
    angles = torch.linspace(-np.pi, np.pi, 20001).reshape(1, -1, 1)
    light = spiral_arms(r * torch.cos(angles), r * torch.sin(angles), p)
    brightest = angles[0, light.argmax(1)[0], 0]
    assert torch.cos(2 * (brightest - ridge[0, 0])).min() > 0.9999
    tilted = spiral_arms(r * torch.cos(angles), r * torch.sin(angles), p | columns(lopsided=0.8, lopsided_angle=0.5))
    torch.testing.assert_close(tilted, light * torch.exp(0.8 * torch.cos(angles - 0.5)))
    tail = spiral_arms(r * torch.cos(angles), r * torch.sin(angles), p, arms=1)
    assert torch.cos(angles[0, tail.argmax(1)[0], 0] - ridge[0, 0]).min() > 0.9999
    assert torch.cos(angles[0, tail.argmin(1)[0], 0] - ridge[0, 0]).max() < -0.999
    half_turn = spiral_arms(-r * torch.cos(angles), -r * torch.sin(angles), p)
    torch.testing.assert_close(half_turn, light, rtol=1e-3, atol=1e-6)
    assert r.flatten()[light.amax(1).flatten().argmax()] == pytest.approx(R, abs=0.15)


def test_the_weight_of_a_galaxy_is_its_flux_at_its_place():
    x, y = grid(900, 0.02)
    p = columns(lens_x=0.1, lens_y=-0.2, lens_e1=0.1, lens_e2=-0.2, lens_R=0.4, lens_n=1.0)
    for k, name in enumerate(("companion1", "companion2", "companion3", "red1", "red2", "second"), 1):
        values = {"weight": k / 10, "distance": 0.5 * k, "angle": float(k), "R": 0.2, "e1": 0.1, "e2": -0.1}
        p |= columns(**{f"{name}_{key}": value for key, value in values.items()})

    def flux(light):
        return float(light.double().sum()) * 0.02**2

    for count, expected in enumerate((0, 0.1, 0.3, 0.6)):
        assert flux(companions(x, y, p | columns(companions=float(count)))) == pytest.approx(expected, rel=3e-3)
    assert flux(field_galaxies(x, y, p, "red", 1.0)) == pytest.approx(0.4 + 0.5, rel=3e-3)
    assert flux(double_nucleus(x, y, p)) == pytest.approx(1 + 0.6, rel=3e-3)
    one = companions(x, y, p | columns(companions=1.0))
    centre = [flux(one * axis) / flux(one) for axis in (x, y)]
    assert centre == pytest.approx([0.1 + 0.5 * np.cos(1), -0.2 + 0.5 * np.sin(1)], abs=2e-3)


def test_the_ring_is_gaussian_across_an_ellipse_and_brighter_on_one_side():
    e1, e2 = 0.2, -0.1
    shape = columns(**CENTRED | {"ring_e1": e1, "ring_e2": e2}, radius=1.0, ring_width=0.2)
    q, phi = (1 - np.hypot(e1, e2)) / (1 + np.hypot(e1, e2)), np.arctan2(e2, e1) / 2
    r, angle = torch.meshgrid(torch.linspace(0.5, 1.5, 11), torch.linspace(-3.1, 3.1, 40), indexing="ij")
    u, v = r * torch.cos(angle) / q**0.5, r * torch.sin(angle) * q**0.5
    x, y = u * np.cos(phi) - v * np.sin(phi), u * np.sin(phi) + v * np.cos(phi)
    light = ring(x[None], y[None], shape | columns(ring_knots=0.5, ring_angle=0.7))[0]
    expected = torch.exp(-0.5 * ((r - 1) / 0.2) ** 2 + 0.5 * torch.cos(angle - 0.7))
    torch.testing.assert_close(light, expected, rtol=1e-4, atol=1e-6)
