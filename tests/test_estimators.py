"""The estimators: scikit-learn's conventions and checks, what they learn, and what they refuse."""

import pickle
import pickletools

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import zwicky
from zwicky import provenance
from zwicky.backbones import BACKBONES, NETWORKS
from zwicky.data.cutouts import make_cutouts
from zwicky.errors import UserError
from zwicky.estimators import LensClassifier, LensEncoder, LensRegressor
from zwicky.methods import METHODS
from zwicky.training.network import load_network

from .conftest import SMALL_METHODS, SMALL_POLAR, galaxies, small_options

SMALL = {"options": SMALL_POLAR, "steps": 50}
QUICK = SMALL | {"steps": 2}
CHECKED = {"options": {"width": 8, "depth": 1, "heads": 1, "radii": 8, "angles": 32, "stem": (4, 4, 4)}, "steps": 2}
# Checks that may fail, and why. On points that are no images, accuracy is not checked (the tag poor_score).
NOT_APPLICABLE = {
    "check_methods_subset_invariance": "float32: on some processors, batches of another size differ in the last digits",
}


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [LensClassifier(**CHECKED), LensRegressor(**CHECKED), LensEncoder(**CHECKED)],
    expected_failed_checks=lambda estimator: NOT_APPLICABLE,
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_eval_set_is_recorded_and_changes_nothing():
    images, labels = blobs(32, seed=0)
    plain, watched = (LensClassifier(**QUICK, train={"evaluations": 2}) for _ in range(2))
    plain.fit(images, labels)
    watched.fit(images, labels, eval_set=blobs(20, seed=1))
    history = watched.history_.dropna()
    assert history["test_accuracy"].between(0, 1).all()
    assert len(history) == 2
    assert (plain.predict_proba(images) == watched.predict_proba(images)).all()
    network = watched.network_
    network.temperature = 1.0
    other, truth = blobs(20, seed=1)
    loss = log_loss(truth, network.probabilities(other, turns=False), labels=["broad", "narrow"])
    assert history["test_loss"][history["select_loss"].idxmin()] == pytest.approx(loss, rel=1e-4)


def test_pipeline_grid_search_and_rows_of_pixels():
    images, labels = blobs(60, seed=2, size=16)
    pipeline = make_pipeline(LensEncoder(**QUICK), StandardScaler(), LogisticRegression())
    search = GridSearchCV(pipeline, {"lensencoder__features": ["blocks", "pooled"]}, cv=2).fit(images, labels)
    assert search.score(*blobs(60, seed=3, size=16)) > 0.9
    encoder = search.best_estimator_[0]
    assert len(encoder.get_feature_names_out()) == encoder.transform(images).shape[1]
    rows = images[:, 0].reshape(len(images), -1)
    classifier = LensClassifier(**QUICK).fit(rows, labels)
    assert classifier.n_features_in_ == 256
    as_images = clone(classifier).fit(images[:, :1], labels).predict_proba(images[:, :1])
    np.testing.assert_array_equal(classifier.predict_proba(rows), as_images)
    with pytest.warns(UserWarning, match="no square images"):
        LensClassifier(**QUICK).fit(rows[:, :200], labels)
    with pytest.raises(ValueError, match="200 features"):
        classifier.fit(rows, labels, eval_set=(rows[:, :200], labels))


def test_a_fifth_of_each_class_selects_and_copies_of_an_image_stay_together():
    images, _ = blobs(40, seed=0)
    images, classes = np.concatenate([images, images]), np.tile(np.arange(40) % 8, 2)
    history, cutouts = LensClassifier(**QUICK).fit(images, classes).network_.history, make_cutouts(images, ("a", "b"))
    fit, select, normalise = (
        provenance.find_leaked(cutouts, np.arange(80), history.of_use(use)) for use in ("fit", "select", "normalise")
    )
    assert (fit ^ select).all()
    assert normalise.all()
    assert np.bincount(classes[select]).tolist() == [2] * 8


