"""The demo population as a whole: stability, truth, and no shortcut."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from zwicky.data.contract import STANDARD_COLUMNS, pixel_hash
from zwicky.data.store import open_store
from zwicky.data.tables import read_labels
from zwicky.errors import UserError
from zwicky.simulate.api import simulate, simulate_store
from zwicky.simulate.draw import BLOCK, draw_block, truth_columns
from zwicky.simulate.noise import nanomaggies
from zwicky.simulate.population_yaml import read_population
from zwicky.simulate.render import render_block


@pytest.fixture(scope="module")
def sample():
    return simulate("demo-lenses", 3 * BLOCK + 5, seed=3)


def test_an_image_does_not_depend_on_how_many_are_asked_for(sample):
    cutouts, labels = sample
    for count in (1, BLOCK, BLOCK + 1):
        fewer, fewer_labels = simulate("demo-lenses", count, seed=3)
        assert np.array_equal(fewer.images, cutouts.images[:count])
        for name in fewer.table.column_names:
            np.testing.assert_array_equal(fewer.column(name), cutouts.column(name)[:count])
        assert fewer_labels.values == {identifier: labels.values[identifier] for identifier in fewer.ids}


def test_another_seed_is_another_sky(sample):
    other, _ = simulate("demo-lenses", 2, seed=4)
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
    assert set(cutouts.truth) == set(cutouts.table.column_names) - set(STANDARD_COLUMNS)
    for name in STANDARD_COLUMNS:
        assert cutouts.table.column(name).null_count == (len(cutouts) if name in ("ra", "dec") else 0), name
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
        simulate(*arguments)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        simulate_store(*arguments, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def features(images: np.ndarray) -> dict[str, np.ndarray]:
    """What a lazy classifier would look at: flux, colour, border, place of the light."""
    size = images.shape[-1]
    flux = images.sum((2, 3))
    rim = np.ones((size, size), bool)
    rim[2:-2, 2:-2] = False
    weight = images.mean(1).clip(min=0)
    total = weight.sum((1, 2))
    axis = np.arange(size) - (size - 1) / 2
    x, y = (weight * axis).sum((1, 2)) / total, (weight * axis[:, None]).sum((1, 2)) / total
    return {
        **{f"flux {band}": flux[:, k] for k, band in enumerate("gri")},
        "flux": flux.sum(1),
        "colour g/r": flux[:, 0] / flux[:, 1],
        "colour r/i": flux[:, 1] / flux[:, 2],
        **{f"border {band}": images[:, k, rim].mean(1) for k, band in enumerate("gri")},
        "border": images[:, :, rim].mean((1, 2)),
        "place x": x,
        "place y": y,
        "place": np.hypot(x, y),
    }


def bounds(images: np.ndarray, lens: np.ndarray) -> dict[str, float]:
    """Upper 95 % bound of max(AUC, 1 - AUC) of each feature alone, standard error after Hanley & McNeil at AUC 1/2."""
    error = np.sqrt((len(lens) + 1) / (12 * lens.sum() * (~lens).sum()))
    areas = {name: roc_auc_score(lens, values) for name, values in features(images).items()}
    return {name: 0.5 + abs(area - 0.5) + 1.96 * error for name, area in areas.items()}


def test_no_gross_shortcut():
    cutouts, _ = simulate("demo-lenses", 12 * BLOCK, seed=11)
    worst = bounds(cutouts.images, cutouts.column("object_class") == "lens")
    assert max(worst.values()) < 0.62, worst


@pytest.mark.slow
def test_no_shortcut():
    cutouts, _ = simulate("demo-lenses", 4000, seed=12)
    lens = cutouts.column("object_class") == "lens"
    worst = bounds(cutouts.images, lens)
    for name, bound in worst.items():
        assert bound <= (0.65 if name.startswith(("flux", "colour")) else 0.55), (name, worst)
    table = np.stack(list(features(cutouts.images).values()), 1)
    boosted = cross_val_predict(HistGradientBoostingClassifier(), table, lens, cv=5, method="predict_proba")[:, 1]
    assert roc_auc_score(lens, boosted) < 0.65
