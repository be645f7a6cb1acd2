"""How well a class can be told by something trivial: one number an image, or all such numbers together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold

from zwicky.data.cutouts import Cutouts, batches
from zwicky.rng import numpy_rng

BLOCK = 256  # images turned into float32 at a time
FOLDS = 5
MOST_BOOSTED = 20_000  # objects the boosting is fitted on


def trivial_features(cutouts: Cutouts) -> dict[str, np.ndarray]:
    """One number an image, [N] each: flux, colours, peak, border, position, share of invalid pixels.

    total_flux: mean over valid pixels of all bands. colour_A_B: (A − B) / (|A| + |B|) of the mean fluxes of
    neighbouring bands. border_mean, border_noise: mean and standard deviation in the outermost sixteenth of each side.
    """
    blocks = [_block_features(cutouts.images[rows]) for rows in batches(len(cutouts), BLOCK)]
    band_mean, peak, border_mean, border_noise, nan_share = (
        np.concatenate(parts) for parts in zip(*blocks, strict=True)
    )
    features = {"total_flux": _mean_of_bands(band_mean)}
    for index in range(len(cutouts.bands) - 1):
        first, second = band_mean[:, index], band_mean[:, index + 1]
        with np.errstate(invalid="ignore", divide="ignore"):
            features[f"colour_{cutouts.bands[index]}_{cutouts.bands[index + 1]}"] = (first - second) / (
                abs(first) + abs(second)
            )
    features |= {"peak": peak, "border_mean": border_mean, "border_noise": border_noise, "nan_share": nan_share}
    ra, dec = cutouts.column("ra"), cutouts.column("dec")
    features |= {"ra": ra, "dec": dec, "position_known": np.isfinite(ra + dec).astype(float)}
    features["pixel_scale"] = cutouts.column("pixel_scale")
    return features


def _block_features(images: np.ndarray) -> tuple[np.ndarray, ...]:
    """(band means [n, bands], peak, border mean, border noise, NaN share [n]) of a block [n, bands, H, W]."""
    values = images.astype(np.float32)
    width = max(1, min(values.shape[2:]) // 16)
    ring = np.ones(values.shape[2:], bool)
    ring[width:-width, width:-width] = False
    border = values[:, :, ring].reshape(len(values), -1)
    if images.dtype.kind != "f" or not np.isnan(values).any():
        means = values.mean(axis=(2, 3), dtype=np.float64)
        return means, values.max(axis=(1, 2, 3)), border.mean(axis=1), border.std(axis=1), np.zeros(len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        valid = ~np.isnan(values)
        filled = np.where(valid, values, 0)
        means = filled.sum(axis=(2, 3), dtype=np.float64) / valid.sum(axis=(2, 3))
        peak = np.where(valid, values, -np.inf).max(axis=(1, 2, 3))
        inside = ~np.isnan(border)
        count = inside.sum(axis=1)
        mean = np.where(inside, border, 0).sum(axis=1, dtype=np.float64) / count
        noise = np.sqrt((np.where(inside, border - mean[:, None], 0) ** 2).sum(axis=1) / count)
    return means, np.where(np.isinf(peak), np.nan, peak), mean, noise, 1 - valid.mean(axis=(1, 2, 3))


def _mean_of_bands(band_mean: np.ndarray) -> np.ndarray:
    known = np.isfinite(band_mean)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, band_mean, 0).sum(axis=1) / known.sum(axis=1)


def separation(positive: np.ndarray, score: np.ndarray, directed: bool = False) -> dict[str, float] | None:
    """{"auc", "low", "high"}: how well `score` [N] ranks `positive` [N] bool, with DeLong's 95 % interval.

    The AUC is max(AUC, 1 − AUC) unless `directed`, since a shortcut may point either way. NaN scores are left out.
    None where fewer than two of either class remain, or the score is constant (nothing to tell).
    DeLong, DeLong & Clarke-Pearson 1988: var = var(V10)/m + var(V01)/n over placement values V.
    """
    known = np.isfinite(score)
    ones, zeros = score[known & positive], score[known & ~positive]
    if min(len(ones), len(zeros)) < 2 or np.ptp(score[known]) == 0:
        return None
    ranks = rankdata(np.concatenate([ones, zeros]))
    above = (ranks[: len(ones)] - rankdata(ones)) / len(zeros)  # share of the zeros below each one
    below = 1 - (ranks[len(ones) :] - rankdata(zeros)) / len(ones)
    auc = float(above.mean())
    if auc < 0.5 and not directed:
        auc = 1 - auc
    error = float(np.sqrt(above.var(ddof=1) / len(ones) + below.var(ddof=1) / len(zeros)))
    reach = float(norm.ppf(0.975)) * error
    return {"auc": auc, "low": max(0.0, auc - reach), "high": min(1.0, auc + reach)}


def boosted_scores(
    features: np.ndarray, classes: np.ndarray, names: Sequence[str], groups: np.ndarray, seed: int = 0
) -> np.ndarray | None:
    """[N, classes] out-of-fold probabilities of gradient boosting on features [N, F]; NaN where not predicted.

    Stratified folds that never part a group. None where a class has too few groups for two folds.
    """
    rng = numpy_rng(seed)
    rows = np.sort(rng.permutation(len(classes))[:MOST_BOOSTED])
    fewest = min(len(set(groups[rows][classes[rows] == name])) for name in names)
    folds = min(FOLDS, fewest)
    if folds < 2:
        return None
    scores = np.full((len(classes), len(names)), np.nan)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(rows, classes[rows].astype(str), groups[rows].astype(str)):
        model = HistGradientBoostingClassifier(max_iter=100, early_stopping=False, random_state=seed)
        model.fit(features[rows[train]], classes[rows[train]].astype(str))
        order = [list(model.classes_).index(name) if name in model.classes_ else None for name in names]
        predicted = model.predict_proba(features[rows[test]])
        scores[rows[test]] = np.stack(
            [predicted[:, i] if i is not None else np.zeros(len(test)) for i in order], axis=1
        )
    return scores


def value_scores(values: np.ndarray, positive: np.ndarray, seed: int = 0) -> np.ndarray:
    """[N] share of positives among objects of the same text value, learnt out of fold."""
    _, code = np.unique(np.array([str(value) for value in values]), return_inverse=True)
    fold = np.empty(len(values), int)
    rng = numpy_rng(seed)
    for side in (positive, ~positive):
        fold[side] = rng.permutation(np.arange(side.sum()) % FOLDS)
    scores = np.empty(len(values))
    for held_out in range(FOLDS):
        train, test = fold != held_out, fold == held_out
        seen = np.bincount(code[train], minlength=code.max() + 1)
        hits = np.bincount(code[train], weights=positive[train], minlength=code.max() + 1)
        base = positive[train].mean() if train.any() else 0.5
        scores[test] = ((hits + base) / (seen + 1))[code[test]]  # pulled to the base rate by one object
    return scores
