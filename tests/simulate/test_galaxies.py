"""Real galaxies as sources and lenses, against literal interpolation and against an analytic profile."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from zwicky.data.cutouts import make_cutouts
from zwicky.data.splits import holdout_split
from zwicky.data.store import write_store
from zwicky.errors import UserError
from zwicky.simulate.draw import draw_block
from zwicky.simulate.galaxies import galaxy_ids, galaxy_tensors, load_galaxies
from zwicky.simulate.light import real_lens
from zwicky.simulate.population import GalaxyStore, read_population
from zwicky.simulate.render import CPU, grid, parameter_tensors, render_light
from zwicky.simulate.simulation import Simulation, simulate_population

SCALE, SIZE = 0.03, 81
ANGLE = {"uniform": [0, 6.283185307179586], "unit": "rad"}
REAL = {"source_pick": {"uniform": [0, 1]}, "source_rotation": ANGLE, "source_flip": {"choice": [-1, 1]}}
REAL |= {"source_zoom": {"uniform": [0.6, 1.0]}}
NO_OTHERS = dict.fromkeys(("elliptical", "spiral", "ring", "companions", "merger"))


def discs(R):
    """Round exponential discs with half-light radii R (arcsec), on a sky of 3."""
    axis = (np.arange(SIZE) - (SIZE - 1) / 2) * SCALE
    r = np.hypot(axis[:, None], axis[None, :])
    return np.stack([np.exp(-1.678 * r / one) + 3.0 for one in R])


@pytest.fixture
def write(tmp_path):
    """A function that writes images [n, H, W] as a store and returns its path."""

    def write_images(images, name="store"):
        cutouts = make_cutouts(images.astype(np.float32)[:, None], ["F814W"], pixel_scale=[SCALE] * len(images))
        write_store(cutouts.images, cutouts.table, tmp_path / name, bands=cutouts.bands)
        return str(tmp_path / name)

    return write_images


@pytest.fixture
def described(write_population):
    """A function that writes a population of lenses of real galaxies of a store."""

    def describe(store, name="real.yaml", part=(0, 1), parameters=REAL, shape="real_source", **changes):
        lens = {"label": "lens", "fraction": 1, "layers": {"arc": shape}, "parameters": parameters} | changes
        galaxies = {"source": {"store": store, "part": list(part)}} if store else {}
        description = {"base": "demo-lenses", "description": "real sources", "size": 32, "galaxies": galaxies}
        return write_population(description | {"classes": {"lens": lens} | NO_OTHERS}, name)

    return describe


def test_the_catalog_has_no_sky_no_edges_and_unit_flux(write, recwarn):
    catalog = load_galaxies(GalaxyStore(write(np.concatenate([discs([0.1, 0.2]), np.ones((1, SIZE, SIZE))]))))
    assert catalog.ids == ("000000", "000001")  # an image without a galaxy is left out
    assert "1 of 3" in str(recwarn.pop(UserWarning).message)
    images = catalog.images.numpy()
    np.testing.assert_allclose(images.sum((1, 2)) * SCALE**2, 1, rtol=1e-5)
    assert np.abs(images[:, 0]).max() < 1e-3 * images.max()
    row = images[0, SIZE // 2, SIZE // 2 :]
    np.testing.assert_allclose(row[2:8] / row[2], np.exp(-1.678 * np.arange(6) * SCALE / 0.1), rtol=0.01)
    assert catalog.rows(np.array([0.0, 0.49, 0.51, 1.0])).tolist() == [0, 0, 1, 1]


def test_a_disc_from_a_store_is_lensed_as_the_disc_is(write, described):
    """The same seed, once with Sérsic sources of n = 1 and once with stamps of them: the images agree."""
    store = write(discs([0.2]))
    values = {"source_zoom": 1.0, "source_R": 0.2, "source_n": 1.0, "source_e1": 0.0, "source_e2": 0.0}
    parameters = REAL | {name: {"value": value} for name, value in values.items()}
    shapes = ("real_source", "sersic_source")
    real, analytic = (
        simulate_population(described(store, parameters=parameters, shape=shape), 24, 2)[0] for shape in shapes
    )
    np.testing.assert_allclose(real.column("magnification"), analytic.column("magnification"), rtol=0.05)
    bright = np.abs(analytic.images).max((1, 2, 3))
    assert (np.abs(real.images - analytic.images).max((1, 2, 3)) / bright).max() < 0.05


def test_without_a_lens_the_image_is_the_interpolated_original(write, described):
    """Rendered on a fine grid, against scipy's interpolation of the stamp at literally turned positions."""
    lopsided = discs([0.2, 0.3])
    lopsided[:, 45:50, 30:36] += 0.2
    store = write(lopsided)
    population = read_population(described(store, deflectors=None))
    drawn, rows, lens = draw_block(population, 3, 0), np.arange(8), population.classes["lens"]
    values = {name: one[rows] for name, one in drawn.values.items()}
    p = parameter_tensors(drawn, rows) | galaxy_tensors(population, lens, values, CPU)
    cells, magnification = render_light(population, lens, *grid(121, SCALE), SCALE, p)
    stamps = load_galaxies(GalaxyStore(store)).images.numpy()
    x, y = (axis[0].numpy() for axis in grid(121, SCALE))
    for row in range(8):
        at = {name: float(value[row]) for name, value in p.items() if value[0].numel() == 1 < len(value)}
        dx, dy = x - at["lens_x"] - at["source_dx"], y - at["lens_y"] - at["source_dy"]
        c, s, size = np.cos(at["source_rotation"]), np.sin(at["source_rotation"]), SCALE * at["source_zoom"]
        column = at["source_flip"] * (c * dx + s * dy) / size + (SIZE - 1) / 2
        line = (c * dy - s * dx) / size + (SIZE - 1) / 2
        stamp = stamps[int(at["source_pick"] * 2)] * SCALE**2
        expected = map_coordinates(np.pad(stamp, 1), [line + 1, column + 1], order=1, mode="constant")
        light = cells[row, 1].numpy()  # demo-lenses has the layers lens and arc
        assert np.abs(light / light.sum() - expected / expected.sum()).max() < 1e-5 * light.max() + 1e-7
        assert magnification[row, 1] == pytest.approx(1, abs=0.02)  # of all its flux, what lies on the grid


