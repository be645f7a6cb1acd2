"""Summarise a data set and flag label leakage and shortcuts before anything is trained on it.

A shortcut is something trivial that separates the classes: one number per image, all such numbers together, or a
column of the table.
"""

import warnings
from collections import Counter
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
from zwicky.data.duplicates import find_groups, position_pairs
from zwicky.data.labels import Labels
from zwicky.data.rings import ring_modes, robust_scale
from zwicky.rng import numpy_rng

SUSPICIOUS = 0.7  # an AUC of something trivial above this is a warning
ALL_TOGETHER = "all together"
FOLDS = 5
MAX_BOOSTED = 20_000  # objects the boosting is fitted to
MAX_MODES = 3_000  # objects the logistic regression on azimuthal modes is fitted to
PERCENTILE_IMAGES = 500
BATCH = 256  # images converted to float32 at a time
LABEL_LIKE = ("label", "class", "grade", "score", "vote", "confidence", "probability", "rank")

Separation = dict[str, float]


def audit(cutouts: Cutouts, labels: Labels, seed: int = 0) -> dict[str, Any]:
    """Describe a data set as a JSON-able dict.

    `warnings` and `information` hold one line each. `shortcuts[class][feature]` is {"auc", "low", "high"}: how well a
    trivial number separates that class from the rest, as max(AUC, 1 − AUC) with its 95 % interval; "all together" is
    gradient boosting on all of them, out of fold. With two classes only the positive one is listed.
    `modes[class]` is the same for a logistic regression on `data.rings.ring_modes`, which a network has to beat.
    `properties[column]` is the same for the other columns of the table, except truth columns of simulations.
    """
    classes = labels.of(cutouts.ids)
    labelled = pd.notna(classes)
    counts = Counter(classes[labelled])
    names = [name for name in labels.classes if name in counts]
    group = find_groups(cutouts)
    statistics = image_statistics(cutouts)
    simulated = Counter(cutouts.column("simulated").tolist())
    result: dict[str, Any] = {
        "objects": len(cutouts),
        "bands": list(cutouts.bands),
        "size": list(cutouts.size),
        "dtype": cutouts.images.dtype.name,
        "pixel_scale": dict(Counter("unknown" if s != s else f"{s:g}" for s in cutouts.column("pixel_scale"))),
        "origin": {"simulated": simulated[True], "observed": simulated[False], "unknown": simulated[None]},
        "surveys": dict(Counter(str(survey or "unknown") for survey in cutouts.column("survey"))),
        "labels": {
            "source": labels.source,
            "labelled": int(labelled.sum()),
            "unlabelled": int((~labelled).sum()),
            "classes": {name: counts[name] for name in names},
        },
        "duplicates": _duplicates(cutouts, group, classes),
        "values": _values(cutouts, statistics, seed),
        "shortcuts": {},
        "modes": {},
        "properties": {},
    }
    if len(names) >= 2:
        features = {name: values[labelled] for name, values in trivial_features(cutouts, statistics).items()}
        is_class = {name: classes[labelled] == name for name in names}
        result["shortcuts"] = _shortcuts(features, is_class, group[labelled], seed)
        result["modes"] = _modes(cutouts, np.flatnonzero(labelled), is_class, group[labelled], seed)
        result["properties"] = _properties(cutouts, labelled, is_class, seed)
    result["warnings"], result["information"] = _remarks(result, statistics)
    return result


