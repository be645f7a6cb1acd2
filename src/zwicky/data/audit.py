"""Summarise a data set and flag label leakage and shortcuts before anything is trained on it.

A shortcut is something trivial that separates the classes: one number per image, all such numbers together, or a
column of the table.
"""

import warnings
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from zwicky.data import shortcuts
from zwicky.data.cutouts import Cutouts, batches
from zwicky.data.duplicates import find_groups, position_pairs
from zwicky.data.labels import Labels
from zwicky.data.shortcuts import ALL_TOGETHER, Separation
from zwicky.rng import numpy_rng

SUSPICIOUS = 0.7  # an AUC of something trivial above this is a warning
PERCENTILE_IMAGES = 500
BATCH = 256  # images converted to float32 at a time


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
    group, pairs = find_groups(cutouts), position_pairs(cutouts)
    statistics = image_statistics(cutouts)
    simulated = Counter(cutouts.column("simulated").tolist())
    result: dict[str, Any] = {
        "objects": len(cutouts),
        "bands": list(cutouts.bands),
        "size": list(cutouts.size),
        "dtype": cutouts.images.dtype.name,
        "pixel_scale": dict(Counter("unknown" if s != s else f"{s:g}" for s in cutouts.column("pixel_scale"))),
        "origin": {"simulated": simulated[True], "observed": simulated[False], "unknown": simulated[None]},
        "labels": {
            "source": labels.source,
            "labelled": int(labelled.sum()),
            "unlabelled": int((~labelled).sum()),
            "classes": {name: counts[name] for name in names},
        },
        "duplicates": {
            "same_pixels": int(cutouts.table["pixel_hash"].dropna().duplicated().sum()),
            "same_position": len(np.unique(pairs[pairs[:, 0] != pairs[:, 1]].max(axis=1))),
            "contradictory_groups": int((pd.Series(classes, dtype=object).groupby(group).nunique() > 1).sum()),
        },
        "values": _values(cutouts, statistics, seed),
        "shortcuts": {},
        "modes": {},
        "properties": {},
    }
    if len(names) >= 2:
        features = {name: values[labelled] for name, values in shortcuts.trivial_features(cutouts, statistics).items()}
        is_class = {name: classes[labelled] == name for name in names}
        result["shortcuts"] = shortcuts.trivial_shortcuts(features, is_class, group[labelled], seed)
        result["modes"] = shortcuts.mode_shortcuts(cutouts, np.flatnonzero(labelled), is_class, group[labelled], seed)
        result["properties"] = shortcuts.column_shortcuts(cutouts, labelled, is_class, seed)
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


def _values(cutouts: Cutouts, statistics: dict[str, np.ndarray], seed: int) -> dict[str, dict[str, float]]:
    """Per band: range and share of NaN over all pixels, percentiles over a sample; NaN alone without a valid pixel."""
    sample = cutouts.images[np.sort(numpy_rng(seed).permutation(len(cutouts))[:PERCENTILE_IMAGES])]
    values: dict[str, dict[str, float]] = {}
    for index, band in enumerate(cutouts.bands):
        pixels = sample[:, index][np.isfinite(sample[:, index])].astype(np.float32)
        values[band] = {"nan_share": float(statistics["nan_share"][:, index].mean()) if len(cutouts) else 0.0}
        if len(pixels):
            p1, median, p99 = np.percentile(pixels, [1, 50, 99]).tolist()
            low, high = np.nanmin(statistics["min"][:, index]), np.nanmax(statistics["max"][:, index])
            values[band] |= {"min": float(low), "p1": p1, "median": median, "p99": p99, "max": float(high)}
    return values


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
        modes = f"a logistic regression on azimuthal modes by radius separates {name!r} from the rest with {_auc(auc)}"
        information.append(f"{modes}: a network has to beat that")
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