def test_a_real_lens_has_its_flux_at_the_place_of_the_lens(write):
    values = {"x": 0.3, "y": -0.2, "rotation": 0.4, "flip": -1.0, "zoom": 0.7, "scale": SCALE}
    p = {f"lens_{name}": torch.full((1, 1, 1), value) for name, value in values.items()}
    p["lens_images"] = load_galaxies(GalaxyStore(write(discs([0.2])))).images
    x, y = grid(161, SCALE)
    light = real_lens(x, y, p).double()
    assert float(light.sum()) * SCALE**2 == pytest.approx(1, rel=0.01)
    centre = [float((light * axis).sum() / light.sum()) for axis in (x, y)]
    assert centre == pytest.approx([0.3, -0.2], abs=2e-3)


def test_an_image_without_a_real_galaxy_names_none(write):
    galaxies = {"source": GalaxyStore(write(discs([0.1, 0.2])))}
    ids = galaxy_ids(galaxies, {"source_pick": np.array([0.1, np.nan, 0.9])})
    assert {name: values.tolist() for name, values in ids.items()} == {"source_id": ["000000", None, "000001"]}


def test_two_parts_of_a_store_share_no_galaxy_and_leave_none_out(write, described):
    images = discs(np.random.default_rng(0).uniform(0.1, 0.3, 40))
    images[7] = images[21]  # the same galaxy twice
    store = write(images)
    first, second = (set(load_galaxies(GalaxyStore(store, part)).ids) for part in ((0, 0.7), (0.7, 1)))
    assert not first & second
    assert len(first | second) == 40
    assert 20 < len(first) < 36
    assert ({"000007", "000021"} <= first) or ({"000007", "000021"} <= second)
    assert set(simulate_population(described(store, part=(0.7, 1)), 200)[0].column("source_id")) == second


