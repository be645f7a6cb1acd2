"""The tables, as escaped HTML that scrolls within itself on a narrow screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from sklearn import metrics

from zwicky.evaluation.metrics import purity as expected_purity
from zwicky.report import words
from zwicky.report.figures import looks
from zwicky.report.material import Arm, Material, Missing, Predictions, is_number
from zwicky.report.roc import Band

LOWER_IS_BETTER = ("ece", "nll")


def table(caption: str | Markup, header: Sequence[Any], rows: Sequence[Sequence[Any]], classes: str = "") -> Markup:
    """A table with a caption; the first cell of each row is its header. Everything is escaped but Markup."""
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(cell) for cell in header)
    body = Markup("\n").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(row[0], Markup("").join(_cell(cell) for cell in row[1:]))
        for row in rows
    )
    return Markup(
        '<div class="scroll" tabindex="0" role="group" aria-label="{}"><table class="{}"><caption>{}</caption>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(Markup(caption).striptags() if isinstance(caption, Markup) else caption, classes, caption, head, body)


def _cell(cell: Any) -> Markup:
    if isinstance(cell, Markup) and cell.startswith("<td"):
        return cell
    return Markup("<td>{}</td>").format(cell)


def value_cell(material: Material, arm: str, labels: int, metric: str) -> Markup:
    """A number with its interval in smaller type below, and a star on a winner."""
    value = material.estimate(arm, labels, metric)
    if value is None:
        return Markup("–")
    star = (
        Markup(' <span class="win" title="significantly above the runner-up">★</span>')
        if winner(material, labels, metric) == arm
        else ""
    )
    bounds = ""
    if value.low is not None and value.high is not None:
        bounds = Markup('<br><span class="bounds">{}</span>').format(words.interval(value.low, value.high, metric))
    return Markup("{}{}{}").format(words.number(value.value, metric), star, bounds)


def winner(material: Material, labels: int, metric: str) -> str | None:
    """The best arm, if it is significantly better than the runner-up and than every arm it was compared with."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    values = {
        arm.name: sign * value.value for arm in material.arms if (value := material.estimate(arm.name, labels, metric))
    }
    ranked = sorted(values, key=lambda name: -values[name])
    if len(ranked) < 2:
        return None
    best, second = ranked[:2]
    rows = [row for other in ranked[1:] if (row := material.difference(best, other, labels, metric))]
    tested = any(row.reference == second for row in rows)
    return best if tested and all(row.significant and sign * row.difference > 0 for row in rows) else None


def efficiency(material: Material, metric: str) -> Markup:
    """Arms × labels."""
    look = looks(material)
    rows = [
        [
            Markup("{} {}").format(look[arm.name].sign, arm.title),
            *(value_cell(material, arm.name, n, metric) for n in material.labels),
        ]
        for arm in material.arms
    ]
    name = words.metric_name(metric)
    unit = " (%)" if metric in words.PERCENT else ""
    estimates = [material.estimate(arm.name, n, metric) for arm in material.arms for n in material.labels]
    bounds = ", with 95 % interval" if any(value and value.low is not None for value in estimates) else ""
    caption = f"{name[0].upper() + name[1:]}{unit}{bounds}, by number of labels"
    return table(caption, ["Arm", *(words.count(n) for n in material.labels)], rows, "numbers")


def differences(material: Material) -> Markup:
    """Every paired difference that was tested."""
    if not material.differences:
        raise Missing("No paired differences: comparisons.csv is missing or empty.")
    rows = []
    for row in sorted(
        material.differences,
        key=lambda row: (
            ("auc", "accuracy").index(row.metric) if row.metric in ("auc", "accuracy") else 9,
            row.metric,
            row.labels,
        ),
    ):
        better = (row.difference > 0) != (row.metric in LOWER_IS_BETTER)
        arm, reference = material.arm(row.arm).title, material.arm(row.reference).title
        verdict = f"★ {arm if better else reference}" if row.significant else "not distinguishable"
        unit = " (points)" if row.metric in words.PERCENT else ""
        change = (
            f"{words.number(row.difference, row.metric, True)} {words.interval(row.low, row.high, row.metric, True)}"
        )
        change = Markup('<td class="together">{}</td>').format(change)
        p = "–" if row.p_holm is None else ("< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}")
        rows.append(
            [
                f"{words.metric_name(row.metric)}{unit}",
                words.count(row.labels),
                f"{arm} − {reference}",
                change,
                p,
                verdict,
            ]
        )
    caption = "Paired differences, arm minus reference, with 95 % interval; p is Holm's, over all tests of a metric"
    return table(caption, ["Metric", "Labels", "Arm − reference", "Difference", "p (Holm)", "Better"], rows)


def recall_at_false_positives(material: Material, negatives: int | None) -> Markup:
    """TPR0 and TPR10 at every number of labels."""
    look = looks(material)
    metrics = [
        metric
        for metric in ("tpr0", "tpr10")
        if any(material.estimate(arm.name, n, metric) for arm in material.arms for n in material.labels)
    ]
    if not metrics:
        raise Missing("Neither TPR0 nor TPR10 was recorded.")
    header = [
        "Arm",
        *(f"{words.metric_name(metric)}, {words.count(n)} labels" for metric in metrics for n in material.labels),
    ]
    rows = [
        [
            Markup("{} {}").format(look[arm.name].sign, arm.title),
            *(value_cell(material, arm.name, n, metric) for metric in metrics for n in material.labels),
        ]
        for arm in material.arms
    ]
    among = f"among {words.count(negatives)} negatives" if negatives else "(number of negatives not known)"
    return table(f"Recall in per cent at no (TPR0) and at ten (TPR10) false positives {among}", header, rows, "numbers")


