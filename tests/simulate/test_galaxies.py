"""Real galaxies as sources and lenses, against literal interpolation and against an analytic profile."""

import shutil

import numpy as np
import pytest
import yaml
from scipy.ndimage import map_coordinates

from zwicky.data.cutouts import make_cutouts
from zwicky.data.splits import holdout_split
from zwicky.data.store import StoreWriter
from zwicky.errors import UserError
from zwicky.simulate.draw import draw_block, truth_columns
from zwicky.simulate.galaxies import galaxy_tensors, load_galaxies
from zwicky.simulate.population import GalaxyStore, read_population
from zwicky.simulate.render import CPU, grid, parameter_tensors, render_light
from zwicky.simulate.simulation import Simulation, simulate_population

SCALE, SIZE = 0.03, 81
OTHERS = ("elliptical", "spiral", "ring", "companions", "merger")
LENS = {"label": "lens", "fraction": 1, "layers": {"arc": "real_source"}}
REAL = {
    "source_pick": {"uniform": [0, 1]},
    "source_rotation": {"uniform": [0, 6.283185307179586], "unit": "rad"},
    "source_flip": {"choice": [-1, 1]},
    "source_zoom": {"uniform": [0.6, 1.0]},
}


def write(path, images, scale=SCALE):
    cutouts = make_cutouts(images.astype(np.float32)[:, None], ["F814W"], pixel_scale=[scale] * len(images))
    with StoreWriter(path, cutouts.bands, cutouts.size, "float32") as writer:
        writer.append(cutouts.images, cutouts.table)
    return str(path)


def discs(R):
    """Round exponential discs with half-light radii R (arcsec), on a sky of 3."""
    axis = (np.arange(SIZE) - (SIZE - 1) / 2) * SCALE
    r = np.hypot(axis[:, None], axis[None, :])
    return np.stack([np.exp(-1.678 * r / one) + 3.0 for one in R])


def described(folder, store, name="real.yaml", **changes):
    path = folder / name
    object_class = LENS | {"parameters": REAL}
    description = {
        "base": "demo-lenses",
        "description": "real sources",
        "size": 32,
        "galaxies": {"source": {"store": store}},
    }
    path.write_text(yaml.safe_dump(description | {"classes": {"lens": object_class} | dict.fromkeys(OTHERS)} | changes))
    return str(path)


