"""The sections of results: audit, efficiency, ROC, recall, curves, confusion, reliability."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from zwicky.report import figures, tables, words
from zwicky.report.health import health
from zwicky.report.material import Arm, Material, Missing
from zwicky.report.roc import Band, band, scored

PREVALENCES = (1e-3, 1e-4)
RATES = (1e-1, 1e-2, 1e-3, 1e-4)
FALSE_POSITIVES_NEEDED = 10  # behind a rate before purity is quoted at it
ROC_POINTS = 150
GAUGES_SHOWN = 8
PRETRAININGS_DRAWN = 3  # with folds there may be dozens; the others get their word on health alone
NOT_GAUGES = (
    "step",
    "images",
    "epoch",
    "seconds",
    "time",
    "lr",
    "learning_rate",
    "progress",
    "momentum",
    "weight_decay",
)


def audit(material: Material) -> Markup:
    """Warnings first, then the shortcuts."""
    found = material.audit
    if not found:
        raise Missing(
            "No audit: audit.json is missing or cannot be read. "
            "Run `zwicky audit` on the store before trusting any number here."
        )
    warnings = found.get("warnings")
    warnings = [str(warning) for warning in warnings] if isinstance(warnings, list) else []
    parts = [Markup('<p class="warning">{}</p>').format(warning) for warning in warnings]
    if not warnings:
        parts.append(Markup("<p>No warning.</p>"))
    try:
        parts.append(tables.shortcuts(found.get("shortcuts")))
    except Missing as reason:
        parts.append(Markup('<p class="missing">{}</p>').format(str(reason)))
    return Markup("\n").join(parts)


def efficiency(material: Material) -> Markup:
    """The figure and the tables."""
    panels = [figures.efficiency(material, metric) for metric in ("auc", "accuracy") if _has(material, metric)]
    if not panels:
        raise Missing("Neither AUC nor accuracy was recorded.")
    bounded = any(row.get("low") is not None for row in material.summary.values())
    caption = f"Test objects: {words.count(material.test_objects)}; {material.trials}. "
    caption += "Bars are 95 % intervals; points at one number of labels stand side by side so that they do not overlap."
    caption += "" if bounded else " There are no intervals: summary.csv is missing."
    star = (
        "★ marks a winner: significantly better than the runner-up and than every arm it was compared with, "
        "after Holm's correction. No star, no winner."
    )
    if material.pretrain_seeds == 1:
        star += f" All intervals are conditional on {material.conditional}."
    return Markup("\n").join(
        [
            figures.figure(panels, caption, figures.legend(material.arms, figures.looks(material))),
            Markup('<p class="note">{}</p>').format(star),
            _tables(material, ("auc", "accuracy")),
            *[Markup('<p class="note">{}</p>').format(text) for text in _probes_kept(material)],
        ]
    )


def _probes_kept(material: Material) -> list[str]:
    """A line for each arm that has fits which did not help, so that its numbers are in part those of a probe."""
    lines = []
    for arm in material.arms:
        own = [row.get("used_probe") for row in material.results if row["arm"] == arm.name]
        if kept := sum(value is True for value in own):
            lines.append(
                f"{arm.title}: in {kept} of {len(own)} fits the labels kept back said that fitting did not help; their "
                "network is the linear probe it began with."
            )
    return lines


def _tables(material: Material, metrics: tuple[str, ...]) -> Markup:
    return figures.side_by_side([tables.efficiency(material, metric) for metric in metrics if _has(material, metric)])


def _has(material: Material, metric: str) -> bool:
    return any(material.estimate(arm.name, n, metric) for arm in material.arms for n in material.labels)


def _ends(material: Material) -> list[int]:
    """The smallest and the largest number of labels."""
    return sorted({material.labels[0], material.labels[-1]})


def _bands(material: Material, labels: int, fpr: np.ndarray) -> list[tuple[Arm, Band]]:
    bands = []
    for arm in material.focus:
        draws = [scored(draw, material.positive(draw.classes)) for draw in material.predictions(arm.name, labels)]
        if any(draw.positive.any() and not draw.positive.all() for draw in draws):
            bands.append((arm, band(draws, fpr)))
    return bands


def negatives(material: Material) -> int | None:
    """Test objects that are not of the positive class, in the draw that has most."""
    counts = []
    for arm in material.focus:
        for labels in _ends(material):
            for draw in material.predictions(arm.name, labels):
                counts.append(int((draw.labels != draw.classes[material.positive(draw.classes)]).sum()))
    return max(counts, default=None)


def roc(material: Material) -> Markup:
    """ROC curves at both ends of the label axis, on a linear and a logarithmic axis."""
    count = negatives(material)
    if not count:
        raise Missing("No ROC curves: no cell kept its test predictions with objects of both kinds.")
    grid = np.concatenate([[0.0], np.geomspace(1 / count, 1, ROC_POINTS)])
    look = figures.looks(material)
    panels, drawn = [], []
    for labels in _ends(material):
        if bands := _bands(material, labels, grid):
            panels += [figures.roc(bands, look, labels, count, log) for log in (False, True)]
            drawn = [arm for arm, _ in bands]
    left_out = len(material.arms) - len(drawn)
    unit = "draw" if material.folds is None else "fold"
    caption = (
        f"Mean over {unit}s; bands are 95 % intervals from resampling {unit}s and test objects. "
        f"{words.count(count)} negatives in each: the logarithmic axis ends at one false positive among them, "
        "and near that end a curve rests on a handful of objects."
    )
    if left_out:
        caption += f" {words.plural(left_out, 'further arm')} left out for legibility."
    return figures.figure(panels, caption, figures.legend(drawn, look))


def recall(material: Material) -> Markup:
    """TPR0 and TPR10, then purity where enough negatives stand behind it."""
    count = negatives(material)
    parts = [tables.recall_at_false_positives(material, count)]
    if not count:
        parts.append(Markup('<p class="missing">Purity is not given: the number of negatives is not known.</p>'))
        return Markup("\n").join(parts)
    rates = [rate for rate in RATES if rate * count >= FALSE_POSITIVES_NEEDED]
    labels = material.labels[-1]
    bands = _bands(material, labels, np.array(rates)) if rates else []
    if bands:
        parts.append(tables.purity(bands, PREVALENCES, count, labels))
    bound = 3 / count
    parts.append(
        Markup('<p class="note">{}</p>').format(
            f"With {words.count(count)} negatives, seeing no false positive only says that their rate is below "
            f"about {bound:.1g} (95 %). Rates with fewer than {FALSE_POSITIVES_NEEDED} negatives behind them are "
            "left out; purity assumes that a survey's objects resemble these."
        )
    )
    return Markup("\n").join(parts)


def curves(material: Material) -> Markup:
    """Loss, gauges and a word on health of each pretraining; then the fine-tuning."""
    parts: list[Markup] = []
    for position, (name, rows) in enumerate(material.pretraining.items()):
        state = health(rows, material.pretraining_run(name).get("warnings"))
        reasons = Markup('<p><span class="state {}">{}</span> {}</p>').format(
            state.state, state.state, " ".join(state.reasons)
        )
        columns = [column for column in dict.fromkeys(key for row in rows for key in row) if column not in NOT_GAUGES]
        columns.sort(key=lambda column: column != "loss")
        shown = columns[:GAUGES_SHOWN] if position < PRETRAININGS_DRAWN else []
        drawn = (figures.gauge(rows, column, f"pretrain-{position}-{index}") for index, column in enumerate(shown))
        panels = [panel for panel in drawn if panel is not None]
        parts.append(Markup("<h3>Pretraining {}</h3>{}").format(name, reasons))
        if panels:
            parts.append(
                figures.figure(panels, "Loss and gauges of collapse as the pretraining logged them.", size="small")
            )
    if not parts:
        parts.append(Markup('<p class="missing">No pretraining curves were found.</p>'))
    panels = []
    for labels in _ends(material):
        for index, arm in enumerate(material.focus):
            draws = material.curves(arm.name, labels)
            for what in ("loss", "accuracy"):
                title = f"{arm.title}, {words.plural(labels, 'label')}"
                panel = (
                    figures.finetuning(draws, (what, f"select_{what}"), f"finetune-{labels}-{index}-{what}", title)
                    if draws
                    else None
                )
                panels += [panel] if panel is not None else []
    if panels:
        key = figures.curve_legend(["training labels", "labels held back for selection"])
        parts += [Markup("<h3>Fine-tuning</h3>"), figures.figure(panels, "One line a draw of labels.", key, "small")]
    else:
        parts.append(Markup('<p class="missing">No fine-tuning curves were found.</p>'))
    return Markup("\n").join(parts)


def confusion(material: Material) -> Markup:
    """Primary and reference at both ends of the label axis."""
    chosen = [arm for arm in (material.primary, material.reference) if arm is not None] or material.arms[:1]
    cells = [(arm, labels, material.predictions(arm.name, labels)) for labels in _ends(material) for arm in chosen]
    parts = [tables.confusion_matrix(arm, labels, draws) for arm, labels, draws in cells if draws]
    if not parts:
        raise Missing("No confusion matrix: no cell kept its test predictions.")
    note = "Per cent of each true class, over all draws; below it the mean number of objects in a draw."
    return Markup('<p class="note">{}</p>').format(note) + figures.side_by_side(parts)


def calibration(material: Material) -> Markup:
    """Reliability diagrams and what they come to in numbers."""
    look = figures.looks(material)
    panels = []
    drawn: list[Arm] = []
    for labels in _ends(material):
        cells = [(arm, draws) for arm in material.focus if (draws := material.predictions(arm.name, labels))]
        cells = [(arm, draws) for arm, draws in cells if all(np.isfinite(draw.probabilities).all() for draw in draws)]
        if not cells:
            continue
        classes = cells[0][1][0].classes
        event = f"probability of {classes[-1]}" if len(classes) == 2 else "probability of the class called"
        panels.append(figures.calibration(cells, look, labels, event))
        drawn = [arm for arm, _ in cells]
    if not panels:
        raise Missing("No reliability diagram: no cell kept its test predictions.")
    caption = "Bins of equal numbers of objects, all draws together; on the diagonal a probability means what it says."
    return figures.figure(panels, caption, figures.legend(drawn, look)) + _tables(material, ("ece", "nll"))
