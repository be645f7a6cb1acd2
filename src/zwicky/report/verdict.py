"""The verdict in sentences. It claims no more than the paired differences show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from zwicky.report.data import ReportData
from zwicky.report.tables import change, measured, metric_name, network_differences, plural

CLOSE = 0.01  # an advantage below this over a baseline is called small, even if significant


@dataclass(frozen=True)
class Verdict:
    """The conclusion: one sentence, its tone (better, worse, tie or unknown), and sentences that qualify it."""

    headline: str
    tone: str
    details: tuple[str, ...]


def verdict(data: ReportData) -> Verdict:
    """State the difference in AUC (R² of a regression) at the fewest labels, primary arm minus its reference.

    Where the recipe compares networks (`compare_with`), the headline counts those differences instead.
    """
    primary, reference = data.primary, data.reference(data.primary)
    name, at = metric_name(data.main_metrics[0]), f"At {plural(data.first, 'label')}"
    row, tone = data.difference(primary, reference, data.first), "unknown"
    if not data.differences and not data.finished:
        headline = "The benchmark is not finished: no difference has been tested yet."
    elif primary is None:
        headline = "No self-supervised arm was run: there is no pretraining to judge."
    elif sentences := network_sentences(data):
        return Verdict(" ".join(sentences), tone, tuple(_conditions(data)))
    elif reference is None:
        headline = (
            f"{at}, “{primary.title}” has no counterpart trained from scratch: its gain from pretraining is unknown."
        )
    elif row is None:
        headline = f"{at}, “{primary.title}” and “{reference.title}” were not compared: no difference can be stated."
    else:
        network = "the same network" if primary.backbone == reference.backbone else "a different network"
        tone = "tie" if not row.significant else "better" if row.difference > 0 else "worse"
        headline = f"{at}, pretraining changes {name} by {change(row)} relative to {network} trained from scratch: "
        headline += f"{effect(row)}."
    return Verdict(headline, tone, (*_arms(data), *_baselines(data), *_conditions(data)))


def effect(row: Any) -> str:
    """Say what a paired difference of the verdict's metric establishes."""
    if row.significant:
        return "a significant improvement" if row.difference > 0 else "a significant deterioration"
    return "not significant after Holm's correction" if row.low > 0 or row.high < 0 else "no significant difference"


def network_sentences(data: ReportData) -> list[str]:
    """Count for each network how often it is significantly better or worse than `compare_with`."""
    sentences, name = [], metric_name(data.main_metrics[0])
    rows = pd.DataFrame(network_differences(data))
    for network, group in rows.groupby(rows["arm"].map(lambda arm: data.arm(arm).backbone)) if len(rows) else ():
        signs = group["difference"][group["significant"]] > 0
        better, worse = int(signs.sum()), int((~signs).sum())
        result = {(True, False): "significantly better", (False, True): "significantly worse", (True, True): "mixed"}
        sentences.append(
            f"{network} instead of {data.data['compare_with']}: {name} is better in {better} and worse in {worse} of "
            f"{plural(len(group), 'paired comparison')}: "
            f"{result.get((better > 0, worse > 0), 'no significant difference')}."
        )
    return sentences


def _arms(data: ReportData) -> list[str]:
    """What is compared, at the most labels too, and the same for every other fine-tuned arm."""
    sentences, primary, labels = [], data.primary, data.labels
    for arm in [primary, *(arm for arm in data.arms if arm.is_finetuned and arm != primary)]:
        reference = data.reference(arm)
        rows = [row for n in data.ends if (row := data.difference(arm, reference, n)) is not None]
        rows = rows if arm == primary else rows[:1]
        changes = "; ".join(f"{change(row)} at {plural(row.labels, 'label')}, {effect(row)}" for row in rows)
        if changes and arm and reference:
            sentences.append(f"“{arm.title}” relative to “{reference.title}”: {changes}.")
    return sentences if len(labels) > 1 or len(sentences) > 1 else []


def _baselines(data: ReportData) -> list[str]:
    """The primary arm against the best simple baseline and the best other network."""
    sentences, metric, primary = [], data.main_metrics[0], data.primary
    for noun, other in (("simple baseline", data.best_baseline(False)), ("other network", data.best_baseline(True))):
        if primary is None or other is None:
            continue
        row = data.difference(primary, other, data.first)
        if row is None:
            values = [measured(data.estimate(arm, data.first, metric), metric) for arm in (other, primary)]
            result = f"{metric_name(metric)} {values[0]}, that of “{primary.title}” is {values[1]}; not tested"
        elif not row.significant:
            result = f"no significant difference, {change(row)}"
        elif row.difference < 0:
            result = f"“{primary.title}” is significantly worse, {change(row)}"
        else:
            small = " but close" if row.difference < CLOSE else ""
            result = f"“{primary.title}” is significantly better{small}, {change(row)}"
        sentences.append(f"Best {noun}, “{other.title}”: {result}.")
    return sentences


def _conditions(data: ReportData) -> list[str]:
    """What the numbers hold for."""
    kind = {True: "simulated images", False: "observed images"}.get(data.data["simulated"], "images of unstated origin")
    sentences = [f"Measured on {plural(data.test_objects, 'test object')}, {kind}, with {data.trials}."]
    if data.results["draw"].nunique() == 1:
        sentences.append("One draw of the labels: the scatter between draws is unknown.")
    if data.condition:
        sentences.append(f"All intervals are conditional on {data.condition}: another seed may give another result.")
    if data.data["simulated"]:
        sentences.append("The images are simulated; performance on observed images may differ.")
    return sentences
