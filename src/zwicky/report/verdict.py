"""The verdict in words. It says no more than the paired differences do."""

from __future__ import annotations

from dataclasses import dataclass

from zwicky.report import words
from zwicky.report.material import Arm, Difference, Material

CLOSE = 0.01  # a smaller advantage in AUC over a baseline is called close, however significant


@dataclass(frozen=True)
class Verdict:
    """headline: one sentence. tone: helps | hurts | tie | unknown. details: sentences that qualify it."""

    headline: str
    tone: str
    details: tuple[str, ...]


def verdict(material: Material) -> Verdict:
    """The headline is the difference in AUC at the smallest number of labels, primary arm against reference."""
    primary, reference, labels = material.primary, material.reference, material.labels[0]
    at = f"At {words.plural(labels, 'label')}"
    if primary is None:
        return Verdict(
            "No self-supervised arm was run: there is no pretraining to judge.", "unknown", _conditions(material)
        )
    facing = _rivals(material, primary, labels)
    if reference is None:
        lack = "has no network trained from scratch to be compared with: nothing follows for pretraining"
        headline = f"{at}, {primary.title} {lack}."
        return Verdict(headline, "unknown", (*facing, *_conditions(material)))
    row = material.difference(primary.name, reference.name, labels, "auc")
    against = "the same network trained from scratch"
    if primary.backbone != reference.backbone:
        against = f"{reference.title}, a different network trained from scratch"
    if row is None:
        headline = f"{at}, {primary.title} was not compared with {against}: nothing can be said of a difference."
        return Verdict(
            headline, "unknown", (*_values(material, [primary, reference], labels), *facing, *_conditions(material))
        )
    change = f"{words.number(row.difference, 'auc', True)} {words.interval(row.low, row.high, 'auc', True)}"
    headline = f"{at}, pretraining ({primary.title}) changes AUC by {change} against {against}: {conclusion(row)}."
    return Verdict(headline, tone(row), (*_later(material, primary, reference), *facing, *_conditions(material)))


def tone(row: Difference) -> str:
    """helps or hurts only where the difference outlived Holm's correction."""
    if not row.significant:
        return "tie"
    return "helps" if row.difference > 0 else "hurts"


def conclusion(row: Difference) -> str:
    if row.significant:
        return "pretraining helps" if row.difference > 0 else "pretraining hurts"
    if row.low > 0 or row.high < 0:
        return "not established, since it does not outlive Holm's correction over the table"
    return "not distinguishable from no effect"


def _later(material: Material, primary: Arm, reference: Arm) -> list[str]:
    """What becomes of the difference at the largest number of labels."""
    labels = material.labels[-1]
    row = material.difference(primary.name, reference.name, labels, "auc")
    if row is None or labels == material.labels[0]:
        return []
    change = f"{words.number(row.difference, 'auc', True)} {words.interval(row.low, row.high, 'auc', True)}"
    return [f"At {words.plural(labels, 'label')} the change is {change}: {conclusion(row)}."]


def _rivals(material: Material, primary: Arm, labels: int) -> list[str]:
    """A sentence for the best network and one for the best simple baseline."""
    sentences = []
    for is_network in (False, True):
        group = [arm for arm in material.rivals if (arm.protocol == "scratch") == is_network]
        scored = [(value.value, arm) for arm in group if (value := material.estimate(arm.name, labels, "auc"))]
        if scored:
            best = max(scored, key=lambda pair: pair[0])[1]
            noun = "network" if is_network else "simple baseline"
            label = f"the {noun} {best.title}" if len(scored) == 1 else f"the best {noun}, {best.title},"
            sentences.append(_against_rival(material, primary, best, label, labels))
    return sentences


def _against_rival(material: Material, primary: Arm, rival: Arm, label: str, labels: int) -> str:
    row = material.difference(primary.name, rival.name, labels, "auc")
    start = label[0].upper() + label[1:]
    if row is None:
        ours, theirs = (material.estimate(arm.name, labels, "auc") for arm in (primary, rival))
        if ours is None or theirs is None:
            return f"{start} cannot be set against {primary.title}: a value is missing."
        order = "as high as or higher than" if theirs.value >= ours.value else "lower than"
        values = f"{words.estimate(theirs, 'auc')}, {order} {primary.title} with {words.estimate(ours, 'auc')}"
        return f"{start} has AUC {values}; the difference was not tested."
    change = f"{words.number(row.difference, 'auc', True)} {words.interval(row.low, row.high, 'auc', True)}"
    if not row.significant:
        return f"{start} cannot be told apart from {primary.title}: the difference in AUC is {change}."
    if row.difference < 0:
        return f"{start} is better than {primary.title}: the difference in AUC is {change}."
    if row.difference < CLOSE:
        return f"{start} is close: {primary.title} is above it by only {change} in AUC."
    return f"{start} is below {primary.title}: the difference in AUC is {change}."


def _values(material: Material, arms: list[Arm], labels: int) -> list[str]:
    known = [(arm, value) for arm in arms if (value := material.estimate(arm.name, labels, "auc"))]
    return [f"{arm.title} has AUC {words.estimate(value, 'auc')}." for arm, value in known]


def _conditions(material: Material) -> tuple[str, ...]:
    """What the numbers hold for."""
    sentences = []
    if material.draw_count == 1:
        sentences.append("One draw of the labels: how much another draw would change is unknown.")
    if material.pretrain_seeds == 1:
        sentences.append("All of it is conditional on one pretraining: another seed may give another answer.")
    if material.data.get("simulated") is True:
        sentences.append("The images are simulated; nothing here shows how it does on observed ones.")
    return tuple(sentences)
