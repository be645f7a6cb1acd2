import numpy as np
import pytest

from zwicky.errors import UserError
from zwicky.evaluation import baselines
from zwicky.evaluation.baselines import BASELINES
from zwicky.evaluation.metrics import classification_scores


def auc(truth, probabilities):
    return classification_scores(truth, probabilities)["auc"]


def rings(count, bands=3, size=33, seed=0, amplitude=1.5):
    """Noise with a galaxy in the middle; the positives have a ring about it, brighter in the first band."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(x, y)
    images = random.normal(size=(count, bands, size, size)) + 5 * np.exp(-((radius / 3) ** 2))
    ring = amplitude * np.exp(-(((radius - 9) / 2) ** 2))
    images[:, 0] += labels[:, None, None] * ring
    return images.astype(np.float32), labels


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("bands", [1, 3])
def test_a_baseline_finds_rings_and_nothing_else(name, bands):
    (train, train_y), (test, test_y) = rings(80, bands), rings(60, bands, seed=1)
    found = BASELINES[name](train, train_y, test, 2, 0)
    assert found.shape == (60, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert auc(test_y, found) > 0.9
    shuffled = BASELINES[name](train, np.random.default_rng(2).permutation(train_y), test, 2, 0)
    assert 0.15 < auc(test_y, shuffled) < 0.85


@pytest.mark.parametrize("name", BASELINES)
def test_any_pixel_type_and_invalid_pixels(name):
    (train, train_y), (test, test_y) = rings(80), rings(100, seed=1)
    for kind, scale in (("uint8", 10), ("uint16", 1000)):
        whole = [np.clip(images * scale + 5 * scale, 0, np.iinfo(kind).max).astype(kind) for images in (train, test)]
        assert auc(test_y, BASELINES[name](whole[0], train_y, whole[1], 2, 0)) > 0.85
    random = np.random.default_rng(0)
    for images in (train, test):
        images[random.random(images.shape) < 0.02] = np.nan
        images[:5, 1] = np.nan  # a band that some objects lack
        images[:, 2] = np.nan  # and one that nobody has
        images[7] = np.inf
    found = BASELINES[name](train, train_y, test, 2, 0)
    assert np.isfinite(found).all()
    assert auc(test_y, found) > 0.75


@pytest.mark.parametrize("name", BASELINES)
def test_rows_keep_their_order_and_a_seed_repeats(name, monkeypatch):
    (train, train_y), (test, _) = rings(40), rings(21, seed=1)
    straight = BASELINES[name](train, train_y, test, 2, 0)
    np.testing.assert_array_equal(BASELINES[name](train, train_y, test, 2, 0), straight)
    monkeypatch.setattr(baselines, "BLOCK", 4 * test[0].size)  # many blocks, the last one short
    order = np.random.default_rng(0).permutation(21)
    np.testing.assert_allclose(BASELINES[name](train, train_y, test[order], 2, 0), straight[order], atol=1e-3)


@pytest.mark.parametrize("name", BASELINES)
def test_flux_units_do_not_matter(name):
    (train, train_y), (test, _) = rings(60), rings(30, seed=1)
    units = np.array([1e-12, 1.0, 1e6], dtype=np.float32)[:, None, None]
    found = BASELINES[name](train * units, train_y, test * units, 2, 0)
    np.testing.assert_allclose(found, BASELINES[name](train, train_y, test, 2, 0), atol=0.02)


@pytest.mark.parametrize("name", BASELINES)
def test_three_classes_one_of_them_without_labels(name):
    (train, train_y), (test, _) = rings(30), rings(10, seed=1)
    found = BASELINES[name](train, 2 * train_y, test, 3, 0)
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize("name", BASELINES)
def test_very_few_labels_and_blank_images(name):
    train, _ = rings(3)
    found = BASELINES[name](train, np.array([0, 1, 1]), train, 2, 0)
    assert np.isfinite(found).all()
    blank = np.zeros((6, 1, 16, 16), dtype=np.uint8)
    np.testing.assert_allclose(BASELINES[name](blank, np.arange(6) % 2, blank, 2, 0), 0.5, atol=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_bad_input_is_refused(name):
    images, labels = rings(10)
    with pytest.raises(UserError, match="1 class"):
        BASELINES[name](images, np.ones(10, int), images, 2, 0)
    with pytest.raises(UserError, match="one label each"):
        BASELINES[name](images, labels[:5], images, 2, 0)
    with pytest.raises(UserError, match="one size"):
        BASELINES[name](images, labels, images[:, :2], 2, 0)
    with pytest.raises(UserError, match="bands, H, W"):
        BASELINES[name](images, labels, images[:0], 2, 0)
    with pytest.raises(UserError, match="bands, H, W"):
        BASELINES[name](images[:, 0], labels, images, 2, 0)


def test_rings_of_the_radial_profile():
    """A map of the radius itself: the mean in ring k lies between its edges, whichever way the image is turned."""
    y, x = np.mgrid[:64, :64] - 31.5
    radius = (np.hypot(x, y) / 32).astype(np.float32)
    image = np.stack([radius, 3 * radius])[None]
    features = baselines._radial(image).reshape(6, baselines.ANNULI)
    edges = np.arange(9) / 8
    assert (features[0] > edges[:-1]).all()
    assert (features[0] < edges[1:]).all()
    np.testing.assert_allclose(features[1], 3 * features[0], rtol=1e-5)
    np.testing.assert_allclose(features[2], 2 * features[0], rtol=1e-4)  # the colour
    inside = (radius >= 0.5) & (radius < 0.625)
    assert features[3, 4] == pytest.approx(radius[inside].std(), rel=1e-3)
    turned = baselines._radial(np.rot90(image, axes=(2, 3)))
    np.testing.assert_allclose(turned, baselines._radial(image), rtol=1e-3, atol=1e-4)


def test_bins_are_means_of_valid_pixels():
    images = np.random.default_rng(0).normal(size=(2, 1, 150, 150)).astype(np.float32)
    images[0, 0, 0, 0] = np.nan
    images[1, 0, 2:4, 2:4] = np.nan
    found = baselines._binned(images)
    assert found.shape == (2, 1, 75, 75)
    assert found[0, 0, 0, 0] == pytest.approx(np.nanmean(images[0, 0, :2, :2]))
    assert found[1, 0, 1, 1] == 0
    assert found[1, 0, 5, 7] == pytest.approx(images[1, 0, 10:12, 14:16].mean(), abs=1e-6)
