"""The verdict in sentences. It claims no more than the paired differences show."""

from itertools import groupby
from typing import Any, NamedTuple

from zwicky.report.data import ReportData
from zwicky.report.tables import change, measured, metric_name, network_differences, not_significant, plural

CLOSE = 0.01  # an advantage below this over a baseline is called small, even if significant


class Verdict(NamedTuple):
    """The conclusion: one sentence, its tone (better, worse, tie or unknown), and sentences that qualify it."""

    headline: str
    tone: str
    details: tuple[str, ...]


def verdict(data: ReportData) -> Verdict:
    """State the difference in the main metric at the fewest labels, or count those of `compare_with`."""
    primary, reference = data.primary, data.reference(data.primary)
    name, at = metric_name(data.main_metrics[0]), f"At {plural(data.first, 'label')}"
    row, tone = data.difference(primary, reference, data.first), "unknown"
    if not data.differences and not data.run.get("finished"):
        headline = "The benchmark is not finished: no difference has been tested yet."
    elif primary is None:
        headline = "No self-supervised arm was run: there is no pretraining to evaluate."
    elif sentences := network_sentences(data):
        return Verdict(" ".join(sentences), tone, tuple(_conditions(data)))
    elif reference is None:
        headline = f"{at}, “{primary.title}” was not trained from scratch too: its gain from pretraining is unknown."
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
    return not_significant(row)


def network_sentences(data: ReportData) -> list[str]:
    """Count for each network how often it, trained on labels, is significantly better or worse than `compare_with`.

    Frozen features count only where no network was trained on labels.
    """
    sentences, name, rows = [], metric_name(data.main_metrics[0]), network_differences(data)
    rows = [row for row in rows if data.arm(row.arm).trains_network] or rows
    results = {(True, False): "significantly better", (False, True): "significantly worse", (True, True): "mixed"}
    for network, group in groupby(rows, key=lambda row: data.arm(row.arm).backbone):
        gains = [row.difference * row.significant for row in group]
        better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        result = results.get((better > 0, worse > 0), "no significant difference")
        counts = f"better in {better} and worse in {worse} of {plural(len(gains), 'paired comparison')}"
        sentences.append(f"{network} instead of {data.config['compare_with']}: {name} is {counts}: {result}.")
    return sentences


def ranking_sentence(data: ReportData, name: str, labels: int) -> str:
    """State the main metric of the arm that ranks, and that of the best simple baseline, or network if it is one."""
    metric, arm = data.main_metrics[0], data.arm(name)
    noun = "network" if arm.protocol == "baseline" else "simple baseline"
    others = [a for a in data.arms if (a.protocol == "baseline") != (arm.protocol == "baseline")]
    others = [other for other in others if data.estimate(other, labels, metric)]
    text = f"With {plural(labels, 'label')}, “{arm.title}” has {metric_name(metric)} "
    text += f"{measured(data.estimate(arm, labels, metric), metric)} on {plural(data.test_objects, 'test object')}"
    if not others:
        return f"{text}."
    best = max(others, key=lambda other: data.estimates[other.name, labels, metric].value)
    return f"{text}; the best {noun}, “{best.title}”, {measured(data.estimate(best, labels, metric), metric)}."


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
            result = f"{effect(row)}, {change(row)}"
        elif row.difference < 0:
            result = f"“{primary.title}” is significantly worse, {change(row)}"
        else:
            small = " but close" if row.difference < CLOSE else ""
            result = f"“{primary.title}” is significantly better{small}, {change(row)}"
        sentences.append(f"Best {noun} at {plural(data.first, 'label')}, “{other.title}”: {result}.")
    return sentences


def _conditions(data: ReportData) -> list[str]:
    """What the numbers hold for."""
    simulated = data.data["simulated"]
    images = {True: "simulated images", False: "observed images"}.get(simulated, "images of unstated origin")
    sentences = {
        f"Measured on {plural(data.test_objects, 'test object')}, {images}, with {data.trials}.": True,
        "One draw of the labels: the scatter between draws is unknown.": data.results["draw"].nunique() == 1,
        f"All intervals are conditional on {data.condition}: another seed may give another result.": data.condition,
        "The images are simulated; performance on observed images may differ.": simulated,
    }
    return [sentence for sentence, holds in sentences.items() if holds]
