"""Populations described in YAML: what is read, what is refused, and that a copy is the same population."""

import numpy as np
import pytest
import yaml
from scipy import stats

from zwicky.errors import UserError
from zwicky.simulate import population_names
from zwicky.simulate.api import simulate
from zwicky.simulate.draw import draw_block
from zwicky.simulate.population_yaml import read_population
from zwicky.simulate.priors import Prior

SMALL = {
    "description": "one galaxy",
    "instrument": "des",
    "bands": ["r"],
    "size": 8,
    "common": {
        "seeing": {"value": 1},
        **{name: {"value": 0.0} for name in ("lens_x", "lens_y", "lens_e1", "lens_e2")},
        "lens_R": {"uniform": [0.4, 0.6], "unit": "arcsec", "meaning": "half-light radius"},
        "lens_n": {"value": 1.0},
    },
    "light": {"lens": {"band": "r", "magnitude": {"normal": [20.0, 1.0]}}},
    "classes": {"galaxy": {"label": "galaxy", "fraction": 1, "layers": {"lens": "sersic_lens"}}},
}


def changed(path, value):
    """A copy of SMALL with one entry changed; `path` as a.b.c."""
    copy = yaml.safe_load(yaml.safe_dump(SMALL))
    *above, last = path.split(".")
    inner = copy
    for key in above:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return copy


def written(tmp_path, description, name="mine.yaml"):
    path = tmp_path / name
    path.write_text(description if isinstance(description, str) else yaml.safe_dump(description, sort_keys=False))
    return str(path)


@pytest.mark.parametrize("name", population_names())
def test_what_is_printed_is_the_population(name, tmp_path):
    shipped = read_population(name)
    copy = read_population(written(tmp_path, shipped.text, f"{name}.yaml"))
    assert copy == shipped
    assert "\n" not in shipped.description


def test_a_file_of_ones_own_is_simulated(tmp_path):
    cutouts, labels = simulate(written(tmp_path, SMALL), 3)
    assert cutouts.images.shape == (3, 1, 8, 8)
    assert cutouts.bands == ("r",)
    assert cutouts.pixel_scale == 0.263
    assert cutouts.ids[0] == "mine-s0-000000"
    assert set(labels.values.values()) == {"galaxy"}


def test_a_base_is_changed_and_a_null_takes_away(tmp_path):
    written(tmp_path, SMALL)
    mine = {"base": "mine.yaml", "size": 12, "common": {"lens_R": {"normal": [0.5, 0.1]}}}
    read = read_population(written(tmp_path, mine, "more.yaml"))
    assert (read.name, read.size) == ("more", 12)
    assert read.common["lens_R"].prior == Prior("normal", (0.5, 0.1))
    assert read.common["lens_R"].unit == "arcsec"
    fewer = read_population(written(tmp_path, {"base": "demo-lenses", "classes": {"merger": None}}, "fewer.yaml"))
    assert set(read_population("demo-lenses").classes) - set(fewer.classes) == {"merger"}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("size", 7, "size"),
        ("size", "64", "size"),
        ("seed", 3, "'seed'"),
        ("instrument", "hubble", "hst-f160w"),
        ("instrument", {"name": "mine", "pixel_scale": -1, "bands": {}}, "pixel_scale"),
        ("instrument", {"name": "mine", "pixel_scale": 1, "bands": {"r": {"fwhm": 1}}}, "exposure"),
        ("bands", ["u"], "g, r, i, z"),
        ("bands", ["r", "g"], "lens.colours lacks g"),
        ("bands", 3, "bands"),
        ("common.seeing", None, "seeing"),
        ("common.lens_R", 0.5, "common.lens_R"),
        ("common.lens_R", {"unit": "arcsec"}, "uniform"),
        ("common.lens_R", {"uniform": [0.4]}, "takes 2 numbers"),
        ("common.lens_R", {"uniform": [0.6, 0.4]}, "0.6 to 0.4"),
        ("common.lens_R", {"uniform": ["low", 1]}, "'low'"),
        ("common.lens_R", {"uniform": [0, float("inf")]}, "finite"),
        ("common.lens_R", {"uniform": [0, 1], "normal": [0, 1]}, "drawn by one of"),
        ("common.lens_R", {"uniform": [0, 1], "between": [0, 1]}, "between"),
        ("common.lens_R", {"uniform": [0, 1], "slope": 2}, "slope"),
        ("common.lens_R", {"uniform": [0, 1], "times": "size"}, "size"),
        ("common.lens_R", {"uniform": [0, 1], "times": "lens_x", "around": "lens_x"}, "both"),
        ("common.lens_R", {"normal": [0, -1]}, "deviation"),
        ("common.lens_R", {"normal": [0, 1], "between": [5, 6]}, "between"),
        ("common.lens_R", {"log_uniform": [0, 1]}, "log_uniform"),
        ("common.lens_R", {"choice": []}, "numbers"),
        ("common.lens_R", {"choice": [1, 2], "weights": [1]}, "weights"),
        ("common.lens_R", {"choice": [1, 2], "weights": [0, 0]}, "weights"),
        ("common", ["seeing"], "common"),
        ("light.lens.colour", "red", "colour"),
        ("light", {}, "light needs"),
        ("classes", {}, "fraction above 0"),
        ("classes.galaxy.fraction", -1, "fraction"),
        ("classes.galaxy.layers", {}, "each of lens"),
        ("classes.galaxy.layers.arc", "galaxy", "each of lens"),
        ("classes.galaxy.layers.lens", "cube", "cube"),
        ("classes.galaxy.layers.lens", "ring", "ring_e1"),
        ("classes.galaxy.parameters", {"lens_R": {"value": 1}}, "lens_R"),
        ("composite", {"channels": {"R": "r"}, "scales": [1, 1, 1], "Q": 1, "alpha": 1}, "R, G and B"),
        ("base", "nowhere", "nowhere"),
        ("base", "mine.yaml", "itself"),
        ("base", 3, "base"),
    ],
)
def test_a_slip_is_told_in_one_line(path, value, said, tmp_path):
    with pytest.raises(UserError) as caught:
        simulate(written(tmp_path, changed(path, value)), 1)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["size: [", "- a", "", "\x00", "about: \udcff".encode("utf-8", "surrogateescape")])
