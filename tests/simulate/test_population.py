"""Populations described in YAML: what is read, what is refused, what the priors draw."""

import itertools

import numpy as np
import pytest
import yaml
from scipy import stats

from zwicky.errors import UserError
from zwicky.simulate import population_names
from zwicky.simulate.check import unused_parameters
from zwicky.simulate.draw import block_rng, draw_block
from zwicky.simulate.population import read_population
from zwicky.simulate.priors import Prior
from zwicky.simulate.simulation import Simulation, simulate_population

FIXED = {"number": 25, "slope": -0.9, "mass_min": 1e6, "mass_max": 1e10, "r_min": 0.2, "r_max": 2.0}
COMPOSITE = {"channels": {"R": "r", "G": "r", "B": "r"}, "scales": [1, 1, 1], "Q": 1, "alpha": 1}


def changed(description, path, value):
    """A copy with one entry changed; `path` as a.b.c."""
    copy = yaml.safe_load(yaml.safe_dump(description))
    *above, last = path.split(".")
    inner = copy
    for key in above:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return copy


@pytest.mark.parametrize("name", population_names())
def test_what_is_printed_is_the_population(name, write_population):
    shipped = read_population(name)
    assert read_population(write_population(shipped.text, f"{name}.yaml")) == shipped
    assert "\n" not in shipped.description


def test_a_base_is_changed_and_a_null_removes(one_galaxy, write_population):
    write_population(one_galaxy)
    mine = {"base": "mine.yaml", "size": 12, "common": {"lens_R": {"normal": [0.5, 0.1]}}}
    population = read_population(write_population(mine, "more.yaml"))
    assert (population.name, population.size) == ("more", 12)
    lens_R = Prior("normal", (0.5, 0.1), unit="arcsec", meaning="half-light radius")
    assert population.common["lens_R"] == lens_R
    fewer = read_population(write_population({"base": "demo-lenses", "classes": {"merger": None}}, "fewer.yaml"))
    assert set(read_population("demo-lenses").classes) - set(fewer.classes) == {"merger"}
    with pytest.raises(UserError, match=r"classes\.mergers: is null, which removes what a base has"):
        read_population(write_population({"base": "demo-lenses", "classes": {"mergers": None}}, "typo.yaml"))
    assert read_population(write_population({"base": "demo-lenses", "composite": None}, "plain.yaml")).composite is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("size", 7, "size"),
        ("instrument", "hubble", "hst-f160w"),
        ("instrument", {"name": "mine", "pixel_scale": 1, "bands": {"r": {"fwhm": 1}}}, "exposure_time"),
        ("bands", ["u"], "g, r, i, z"),
        ("bands", ["r", "g"], "lens.colours lacks g"),
        ("noise", "loud", "one of instrument"),
        ("noise", "deeplense-1", "exposure"),
        ("common.seeing", None, "seeing"),
        ("common.lens_R", 0.5, "common.lens_R"),
        ("common.lens_R", {"uniform": [0.4]}, "takes 2 numbers"),
        ("common.lens_R", {"uniform": [0.6, 0.4]}, "0.6 to 0.4"),
        ("common.lens_R", {"uniform": ["low", 1]}, "'low'"),
        ("common.lens_R", {"uniform": [0, float("inf")]}, "finite"),
        ("common.lens_R", {"uniform": [0, 1], "normal": [0, 1]}, "drawn by one of"),
        ("common.lens_R", {"uniform": [0, 1], "between": [0, 1]}, "between"),
        ("common.lens_R", {"uniform": [0, 1], "times": "size"}, "size"),
        ("common.lens_R", {"uniform": [0, 1], "times": "lens_x", "around": "lens_x"}, "both"),
        ("common.lens_R", {"normal": [0, 1], "between": [5, 6]}, "between"),
        ("common.lens_R", {"choice": [1, 2], "weights": [1]}, "weights"),
        ("common.lens_R", {"einstein_radius": 1e12}, "z_lens"),
        ("common", ["seeing"], "common"),
        ("common.survey", {"value": 1}, "survey is a column of every simulation"),
        ("light.lens.colour", "red", "colour"),
        ("light", {}, "light needs"),
        ("light.lens.unlensed", True, "light.lens.unlensed: only the layer arc"),
        ("classes", {}, "fraction above 0"),
        ("classes.galaxy.layers", {}, "each of lens"),
        ("classes.galaxy.layers.lens", "cube", "cube"),
        ("classes.galaxy.layers.lens", "ring", "ring_e1"),
        ("classes.galaxy.parameters", {"lens_R": {"value": 1}}, "lens_R"),
        ("classes.galaxy.substructure", {"dust": {}}, "must be one of"),
        ("classes.galaxy.substructure", {"axion_vortex": {"compensated": 3}}, "true or false"),
        ("classes.galaxy.substructure", {"axion_vortex": {}}, "theta_E_1e12"),
        ("classes.galaxy.substructure", {"axion_vortex": {"mass": -1}}, "mass must be above 0"),
        ("classes.galaxy.substructure", {"fixed_number": FIXED | {"slope": -1}}, "slope must not be -1"),
        ("classes.galaxy.substructure", {"fixed_number": FIXED | {"mass_min": 1e11}}, "mass_min below"),
        ("classes.galaxy.substructure", {"fixed_number": FIXED | {"number": -3}}, "number"),
        ("composite", {"channels": {"R": "r"}, "scales": [1, 1, 1], "Q": 1, "alpha": 1}, "R, G and B"),
        ("composite", COMPOSITE | {"resampling": 0.3}, "above 0.5"),
        ("pairs", ["nothing"], "'nothing' is neither"),
        ("base", "nowhere", "nowhere"),
        ("base", "mine.yaml", "itself"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(path, value, message, one_galaxy, write_population):
    with pytest.raises(UserError) as caught:
        simulate_population(write_population(changed(one_galaxy, path, value)), 1)
    assert message in str(caught.value)


def test_every_stream_of_numbers_is_its_own(one_galaxy, write_population):
    populations = [read_population(write_population(one_galaxy, f"{name}.yaml")) for name in "ab"]
    keys = list(itertools.product(populations, (0, 1), (0, 1), ("parameters", "noise", "substructure", "composite")))
    assert len({block_rng(*key).random() for key in keys}) == len(keys) == 32


def test_classes_are_as_frequent_as_their_fractions(one_galaxy, write_population):
    classes = {str(n): one_galaxy["classes"]["galaxy"] | {"fraction": n} for n in (0, 1, 2, 5)}
    population = read_population(write_population(one_galaxy | {"classes": classes}))
    drawn = np.concatenate([draw_block(population, 0, block).object_class for block in range(30)])
    counts = [(drawn == name).sum() for name in classes]
    assert counts[0] == 0
    assert stats.chisquare(counts[1:], np.array([1, 2, 5]) / 8 * len(drawn)).pvalue > 1e-3


def draw(entry, one_galaxy, write_population, blocks=40):
    """64 values per block of a parameter with this prior, and of one it may depend on, a number from 1 to 3."""
    description = changed(one_galaxy, "common.lens_R", entry)
    description["common"] = {"other": {"uniform": [1, 3]}, **description["common"]}
    population = read_population(write_population(description))
    drawn = [draw_block(population, 0, block).values for block in range(blocks)]
    return np.concatenate([b["lens_R"] for b in drawn]), np.concatenate([b["other"] for b in drawn])


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"uniform": [2, 5]}, stats.uniform(2, 3)),
        ({"normal": [1, 2]}, stats.norm(1, 2)),
        ({"normal": [1, 2], "between": [0, 2]}, stats.truncnorm(-0.5, 0.5, 1, 2)),
        ({"log_uniform": [0.1, 10]}, stats.loguniform(0.1, 10)),
        ({"annulus": [0, 3]}, stats.powerlaw(2, 0, 3)),
    ],
)
def test_priors_draw_their_distribution(entry, expected, one_galaxy, write_population):
    values, _ = draw(entry, one_galaxy, write_population)
    assert stats.kstest(values, expected.cdf).pvalue > 1e-3


