"""The figures: one panel, one SVG, so that a narrow screen stacks them instead of shrinking them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from zwicky.evaluation.metrics import reliability
from zwicky.report import words
from zwicky.report.health import series
from zwicky.report.material import Arm, Material, Missing, Predictions, is_number
from zwicky.report.roc import Band
from zwicky.report.svg import ARM_COLOURS, INK, MUTED, STYLE, new_axes, to_svg

MARKERS = "osD^vPXh"
MARKER_SIGNS = "●■◆▲▼✚✖⬢"
LINES = ("-", "--", "-.", ":")
MOST_POINTS = 400  # of a curve; more is smaller than a pixel


@dataclass(frozen=True)
class Look:
    """How an arm is drawn wherever it appears."""

    index: int

    @property
    def colour(self) -> str:
        return ARM_COLOURS[self.index % len(ARM_COLOURS)]

    @property
    def marker(self) -> str:
        return MARKERS[self.index % len(MARKERS)]

    @property
    def line(self) -> str:
        return LINES[self.index // len(ARM_COLOURS) % len(LINES)]

    @property
    def sign(self) -> Markup:
        """The key of the legend."""
        sign, colour = MARKER_SIGNS[self.index % len(MARKER_SIGNS)], self.index % len(ARM_COLOURS)
        return Markup('<span class="key" style="color:var(--arm-{})" aria-hidden="true">{}</span>').format(colour, sign)


def looks(material: Material) -> dict[str, Look]:
    return {arm.name: Look(position) for position, arm in enumerate(material.arms)}


def legend(arms: Iterable[Arm], look: dict[str, Look], extra: str = "") -> Markup:
    items = Markup("").join(Markup("<li>{} {}</li>").format(look[arm.name].sign, arm.title) for arm in arms)
    return Markup('<ul class="legend">{}{}</ul>').format(items, Markup("<li>{}</li>").format(extra) if extra else "")


def side_by_side(panels: Sequence[Markup], size: str = "") -> Markup:
    """Panels in a row where there is room; size "small" lets more of them in."""
    inner = Markup("").join(Markup('<div class="panel">{}</div>').format(panel) for panel in panels)
    return Markup('<div class="panels {}">{}</div>').format(size, inner)


def figure(panels: Sequence[Markup], caption: str, key: str = "", size: str = "") -> Markup:
    """Panels under one legend and above one caption."""
    return Markup("<figure>{}{}<figcaption>{}</figcaption></figure>").format(key, side_by_side(panels, size), caption)


def efficiency(material: Material, metric: str) -> Markup:
    """Metric against the number of labels, one line an arm, 95 % intervals, points side by side."""
    look = looks(material)
    scale = 100 if metric in words.PERCENT else 1
    said = []
    with matplotlib.rc_context(STYLE):
        axes = new_axes(4.8, 3.8)
        for position, arm in enumerate(material.arms):
            offset = 1.045 ** (position - (len(material.arms) - 1) / 2)
            points = [(n, value) for n in material.labels if (value := material.estimate(arm.name, n, metric))]
            if not points:
                continue
            style = look[arm.name]
            x = np.array([n * offset for n, _ in points])
            y = np.array([value.value for _, value in points]) * scale
            axes.plot(x, y, style.line, color=style.colour, marker=style.marker, markersize=5, linewidth=1.6)
            for at, (_, value) in zip(x, points, strict=True):
                if value.low is not None and value.high is not None:
                    axes.plot(
                        [at, at], [value.low * scale, value.high * scale], color=style.colour, linewidth=1.2, alpha=0.75
                    )
            said.append(f"{arm.title}: " + ", ".join(f"{words.estimate(value, metric)} at {n}" for n, value in points))
        if not said:
            raise Missing(f"No value of {words.metric_name(metric)} was found.")
        axes.set_xscale("log")
        axes.set_xticks(material.labels, [words.count(n) for n in material.labels])
        axes.minorticks_off()
        name = words.metric_name(metric)
        axes.set(
            xlabel="labels used (log scale)", title=f"{name[0].upper() + name[1:]}{' (%)' if scale == 100 else ''}"
        )
    return to_svg(axes, f"efficiency-{metric}", f"{name} against number of labels. " + "; ".join(said))


def roc(bands: Sequence[tuple[Arm, Band]], look: dict[str, Look], labels: int, negatives: int, log: bool) -> Markup:
    """ROC curves with bands; on the log axis nothing left of one false positive."""
    with matplotlib.rc_context(STYLE):
        axes = new_axes(4.6, 4.0)
        for arm, curve in bands:
            style = look[arm.name]
            axes.plot(curve.fpr, curve.recall, style.line, color=style.colour, linewidth=1.7)
            axes.fill_between(curve.fpr, curve.low, curve.high, color=style.colour, alpha=0.16, linewidth=0)
        axes.set(
            ylim=(0, 1.02),
            xlabel="false-positive rate" + (" (log scale)" if log else ""),
            ylabel="recall (true-positive rate)",
        )
        axes.set_title(f"{words.count(labels)} labels{', low rates' if log else ''}")
        if log:
            axes.set_xscale("log")
            axes.set_xlim(1 / negatives, 1)
            ticks = [10.0**power for power in range(-6, 1) if 10.0**power * negatives >= 1]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        else:
            axes.set_xlim(-0.02, 1)
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    at = float(np.interp(0.1, bands[0][1].fpr, bands[0][1].recall))
    names = ", ".join(arm.title for arm, _ in bands)
    described = f"ROC curves at {labels} labels for {names}. {bands[0][0].title} recalls {at:.2f} at a rate of 0.1."
    return to_svg(axes, f"roc-{labels}-{'log' if log else 'linear'}", described)


def calibration(
    cells: Sequence[tuple[Arm, list[Predictions]]], look: dict[str, Look], labels: int, event: str
) -> Markup:
    """Observed frequency against predicted probability, all draws together, bins of equal mass."""
    with matplotlib.rc_context(STYLE):
        axes = new_axes(4.6, 4.0)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        for arm, draws in cells:
            style = look[arm.name]
            truth = np.concatenate([draw.truth for draw in draws])
            predicted, observed, _ = reliability(truth, np.concatenate([draw.probabilities for draw in draws]))
            axes.plot(
                predicted, observed, style.line, color=style.colour, marker=style.marker, markersize=5, linewidth=1.4
            )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=f"predicted: {event}", ylabel="observed frequency")
        axes.set_title(f"{words.count(labels)} labels")
    names = ", ".join(arm.title for arm, _ in cells)
    return to_svg(
        axes,
        f"calibration-{labels}",
        f"Reliability diagram at {labels} labels for {names}; the diagonal is perfect.",
    )


def gauge(rows: Sequence[dict[str, Any]], column: str, name: str) -> Markup | None:
    """One column of a pretraining's curves; None where it holds no two numbers."""
    axis = next((key for key in ("images", "step", "epoch") if any(is_number(row.get(key)) for row in rows)), None)
    x = series(rows, axis) if axis else np.arange(len(rows), dtype=float)
    y = series(rows, column)
    good = np.isfinite(x) & np.isfinite(y)
    if good.sum() < 2:
        return None
    x, y = thin(x[good]), thin(y[good])
    with matplotlib.rc_context(STYLE):
        axes = new_axes(3.8, 2.5)
        axes.plot(x, y, color=ARM_COLOURS[0], linewidth=1.5)
        axes.set(title=column.replace("_", " "), xlabel={"images": "images seen"}.get(axis or "", axis or "row"))
        _plain_ticks(axes)
    return to_svg(axes, name, f"{column} of the pretraining, from {y[0]:.3g} to {y[-1]:.3g}")


