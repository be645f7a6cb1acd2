"""One network instead of another: what the paired differences say of the benchmark's `compare_with`."""

from __future__ import annotations

from collections import Counter

from markupsafe import Markup

from zwicky.report import words
from zwicky.report.material import Arm, Difference, Material, Missing
from zwicky.report.tables import table


def swaps(material: Material) -> list[tuple[Arm, Arm, Difference]]:
    """(arm, the same arm of the reference network, difference in AUC) for every number of labels."""
    reference = material.data.get("compare_with")
    found = []
    for row in material.differences:
        arm, other = material.arm(row.arm), material.arm(row.reference)
        if row.metric == "auc" and other.backbone == reference and arm.backbone != reference:
            found.append((arm, other, row))
    return found


def sentences(material: Material) -> list[str]:
    """One for each network: how often it was better, worse, or neither, and what follows."""
    reference = material.data.get("compare_with")
    counts: dict[str, Counter[str]] = {}
    for arm, _, row in swaps(material):
        outcome = "same" if not row.significant else ("better" if row.difference > 0 else "worse")
        counts.setdefault(arm.backbone, Counter())[outcome] += 1
    return [f"{network} instead of {reference}: {_outcome(count)}." for network, count in counts.items()]


def _outcome(count: Counter[str]) -> str:
    better, worse, total = count["better"], count["worse"], count.total()
    shares = f"AUC is better in {better}, worse in {worse} of {words.plural(total, 'paired comparison')}"
    if better and not worse:
        return f"{shares}: significantly better"
    if worse and not better:
        return f"{shares}: significantly worse"
    return f"{shares}: {'mixed' if better else 'no significant difference'}"


def networks(material: Material) -> Markup:
    """The sentences, and the table behind them."""
    found = swaps(material)
    if not found:
        raise Missing("No network was set against another (compare_with in the recipe).")
    said = Markup("").join(Markup("<p>{}</p>").format(sentence) for sentence in sentences(material))
    rows = [
        [
            arm.title,
            words.count(row.labels),
            words.estimate(value, "auc") if (value := material.estimate(arm.name, row.labels, "auc")) else "–",
            words.estimate(theirs, "auc") if (theirs := material.estimate(other.name, row.labels, "auc")) else "–",
            f"{words.number(row.difference, 'auc', True)} {words.interval(row.low, row.high, 'auc', True)}",
            ("★ better" if row.difference > 0 else "★ worse") if row.significant else "not distinguishable",
        ]
        for arm, other, row in sorted(found, key=lambda each: (each[0].backbone, each[2].labels, each[0].name))
    ]
    reference = material.data["compare_with"]
    header = ["Arm", "Labels", "AUC", f"AUC of {reference}", "Difference", "Instead of " + reference]
    caption = f"Every arm against the one of {reference} that learnt in the same way, paired over test objects"
    return said + table(caption, header, rows)