def confusion_matrix(arm: Arm, labels: int, draws: Sequence[Predictions]) -> Markup:
    """Share of each true class called each class, over all draws, with the mean count a draw."""
    classes = draws[0].classes
    # Every draw's cell comes from the same benchmark, so its classes stand in the same order.
    counts = sum(
        metrics.confusion_matrix(draw.truth, draw.probabilities.argmax(axis=1), labels=range(len(classes)))
        for draw in draws
        if draw.classes == classes
    )
    counts = np.asarray(counts, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows: list[list[Any]] = []
    for truth, name in enumerate(classes):
        cells = [
            Markup('<td class="heat" style="--share:{}%">{}<br><span class="bounds">{}</span></td>').format(
                f"{55 * shares[truth, called]:.0f}",
                f"{100 * shares[truth, called]:.1f} %",
                words.count(counts[truth, called] / len(draws)),
            )
            for called in range(len(classes))
        ]
        rows.append([f"is {name}", *cells])
    return table(
        f"{arm.title}, {words.plural(labels, 'label')}",
        ["", *(f"called {name}" for name in classes)],
        rows,
        "numbers confusion",
    )


def purity(bands: Sequence[tuple[Arm, Band]], prevalences: Sequence[float], negatives: int, labels: int) -> Markup:
    """Recall and expected purity at the false-positive rates the test set can measure. bands: at those rates."""
    rows = []
    for arm, curve in bands:
        for rate, recall, low, high in zip(curve.fpr, curve.recall, curve.low, curve.high, strict=True):
            reached = f"{100 * recall:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            expected = []
            for prevalence in prevalences:
                value, worst, best = (100 * expected_purity(r, rate, prevalence) for r in (recall, low, high))
                expected.append(f"{value:.2g} [{worst:.2g}, {best:.2g}]")
            rows.append(
                [
                    arm.title,
                    f"{rate:g} ({rate * negatives:.0f} of {words.count(negatives)} negatives)",
                    reached,
                    *expected,
                ]
            )
    header = [
        "Arm",
        "False-positive rate",
        "Recall (%)",
        *(f"Purity (%) if 1 in {words.count(1 / p)} is a positive" for p in prevalences),
    ]
    return table(
        f"Recall and purity at {words.plural(labels, 'label')}, measured with {words.count(negatives)} negatives",
        header,
        rows,
        "numbers",
    )


def shortcuts(found: Any) -> Markup:
    """What a single feature of the files tells about each class. found: class → feature → {auc, low, high}."""
    cells = []
    by_class = found if isinstance(found, dict) else {}
    for name, features in by_class.items():
        for feature, row in (features if isinstance(features, dict) else {}).items():
            if isinstance(row, dict) and is_number(row.get("auc")):
                bounded = is_number(row.get("low")) and is_number(row.get("high"))
                bounds = words.interval(row["low"], row["high"], "auc") if bounded else "–"
                cells.append([feature.replace("_", " "), name, words.number(row["auc"], "auc"), bounds])
    if not cells:
        raise Missing("No shortcut was measured.")
    caption = (
        "How well each feature alone tells a class from the rest: AUC or 1 − AUC, whichever is larger. "
        "Where one does, a network may learn it instead of the lens"
    )
    return table(caption, ["Feature", "Class", "AUC", "95 % interval"], cells, "numbers")


def cost(material: Material) -> Markup:
    """Training cost of each arm and number of labels, mean over draws; then of each pretraining."""
    columns = ("parameters", "steps", "images_seen", "pflops", "seconds")
    rows = []
    for name, curves in material.pretraining.items():
        info = {
            **{key: value for key, value in curves[-1].items() if value is not None},
            **material.pretraining_run(name),
        }
        numbers = {
            "parameters": info.get("parameters"),
            "steps": info.get("steps", curves[-1].get("step")),
            "images_seen": info.get("images_seen", curves[-1].get("images")),
        }
        rows.append(
            [
                f"pretraining {name}",
                "–",
                *_costs({**numbers, "pflops": info.get("pflops"), "seconds": info.get("seconds")}, columns),
            ]
        )
    for arm in material.arms:
        for labels in material.labels:
            cells = [row for row in material.results if row["arm"] == arm.name and row["labels"] == labels]
            if cells:
                means = {key: _mean([row.get(key) for row in cells]) for key in columns}
                rows.append([arm.title, words.count(labels), *_costs(means, columns)])
    header = ["What", "Labels", "Parameters", "Steps", "Images seen", "PFLOPs", "Time"]
    return table(
        "Cost of training, mean over draws; an arm's cost does not include its pretraining", header, rows, "numbers"
    )


def _costs(values: dict[str, Any], columns: Sequence[str]) -> list[str]:
    ways = {"pflops": words.significant, "seconds": words.duration}
    return [ways.get(key, words.count)(values.get(key)) for key in columns]


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for value in values if is_number(value)]
    return sum(known) / len(known) if known else None


def facts(pairs: Sequence[tuple[str, Any]]) -> Markup:
    """A list of terms and what they are; None is left out."""
    items = Markup("").join(
        Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(term, value) for term, value in pairs if value is not None
    )
    return Markup("<dl>{}</dl>").format(items)