def test_each_image_names_its_galaxy_and_a_split_keeps_its_images_together(write, described):
    name = described(write(discs(np.linspace(0.1, 0.3, 12))))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # such as of parameters that nothing uses
        cutouts, labels = simulate_population(name, 200)
    sources = cutouts.column("source_id")
    assert [int(one) for one in sources] == (cutouts.column("source_pick") * 12).astype(int).tolist()
    assert "source_id" in cutouts.truth
    assert cutouts.metadata["columns"]["source_id"]["meaning"] == "id of the real galaxy that is the source"
    roles = holdout_split(cutouts, labels, seed=0).roles
    assert len({(source, roles[identifier]) for identifier, source in zip(cutouts.ids, sources, strict=True)}) == 12
    assert set(roles.values()) == {"train", "validation", "test"}


def test_other_galaxies_are_another_simulation(tmp_path, write, described):
    name = described(write(discs([0.1, 0.2])))
    first = Simulation.open(name, 3).identity()
    shutil.rmtree(tmp_path / "store")
    write(discs([0.1, 0.3]))
    load_galaxies.cache_clear()  # as in another process
    assert Simulation.open(name, 3).identity() != first


def test_noise_and_neighbours_are_not_taken_for_the_galaxy(write):
    clean = discs([0.2])
    noisy = clean + np.random.default_rng(0).normal(0, 0.02, clean.shape)
    noisy[0, 10:14, 10:14] += 1.0
    catalog = load_galaxies(GalaxyStore(write(noisy))).images[0].numpy()
    expected = load_galaxies(GalaxyStore(write(clean, "clean"))).images[0].numpy()
    assert (catalog[8:16, 8:16] == 0).all()
    kept = catalog != 0  # its faint wings are lost in the noise, and their light with them
    assert expected[kept].sum() > 0.9 * expected.sum()
    apart = (catalog[kept] / catalog.sum() - expected[kept] / expected[kept].sum()) / expected.max() * expected.sum()
    assert apart.std() < 1.3 * 0.02  # the noise that was put in, and no more
    assert abs(apart.mean()) < 0.002


def test_a_band_with_missing_pixels_is_left_out(tmp_path):
    clean = discs([0.2])[0].astype(np.float32)
    images = np.stack([clean, clean, clean])[None].repeat(2, 0)
    images[0, 1, 12, 12:15] = np.nan
    images[1, :, 12, 12] = np.nan
    cutouts = make_cutouts(images, ["g", "r", "i"], pixel_scale=[SCALE] * 2)
    write_store(cutouts.images, cutouts.table, tmp_path / "bands", bands=cutouts.bands)
    catalog = load_galaxies(GalaxyStore(str(tmp_path / "bands")))
    assert catalog.ids == ("000000",)  # the other has no complete band
    (galaxy,) = catalog.images.numpy()
    np.testing.assert_allclose(galaxy, galaxy[:, ::-1], atol=1e-5 * galaxy.max())


def test_mistakes_are_one_line(write, described):
    dark = write(np.ones((1, 9, 9)))
    messages = {"no image has a galaxy": {}, "no galaxies in the part": {"part": (0.0, 1e-9)}}
    messages |= {"from 0 to 1": {"part": (0.5, 0.5)}}
    names = {message: described(dark, f"{len(message)}.yaml", **changes) for message, changes in messages.items()}
    names |= {"nowhere": described("nowhere"), "real_source needs a store": described("", "none.yaml")}
    bright, no_pick = write(discs([0.2]), "bright"), {name: REAL[name] for name in REAL if name != "source_pick"}
    names["needs the parameter 'source_pick'"] = described(bright, "no_pick.yaml", parameters=no_pick)
    for message, name in names.items():
        with pytest.raises(UserError, match=message):
            simulate_population(name, 1)