def test_a_file_that_is_no_description(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"mine\.yaml") as caught:
        read_population(str(path))
    assert "\n" not in str(caught.value)


def drawn(tmp_path, entry, count=40):
    """2,560 values of a parameter that is declared so, and of the one it leans on, a number from 1 to 3."""
    description = changed("common.lens_R", entry)
    description["common"] = {"other": {"uniform": [1, 3]}, **description["common"]}
    population = read_population(written(tmp_path, description))
    blocks = [draw_block(population, 0, block).values for block in range(count)]
    return np.concatenate([b["lens_R"] for b in blocks]), np.concatenate([b["other"] for b in blocks])


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"uniform": [2, 5]}, stats.uniform(2, 3)),
        ({"normal": [1, 2]}, stats.norm(1, 2)),
        ({"normal": [1, 2], "between": [0, 2]}, stats.truncnorm(-0.5, 0.5, 1, 2)),
        ({"log_uniform": [0.1, 10]}, stats.loguniform(0.1, 10)),
        ({"annulus": [1, 3]}, stats.powerlaw(2, 0, 3)),
    ],
)
def test_words_draw_what_they_say(entry, expected, tmp_path):
    values, _ = drawn(tmp_path, entry)
    if "annulus" in entry:  # density ∝ r from 0 would put a ninth below 1
        assert values.min() >= 1
        values = np.sqrt((values**2 - 1) * 9 / 8)
    assert stats.kstest(values, expected.cdf).pvalue > 1e-3


def test_values_choices_and_what_they_lean_on(tmp_path):
    assert set(drawn(tmp_path, {"value": 2}, 1)[0]) == {2.0}
    values, _ = drawn(tmp_path, {"choice": [1, 2], "weights": [1, 3]})
    assert set(values) == {1.0, 2.0}
    assert (values == 2).mean() == pytest.approx(0.75, abs=0.04)
    values, other = drawn(tmp_path, {"value": 2, "times": "other"})
    np.testing.assert_allclose(values, 2 * other)
    values, other = drawn(tmp_path, {"uniform": [0, 0.1], "around": "other", "slope": -2})
    rest = values + 2 * other
    assert 0 <= rest.min() < rest.max() <= 0.1
    demo = read_population("demo-lenses").classes["lens"].parameters
    assert demo["theta_E"].prior == Prior("uniform", (1.0, 1.0), times="radius")
    assert demo["mass_e1"].prior == Prior("normal", (0.0, 0.05), around="lens_e1")