def finetuning(draws: Sequence[list[dict[str, Any]]], columns: Sequence[str], name: str, title: str) -> Markup | None:
    """Training (line) and selection (dashed) curves of one cell, one line a draw; None where there are none."""
    with matplotlib.rc_context(STYLE):
        axes = new_axes(3.8, 2.7)
        said, drawn = [], False
        for position, column in enumerate(columns):
            last = []
            for rows in draws:
                axis = next((key for key in ("epoch", "step") if any(is_number(row.get(key)) for row in rows)), None)
                x = series(rows, axis) if axis else np.arange(len(rows), dtype=float)
                y = series(rows, column)
                good = np.isfinite(x) & np.isfinite(y)
                if good.sum() >= 2:
                    axes.plot(
                        thin(x[good]),
                        thin(y[good]),
                        LINES[position],
                        color=ARM_COLOURS[position],
                        linewidth=1.3,
                        alpha=0.85,
                    )
                    axes.set_xlabel(axis or "row")
                    last.append(float(y[good][-1]))
            if last:
                drawn = True
                said.append(f"{column} ends at {np.mean(last):.3g}")
        axes.set_title(columns[0])
        _plain_ticks(axes)
    if not drawn:
        return None
    drawing = to_svg(axes, name, f"{title}: {', '.join(said)}")
    return Markup('<p class="panel-title">{}</p>{}').format(title, drawing)


def curve_legend(titles: Sequence[str]) -> Markup:
    """The key of `finetuning`: plain line, dashed line."""
    items = [
        Markup(
            '<li><span class="stroke" style="border-top:2px {} var(--arm-{})" aria-hidden="true"></span> {}</li>'
        ).format(("solid", "dashed")[position], position, title)
        for position, title in enumerate(titles)
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def thin(values: np.ndarray) -> np.ndarray:
    """At most MOST_POINTS of them, evenly chosen, the last always kept."""
    if len(values) <= MOST_POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, MOST_POINTS).round().astype(int)]


def _plain_ticks(axes: Axes) -> None:
    axes.ticklabel_format(axis="both", style="plain", useOffset=False)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(labelcolor=INK)


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
