"""Which cutouts to show: the surest, the worst mistakes, and a few of each class."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from zwicky.data.contract import Cutouts
from zwicky.report import words
from zwicky.report.material import Material, Missing, Predictions
from zwicky.report.pictures import sheet

SHOWN = 8  # pictures a row
GALLERY = 24  # pictures in the gallery, shared among the classes


def extremes(material: Material, store: Cutouts | None) -> Markup:
    """Highest-scored positives and others, and lowest-scored positives, of the primary arm at the fewest labels."""
    arm = material.primary or material.arms[0]
    labels = material.labels[0]
    store, rows = _present(store)
    ids, truth, score, name = _mean_scores(material, material.predictions(arm.name, labels), rows)
    order = np.argsort(-score, kind="stable")
    positives, others = order[truth[order] == name], order[truth[order] != name]
    groups = [
        (f"Surest: “{name}” scored highest", positives[:SHOWN]),
        (f"False alarms: not “{name}”, scored highest", others[:SHOWN]),
        (f"Missed: “{name}” scored lowest", positives[::-1][:SHOWN]),
    ]
    parts = [
        Markup('<p class="note">{}</p>').format(
            f"Test objects, scored by {arm.title} at {words.plural(labels, 'label')}: "
            f"mean probability of “{name}” over the draws. {_how_shown(store)}"
        )
    ]
    for title, chosen in groups:
        if len(chosen):
            images = store.images[[rows[ids[i]] for i in chosen]]
            captions = [f"{score[i]:.3f} · {words.short(ids[i])}" for i in chosen]
            alts = [f"{ids[i]}, a {truth[i]} scored {score[i]:.3f}" for i in chosen]
            parts.append(sheet(title, list(images), store.bands, captions, alts))
    return Markup("\n").join(parts)


def gallery(material: Material, store: Cutouts | None) -> Markup:
    """A few test objects of each class, evenly chosen by id and not by score."""
    store, rows = _present(store)
    labelled: dict[str, str] = {}
    for arm in material.arms:
        for draw in material.predictions(arm.name, material.labels[0]):
            labelled.update(zip(draw.ids, draw.labels, strict=True))
    known = sorted(identifier for identifier in labelled if identifier in rows)
    if not known:
        raise Missing("No gallery: none of the labelled test objects is in the store.")
    classes = sorted({labelled[identifier] for identifier in known})
    share = max(2, min(SHOWN, GALLERY // len(classes)))
    parts = [
        Markup('<p class="note">{}</p>').format(
            f"Test objects, chosen without regard to their scores. {_how_shown(store)}"
        )
    ]
    for name in classes:
        members = [identifier for identifier in known if labelled[identifier] == name]
        chosen = [members[i] for i in np.unique(np.linspace(0, len(members) - 1, share).round().astype(int))]
        images = [store.images[rows[identifier]] for identifier in chosen]
        parts.append(
            sheet(
                name,
                images,
                store.bands,
                [words.short(identifier) for identifier in chosen],
                [f"{identifier}, a {name}" for identifier in chosen],
            )
        )
    return Markup("\n").join(parts)


def _present(store: Cutouts | None) -> tuple[Cutouts, dict[str, int]]:
    if store is None or not len(store):
        raise Missing(
            "No pictures: the store was not given or could not be found; name it to `zwicky report` to see them."
        )
    return store, {identifier: row for row, identifier in enumerate(store.ids)}


def _mean_scores(
    material: Material, draws: list[Predictions], rows: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """ids [N], true class names [N] and mean score [N] over draws, of the objects that are in the store."""
    scores: dict[str, list[float]] = {}
    truth: dict[str, str] = {}
    name = ""
    for draw in draws:
        positive = material.positive(draw.classes)
        name = draw.classes[positive]
        for identifier, label, score in zip(draw.ids, draw.labels, draw.probabilities[:, positive], strict=True):
            if identifier in rows and np.isfinite(score):
                scores.setdefault(identifier, []).append(float(score))
                truth[identifier] = label
    if not scores:
        raise Missing("No examples: no cell kept its test predictions, or none of the test objects is in the store.")
    ids = np.array(sorted(scores), dtype=object)
    return ids, np.array([truth[i] for i in ids], dtype=object), np.array([np.mean(scores[i]) for i in ids]), name


def _how_shown(store: Cutouts) -> str:
    stretch = (
        "8-bit values as they are" if store.images.dtype == np.uint8 else "asinh stretch, each cutout on its own scale"
    )
    return f"Bands {', '.join(store.bands)}; {stretch}."
