"""The verdict in words. It says no more than the paired differences do."""

from __future__ import annotations

from dataclasses import dataclass

from zwicky.report import words
from zwicky.report.material import Arm, Difference, Material
from zwicky.report.networks import sentences

CLOSE = 0.01  # a smaller advantage in AUC over a baseline is called close, however significant


@dataclass(frozen=True)
class Verdict:
    """headline: one sentence. tone: helps | hurts | tie | unknown. details: sentences that qualify it."""

    headline: str
    tone: str
    details: tuple[str, ...]


def verdict(material: Material) -> Verdict:
    """The headline is the difference in AUC at the smallest number of labels, primary arm against reference; or what
    one network does instead of another, where the benchmark asks that.
    """
    primary, labels = material.primary, material.labels[0]
    if primary is None:
        headline = "No self-supervised arm was run: there is no pretraining to judge."
        return Verdict(headline, "unknown", _conditions(material))
    reference = material.reference_of(primary)
    if material.data.get("compare_with") and (said := sentences(material)):
        return Verdict(" ".join(said), "unknown", _conditions(material))
    at = f"At {words.plural(labels, 'label')}"
    rest = (*_others(material, primary), *_rivals(material, primary, labels), *_conditions(material))
    if reference is None:
        lack = "was not set against the same network trained from scratch: nothing follows for pretraining"
        return Verdict(f"{at}, “{primary.title}” {lack}.", "unknown", rest)
    row = material.difference(primary.name, reference.name, labels, "auc")
    if row is None:
        headline = f"{at}, “{primary.title}” and “{reference.title}” were not compared: no difference can be stated."
        return Verdict(headline, "unknown", (*_values(material, [primary, reference], labels), *rest))
    same = "the same network" if primary.backbone == reference.backbone else "a different network"
    headline = (
        f"{at}, pretraining changes AUC by {_change(row)} against {same} trained from scratch: {conclusion(row)}."
    )
    pair = f"Compared: “{primary.title}” with “{reference.title}”."
    return Verdict(headline, tone(row), (pair, *_later(material, primary, reference), *rest))


def _change(row: Difference) -> str:
    return f"{words.number(row.difference, 'auc', True)} {words.interval(row.low, row.high, 'auc', True)}"


def _others(material: Material, primary: Arm) -> list[str]:
    """The same question of every other fine-tuned self-supervised arm."""
    sentences = []
    for arm in material.arms:
        reference = material.reference_of(arm)
        if arm.kind == "ssl" and arm.protocol == "finetune" and arm != primary and reference is not None:
            row = material.difference(arm.name, reference.name, material.labels[0], "auc")
            if row is not None:
                sentences.append(
                    f"“{arm.title}” against “{reference.title}”: {_change(row)} in AUC, {conclusion(row)}."
                )
    return sentences


def tone(row: Difference) -> str:
    """helps or hurts only where the difference outlived Holm's correction."""
    if not row.significant:
        return "tie"
    return "helps" if row.difference > 0 else "hurts"


def conclusion(row: Difference) -> str:
    if row.significant:
        return "pretraining helps" if row.difference > 0 else "pretraining hurts"
    if row.low > 0 or row.high < 0:
        return "not established, since it does not outlive Holm's correction"
    return "not distinguishable from no effect"


def _later(material: Material, primary: Arm, reference: Arm) -> list[str]:
    """What becomes of the difference at the largest number of labels."""
    labels = material.labels[-1]
    row = material.difference(primary.name, reference.name, labels, "auc")
    if row is None or labels == material.labels[0]:
        return []
    change = _change(row)
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
            label = f"the {noun} “{best.title}”" if len(scored) == 1 else f"the best {noun}, “{best.title}”,"
            sentences.append(_against_rival(material, primary, best, label, labels))
    return sentences


def _against_rival(material: Material, primary: Arm, rival: Arm, label: str, labels: int) -> str:
    row = material.difference(primary.name, rival.name, labels, "auc")
    start = label[0].upper() + label[1:]
    if row is None:
        ours, theirs = (material.estimate(arm.name, labels, "auc") for arm in (primary, rival))
        if ours is None or theirs is None:
            return f"{start} cannot be set against “{primary.title}”: a value is missing."
        order = "as high as or higher than" if theirs.value >= ours.value else "lower than"
        values = f"{words.estimate(theirs, 'auc')}, {order} “{primary.title}” with {words.estimate(ours, 'auc')}"
        return f"{start} has AUC {values}; the difference was not tested."
    change = _change(row)
    if not row.significant:
        return f"{start} cannot be told apart from “{primary.title}”: the difference in AUC is {change}."
    if row.difference < 0:
        return f"{start} is better than “{primary.title}”: the difference in AUC is {change}."
    if row.difference < CLOSE:
        return f"{start} is close: “{primary.title}” is above it by only {change} in AUC."
    return f"{start} is below “{primary.title}”: the difference in AUC is {change}."


def _values(material: Material, arms: list[Arm], labels: int) -> list[str]:
    known = [(arm, value) for arm in arms if (value := material.estimate(arm.name, labels, "auc"))]
    return [f"“{arm.title}” has AUC {words.estimate(value, 'auc')}." for arm, value in known]


def _conditions(material: Material) -> tuple[str, ...]:
    """What the numbers hold for."""
    data = words.data_kind(material.data.get("simulated"))
    sentences = [f"Measured on {words.plural(material.test_objects, 'test object')}, {data}, with {material.trials}."]
    if material.draw_count == 1:
        sentences.append("One draw of the labels: how much another draw would change is unknown.")
    if material.pretrain_seeds == 1:
        sentences.append(f"All of it is conditional on {material.conditional}: another seed may give another answer.")
    if material.data.get("simulated") is True:
        sentences.append("The images are simulated; nothing here shows how it does on observed ones.")
    return tuple(sentences)
