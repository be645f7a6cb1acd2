"""Simple classifiers on raw pixels. They always stand in the table: if one is close to a network, the page says so.

Each takes (train_images, train_y, test_images, classes, seed) and returns probabilities [M, classes]. Images are
[N, bands, H, W] of any pixel type, NaN where invalid; train_y [N] int. All that is chosen is chosen by
cross-validation inside the N labels. Images go through in blocks, so memory grows by some hundred numbers an image.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.preprocessing import StandardScaler

from zwicky.errors import UserError
from zwicky.evaluation.probes import logistic, spread
from zwicky.rng import numpy_rng
from zwicky.training.linear_probe import check_labels

BLOCK = 2**24  # pixels converted at once: 64 MB
SCALING_IMAGES = 500  # images that the centre and scale of the pixels are measured on
PCA_IMAGES = 3000  # images that the components are fitted on
PCA_SIDE = 64  # images are binned by the whole number that keeps at least this side
COMPONENTS = (10, 30, 100)  # tried by cross-validation
BOOSTING_COMPONENTS = 60
ANNULI = 8


def pca_logistic(
    train_images: np.ndarray, train_y: np.ndarray, test_images: np.ndarray, classes: int, seed: int
) -> np.ndarray:
    """Logistic regression on principal components of the pixels; their number and C by cross-validation."""
    train_y = _check(train_images, train_y, test_images, classes)
    train, test = _principal(train_images, test_images, max(COMPONENTS), seed)
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    counts = sorted({min(count, train.shape[1]) for count in COMPONENTS})
    fits = [logistic(train[:, :count], train_y, test[:, :count], classes, seed) for count in counts]
    losses = [loss for _, loss in fits]
    return fits[0 if np.isnan(losses).all() else int(np.nanargmin(losses))][0]


def pca_boosting(
    train_images: np.ndarray, train_y: np.ndarray, test_images: np.ndarray, classes: int, seed: int
) -> np.ndarray:
    """Gradient-boosted trees on principal components of the pixels."""
    train_y = _check(train_images, train_y, test_images, classes)
    train, test = _principal(train_images, test_images, BOOSTING_COMPONENTS, seed)
    model = HistGradientBoostingClassifier(learning_rate=0.05, max_iter=300, early_stopping=False, random_state=seed)
    model.fit(train, train_y)
    return spread(model.predict_proba(test), model.classes_, classes)


def radial_colour(
    train_images: np.ndarray, train_y: np.ndarray, test_images: np.ndarray, classes: int, seed: int
) -> np.ndarray:
    """Logistic regression on the mean and scatter, in rings about the centre, of each band and each colour."""
    train_y = _check(train_images, train_y, test_images, classes)
    centre, scale = _robust_scale(train_images, seed)
    train = _in_blocks(train_images, lambda block: _radial(_scaled(block, centre, scale)))
    test = _in_blocks(test_images, lambda block: _radial(_scaled(block, centre, scale)))
    scaler = StandardScaler().fit(train)
    return logistic(scaler.transform(train), train_y, scaler.transform(test), classes, seed)[0]


Baseline = Callable[[np.ndarray, np.ndarray, np.ndarray, int, int], np.ndarray]
BASELINES: dict[str, Baseline] = {
    "pca_logistic": pca_logistic,
    "pca_boosting": pca_boosting,
    "radial_colour": radial_colour,
}


def _principal(train: np.ndarray, test: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and test images as their first `count` principal components, fitted on training images alone."""
    centre, scale = _robust_scale(train, seed)

    def pixels(block: np.ndarray) -> np.ndarray:
        return _binned(_scaled(block, centre, scale)).reshape(len(block), -1)

    chosen = train
    if len(train) > PCA_IMAGES:
        chosen = train[np.sort(numpy_rng(seed).choice(len(train), PCA_IMAGES, replace=False))]
    flat = _in_blocks(chosen, pixels)
    with np.errstate(invalid="ignore"):  # blank images: no variance to take a share of
        pca = PCA(min(count, *flat.shape), svd_solver="randomized", random_state=seed).fit(flat)
    del flat
    return _in_blocks(train, lambda block: pca.transform(pixels(block))), _in_blocks(
        test, lambda block: pca.transform(pixels(block))
    )


def _in_blocks(images: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    step = max(1, BLOCK // int(np.prod(images.shape[1:])))
    return np.concatenate([function(images[start : start + step]) for start in range(0, len(images), step)])


def _robust_scale(images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Median and half the 16–84 % range of each band [bands, 1, 1], over some images; invalid pixels left out."""
    rows = numpy_rng(seed).permutation(len(images))[:SCALING_IMAGES]
    sample = np.moveaxis(images[np.sort(rows)], 1, 0).reshape(images.shape[1], -1).astype(np.float32)
    sample[~np.isfinite(sample)] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a band with no valid pixel: 0 and 1 below
        low, centre, high, deviation = *np.nanpercentile(sample, [16, 50, 84], axis=1), np.nanstd(sample, axis=1)
    scale = np.where(high > low, (high - low) / 2, deviation)
    scale = np.where(scale > 0, scale, 1.0)  # neither 0 nor NaN
    return np.nan_to_num(centre)[:, None, None].astype(np.float32), scale[:, None, None].astype(np.float32)


def _scaled(images: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """arcsinh of the scaled pixels, float32: linear near the sky, logarithmic in bright cores. NaN where invalid."""
    values = np.arcsinh((images.astype(np.float32) - centre) / scale)
    values[~np.isfinite(values)] = np.nan
    return values


def _binned(images: np.ndarray) -> np.ndarray:
    """Means over square bins that leave a side of PCA_SIDE or more; 0, the median, where a bin has no valid pixel."""
    factor = max(1, min(images.shape[2:]) // PCA_SIDE)
    count, bands, height, width = images.shape[0], images.shape[1], images.shape[2] // factor, images.shape[3] // factor
    bins = images[:, :, : height * factor, : width * factor].reshape(count, bands, height, factor, width, factor)
    valid = np.isfinite(bins)
    if valid.all():
        return bins.mean(axis=(3, 5))
    return np.where(valid, bins, 0).sum(axis=(3, 5)) / np.maximum(valid.sum(axis=(3, 5)), 1)


def _radial(images: np.ndarray) -> np.ndarray:
    """[N, 2·ANNULI·(2·bands − 1)]: mean and scatter by ring, of each band and of neighbouring bands' difference."""
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


def _check(train_images: np.ndarray, train_y: np.ndarray, test_images: np.ndarray, classes: int) -> np.ndarray:
    for name, images in (("training", train_images), ("test", test_images)):
        if images.ndim != 4 or not len(images):
            raise UserError(
                f"the {name} images are {list(images.shape)}; a baseline needs [N, bands, H, W] with N above 0"
            )
    if train_images.shape[1:] != test_images.shape[1:]:
        raise UserError(
            f"training images are {list(train_images.shape[1:])} but test images {list(test_images.shape[1:])} "
            "(bands, H, W); ingest both at one size"
        )
    return check_labels(train_y, len(train_images), classes)
