"""The demo population as a whole: stability, truth, and no shortcut."""

import numpy as np
import pytest

from zwicky.data.cutouts import STANDARD_COLUMNS, pixel_hash
from zwicky.data.labels import read_labels
from zwicky.data.store import open_store
from zwicky.errors import UserError
from zwicky.simulate.api import simulate_population, simulate_store
from zwicky.simulate.draw import BLOCK, draw_block, truth_columns
from zwicky.simulate.noise import nanomaggies
from zwicky.simulate.population_yaml import read_population
from zwicky.simulate.render import render_block


@pytest.fixture(scope="module")
def sample():
    return simulate_population("demo-lenses", 3 * BLOCK + 5, seed=3)


def test_an_image_does_not_depend_on_how_many_are_asked_for(sample):
    cutouts, labels = sample
    for count in (1, BLOCK, BLOCK + 1):
        fewer, fewer_labels = simulate_population("demo-lenses", count, seed=3)
        assert np.array_equal(fewer.images, cutouts.images[:count])
        for name in fewer.table:
            np.testing.assert_array_equal(fewer.column(name), cutouts.column(name)[:count])
        assert fewer_labels.values == {identifier: labels.values[identifier] for identifier in fewer.ids}


def test_another_seed_is_another_sky(sample):
    other, _ = simulate_population("demo-lenses", 2, seed=4)
    assert not np.isclose(other.images, sample[0].images[:2]).all((1, 2, 3)).any()
    assert len({pixel_hash(image) for image in sample[0].images}) == len(sample[0])


def test_the_table_obeys_the_contract(sample):
    cutouts, labels = sample
    assert cutouts.images.dtype == np.float32
    assert cutouts.images.shape == (len(cutouts), 3, 48, 48)
    assert np.isfinite(cutouts.images).all()
    assert cutouts.ids[5] == "demo-lenses-s3-000005"
    assert cutouts.pixel_scale == 0.187
    assert cutouts.column("simulated").all()
    assert set(cutouts.truth) == set(cutouts.table) - set(STANDARD_COLUMNS)
    for name in STANDARD_COLUMNS:
        assert cutouts.table[name].isna().sum() == (len(cutouts) if name in ("ra", "dec") else 0), name
    assert labels.classes == ("nonlens", "lens")
    assert set(labels.values) == set(cutouts.ids)


def test_every_truth_column_is_filled_where_the_kind_has_it_and_nan_elsewhere(sample):
    cutouts, _ = sample
    population = read_population("demo-lenses")
    kinds = cutouts.column("object_class")
    assert set(kinds) == set(population.classes)
    rendered = {"magnification", *(f"source_mag_{band}" for band in "gri")}
    assert set(cutouts.truth) == {"object_class"} | set(truth_columns(population))
    for name in set(cutouts.truth) - {"object_class"}:
        owners = [kind for kind, declared in population.classes.items() if name in declared.parameters]
        owners = ["lens"] if name in rendered else owners or list(population.classes)
        assert np.array_equal(np.isfinite(cutouts.column(name)), np.isin(kinds, owners)), name


def test_lenses_are_lenses(sample):
    lens = sample[0].column("object_class") == "lens"
    assert 0.35 < lens.mean() < 0.65
    assert sample[0].column("magnification")[lens].min() > 1.6
    assert np.array_equal(sample[0].column("theta_E")[lens], sample[0].column("radius")[lens])


def test_the_light_in_a_stamp_is_that_of_its_magnitudes():
    population = read_population("demo-lenses")
    drawn = draw_block(population, 5, 0)
    layers, _ = render_block(population, drawn)
    for layer, name in enumerate(population.light):
        for band, filter_name in enumerate("gri"):
            wanted = nanomaggies(drawn.values[f"{name}_mag_{filter_name}"])
            share = layers[:, layer, band].sum((1, 2), dtype=np.float64) / wanted
            assert share.max() < 1 + 1e-5  # what is missing lies in the margin
            assert share.min() > 0.8
            assert np.median(share) > 0.95


def test_a_store_holds_what_memory_would(sample, tmp_path):
    simulate_store("demo-lenses", len(sample[0]), 3, tmp_path / "store")
    stored = open_store(tmp_path / "store")
    assert np.array_equal(np.asarray(stored.images), sample[0].images)
    assert stored.truth == sample[0].truth
    assert np.array_equal(stored.ids, sample[0].ids)
    assert np.array_equal(stored.column("theta_E"), sample[0].column("theta_E"), equal_nan=True)
    assert read_labels(tmp_path / "store") == sample[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("no-such", 3, 0), "demo-lenses"), (("demo-lenses", 0, 0), "1 or more"), (("demo-lenses", 3, -1), "seed")],
)
def test_a_mistake_is_told_in_one_line(arguments, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        simulate_population(*arguments)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        simulate_store(*arguments, tmp_path / "store")
    assert not (tmp_path / "store").exists()