def test_pickles_hold_safetensors_and_no_tensor(fitted):
    pickled = pickle.dumps(LensClassifier(**SMALL, pretrained=fitted.network_))  # in parameters too
    for content in (pickle.dumps(fitted), pickled):
        names = {text for _, text, _ in pickletools.genops(content) if isinstance(text, str)}
        assert not [name for name in names if name.startswith("torch") or "Network" in name]
    images, again = blobs(5, seed=1)[0], pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))
    assert pickle.loads(pickled).pretrained.classes == ("broad", "narrow")
    cutouts = make_cutouts(np.concatenate([blobs(64, seed=0)[0], images]), ("a", "b"))
    trained = provenance.find_leaked(cutouts, np.arange(69), again.network_.history)
    assert trained.tolist() == [True] * 64 + [False] * 5


def test_fit_starts_from_the_encoder_and_leaves_it_unchanged(tmp_path):
    images, labels = blobs(60, seed=4)
    encoder = LensEncoder(**QUICK, out=tmp_path / "run").fit(images)
    assert encoder.transform(images).dtype == np.float32
    before = {name: value.clone() for name, value in encoder.network_.backbone.state_dict().items()}
    settings = {"steps": 1, "train": {"lr": 1e-9, "weight_ema": 0.0}}
    classifier = LensClassifier(pretrained=encoder.network_, **settings).fit(images[:40], labels[:40])
    after = encoder.network_.backbone.state_dict()
    assert all((after[name] == value).all() for name, value in before.items())
    assert classifier.score(images[40:], labels[40:]) > 0.8  # its head starts as a probe
    fresh = LensClassifier(pretrained=str(tmp_path / "run"), **settings).fit(images[:40], labels[:40])
    np.testing.assert_array_equal(fresh.predict_proba(images), classifier.predict_proba(images))
    name = "net.pos_embed"  # one step at a small rate moves nothing: the weights are those of the pretraining
    assert (classifier.network_.backbone.state_dict()[name] - before[name]).abs().max() < 1e-6
    for pretrained in (None, tmp_path / "run"):
        with pytest.raises(UserError, match="'blocks' or 'pooled'"):
            LensEncoder(pretrained=pretrained, features="block").fit(images)
    again = LensEncoder(pretrained=tmp_path / "run").fit(images)
    np.testing.assert_array_equal(again.transform(images), encoder.transform(images))
    with pytest.raises(UserError, match="2 bands, given 3"):
        classifier.fit(*blobs(20, seed=0, bands=3))


@pytest.mark.parametrize("bands", [1, 3])
def test_weights_that_ship_are_normalised_by_the_data(bands):
    """They give the same features for images of other units, and images of equal bands are one band."""
    images = galaxies(12, size=64)[:, :1].repeat(bands, 1)
    encoders = [LensEncoder(pretrained="zwicky-rings").fit(scale * images) for scale in (1, 1000)]
    first, other = (encoder.transform(scale * images) for encoder, scale in zip(encoders, (1, 1000), strict=True))
    assert first.shape == (12, 1280)  # all blocks
    assert np.allclose(first, other, atol=1e-3)
    stored, ours = load_network(NETWORKS / "zwicky-rings"), encoders[0].network_
    assert torch.equal(stored.backbone.net.pos_embed, ours.backbone.net.pos_embed)


def test_takes_stores(tmp_path):
    zwicky.simulate_store("demo-lenses", 40, 1, tmp_path / "lenses")
    cutouts, labels = zwicky.open_store(tmp_path / "lenses"), zwicky.read_labels(tmp_path / "lenses")
    by_path = LensClassifier(**QUICK).fit(tmp_path / "lenses")
    by_array = LensClassifier(**QUICK).fit(cutouts, labels.of(cutouts.ids).astype(str))
    np.testing.assert_array_equal(by_path.predict_proba(cutouts), by_array.predict_proba(cutouts.images[:]))
    assert by_path.network_.bands == ("g", "r", "i")
    assert by_path.classes_.tolist() == ["lens", "nonlens"]
    with pytest.raises(UserError, match="bands g, r, i"):
        by_path.predict(make_cutouts(cutouts.images[:3], "irg"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in [*BACKBONES, *METHODS] if name != "supervised"])
