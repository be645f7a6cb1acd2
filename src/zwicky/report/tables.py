"""The tables of the page as data frames of text. In a cell, what follows a newline is printed smaller below."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from zwicky.evaluation.arms import Arm
from zwicky.evaluation.bootstrap import Interval
from zwicky.evaluation.metrics import purity
from zwicky.report.data import RATES, NotRun, ReportData

PERCENT = ("accuracy", "tpr0", "tpr10")  # metrics written in per cent
LOWER_IS_BETTER = ("ece", "nll", "mae")
METRIC_NAMES = {metric: metric.upper() for metric in ("auc", "tpr0", "tpr10", "ece", "mae")}
METRIC_NAMES |= {"nll": "log loss", "r2": "R²"}
PREVALENCES = (1e-3, 1e-4)
FALSE_POSITIVES_NEEDED = 10  # behind a false-positive rate before purity is quoted at it
KEY_DIFFERENCES = 8  # about as many rows has the short table of differences
MEASURES = {"exact": "correct cell", "near": "within one cell"}
CONTROLS = {"untrained": "untrained", "position": "same position", "chance": "chance"}
COSTS = {"parameters": "Parameters", "steps": "Steps", "images_seen": "Images seen"}
COSTS |= {"pflops": "PFLOPs", "seconds": "Time"}


def metric_name(metric: str) -> str:
    """Return the name of a metric for people; `mae_theta_E` is the MAE of one column."""
    name, _, column = metric.partition("_")
    return METRIC_NAMES.get(name, name) + (f" of {column}" if column else "")


def number(value: float, metric: str, signed: bool = False) -> str:
    """Write a value of a metric: three decimals, per cent with one, MAE with three figures; a true minus sign."""
    sign = "+" if signed else ""
    if metric.startswith("mae"):
        return f"{value:{sign}#.3g}".rstrip(".").replace("-", "−")
    digits = 1 if metric in PERCENT else 3
    rounded = round(100 * value if metric in PERCENT else value, digits) + 0.0  # −0.0 becomes 0.0
    return f"{rounded:{sign if rounded else ''}.{digits}f}".replace("-", "−")


def measured(value: Interval | None, metric: str, signed: bool = False, separator: str = " ") -> str:
    """Write a value and its interval, if it has one; a dash for None."""
    if value is None:
        return "–"
    text, low, high = (number(x, metric, signed) for x in (value.value, value.low, value.high))
    return text if np.isnan(value.low) else f"{text}{separator}[{low}, {high}]"


def change(row: Any, separator: str = " ") -> str:
    """Write a paired difference with its interval."""
    return measured(Interval(row.difference, row.low, row.high), row.metric, True, separator)


def count(value: Any) -> str:
    """Write a whole number with thin spaces between thousands; a dash for nothing."""
    return "–" if pd.isna(value) else f"{round(value):,}".replace(",", "\u2009")


def plural(n: int, noun: str) -> str:
    """Write a count with its noun."""
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """Write seconds as seconds, minutes or hours; a dash for NaN."""
    for unit, size, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, np.inf)):
        if seconds < most:
            return f"{seconds / size:.{int(seconds / size < 10)}f} {unit}"
    return "–"


def best_arm(data: ReportData, labels: int, metric: str) -> Arm | None:
    """Return the best arm if it is significantly better than the runner-up and than every arm it was compared with."""
    sign = -1 if metric.startswith(LOWER_IS_BETTER) else 1
    values = {arm: sign * e.value for arm in data.arms if (e := data.estimate(arm, labels, metric))}
    ranked = sorted(values, key=values.__getitem__, reverse=True)
    rows = [data.difference(ranked[0], other, labels, metric) for other in ranked[1:]]
    if not rows or rows[0] is None:
        return None
    return ranked[0] if all(row.significant and sign * row.difference > 0 for row in rows if row is not None) else None


def by_labels(data: ReportData, *metrics: str) -> pd.DataFrame:
    """Arms × numbers of labels of one metric, or of several side by side; ★ marks a significantly best arm."""
    columns = {}
    for metric in metrics:
        for labels in data.labels:
            cells = {arm: measured(data.estimate(arm, labels, metric), metric, separator="\n") for arm in data.arms}
            if best := best_arm(data, labels, metric):
                cells[best] = "★ " + cells[best]
            name = f"{metric_name(metric)}, {plural(labels, 'label')}" if len(metrics) > 1 else count(labels)
            columns[name] = [cells[arm] for arm in data.arms]
    return pd.DataFrame(columns, index=pd.Index([arm.title for arm in data.arms], name="Arm"))


def outcome(row: Any) -> str:
    """Say what a paired difference establishes about the first arm."""
    if not row.significant:
        return not_significant(row)
    better = (row.difference > 0) != row.metric.startswith(LOWER_IS_BETTER)
    return f"★ first significantly {'better' if better else 'worse'}"


def not_significant(row: Any) -> str:
    """Say of a paired difference that is not significant whether its own interval excludes 0."""
    return "not significant after Holm's correction" if row.low > 0 or row.high < 0 else "no significant difference"


def differences(data: ReportData, rows: Sequence[Any], brief: bool = False) -> pd.DataFrame:
    """Paired differences, first arm minus second; rows of `comparisons`. Brief: without metric and p."""
    frame = {
        "First arm": [data.arm(row.arm).title for row in rows],
        "Second arm": [data.arm(row.reference).title for row in rows],
        "Labels": [count(row.labels) for row in rows],
        "Metric": [metric_name(row.metric) + (" (points)" if row.metric in PERCENT else "") for row in rows],
        "Difference": [change(row, "\n") for row in rows],
        "p (Holm)": ["< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}" for row in rows],
        "Result": [outcome(row) for row in rows],
    }
    return pd.DataFrame(frame).set_index("First arm").drop(columns=["Metric", "p (Holm)"] if brief else [])


def key_differences(data: ReportData) -> list[Any]:
    """Return the differences that matter: fine-tuned − from scratch, and the primary arm − the best baselines."""
    arms = [arm for arm in data.arms if arm.is_finetuned or arm == data.primary]
    pairs: list[tuple[Arm | None, Arm | None]] = [(arm, data.reference(arm)) for arm in arms]
    pairs += [(data.primary, data.best_baseline(network)) for network in (True, False)]
    labels = data.labels if len(pairs) * len(data.labels) <= KEY_DIFFERENCES else data.ends
    return [row for n in labels for pair in pairs if (row := data.difference(*pair, n)) is not None]


def network_differences(data: ReportData) -> list[Any]:
    """Return the differences between each arm and the arm of the network `compare_with` trained in the same way."""
    network = data.config["compare_with"]
    if not network:
        return []
    data.require("comparisons.csv")
    rows = [row for row in data.comparisons.itertuples() if row.metric == data.main_metrics[0]]
    rows = [row for row in rows if data.arm(row.reference).backbone == network != data.arm(row.arm).backbone]
    return sorted(rows, key=lambda row: (data.arm(row.arm).backbone, row.labels, row.arm))


def purity_table(data: ReportData) -> pd.DataFrame:
    """Recall and expected purity at the false-positive rates that the test set can measure, at the most labels."""
    rows = []
    for arm, curve in data.roc[data.ends[-1]].items():
        for rate in [rate for rate in RATES if rate * data.n_negatives >= FALSE_POSITIVES_NEEDED]:
            recall = [x[np.searchsorted(data.fpr, rate)] for x in (curve.value, curve.low, curve.high)]
            row = {"Arm": arm.title, "False-positive rate": f"{rate:g}\n{rate * data.n_negatives:.0f} negatives"}
            row["Recall (%)"] = measured(Interval(*recall), "tpr0", separator="\n")
            for prevalence in PREVALENCES:
                value, low, high = 100 * purity(np.array(recall), rate, prevalence)
                name = f"Purity (%) at prevalence 1 in {count(1 / prevalence)}"
                row[name] = f"{value:.2g}\n[{low:.2g}, {high:.2g}]"
            rows.append(row)
    if not rows:
        raise NotRun(f"No purity: {count(data.n_negatives)} negatives are too few to measure a false-positive rate.")
    return pd.DataFrame(rows).set_index("Arm")


def confusion(data: ReportData) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return (title, per cent of each true class [true, predicted], objects per draw) of primary arm and reference."""
    matrices = []
    for labels, cells in data.predicted.items():
        for arm in [arm for arm in data.featured[:2] if arm.name in cells]:
            draws = cells[arm.name]
            classes = range(len(data.classes))
            counts = sum(confusion_matrix(cell.truth, cell.predicted.argmax(1), labels=classes) for cell in draws)
            shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            matrices.append((f"{arm.title}, {plural(labels, 'label')}", shares, counts / len(draws)))
    return matrices


