"""`data.json`: the data of a benchmark in words and numbers, so that no figure goes without them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import ROLES
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.evaluation.design import Draw


def describe(
    store: Path, config: BenchmarkConfig, cutouts: Cutouts, labels: Labels, draws: list[Draw]
) -> dict[str, Any]:
    """What the report says of the data. Roles are those of the first split; for folds the others are alike."""
    split = draws[0].split
    roles = {role: Counter(labels.values.get(i, "unlabelled") for i in split.ids(role)) for role in ROLES}
    simulated, surveys = set(cutouts.column("simulated")), sorted({s for s in cutouts.column("survey") if s})
    return {
        "title": config.title,
        "store": str(store),
        "name": Path(store).resolve().name,
        "objects": len(cutouts),
        "bands": cutouts.bands,
        "size": cutouts.size,
        "pixel_scale": cutouts.pixel_scale,
        "simulated": simulated.pop() if len(simulated) == 1 else None,
        "survey": ", ".join(surveys) or None,
        "classes": labels.classes,
        "positive": labels.classes[-1],
        "class_counts": Counter(labels.values.values()),
        "unlabelled": len(cutouts) - len(labels.values),
        "label_source": labels.source,
        "roles": roles,
        "design": config.design.kind,
        "folds": config.design.folds if config.design.kind == "folds" else None,
        "repeats": config.design.repeats if config.design.kind == "folds" else None,
        "draws": len(draws),
        "pretrain_seeds": config.pretrain_seeds,
        "label_counts": sorted(draws[0].subsets),
        "select_counts": {count: len(select) for count, (_, select) in draws[0].subsets.items()},
        "balanced": config.balanced,
        "pretraining_images": len(draws[0].pretrain_rows(cutouts)),
        "augmentation": _augmentation(config),
        "compare_with": config.compare_with or None,
        "size_note": config.size_note or None,
    }


def _augmentation(config: BenchmarkConfig) -> str:
    views = config.label_views
    parts = [f"rotation {views.rotation}", "mirror" if views.flip else "no mirror", f"shift ±{views.shift:g} px"]
    parts += [f"brightness ±{views.brightness:.0%}", f"contrast ±{views.contrast:.0%}"]
    return ", ".join(parts) + "; the same for every network, and the mean over eight turns and mirrors at test time"
