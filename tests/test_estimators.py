"""The estimators: scikit-learn's conventions, what they learn, and what they refuse."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import get_scorer, roc_auc_score
from sklearn.model_selection import cross_val_score

from zwicky.data.cutouts import make_cutouts
from zwicky.errors import UserError
from zwicky.estimators import LensClassifier, LensRegressor

from .conftest import DISTILLED, SMALL_VIT, galaxies

SMALL = {"options": SMALL_VIT, "method_options": DISTILLED, "pretrain_epochs": 1, "epochs": 1, "min_steps": 50}


def blobs(count, seed, **shape):
    """Broad and narrow galaxies in random order, and their labels."""
    order = np.random.default_rng(seed).permutation(count)
    return galaxies(count, seed=seed, **{"size": 19} | shape)[order], np.array(["broad", "narrow"])[order % 2]


@pytest.fixture(scope="module")
def fitted():
    return LensClassifier(**SMALL).fit(*blobs(64, seed=0))


def test_learns_and_its_columns_are_in_the_order_of_classes(fitted):
    images, labels = blobs(200, seed=1)
    probabilities = fitted.predict_proba(images)
    assert fitted.classes_.tolist() == ["broad", "narrow"]
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert roc_auc_score(labels == "narrow", probabilities[:, 1]) > 0.98
    assert fitted.score(images, labels) == (fitted.predict(images) == labels).mean() > 0.9
    # scikit-learn's scorer finds the positive column through classes_; a wrong order would give 1 − AUC.
    assert get_scorer("roc_auc")(fitted, images, labels) > 0.98


def test_follows_the_conventions_of_scikit_learn(fitted):
    with pytest.raises(NotFittedError):
        LensClassifier().predict(blobs(2, seed=0)[0])
    classifier = LensClassifier(**SMALL, random_state=3, pretrained="somewhere")
    assert clone(classifier).get_params() == classifier.get_params()
    assert classifier.set_params(epochs=7, crop=16).get_params()["epochs"] == 7
    again = clone(fitted).fit(*blobs(64, seed=0))  # with the same seed
    images, labels = blobs(40, seed=5)
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))
    scores = cross_val_score(clone(fitted).set_params(min_steps=3), images, labels == "narrow", cv=2)
    assert np.isfinite(scores).all()


def test_fit_starts_from_pretrain_and_leaves_it_unchanged(tmp_path):
    images, labels = blobs(60, seed=4)
    classifier = LensClassifier(**SMALL).pretrain(images, tmp_path / "run")
    before = {name: value.clone() for name, value in classifier.pretrained_.backbone.state_dict().items()}
    classifier.set_params(min_steps=1, epochs=0.1).fit(images[:40], labels[:40])
    after = classifier.pretrained_.backbone.state_dict()
    assert all((after[name] == value).all() for name, value in before.items())
    assert clone(classifier).pretrained_ is classifier.pretrained_
    fresh = LensClassifier(**SMALL, pretrained=str(tmp_path / "run")).set_params(min_steps=1, epochs=0.1)
    fresh.fit(images[:40], labels[:40])
    np.testing.assert_array_equal(fresh.predict_proba(images), classifier.predict_proba(images))
    # One step at the start of the warm-up moves next to nothing: the weights are still those of the pretraining.
    name = "net.patch_embed.proj.weight"
    assert (classifier.network_.backbone.state_dict()[name] - before[name]).abs().max() < 1e-3
    with pytest.raises(UserError, match="2 bands, given 3"):
        classifier.fit(*blobs(20, seed=0, bands=3))


def test_float64_images_and_three_classes_of_numbers():
    images, labels = blobs(30, seed=6)
    numbers = np.where(labels == "narrow", 7, 3)
    numbers[:9] = 5
    classifier = LensClassifier(**{**SMALL, "min_steps": 2}).fit(images.astype(np.float64), numbers)
    assert classifier.classes_.tolist() == [3, 5, 7]
    assert classifier.predict_proba(images[:4]).shape == (4, 3)
    assert set(classifier.predict(images)) <= {3, 5, 7}


ABAB = ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((16, 16, 3, 4, 1)), ABAB, "N, bands, H, W"),
        (np.zeros((4, 16, 16, 3)), ABAB, "np.moveaxis"),
        (np.zeros((0, 1, 16, 16)), [], "N, bands, H, W"),
        (np.full((4, 1, 16, 16), "x"), ABAB, "N, bands, H, W"),
        (np.zeros((4, 1, 16, 16)), ["a", "b"], "one label per image"),
        (np.zeros((4, 1, 16, 16)), np.array([None, "b", "a", "b"], object), "one label per image"),
        (np.zeros((4, 1, 16, 16)), [0.0, 1.0, np.nan, 1.0], "one label per image"),
        (np.zeros((4, 1, 16, 16)), ["a"] * 4, "1 class"),
        (np.zeros((4, 1, 4, 4)), ABAB, "crop"),
    ],
)
def test_mistakes_are_one_line(images, labels, message: str):
    with pytest.raises(UserError, match=message):
        LensClassifier(**SMALL).fit(images, labels)


def test_arrays_of_fits_files_masked_ones_and_other_shapes(fitted):
    images, _ = blobs(6, seed=3)
    probabilities = fitted.predict_proba(images)
    np.testing.assert_array_equal(fitted.predict_proba(images.astype(">f4")), probabilities)
    mask = np.zeros(images.shape, bool)
    mask[:, :, 2:4, 2:4] = True
    masked, with_nan = np.ma.array(images, mask=mask), np.where(mask, np.nan, images)
    np.testing.assert_array_equal(fitted.predict_proba(masked), fitted.predict_proba(with_nan))
    np.testing.assert_allclose(fitted.predict_proba(images[0]), probabilities[:1], atol=1e-6)
    np.testing.assert_array_equal(fitted.predict_proba(make_cutouts(images, "gr")), probabilities)
    with pytest.raises(UserError, match="no valid pixel"):
        fitted.predict_proba(np.full_like(images, np.nan))
    for shape in ({"bands": 3}, {"size": 25}):
        with pytest.raises(UserError, match="images of that shape"):
            fitted.predict(blobs(2, seed=0, **shape)[0])


def test_a_regressor_learns_a_brightness():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16] - 7.5
    flux = rng.uniform(1, 3, 120)
    images = flux[:, None, None, None] * np.exp(-np.hypot(x, y) / 3) * 10 + rng.normal(0, 0.1, (120, 1, 16, 16))
    regressor = LensRegressor(**SMALL).set_params(min_steps=150).fit(images[:80], flux[:80])
    assert regressor.predict(images[80:]).shape == (40,)
    assert regressor.score(images[80:], flux[80:]) > 0.7
    two = LensRegressor(**SMALL).set_params(min_steps=1).fit(images[:20], np.stack([flux[:20], -flux[:20]], 1))
    assert two.predict(images[:3]).shape == (3, 2)
    with pytest.raises(UserError, match="2 values such as -99"):
        LensRegressor(**SMALL).fit(images[:80], np.where(np.arange(80) < 2, -99, flux[:80]))
    for values in (flux[:79], np.full(80, np.nan)):
        with pytest.raises(UserError, match="finite"):
            LensRegressor(**SMALL).fit(images[:80], values)
