"""How numbers are written on the page."""

from __future__ import annotations

from typing import Any

from zwicky.report.material import Estimate, is_number

PERCENT = ("accuracy", "tpr0", "tpr10")  # metrics shown in per cent
METRIC_NAMES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "tpr0": "TPR0",
    "tpr10": "TPR10",
    "ece": "ECE",
    "nll": "log loss",
}
UNKNOWN = "not stated"


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric)


def number(value: float, metric: str, signed: bool = False) -> str:
    """Three decimals, or per cent with one; with a true minus sign."""
    sign = "+" if signed else ""
    digits = 1 if metric in PERCENT else 3
    rounded = round(100 * value if metric in PERCENT else value, digits) + 0.0  # -0.0 becomes 0.0
    if rounded == 0:
        sign = ""
    return f"{rounded:{sign}.{digits}f}".replace("-", "−")


def interval(low: float, high: float, metric: str, signed: bool = False) -> str:
    return f"[{number(low, metric, signed)}, {number(high, metric, signed)}]"


def estimate(value: Estimate | None, metric: str) -> str:
    """A number and its interval; a dash for nothing."""
    if value is None:
        return "–"
    if value.low is None or value.high is None:
        return number(value.value, metric)
    return f"{number(value.value, metric)} {interval(value.low, value.high, metric)}"


def count(value: Any) -> str:
    """A whole number with thin spaces between thousands; a dash for nothing."""
    return f"{round(value):,}".replace(",", "\u2009") if is_number(value) else "–"


def plural(n: int | None, noun: str) -> str:
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def significant(value: Any) -> str:
    """A number of any size to three figures; a dash for nothing."""
    return f"{value:.3g}".replace("-", "−") if is_number(value) else "–"


def short(identifier: str) -> str:
    """The end of a long identifier, which tells it from others."""
    return identifier if len(identifier) <= 22 else "…" + identifier[-21:]


def duration(seconds: Any) -> str:
    """Seconds for people."""
    if not is_number(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def data_kind(simulated: Any) -> str:
    if simulated is True:
        return "simulated images"
    if simulated is False:
        return "observed images"
    return "images, not stated whether observed or simulated"
