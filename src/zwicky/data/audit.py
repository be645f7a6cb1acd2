"""What is in a data set, and what is suspicious about it, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from zwicky.data.cutouts import STANDARD_COLUMNS, Cutouts, batches, is_numeric
from zwicky.data.duplicates import find_groups, members, position_pairs, unit_vectors
from zwicky.data.labels import Labels
from zwicky.data.shortcuts import BLOCK, boosted_scores, separation, trivial_features, value_scores
from zwicky.rng import numpy_rng

SUSPICIOUS = 0.7  # an AUC from something trivial above this is a warning
ALL_TOGETHER = "all together"
_LABEL_LIKE = ("label", "class", "grade", "score", "vote", "confidence", "probability", "rank")
_PERCENTILE_IMAGES = 500


def audit(cutouts: Cutouts, labels: Labels, seed: int = 0) -> dict[str, Any]:
    """Describe a data set in a JSON-able dict; `warnings` and `information` hold one readable line each.

    `shortcuts[class][feature]` is {"auc", "low", "high"}: how well a trivial number tells that class from the rest,
    as max(AUC, 1 − AUC) with its 95 % interval, and `all together` what gradient boosting makes of them out of fold.
    With two classes only the positive one is listed. Truth columns of simulations are never taken for shortcuts.
    """
    classes = labels.of(cutouts.ids)
    labelled = np.array([label is not None for label in classes], dtype=bool)
    names = [name for name in labels.classes if name in set(classes[labelled])]
    counts = Counter(classes[labelled])
    groups = find_groups(cutouts)
    result: dict[str, Any] = {
        "objects": len(cutouts),
        "bands": list(cutouts.bands),
        "size": list(cutouts.size),
        "dtype": cutouts.images.dtype.name,
        "pixel_scale": dict(Counter(_scale(value) for value in cutouts.column("pixel_scale"))),
        "origin": _origin(cutouts),
        "surveys": dict(Counter(str(survey or "unknown") for survey in cutouts.column("survey"))),
        "labels": {
            "source": labels.source,
            "labelled": int(labelled.sum()),
            "unlabelled": int((~labelled).sum()),
            "classes": {name: counts[name] for name in names},
        },
        "duplicates": _duplicates(cutouts, groups, classes),
        "values": _values(cutouts, seed),
        "shortcuts": {},
        "properties": {},
    }
    features = trivial_features(cutouts) if len(cutouts) else {}
    if len(names) >= 2:
        group = np.array([groups[identifier] for identifier in cutouts.ids], dtype=object)[labelled]
        chosen = {name: values[labelled] for name, values in features.items()}
        result["shortcuts"] = _shortcuts(chosen, classes[labelled], names, group, seed)
        result["properties"] = _properties(cutouts, labelled, classes[labelled], names, seed)
    result["warnings"], result["information"] = _remarks(cutouts, result, classes, features.get("nan_share"))
    return result


def _origin(cutouts: Cutouts) -> dict[str, int]:
    simulated = Counter(cutouts.column("simulated").tolist())
    return {"simulated": simulated[True], "observed": simulated[False], "unknown": simulated[None]}


def _scale(value: float) -> str:
    return "unknown" if value != value else f"{value:g}"


def _duplicates(cutouts: Cutouts, groups: dict[str, str], classes: np.ndarray) -> dict[str, int]:
    """Objects that repeat another one, by pixels and by position, and groups of equal objects labelled differently."""
    hashes = [value for value in cutouts.column("pixel_hash") if value is not None]
    pairs = position_pairs(unit_vectors(cutouts))
    label_of = dict(zip(cutouts.ids, classes, strict=True))
    contradictory = sum(len({label_of[identifier] for identifier in ids} - {None}) > 1 for ids in members(groups))
    return {
        "same_pixels": len(hashes) - len(set(hashes)),
        "same_position": len(set(pairs[pairs[:, 0] != pairs[:, 1]].max(axis=1).tolist())) if len(pairs) else 0,
        "contradictory_groups": contradictory,
    }


def _values(cutouts: Cutouts, seed: int) -> dict[str, dict[str, float]]:
    """Per band: least and largest value and the share of NaN over all pixels; percentiles over a sample of images.

    A band without any valid pixel has its `nan_share` alone.
    """
    rows = np.sort(numpy_rng(seed).permutation(len(cutouts))[:_PERCENTILE_IMAGES])
    sample = cutouts.images[rows]
    least, most = np.full((2, len(cutouts.bands)), np.nan, np.float32)
    invalid = np.zeros(len(cutouts.bands), np.int64)
    for rows_of_block in batches(len(cutouts), BLOCK):
        block = cutouts.images[rows_of_block]
        least = np.fmin(least, np.fmin.reduce(block, axis=(0, 2, 3)))
        most = np.fmax(most, np.fmax.reduce(block, axis=(0, 2, 3)))
        invalid += np.isnan(block).sum(axis=(0, 2, 3)) if block.dtype.kind == "f" else 0
    values = {}
    for index, band in enumerate(cutouts.bands):
        pixels = sample[:, index].ravel().astype(np.float32)
        pixels = pixels[np.isfinite(pixels)]
        share = int(invalid[index]) / max(1, len(cutouts) * int(np.prod(cutouts.size)))
        if len(pixels):
            low, high = float(least[index]), float(most[index])
            p1, median, p99 = np.percentile(pixels, [1, 50, 99]).tolist()
            values[band] = {"min": low, "p1": p1, "median": median, "p99": p99, "max": high, "nan_share": share}
        else:
            values[band] = {"nan_share": share}
    return values


def _shortcuts(
    features: dict[str, np.ndarray], classes: np.ndarray, names: list[str], groups: np.ndarray, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    features = {name: values for name, values in features.items() if len(set(values[np.isfinite(values)].tolist())) > 1}
    together = (
        boosted_scores(np.stack([*features.values()], axis=1), classes, names, groups, seed) if features else None
    )
    found: dict[str, dict[str, dict[str, float]]] = {}
    for index, name in enumerate(names):
        if len(names) == 2 and index == 0:
            continue  # its shortcuts are those of the positive class
        positive = classes == name
        single = {feature: separation(positive, values) for feature, values in features.items()}
        if together is not None:
            single[ALL_TOGETHER] = separation(positive, together[:, index], directed=True)
        found[name] = {feature: told for feature, told in single.items() if told is not None}
    return found


def _properties(
    cutouts: Cutouts, labelled: np.ndarray, classes: np.ndarray, names: list[str], seed: int
) -> dict[str, dict[str, Any]]:
    """Per column: how well it tells each class from the rest, and the classes that have one value of it alone."""
    found: dict[str, dict[str, Any]] = {}
    known = set(STANDARD_COLUMNS) | set(cutouts.truth)
    for column in [*(name for name in cutouts.table.columns if name not in known), "survey", "simulated"]:
        values = cutouts.column(column)[labelled]
        number = is_numeric(cutouts.table[column])
        if any(isinstance(value, list) for value in values):
            continue
        distinct = set(values.tolist()) if not number else set()
        if not number and (len(distinct) < 2 or len(distinct) > len(values) / 2):
            continue  # says nothing, or is a name
        told, alone = {}, {}
        for name in names[1:] if len(names) == 2 else names:
            scores = values if number else value_scores(values, classes == name, seed)
            if (separated := separation(classes == name, scores, directed=not number)) is not None:
                told[name] = separated
        if not number:
            for name in names:
                of_class = set(values[classes == name].tolist())
                if len(of_class) == 1:
                    alone[name] = str(of_class.pop())
        label_like = any(word in column.lower() for word in _LABEL_LIKE)
        found[column] = {"classes": told, "one_value": alone, "label_like": label_like}
    return found


def _suspicious(told: dict[str, float]) -> bool:
    """Above the threshold, or surely informative and perhaps above it: a small sample alone is no suspicion."""
    return told["auc"] > SUSPICIOUS or (told["high"] > SUSPICIOUS and told["low"] > 0.5)


def _remarks(
    cutouts: Cutouts, result: dict[str, Any], classes: np.ndarray, nan_share: np.ndarray | None
) -> tuple[list[str], list[str]]:
    warnings: list[str] = []
    information: list[str] = []
    for name, features in result["shortcuts"].items():
        for feature, told in features.items():
            if _suspicious(told):
                what = "all trivial numbers together tell" if feature == ALL_TOGETHER else f"{feature} alone tells"
                warnings.append(f"shortcut: {what} {name!r} from the rest with {_auc(told)}")
    for column, found in result["properties"].items():
        lines = information if found["label_like"] else warnings
        for name, value in found["one_value"].items():
            lines.append(f"class {name!r} comes from {column} == {value!r} alone; a network may learn {column} instead")
        for name, told in found["classes"].items():
            if _suspicious(told):
                lines.append(f"the column {column!r} tells {name!r} from the rest with {_auc(told)}")
    duplicates = result["duplicates"]
    if duplicates["same_pixels"] or duplicates["same_position"]:
        warnings.append(
            f"{duplicates['same_pixels']} objects repeat the pixels of another and {duplicates['same_position']} "
            "lie within 1 arcsec of another; splits keep them together"
        )
    if duplicates["contradictory_groups"]:
        warnings.append(f"{duplicates['contradictory_groups']} groups of equal objects have contradictory labels")
    if len(result["pixel_scale"]) > 1:
        scales = ", ".join(f"{scale} ({count})" for scale, count in result["pixel_scale"].items())
        warnings.append(f"pixel scales differ, in arcsec: {scales[:200]}; the same lens has another size in each")
    if result["origin"]["simulated"] and result["origin"]["observed"]:
        mix = f"{result['origin']['simulated']} simulated and {result['origin']['observed']} observed"
        warnings.append(f"{mix} objects are mixed; a network may tell them apart instead of the classes")
    if nan_share is not None and (nan_share > 0).any():
        count = int((nan_share > 0).sum())
        information.append(f"{count} images have invalid pixels, at most {nan_share.max():.0%} of one")
    constant = sum(
        int(_constant(block).sum()) for block in map(cutouts.images.__getitem__, batches(len(cutouts), BLOCK))
    )
    if constant:
        warnings.append(f"{constant} images have the same value in every pixel")
    if len(result["labels"]["classes"]) < 2:
        information.append("fewer than two classes are labelled, so shortcuts were not looked for")
    return warnings, information


def _constant(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1)
    return np.fmin.reduce(flat, axis=1) == np.fmax.reduce(flat, axis=1)


def _auc(told: dict[str, float]) -> str:
    return f"AUC {told['auc']:.3f} (95 % {told['low']:.3f}–{told['high']:.3f})"


def audit_text(audit: dict[str, Any]) -> str:
    """The audit as lines for the terminal, warnings first."""
    height, width = audit["size"]
    scale = ", ".join(list(audit["pixel_scale"])[:5])
    labels, origin, duplicates = audit["labels"], audit["origin"], audit["duplicates"]
    lines = [f"warning: {line}" for line in audit["warnings"]] + list(audit["information"])
    lines.append(
        f"{audit['objects']} objects of {height}×{width} pixels, {audit['dtype']}, pixel scale in arcsec: {scale}"
    )
    lines.append(", ".join(f"{kind}: {count}" for kind, count in origin.items() if count))
    classes = ", ".join(f"{name} {count}" for name, count in labels["classes"].items())
    said = f" ({classes})" if classes else ""
    lines.append(f"labelled: {labels['labelled']}{said}, unlabelled: {labels['unlabelled']}")
    lines.append(f"duplicates: {duplicates['same_pixels']} by pixels, {duplicates['same_position']} by position")
    lines.append("band: least, 1 %, median, 99 %, largest value, share invalid")
    for band, value in audit["values"].items():
        numbers = ", ".join(f"{value[key]:.4g}" for key in ("min", "p1", "median", "p99", "max") if key in value)
        lines.append(f"  {band}: {numbers}, {value['nan_share']:.2%}")
    for name, features in audit["shortcuts"].items():
        lines.append(f"how well trivial numbers tell {name!r} from the rest:")
        lines += [f"  {feature:<18} {_auc(told)}" for feature, told in features.items()]
    return "\n".join(line for line in lines if line)