def test_every_backbone_and_method(name):
    images, labels = blobs(24, seed=6, size=48)
    if name in METHODS:
        encoder = LensEncoder(**QUICK, method=name, method_options=SMALL_METHODS.get(name), train={"batch_size": 8})
        assert np.isfinite(encoder.fit(images).transform(images)).all()
        return
    options = small_options(name) if name != "beit_base" else {"depth": 1}
    assert LensClassifier(name, options=options, steps=1).fit(images, labels).predict_proba(images).shape == (24, 2)


ABAB, FOUR = ["a", "b", "a", "b"], np.zeros((4, 1, 16, 16))
MISTAKES = [
    ({"X": np.zeros((16, 16, 3, 4, 1))}, "N, bands, H, W"),
    ({"X": np.zeros((4, 16, 16, 3))}, "np.moveaxis"),
    ({"X": np.zeros((0, 1, 16, 16)), "y": []}, "N, bands, H, W"),
    ({"X": np.full((4, 1, 16, 16), "x")}, "N, bands, H, W"),
    ({"X": [np.zeros((1, 16, side)) for side in (16, 16, 16, 20)]}, "several shapes"),
    ({"X": np.zeros((4, 1, 3, 3))}, "too small"),
    ({"y": ["a", "b"]}, "one label per image"),
    ({"y": np.array([None, "b", "a", "b"], object)}, "1 of 4 labels are None or NaN"),
    ({"y": [0.0, 1.0, np.nan, 1.0]}, "1 of 4 labels are None or NaN"),
    ({"y": ["a"] * 4}, "1 class"),
    ({"eval_set": (FOUR[:2], ["a", "banana"])}, "label 'banana'"),
    ({"eval_set": (FOUR[:2], ["a", None])}, "label None"),
    ({"eval_set": (FOUR[:2], ["a"])}, "one label per image"),
    ({"eval_set": (np.zeros((2, 1, 20, 20)), ["a", "b"])}, "images of that shape"),
    ({"eval_set": (np.zeros((2, 2, 16, 16)), ["a", "b"])}, "images of that shape"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES)
def test_mistakes_are_one_line(given, message):
    with pytest.raises(UserError, match=message):
        LensClassifier(**SMALL).fit(**{"X": FOUR, "y": ABAB} | given)


def test_mistakes_in_settings_are_in_the_users_terms():
    for settings, message in (({"steps": -1}, "^steps is -1"), ({"train": {"lrr": 1}}, "'lrr'; choose of .*lr,")):
        with pytest.raises(UserError, match=message):
            LensClassifier(**SMALL | settings).fit(FOUR, ABAB)
    with pytest.raises(UserError, match="no method is named 'polar-finetune'"):  # a recipe, but of no method
        LensEncoder(**QUICK, method="polar-finetune").fit(FOUR)


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
    regressor = LensRegressor(**SMALL).set_params(steps=150).fit(images[:80], flux[:80])
    assert regressor.predict(images[80:]).shape == (40,)
    assert regressor.score(images[80:], flux[80:]) > 0.7
    two = LensRegressor(**SMALL).set_params(steps=1).fit(images[:20], np.stack([flux[:20], -flux[:20]], 1))
    assert two.predict(images[:3]).shape == (3, 2)
    with pytest.raises(UserError, match="2 values such as -99"):
        LensRegressor(**SMALL).fit(images[:80], np.where(np.arange(80) < 2, -99, flux[:80]))
    for values in (flux[:79], np.full(80, np.nan)):
        with pytest.raises(UserError, match="finite"):
            LensRegressor(**SMALL).fit(images[:80], values)