def image_statistics(cutouts: Cutouts) -> dict[str, np.ndarray]:
    """Return statistics of the valid pixels of each image, in one pass over the pixels.

    "mean", "min", "max" and "nan_share" are [N, bands]; "border_mean" and "border_noise" (standard deviation), [N],
    are over the outermost sixteenth of each side.
    """
    count, _, height, width = cutouts.images.shape
    rim = max(1, min(height, width) // 16)
    border = np.ones((height, width), bool)
    border[rim:-rim, rim:-rim] = False
    parts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # images without a valid pixel are NaN
        for rows in batches(max(1, count), BATCH):
            pixels = cutouts.images[rows].astype(np.float32)
            part = {
                "mean": np.nanmean(pixels, axis=(2, 3), dtype=np.float64),
                "min": np.nanmin(pixels, axis=(2, 3)).astype(np.float64),
                "max": np.nanmax(pixels, axis=(2, 3)).astype(np.float64),
                "nan_share": np.isnan(pixels).mean(axis=(2, 3)),
                "border_mean": np.nanmean(pixels[:, :, border], axis=(1, 2), dtype=np.float64),
                "border_noise": np.nanstd(pixels[:, :, border], axis=(1, 2), dtype=np.float64),
            }
            parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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


def _duplicates(cutouts: Cutouts, group: np.ndarray, classes: np.ndarray) -> dict[str, int]:
    """Objects that repeat another one, by pixels and by position, and groups of equal objects labelled differently."""
    hashes = cutouts.table["pixel_hash"].dropna()
    pairs = position_pairs(cutouts)
    repeats = pairs[pairs[:, 0] != pairs[:, 1]].max(axis=1) if len(pairs) else pairs
    labels = pd.Series(classes, dtype=object).groupby(group).nunique()
    return {
        "same_pixels": int(hashes.duplicated().sum()),
        "same_position": len(np.unique(repeats)),
        "contradictory_groups": int((labels > 1).sum()),
    }


def _values(cutouts: Cutouts, statistics: dict[str, np.ndarray], seed: int) -> dict[str, dict[str, float]]:
    """Per band: range and share of NaN over all pixels, percentiles over a sample; NaN alone without a valid pixel."""
    sample = cutouts.images[np.sort(numpy_rng(seed).permutation(len(cutouts))[:PERCENTILE_IMAGES])]
    values: dict[str, dict[str, float]] = {}
    for index, band in enumerate(cutouts.bands):
        pixels = sample[:, index].ravel().astype(np.float32)
        pixels = pixels[np.isfinite(pixels)]
        values[band] = {"nan_share": float(statistics["nan_share"][:, index].mean()) if len(cutouts) else 0.0}
        if len(pixels):
            p1, median, p99 = np.percentile(pixels, [1, 50, 99]).tolist()
            low, high = np.nanmin(statistics["min"][:, index]), np.nanmax(statistics["max"][:, index])
            values[band] |= {"min": float(low), "p1": p1, "median": median, "p99": p99, "max": float(high)}
    return values


def _compared(is_class: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The classes that are each compared with the rest: of two only the positive one."""
    return dict([*is_class.items()][len(is_class) == 2 :])


def _shortcuts(
    features: dict[str, np.ndarray], is_class: dict[str, np.ndarray], groups: np.ndarray, seed: int
) -> dict[str, dict[str, Separation]]:
    features = {name: values for name, values in features.items() if len(np.unique(values[np.isfinite(values)])) > 1}
    model = HistGradientBoostingClassifier(max_iter=100, early_stopping=False, random_state=seed)
    rows = np.sort(numpy_rng(seed).permutation(len(groups))[:MAX_BOOSTED])
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
    scores = np.empty((len(rows), len(present)))
    scores[:] = out_of_fold(model, x, classes, groups[rows], seed)
    compared = [name for name in _compared(is_class) if name in present]
    results = {name: separation(is_class[name][rows], scores[:, list(present).index(name)], True) for name in compared}
    return {name: result for name, result in results.items() if result is not None}


def _modes(
    cutouts: Cutouts, labelled: np.ndarray, is_class: dict[str, np.ndarray], groups: np.ndarray, seed: int
) -> dict[str, Separation]:
    """How well a logistic regression on azimuthal modes separates each class, out of fold, on at most MAX_MODES."""
    rows = np.sort(numpy_rng(seed).permutation(len(labelled))[:MAX_MODES])
    images = cutouts.take(labelled[rows]).images
    centre, scale = robust_scale(images, seed)
    modes = [ring_modes(images[block], centre, scale) for block in batches(len(rows), BATCH)]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    return _together(model, np.concatenate(modes), rows, is_class, groups, seed)


def _properties(
    cutouts: Cutouts, labelled: np.ndarray, is_class: dict[str, np.ndarray], seed: int
) -> dict[str, dict[str, Any]]:
    """Per column: how well it separates each class from the rest, and the classes that have one value of it alone."""
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


def _suspicious(result: Separation) -> bool:
    """Above the threshold, or significantly informative and perhaps above it; a small sample alone is not enough."""
    return result["auc"] > SUSPICIOUS or (result["high"] > SUSPICIOUS and result["low"] > 0.5)


def _remarks(result: dict[str, Any], statistics: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """(warnings, information)."""
    warned: list[str] = []
    information: list[str] = []
    for name, features in result["shortcuts"].items():
        for feature, auc in features.items():
            if _suspicious(auc):
                what = "all trivial numbers together separate" if feature == ALL_TOGETHER else f"{feature} separates"
                warned.append(f"shortcut: {what} {name!r} from the rest with {_auc(auc)}")
    for name, auc in result["modes"].items():
        information.append(
            f"a logistic regression on azimuthal modes by radius separates {name!r} from the rest with {_auc(auc)}: a "
            "network has to beat that"
        )
    for column, entry in result["properties"].items():
        lines = information if entry["label_like"] else warned
        for name, value in entry["one_value"].items():
            lines.append(f"class {name!r} has {column} == {value!r} alone; a network may learn {column} instead")
        for name, auc in entry["classes"].items():
            if _suspicious(auc):
                lines.append(f"the column {column!r} separates {name!r} from the rest with {_auc(auc)}")
    pixels, position, contradictory = result["duplicates"].values()
    simulated, observed, _ = result["origin"].values()
    scales = ", ".join(f"{scale} ({count})" for scale, count in result["pixel_scale"].items())
    nan_share = statistics["nan_share"].mean(axis=1)
    constant = np.fmin.reduce(statistics["min"], axis=1) == np.fmax.reduce(statistics["max"], axis=1)
    repeats = f"{pixels} objects repeat the pixels of another and {position} lie within 1 arcsec of another"
    mixed = f"{simulated} simulated and {observed} observed objects are mixed"
    conditions = {
        f"{repeats}; splits keep them together": pixels or position,
        f"{contradictory} groups of equal objects have contradictory labels": contradictory,
        f"pixel scales differ, in arcsec: {scales[:200]}; the same lens has another size in each": ", " in scales,
        f"{mixed}; a network may separate them instead of the classes": simulated and observed,
        f"{constant.sum()} images have the same value in every pixel": constant.any(),
    }
    warned += [message for message, holds in conditions.items() if holds]
    if (nan_share > 0).any():
        information.append(f"{(nan_share > 0).sum()} images have invalid pixels, at most {nan_share.max():.0%} of one")
    if len(result["labels"]["classes"]) < 2:
        information.append("fewer than two classes are labelled, so shortcuts were not searched")
    return warned, information


def _auc(result: Separation) -> str:
    return f"AUC {result['auc']:.3f} (95 % {result['low']:.3f}–{result['high']:.3f})"


def audit_text(result: dict[str, Any]) -> str:
    """Return an audit as lines for the terminal, warnings first."""
    height, width = result["size"]
    scale = ", ".join(list(result["pixel_scale"])[:5])
    labels, duplicates = result["labels"], result["duplicates"]
    classes = ", ".join(f"{name} {count}" for name, count in labels["classes"].items())
    lines = [
        *(f"warning: {line}" for line in result["warnings"]),
        *result["information"],
        f"{result['objects']} objects of {height}×{width} pixels, {result['dtype']}, pixel scale in arcsec: {scale}",
        "origin: "
        + ", ".join(f"{origin} {count}" for origin, count in result["origin"].items() if count)
        + " (--simulated of `zwicky ingest` states it)" * bool(result["origin"]["unknown"]),
        f"labelled: {labels['labelled']}{f' ({classes})' if classes else ''}, unlabelled: {labels['unlabelled']}",
        f"duplicates: {duplicates['same_pixels']} by pixels, {duplicates['same_position']} by position",
        "band: minimum, 1 %, median, 99 %, maximum, share invalid",
    ]
    for band, value in result["values"].items():
        numbers = ", ".join(f"{value[key]:.4g}" for key in ("min", "p1", "median", "p99", "max") if key in value)
        lines.append(f"  {band}: {numbers}, {value['nan_share']:.2%}")
    for name, features in result["shortcuts"].items():
        lines.append(f"how well trivial numbers separate {name!r} from the rest:")
        lines += [f"  {feature:<18} {_auc(auc)}" for feature, auc in features.items()]
    return "\n".join(line for line in lines if line)