def test_choices_and_dependent_priors(one_galaxy, write_population):
    values, _ = draw({"choice": [1, 2], "weights": [1, 3]}, one_galaxy, write_population)
    assert set(values) == {1.0, 2.0}
    assert (values == 2).mean() == pytest.approx(0.75, abs=0.04)
    values, other = draw({"value": 2, "times": "other"}, one_galaxy, write_population)
    np.testing.assert_allclose(values, 2 * other)
    values, other = draw({"uniform": [0, 0.1], "around": "other", "slope": -2}, one_galaxy, write_population)
    rest = values + 2 * other
    assert 0 <= rest.min() < rest.max() <= 0.1


REPAIRED = "deeplense-repaired-2"
NEAR = {"common": {"z_source": {"value": 0.1}}, "classes": {"axion": None}}
ARMS = {"weird": {"label": "nonlens", "fraction": 9, "layers": {"lens": "sersic_lens", "arc": "spiral_arms"}}}
NO_HOST = {"deflectors": ["sie", "shear"]}


def cdm(**priors):
    return {"classes": {"cdm": {"substructure": {"cold_dark_matter": priors}}}}


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (REPAIRED, NEAR, "theta_E_1e12 is drawn as nan"),
        ("demo-lenses", {"common": {"seeing": {"value": -0.2}}}, "seeing is drawn as -0.2"),
        ("deeplense-legacy-1", {"common": {"exposure": {"value": 0}}}, "exposure is drawn as 0"),
        (REPAIRED, {"classes": {"cdm": NO_HOST}}, "classes.cdm.deflectors leaves its substructure out"),
        (REPAIRED, {"classes": {"axion": NO_HOST}}, "add vortex"),
        ("demo-lenses", {"classes": ARMS}, "weird needs the parameter"),
        ("demo-lenses", {"common": {"lens_R": {"value": 0.0}}}, "not finite.*lens_R 0"),
        ("demo-lenses", {"common": {"lens_e1": {"value": 1.2}}}, "not finite"),
        ("demo-lenses", {"classes": {"lens": {"parameters": {"source_n": {"value": 0.0}}}}}, "class lens are not"),
        (REPAIRED, cdm(sigma_sub={"uniform": [-0.1, 0.1]}), "sigma_sub is drawn below 0"),
        (REPAIRED, cdm(tau={"value": 0.01}), "tau is drawn outside 0.06"),
    ],
)
def test_what_would_render_another_image_than_its_label_says_is_refused(base, changes, message, write_population):
    path = write_population({"base": base, "size": 24, "supersampling": 1} | changes)
    with pytest.raises(UserError, match=message), np.errstate(all="ignore"):
        simulate_population(path, 64)


def test_a_parameter_that_nothing_uses_is_named(write_population):
    changes = {"common": {"radiuss": {"value": 1.0}}, "classes": {"ring": {"parameters": {"rign_width": {"value": 1}}}}}
    with pytest.warns(UserWarning, match="nothing uses the parameter radiuss, rign_width;"):
        Simulation.open(write_population({"base": "lens-finding"} | changes), 1)


@pytest.mark.parametrize("name", population_names())
def test_every_declared_parameter_is_used(name):
    assert unused_parameters(read_population(name)) == []
