"""How well something trivial separates the classes: a number per image, all such numbers, modes, or a column."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, TargetEncoder

from zwicky.data.cutouts import STANDARD_COLUMNS, Cutouts, batches, is_numeric
from zwicky.data.rings import ring_modes, robust_scale
from zwicky.rng import numpy_rng

ALL_TOGETHER = "all together"
FOLDS = 5
MAX_BOOSTED = 20_000  # objects the boosting is fitted to
MAX_MODES = 3_000  # objects the logistic regression on azimuthal modes is fitted to
BATCH = 256  # images converted to float32 at a time
LABEL_LIKE = ("label", "class", "grade", "score", "vote", "confidence", "probability", "rank")

Separation = dict[str, float]


def trivial_features(cutouts: Cutouts, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return one number per image, [N] each: flux, colours, peak, border, invalid pixels, position, pixel scale.

    A colour is (A − B) / (|A| + |B|) of the mean fluxes of neighbouring bands.
    """
    mean, ra, dec = statistics["mean"], cutouts.column("ra"), cutouts.column("dec")
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        features = {"total_flux": np.nanmean(mean, axis=1), "peak": np.nanmax(statistics["max"], axis=1)}
        for first, second, a, b in zip(cutouts.bands, cutouts.bands[1:], mean.T, mean.T[1:], strict=False):
            features[f"colour_{first}_{second}"] = (a - b) / (abs(a) + abs(b))
    features |= {name: statistics[name] for name in ("border_mean", "border_noise")}
    features |= {"nan_share": statistics["nan_share"].mean(axis=1), "ra": ra, "dec": dec}
    return features | {"position_known": np.isfinite(ra + dec) * 1.0, "pixel_scale": cutouts.column("pixel_scale")}


def separation(positive: np.ndarray, score: np.ndarray, directed: bool = False) -> Separation | None:
    """Return how well a score separates two classes: {"auc", "low", "high"} with DeLong's 95 % interval.

    DeLong, DeLong & Clarke-Pearson (1988, https://doi.org/10.2307/2531595): var = var(V10)/m + var(V01)/n over the
    placement values V. NaN scores are left out; None if the rest is constant or has fewer than two of either class.
    The AUC is max(AUC, 1 − AUC) unless `directed`.
    """
    valid = np.isfinite(score)
    ones, zeros = score[valid & positive], score[valid & ~positive]
    if min(len(ones), len(zeros)) < 2 or np.ptp(score[valid]) == 0:
        return None
    ranks = rankdata(np.concatenate([ones, zeros]))
    above = (ranks[: len(ones)] - rankdata(ones)) / len(zeros)  # share of the zeros below each one
    below = 1 - (ranks[len(ones) :] - rankdata(zeros)) / len(ones)
    auc = float(above.mean())
    if auc < 0.5 and not directed:
        auc = 1 - auc
    error = float(np.sqrt(above.var(ddof=1) / len(ones) + below.var(ddof=1) / len(zeros)))
    half = float(norm.ppf(0.975)) * error
    return {"auc": auc, "low": max(0.0, auc - half), "high": min(1.0, auc + half)}


def out_of_fold(
    model: Any, features: np.ndarray, classes: np.ndarray, groups: np.ndarray, seed: int = 0
) -> np.ndarray | float:
    """Return out-of-fold probabilities [N, classes in alphabetical order], in folds that separate no group.

    Folds are stratified. NaN where a class has fewer than two groups, or there is one class.
    """
    y, group = classes.astype(str), pd.factorize(groups)[0]
    apart = [len(np.unique(group[y == name])) for name in np.unique(y)]
    if len(apart) < 2 or min(apart) < 2:
        return np.nan
    splitter = StratifiedGroupKFold(min(FOLDS, *apart), shuffle=True, random_state=seed)
    return cross_val_predict(model, features, y, groups=group, cv=splitter, method="predict_proba")