def test_the_catalog_has_no_sky_no_edges_and_unit_flux(tmp_path):
    catalog = load_galaxies(GalaxyStore(write(tmp_path / "store", discs([0.1, 0.2]))))
    images = catalog.images.numpy()
    np.testing.assert_allclose(images.sum((1, 2)) * SCALE**2, 1, rtol=1e-5)
    assert np.abs(images[:, 0]).max() < 1e-3 * images.max()
    row = images[0, SIZE // 2, SIZE // 2 :]
    np.testing.assert_allclose(row[2:8] / row[2], np.exp(-1.678 * np.arange(6) * SCALE / 0.1), rtol=0.01)
    assert catalog.rows(np.array([0.0, 0.49, 0.51, 1.0])).tolist() == [0, 0, 1, 1]


def test_a_disc_from_a_store_is_lensed_as_the_disc_is(tmp_path):
    """The same seed, once with Sérsic sources of n = 1 and once with stamps of them: the images agree."""
    R = 0.2
    store = write(tmp_path / "store", discs([R]))
    one = {"source_zoom": {"value": 1.0}, "source_R": {"value": R}, "source_n": {"value": 1.0}}
    one |= {"source_e1": {"value": 0.0}, "source_e2": {"value": 0.0}}
    real = {"parameters": REAL | one, "fraction": 1, "label": "lens", "layers": {"arc": "real_source"}}
    analytic = real | {"layers": {"arc": "sersic_source"}}
    simulated = []
    for object_class in (real, analytic):
        classes = {"lens": object_class} | dict.fromkeys(OTHERS)
        simulated.append(simulate_population(described(tmp_path, store, classes=classes), 24, 2)[0])
    magnification = [one.column("magnification") for one in simulated]
    np.testing.assert_allclose(*magnification, rtol=0.05)
    bright = np.abs(simulated[1].images).max((1, 2, 3))
    assert (np.abs(simulated[0].images - simulated[1].images).max((1, 2, 3)) / bright).max() < 0.05


def shapes(folder, store, object_class, count=8):
    """Light before the instrument, [n, layers, size, size] and its magnification; grid (arcsec) and parameters."""
    population = read_population(described(folder, store, classes={"lens": object_class} | dict.fromkeys(OTHERS)))
    drawn = draw_block(population, 3, 0)
    rows = np.arange(count)
    p = parameter_tensors(drawn, rows)
    p.update(galaxy_tensors(population.galaxies, {name: one[rows] for name, one in drawn.values.items()}, CPU))
    x, y = grid(121, SCALE)
    return render_light(population, population.classes["lens"], x, y, SCALE, p), (x[0].numpy(), y[0].numpy()), p


def test_without_a_lens_the_image_is_the_interpolated_original(tmp_path):
    """Rendered on a fine grid, against scipy's interpolation of the stamp at literally turned positions."""
    lopsided = discs([0.2, 0.3])
    lopsided[:, 45:50, 30:36] += 0.2
    store = write(tmp_path / "store", lopsided)
    object_class = {
        "label": "lens",
        "fraction": 1,
        "layers": {"arc": "real_source"},
        "parameters": REAL,
        "deflectors": None,
    }
    made, (x, y), p = shapes(tmp_path, store, object_class)
    stamps = load_galaxies(GalaxyStore(store)).images.numpy()
    for row in range(8):
        at = {name: float(value[row]) for name, value in p.items() if value[0].numel() == 1 < len(value)}
        dx, dy = x - at["lens_x"] - at["source_dx"], y - at["lens_y"] - at["source_dy"]
        c, s, size = np.cos(at["source_rotation"]), np.sin(at["source_rotation"]), SCALE * at["source_zoom"]
        column = at["source_flip"] * (c * dx + s * dy) / size + (SIZE - 1) / 2
        line = (c * dy - s * dx) / size + (SIZE - 1) / 2
        stamp = stamps[int(at["source_pick"] * 2)] * SCALE**2
        expected = map_coordinates(np.pad(stamp, 1), [line + 1, column + 1], order=1, mode="constant")
        light = made[0][row, 1].numpy()  # demo-lenses has the layers lens and arc
        assert np.abs(light / light.sum() - expected / expected.sum()).max() < 1e-5 * light.max() + 1e-7
        assert made[1][row, 1] == pytest.approx(1, abs=0.02)  # of all its flux, what lies on the grid


def test_a_lens_without_mass_conserves_flux(tmp_path):
    store = write(tmp_path / "store", discs([0.2, 0.3]))
    massless = {name: {"value": 0.0} for name in ("theta_E", "gamma1", "gamma2")}
    near = {name: {"value": 0.1} for name in ("source_dx", "source_dy")}
    object_class = {
        "label": "lens",
        "fraction": 1,
        "layers": {"arc": "real_source"},
        "parameters": REAL | massless | near,
    }
    made, _, _ = shapes(tmp_path, store, object_class)
    np.testing.assert_allclose(made[1][:, 1], 1, atol=0.02)
    free, _, _ = shapes(tmp_path, store, object_class | {"deflectors": None})
    np.testing.assert_allclose(made[0][:, 1], free[0][:, 1], atol=1e-6)


def test_two_parts_of_a_store_share_no_galaxy_and_leave_none_out(tmp_path):
    rng = np.random.default_rng(0)
    images = discs(rng.uniform(0.1, 0.3, 40))
    images[7] = images[21]  # the same galaxy twice
    store = write(tmp_path / "store", images)
    first, second = (set(load_galaxies(GalaxyStore(store, part)).ids) for part in ((0, 0.7), (0.7, 1)))
    assert not first & second
    assert len(first | second) == 40
    assert 20 < len(first) < 36
    assert ({"000007", "000021"} <= first) or ({"000007", "000021"} <= second)
    whole = described(tmp_path, store)
    part = described(tmp_path, store, galaxies={"source": {"store": store, "part": [0.7, 1.0]}}, name="part.yaml")
    assert set(simulate_population(part, 200)[0].column("source_id")) == second
    assert set(simulate_population(whole, 200)[0].column("source_id")) & first


def test_a_split_keeps_the_images_of_a_galaxy_together(tmp_path):
    store = write(tmp_path / "store", discs(np.linspace(0.1, 0.3, 12)))
    cutouts, labels = simulate_population(described(tmp_path, store), 200)
    roles = holdout_split(cutouts, labels, seed=0).roles
    roles_of: dict[str, set[str]] = {}
    for identifier, source in zip(cutouts.ids, cutouts.column("source_id"), strict=True):
        roles_of.setdefault(source, set()).add(roles[identifier])
    assert all(len(one) == 1 for one in roles_of.values())
    assert set.union(*roles_of.values()) == {"train", "validation", "test"}


def test_other_galaxies_are_another_simulation(tmp_path):
    store = tmp_path / "store"
    name = described(tmp_path, write(store, discs([0.1, 0.2])))
    first = Simulation.open(name, 3).identity()
    shutil.rmtree(store)
    write(store, discs([0.1, 0.3]))
    load_galaxies.cache_clear()  # as in another process
    assert Simulation.open(name, 3).identity() != first


def test_noise_and_neighbours_are_not_taken_for_the_galaxy(tmp_path):
    clean = discs([0.2])
    noisy = clean + np.random.default_rng(0).normal(0, 0.02, clean.shape)
    noisy[0, 10:14, 10:14] += 1.0
    catalog = load_galaxies(GalaxyStore(write(tmp_path / "store", noisy))).images[0].numpy()
    wanted = load_galaxies(GalaxyStore(write(tmp_path / "clean", clean))).images[0].numpy()
    assert (catalog[8:16, 8:16] == 0).all()
    kept = catalog != 0  # its faint wings are lost in the noise, and their light with them
    assert wanted[kept].sum() > 0.9 * wanted.sum()
    apart = (catalog[kept] / catalog.sum() - wanted[kept] / wanted[kept].sum()) / wanted.max() * wanted.sum()
    assert apart.std() < 1.3 * 0.02  # the noise that was put in, and no more
    assert abs(apart.mean()) < 0.002


def test_a_galaxy_without_light_is_left_out_with_a_warning(tmp_path, capsys):
    images = discs([0.1, 0.2])
    images[0] = 1.0
    catalog = load_galaxies(GalaxyStore(write(tmp_path / "store", images)))
    assert catalog.ids == ("000001",)
    assert "1 of 2" in capsys.readouterr().err


def test_each_image_names_its_galaxy(tmp_path):
    name = described(tmp_path, write(tmp_path / "store", discs([0.1, 0.2, 0.3])))
    cutouts, _ = simulate_population(name, 70)
    assert set(cutouts.column("source_id")) == {"000000", "000001", "000002"}
    assert "source_id" in cutouts.truth
    assert "source_id" in truth_columns(read_population(name))
    pick = (cutouts.column("source_pick") * 3).astype(int)
    assert [int(one) for one in cutouts.column("source_id")] == pick.tolist()


def test_mistakes_are_one_line(tmp_path):
    nothing = write(tmp_path / "dark", np.ones((1, 9, 9)))
    messages = {
        "no image has a galaxy": {"store": nothing},
        "nowhere": {"store": "nowhere"},
        "has no galaxies in the part": {"store": nothing, "part": [0.0, 1e-9]},
        "from 0 to 1": {"store": nothing, "part": [0.5, 0.5]},
        "name: value": "nowhere",
    }
    for message, galaxies in messages.items():
        with pytest.raises(UserError, match=message) as caught:
            simulate_population(described(tmp_path, nothing, galaxies={"source": galaxies}), 1)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="real_source needs a store"):
        simulate_population(described(tmp_path, write(tmp_path / "store", discs([0.2])), galaxies={}), 1)