def used_probes(data: ReportData) -> list[tuple[str, int, int]]:
    """Return (title, fits that fell back to their linear probe, fits) of the arms that have any."""
    used = data.results["used_probe"].eq(True).groupby(data.results["title"], sort=False).agg(["sum", "size"])
    return list(used[used["sum"] > 0].itertuples(name=None))


def shortcuts(audit: dict[str, dict[str, dict[str, float]]]) -> pd.DataFrame:
    """How well single properties of the files distinguish each class from the rest."""
    rows = []
    for name, features in audit.items():
        for feature, row in features.items():
            auc = measured(Interval(row["auc"], row["low"], row["high"]), "auc", separator="\n")
            rows.append((feature.replace("_", " "), name, auc))
    return pd.DataFrame(rows, columns=["Feature", "Class", "AUC"]).set_index("Feature")


def roles(counts: dict[str, dict[str, int]]) -> pd.DataFrame:
    """Objects of each class by role in the split."""
    return pd.DataFrame(counts).T.map(count).rename_axis("Role")


def costs(data: ReportData, pretraining: dict[str, tuple[dict[str, Any], pd.DataFrame]]) -> pd.DataFrame:
    """Cost of each pretraining, from its run.json, and of each arm and number of labels as a mean over draws."""
    means = data.results.groupby(["arm", "labels"])[list(COSTS)].mean().loc[[arm.name for arm in data.arms]]
    means = means.reset_index().replace({"arm": {arm.name: arm.title for arm in data.arms}})
    runs = [{"arm": f"Pretraining {name}", **info} for name, (info, _) in pretraining.items()]
    table = pd.concat([pd.DataFrame(runs, columns=means.columns), means])
    write = {"seconds": duration, "pflops": lambda value: "–" if pd.isna(value) else f"{value:.3g}"}
    columns = {title: table[name].map(write.get(name, count)) for name, title in ({"labels": "Labels"} | COSTS).items()}
    return pd.DataFrame(columns).set_index(table["arm"].rename("Model"))


