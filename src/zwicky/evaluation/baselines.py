"""Probes of frozen features, and baselines on raw pixels: if a simple one is close to a network, the page says so.

A baseline takes (train_images, truth, test_images, task, seed) and returns probabilities [M, classes] or values
[M, columns]. Images are [N, bands, H, W] of any pixel type, NaN where invalid. All choices are made by cross-validation
inside the training labels. Images are read in blocks, so memory grows by some hundred numbers per image.
"""

from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from zwicky.data.cutouts import batches
from zwicky.data.rings import asinh_scaled, binned, ring_modes, robust_scale
from zwicky.methods.collapse import knn_predict
from zwicky.rng import numpy_rng
from zwicky.training.linear_probe import LinearProbe, check_features, check_labels
from zwicky.training.task import Task

Probe = Callable[[np.ndarray, np.ndarray, np.ndarray, Task], np.ndarray]
Baseline = Callable[[np.ndarray, np.ndarray, np.ndarray, Task, int], np.ndarray]
Features = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # of images and their robust centre and scale
BLOCK = 2**24  # pixels converted at once: 64 MB
PCA_IMAGES = 3000  # images to which the components are fitted
PCA_SIDE = 64  # images are binned by the largest whole number that keeps at least this side
COMPONENTS = (10, 30, 100)  # tried by cross-validation
BOOSTING_COMPONENTS = 60
ANNULI = 8


def knn_probe(features: np.ndarray, truth: np.ndarray, query: np.ndarray, task: Task) -> np.ndarray:
    """Predict by the 20 nearest neighbours in cosine similarity, see `methods.collapse.knn_predict`.

    `features` [n, D] are those of labelled objects, `truth` their classes [n] int or values [n, columns]. Returns
    probabilities [M, classes] or values [M, columns] of the features `query` [M, D].
    """
    values = truth if task.is_regression else np.eye(task.n_outputs)[check_labels(truth)]
    return knn_predict(check_features(features, "training"), values, check_features(query, "test"))


def linear_probe(features: np.ndarray, truth: np.ndarray, query: np.ndarray, task: Task) -> np.ndarray:
    """Predict by logistic or ridge regression; arguments and result as for `knn_probe`."""
    return LinearProbe.fit(features, truth, task).predict(query)


PROBES: dict[str, Probe] = {"linear": linear_probe, "blocks": linear_probe, "knn": knn_probe}


def pca_linear(train: np.ndarray, truth: np.ndarray, test: np.ndarray, task: Task, seed: int) -> np.ndarray:
    """Logistic or ridge regression on principal components of the pixels; their number by cross-validation."""
    x, query = _principal_components(train, test, max(COMPONENTS), seed)
    counts = sorted({min(count, x.shape[1]) for count in COMPONENTS})
    probes = [LinearProbe.fit(x[:, :count], truth, task, seed=seed) for count in counts]
    losses = [probe.cv_loss for probe in probes]
    best = 0 if np.isnan(losses).all() else int(np.nanargmin(losses))
    return probes[best].predict(query[:, : counts[best]])


def pca_boosting(train: np.ndarray, truth: np.ndarray, test: np.ndarray, task: Task, seed: int) -> np.ndarray:
    """Gradient-boosted trees on principal components of the pixels."""
    x, query = _principal_components(train, test, BOOSTING_COMPONENTS, seed)
    options = {"learning_rate": 0.05, "max_iter": 300, "early_stopping": False, "random_state": seed}
    if task.is_regression:
        return np.stack([HistGradientBoostingRegressor(**options).fit(x, y).predict(query) for y in truth.T], axis=1)
    model = HistGradientBoostingClassifier(**options).fit(x, check_labels(truth))
    probabilities = np.zeros((len(query), task.n_outputs))  # 0 for a class without a label
    probabilities[:, model.classes_] = model.predict_proba(query)
    return probabilities


def radial_colour(train: np.ndarray, truth: np.ndarray, test: np.ndarray, task: Task, seed: int) -> np.ndarray:
    """Logistic or ridge regression on mean and scatter, in rings about the centre, of each band and each colour."""
    return _linear_on(_radial_profiles, train, truth, test, task, seed)


def modes(train: np.ndarray, truth: np.ndarray, test: np.ndarray, task: Task, seed: int) -> np.ndarray:
    """Logistic or ridge regression on the log power of azimuthal modes by radius, see `data.rings.ring_modes`."""
    return _linear_on(ring_modes, train, truth, test, task, seed)


def _linear_on(
    features: Features, train: np.ndarray, truth: np.ndarray, test: np.ndarray, task: Task, seed: int
) -> np.ndarray:
    """Fit a linear probe to `features` of images, and predict."""
    centre, scale = robust_scale(train, seed)
    x, query = (_in_blocks(images, lambda block: features(block, centre, scale)) for images in (train, test))
    return LinearProbe.fit(x, truth, task, seed=seed).predict(query)


BASELINES: dict[str, Baseline] = {
    "pca_linear": pca_linear,
    "pca_boosting": pca_boosting,
    "radial_colour": radial_colour,
    "modes": modes,
}


def _principal_components(train: np.ndarray, test: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` components of training and test images, fitted to training images alone."""
    centre, scale = robust_scale(train, seed)

    def pixels(block: np.ndarray) -> np.ndarray:
        return binned(asinh_scaled(block, centre, scale), PCA_SIDE).reshape(len(block), -1)

    sample = train
    if len(train) > PCA_IMAGES:
        sample = train[np.sort(numpy_rng(seed).choice(len(train), PCA_IMAGES, replace=False))]
    flat = _in_blocks(sample, pixels)
    with np.errstate(invalid="ignore"):  # blank images: no variance to take a share of
        pca = PCA(min(count, *flat.shape), svd_solver="randomized", random_state=seed).fit(flat)
    del flat
    x, query = (_in_blocks(images, lambda block: pca.transform(pixels(block))) for images in (train, test))
    return x, query


def _in_blocks(images: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    step = max(1, BLOCK // int(np.prod(images.shape[1:])))
    return np.concatenate([function(images[rows]) for rows in batches(len(images), step)])


def _radial_profiles(images: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """[N, 2·ANNULI·(2·bands − 1)]: mean and scatter by ring, of each band and of neighbouring bands' difference."""
    images = asinh_scaled(images, centre, scale)
    maps = np.concatenate([images, images[:, 1:] - images[:, :-1]], axis=1)
    height, width = images.shape[2:]
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2) / (min(height, width) / 2)
    rings = np.stack([(radius >= edge / ANNULI) & (radius < (edge + 1) / ANNULI) for edge in range(ANNULI)])
    member = rings.reshape(ANNULI, -1).T.astype(np.float32)  # [pixels, rings]
    flat = maps.reshape(*maps.shape[:2], -1)
    valid = np.isfinite(flat)
    flat = np.where(valid, flat, 0)
    count = np.maximum(valid.astype(np.float32) @ member, 1)
    mean = flat @ member / count
    variance = np.maximum((flat**2) @ member / count - mean**2, 0)
    return np.concatenate([mean, np.sqrt(variance)], axis=1).reshape(len(images), -1)