def category_scores(values: np.ndarray, positive: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """Return the share of positives among objects of the same category, [N], out of fold; None for tiny classes."""
    if min(positive.sum(), (~positive).sum()) < FOLDS:
        return None
    text = np.array([[str(value)] for value in values], dtype=object)
    encoder = TargetEncoder(target_type="binary", smooth=1.0, cv=FOLDS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # scikit-learn 1.9 wants the seed in `cv`, older ones here
        return encoder.fit_transform(text, positive)[:, 0]


def _compared(is_class: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The classes that are each compared with the rest: of two only the positive one."""
    return dict([*is_class.items()][len(is_class) == 2 :])


def _balanced(is_class: dict[str, np.ndarray], most: int, seed: int) -> np.ndarray:
    """Sorted rows of at most `most` objects: equally many of each class, or all of a rare one."""
    class_of = np.argmax([*is_class.values()], axis=0)
    order = numpy_rng(seed).permutation(len(class_of))
    turn = pd.Series(order).groupby(class_of[order]).cumcount()
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])


def trivial_shortcuts(
    features: dict[str, np.ndarray], is_class: dict[str, np.ndarray], groups: np.ndarray, seed: int
) -> dict[str, dict[str, Separation]]:
    """Return how well each feature [N], and gradient boosting on all, separate each class from the rest."""
    features = {name: values for name, values in features.items() if len(np.unique(values[np.isfinite(values)])) > 1}
    model = HistGradientBoostingClassifier(max_iter=100, early_stopping=False, random_state=seed)
    rows = _balanced(is_class, MAX_BOOSTED, seed)
    x = np.stack([values[rows] for values in features.values()] or [np.zeros(len(rows))], axis=1)
    together = _together(model, x, rows, is_class, groups, seed)
    shortcuts: dict[str, dict[str, Separation]] = {}
    for name, positive in _compared(is_class).items():
        results = {feature: separation(positive, values) for feature, values in features.items()}
        results[ALL_TOGETHER] = together.get(name)
        shortcuts[name] = {feature: result for feature, result in results.items() if result is not None}
    return shortcuts


def _together(
    model: Any, x: np.ndarray, rows: np.ndarray, is_class: dict[str, np.ndarray], groups: np.ndarray, seed: int
) -> dict[str, Separation]:
    """How well a model of the features `x` of some rows separates each class of two groups or more, out of fold."""
    classes = np.select([*is_class.values()], [*is_class], "")[rows]
    is_spread = pd.Series(groups[rows]).groupby(classes).transform("nunique").to_numpy() > 1
    x, rows, classes = x[is_spread], rows[is_spread], classes[is_spread]
    present = np.unique(classes)
    scores = np.broadcast_to(out_of_fold(model, x, classes, groups[rows], seed), (len(rows), len(present)))
    compared = [name for name in _compared(is_class) if name in present]
    results = {name: separation(is_class[name][rows], scores[:, list(present).index(name)], True) for name in compared}
    return {name: result for name, result in results.items() if result is not None}


def mode_shortcuts(
    cutouts: Cutouts, labelled: np.ndarray, is_class: dict[str, np.ndarray], groups: np.ndarray, seed: int
) -> dict[str, Separation]:
    """Return how well a logistic regression on azimuthal modes of at most MAX_MODES objects separates each class."""
    rows = _balanced(is_class, MAX_MODES, seed)
    images = cutouts.take(labelled[rows]).images
    centre, scale = robust_scale(images, seed)
    modes = [ring_modes(images[block], centre, scale) for block in batches(len(rows), BATCH)]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    return _together(model, np.concatenate(modes), rows, is_class, groups, seed)


def column_shortcuts(
    cutouts: Cutouts, labelled: np.ndarray, is_class: dict[str, np.ndarray], seed: int
) -> dict[str, dict[str, Any]]:
    """Return how well each column separates each class from the rest, and the classes that have one value of it."""
    properties: dict[str, dict[str, Any]] = {}
    others = [name for name in cutouts.table if name not in STANDARD_COLUMNS and name not in cutouts.truth]
    for column in [*others, "survey", "simulated"]:
        values = cutouts.column(column)[labelled]
        numeric, one_value = is_numeric(cutouts.table[column]), {}
        if not numeric:
            if any(isinstance(value, list) for value in values) or not 2 <= len(set(values)) <= len(values) / 2:
                continue  # lists, constant, or an identifier
            for name, mask in is_class.items():
                if len(of_class := set(values[mask])) == 1:
                    one_value[name] = str(of_class.pop())
        separations = {}
        for name, mask in _compared(is_class).items():
            scores = values if numeric else category_scores(values, mask, seed)
            if scores is not None and (result := separation(mask, scores, directed=not numeric)):
                separations[name] = result
        label_like = any(word in column.lower() for word in LABEL_LIKE)
        properties[column] = {"classes": separations, "one_value": one_value, "label_like": label_like}
    return properties