def correspondence(data: ReportData) -> pd.DataFrame:
    """Per cent of regions matched to the correct place by each pretrained network and by its controls."""
    rows = []
    for (title, grid), runs in data.correspondence.groupby(["title", "regions"], sort=False):
        for regions, prefix in (("all", ""), ("informative", "informative_")):
            for measure, match in MEASURES.items():
                name = prefix + measure
                limits = runs[[f"{name}_low", f"{name}_high"]] if len(runs) == 1 else runs[[name, name]]
                value = Interval(runs[name].mean(), limits.iloc[:, 0].min(), limits.iloc[:, 1].max())
                row = {"Network": f"{title} ({grid})", "Regions": regions, "Match": match}
                row["pretrained"] = measured(value, "tpr0", separator="\n")
                controls = {text: number(runs[f"{name}_{key}"].mean(), "tpr0") for key, text in CONTROLS.items()}
                rows.append(row | controls)
    return pd.DataFrame(rows).set_index("Network")


def correspondence_differences(pairs: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of correspondence_pairs.csv, in points."""
    names = (pairs[f"{of}method"] + ", " + pairs[f"{of}network"] for of in ("", "other_"))
    frame = pd.DataFrame(dict(zip(("First network", "Second network"), names, strict=True)))
    frame["Match"] = pairs["measure"].map(MEASURES)
    frame["Difference"] = [change(row, "\n") for row in pairs.assign(metric="tpr0").itertuples()]
    return frame.set_index("First network")
