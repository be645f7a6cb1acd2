"""The figures: matplotlib drawings as inline SVG that takes its colours from the page, and cutouts as PNG."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib import style, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.patheffects import withStroke
from PIL import Image

from zwicky.evaluation.metrics import reliability
from zwicky.report.data import Arm, NotRun, ReportData
from zwicky.report.tables import CONTROLS, MEASURES, PERCENT, count, measured, metric_name, plural

# Placeholder colours of figures.mplstyle and of this file; in the SVG they become variables of style.css.
INK, MUTED, GRID, GOOD, BAD, PAPER = (f"#01010{k}" for k in range(1, 7))
ARM_COLOURS = [f"#01020{k}" for k in range(1, 9)]
VARIABLES = dict(
    zip((INK, MUTED, GRID, GOOD, BAD, PAPER), ("ink", "muted", "grid", "good", "bad", "paper"), strict=True)
)
VARIABLES |= {colour: f"arm-{k}" for k, colour in enumerate(ARM_COLOURS)}
MARKERS, LINES = "osD^vPXh", ("-", "--", "-.", ":")
DIAGONAL: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (2, 3))}
MAX_POINTS = 400  # of a curve; more is below a pixel
DIAGNOSTICS_SHOWN = 8
NOT_DIAGNOSTICS = {"step", "images", "epoch", "seconds", "lr", "progress", "momentum", "weight_decay"}
MATCHES_SHOWN = 8  # lines between two views
LARGEST = 96  # pixels on a side of a picture; larger cutouts are averaged down
# Approximate wavelengths in micrometres, only to put the longest into red.
WAVELENGTHS = {"u": 0.36, "b": 0.44, "g": 0.48, "v": 0.55, "r": 0.62, "vis": 0.72, "i": 0.76, "z": 0.88}
WAVELENGTHS |= {"y": 1.0, "j": 1.25, "h": 1.63, "k": 2.2}


@dataclass(frozen=True)
class Panel:
    """One drawing: its SVG, what it shows in words, and a title above it."""

    svg: Markup
    description: str
    title: str = ""


def draw(
    draw_on: Callable[[Axes], Any], description: str, size: tuple[float, float] = (4.6, 3.8), title: str = ""
) -> Panel:
    """Draw on new axes and return the SVG.

    Args:
        draw_on: draws on the axes it is given.
        description: what is shown; read aloud, and unique on the page.
        size: width and height in inches.
        title: text above the panel.
    """
    folder = resources.files("zwicky.report") / "templates"
    with (
        resources.as_file(folder / "figures.mplstyle") as path,
        style.context([path, {"svg.hashsalt": f"{description}{size}"}]),
    ):
        canvas, stream = Figure(figsize=size), io.StringIO()
        draw_on(canvas.add_subplot())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(stream, format="svg", metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    used = set(re.findall(r"(?:href=\"|url\()#([\w-]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", text)
    text = re.sub(r"#010[12]0\d", lambda match: f"var(--{VARIABLES[match[0]]})", text)
    return Panel(Markup(text), description, title)  # matplotlib escapes the texts it writes


def look(data: ReportData, arm: Arm) -> dict[str, Any]:
    """Return the colour, marker and line style of an arm in all figures."""
    turn, index = divmod(data.markers[arm.title], len(ARM_COLOURS))
    line = LINES[turn % len(LINES)]
    return {"color": ARM_COLOURS[index], "marker": MARKERS[index], "linestyle": line, "markersize": 5, "linewidth": 1.6}


def efficiency(data: ReportData, metric: str, arms: Sequence[Arm], size: tuple[float, float] = (4.8, 3.8)) -> Panel:
    """Draw a metric against the number of labels with 95 % intervals, one line per arm."""
    scale, name = 100 if metric in PERCENT else 1, metric_name(metric)
    points = {arm: [(n, e) for n in data.labels if (e := data.estimate(arm, n, metric))] for arm in arms}

    def draw_on(axes: Axes) -> None:
        for position, arm in enumerate(arms):
            x = np.array([n for n, _ in points[arm]]) * 1.045 ** (position - (len(arms) - 1) / 2)  # side by side
            y, low, high = scale * np.array([(e.value, e.low, e.high) for _, e in points[arm]]).reshape(-1, 3).T
            axes.plot(x, y, **look(data, arm))
            axes.vlines(x, low, high, color=look(data, arm)["color"], linewidth=1.2, alpha=0.75)
        axes.set_xscale("log")
        axes.set_xticks(data.labels, [count(n) for n in data.labels])
        axes.minorticks_off()
        if len(data.labels) == 1:
            axes.set_xlim(data.labels[0] / 1.5, data.labels[0] * 1.5)
        axes.set(xlabel="labels (log scale)", title=name[0].upper() + name[1:] + (" (%)" if scale == 100 else ""))

    values = (f"{arm.title}: " + ", ".join(f"{measured(e, metric)} at {n}" for n, e in points[arm]) for arm in arms)
    return draw(draw_on, f"{name} against number of labels. {'; '.join(values)}", size)


def roc(data: ReportData) -> list[Panel]:
    """Draw ROC curves at both ends of the label axis, with linear and with logarithmic false-positive rate."""

    def panel(labels: int, log: bool) -> Panel:
        def draw_on(axes: Axes) -> None:
            for arm, curve in data.roc[labels].items():
                axes.plot(data.fpr, curve.value, **look(data, arm) | {"marker": ""})
                axes.fill_between(data.fpr, curve.low, curve.high, fc=look(data, arm)["color"], alpha=0.16, lw=0)
            axes.set(title=plural(labels, "label"), ylim=(0, 1.02), ylabel="true-positive rate (recall)")
            axes.set(xlabel="false-positive rate" + (" (log scale)" if log else ""))
            if log:
                axes.set(xscale="log", xlim=(1 / data.n_negatives, 1))
                axes.xaxis.set_major_formatter("{x:g}")
                axes.minorticks_off()
            else:
                axes.plot([0, 1], [0, 1], **DIAGONAL)

        return draw(draw_on, f"ROC curves at {labels} labels{', low false-positive rates' if log else ''}.")

    return [panel(labels, log) for labels in data.roc for log in (False, True)]


def calibration(data: ReportData) -> list[Panel]:
    """Draw reliability diagrams at both ends of the label axis, all draws together."""
    event = "probability of " + (data.classes[-1] if len(data.classes) == 2 else "the predicted class")

    def panel(labels: int) -> Panel:
        def draw_on(axes: Axes) -> None:
            axes.plot([0, 1], [0, 1], **DIAGONAL)
            for arm in [arm for arm in data.featured if arm.name in data.predicted[labels]]:
                cells = data.predicted[labels][arm.name]
                truth, predicted = (np.concatenate([getattr(c, of) for c in cells]) for of in ("truth", "predicted"))
                axes.plot(*reliability(truth, predicted)[:2], **look(data, arm))
            axes.set(title=plural(labels, "label"), xlabel=event, ylabel="observed frequency")

        return draw(draw_on, f"Reliability diagram at {labels} labels; the diagonal is perfect calibration.")

    return [panel(labels) for labels in data.ends]


def scatter(data: ReportData) -> list[Panel]:
    """Draw predicted against true numbers of a regression at the most labels, first draw, two arms."""
    cells = data.predicted[data.ends[-1]]
    arms = [arm for arm in data.featured if arm.name in cells][:2]

    def panel(column: int, name: str) -> Panel:
        def draw_on(axes: Axes) -> None:
            for arm in arms:
                truth, predicted = (getattr(cells[arm.name][0], of)[:, column] for of in ("truth", "predicted"))
                rows = np.linspace(0, len(truth) - 1, min(len(truth), 3 * MAX_POINTS)).astype(int)
                axes.plot(truth[rows], predicted[rows], **look(data, arm) | {"linestyle": "", "alpha": 0.4})
            axes.axline((truth[0], truth[0]), slope=1, **DIAGONAL)
            axes.set(title=name, xlabel="true", ylabel="predicted")

        return draw(draw_on, f"Predicted against true {name} of the test objects; the diagonal is perfect.")

    return [panel(column, name) for column, name in enumerate(data.columns)]


def curves(logs: Sequence[pd.DataFrame], columns: Sequence[str], title: str) -> list[Panel]:
    """Draw columns of training logs against progress, each in its line style; no panel without two points."""
    axis = next((name for name in ("images", "epoch", "step") if logs and name in logs[0]), None)
    lines = [
        (k, log.loc[rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_POINTS)).round().astype(int)]], column)
        for log in logs
        for k, column in enumerate(columns)
        if column in log and len(rows := log.index[np.isfinite(log[column])]) > 1
    ]
    if axis is None or not lines:
        return []

    def draw_on(axes: Axes) -> None:
        for k, log, column in lines:
            axes.plot(log[axis], log[column], color=ARM_COLOURS[k], linestyle=LINES[k], linewidth=1.4, alpha=0.85)
        axes.set(title=columns[0].replace("_", " "), xlabel="images seen" if axis == "images" else axis)
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        axes.locator_params(axis="x", nbins=5)

    last = lines[0][1][lines[0][2]].iloc[-1]
    heading = title if len(columns) > 1 else ""
    return [draw(draw_on, f"{columns[0]}: {title}; it ends at {last:.3g}.", (3.6, 2.4), heading)]


def pretraining(name: str, log: pd.DataFrame) -> list[Panel]:
    """Draw the loss and the diagnostics of one pretraining as it logged them."""
    columns = sorted((c for c in log if c not in NOT_DIAGNOSTICS), key=lambda column: column != "loss")
    return [panel for column in columns[:DIAGNOSTICS_SHOWN] for panel in curves([log], [column], name)]


def finetuning(data: ReportData) -> list[Panel]:
    """Draw loss and score of the fits on the labels trained on and on those for selection, one line per draw."""
    draws = data.results.groupby(["arm", "labels"])["draw"].unique()
    panels = []
    for labels in data.ends:
        for arm in [arm for arm in data.featured if (arm.name, labels) in draws.index]:
            logs = [log for d in draws[arm.name, labels] if len(log := data.curves(arm.name, labels, d))]
            scores = [name for name in (logs[0] if logs else ()) if f"select_{name}" in logs[0]]
            title = f"{arm.title}, {plural(labels, 'label')}"
            panels += [panel for name in scores for panel in curves(logs, [name, f"select_{name}"], title)]
    if not panels:
        raise NotRun("No network was fitted to labels.")
    return panels


def correspondence(data: ReportData) -> list[Panel]:
    """Draw the share of regions matched to the correct place by each pretrained network, beside its controls."""
    groups = dict(list(data.correspondence.groupby("title", sort=False)))

    def panel(measure: str, title: str) -> Panel:
        def draw_on(axes: Axes) -> None:
            for row, runs in enumerate(groups.values()):
                y = row + 0.15 * (np.arange(len(runs)) - (len(runs) - 1) / 2)
                axes.hlines(y, 100 * runs[f"{measure}_low"], 100 * runs[f"{measure}_high"], color=ARM_COLOURS[0])
                axes.plot(100 * runs[measure], y, "o", color=ARM_COLOURS[0])
                for k, control in enumerate(CONTROLS, start=1):
                    axes.plot(100 * runs[f"{measure}_{control}"].mean(), row, MARKERS[k], color=ARM_COLOURS[k])
            axes.set_yticks(range(len(groups)), [name if len(name) < 27 else name[:25] + "…" for name in groups])
            axes.set(ylim=(len(groups) - 0.5, -0.5), xlabel="% of regions", title=title.capitalize())
            axes.set_xlim(left=0)

        values = (f"{name}: {100 * runs[measure].mean():.1f}" for name, runs in groups.items())
        return draw(draw_on, f"Per cent of regions, {title}. {'; '.join(values)}", (5.2, 1.2 + 0.36 * len(groups)))

    return [panel(measure, title) for measure, title in MEASURES.items()]


def matches(arrays: dict[str, np.ndarray], grid: tuple[int, int], bands: Sequence[str], title: str) -> list[Panel]:
    """Draw two views of each object with matches between them, below them the attention.

    Args:
        arrays: of correspondence.npz: ids [S], crops [S, 2, bands, s, s], match, partner and informative
            [S, regions], perhaps attention [S, 2, h, w].
        grid: (h, w) regions of a view.
        bands: names of the channels.
        title: the network, for the description.
    """
    size, rows = arrays["crops"].shape[-1], 2 if "attention" in arrays else 1
    extent = (0, size, size, 0)

    def panel(k: int) -> Panel:
        match, partner = arrays["match"][k], arrays["partner"][k]
        shown = np.flatnonzero((partner >= 0) & arrays["informative"][k])
        shown = shown[np.unique(np.linspace(0, len(shown) - 1, min(len(shown), MATCHES_SHOWN)).round().astype(int))]

        def centre(region: int) -> tuple[float, float]:
            return (region % grid[1] + 0.5) * size / grid[1], (region // grid[1] + 0.5) * size / grid[0]

        def draw_on(axes: Axes) -> None:
            canvas = axes.figure
            axes.remove()
            views: Any = canvas.subplots(rows, 2, squeeze=False)
            for row, view in np.ndindex(rows, 2):
                views[row, view].axis("off")
                views[row, view].imshow(to_rgba(arrays["crops"][k, view], bands), extent=extent, interpolation="none")
                text = f"view {'AB'[view]}"
                if row == 1:
                    weights = arrays["attention"][k, view]
                    heat = np.full((*weights.shape, 4), (1, 0.55, 0, 0.8))
                    heat[..., 3] *= (weights - weights.min()) / max(float(np.ptp(weights)), 1e-12)
                    views[row, view].imshow(heat, extent=extent, interpolation="none")
                    text = f"attention, peak {weights.max() * weights.size:.1f}×"
                views[row, view].set_title(text, color=MUTED, fontsize=10, fontweight="normal")
            for region in shown:
                correct = match[region] == partner[region]
                ends = centre(region), centre(match[region])
                colour, halo = GOOD if correct else BAD, [withStroke(linewidth=3.2, foreground=PAPER, alpha=0.4)]
                line = ConnectionPatch(ends[0], ends[1], "data", "data", axesA=views[0, 0], axesB=views[0, 1])
                line.set(color=colour, linestyle="-" if correct else "--", linewidth=2, path_effects=halo)
                canvas.add_artist(line)
                for view, end, marker in zip(views[0], ends, ("o", "o" if correct else "x"), strict=True):
                    view.plot(*end, marker, markersize=4, color=colour, path_effects=halo)

        n_correct = f"{np.sum((partner >= 0) & (match == partner))} of {np.sum(partner >= 0)} regions correct"
        name = str(arrays["ids"][k])
        return draw(
            draw_on, f"{title}, two views of {name}: {n_correct}.", (4, 2.2 * rows), f"{short(name)}: {n_correct}"
        )

    return [panel(k) for k in range(len(arrays["ids"]))]


def short(identifier: str) -> str:
    """Return the end of a long identifier, which distinguishes it from others."""
    return identifier if len(identifier) <= 22 else "…" + identifier[-21:]


def to_rgba(image: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Convert a cutout to a picture; pixels invalid in every band are transparent, 8-bit images keep their values.

    Three bands become red, green and blue by wavelength where the names tell it, else in their order; of more than
    three the first, middle and last are used; with two, green is their mean; one is grey.

    Args:
        image: [bands, H, W].
        bands: names of the channels.

    Returns:
        [H, W, 4] uint8.
    """
    order = list(range(len(bands))) if len(bands) <= 3 else [0, len(bands) // 2, len(bands) - 1]
    if all(bands[k].lower() in WAVELENGTHS for k in order):
        order.sort(key=lambda k: -WAVELENGTHS[bands[k].lower()])
    planes = image[order].astype(np.float32)
    valid = np.any(np.isfinite(planes), axis=0)
    if image.dtype != np.uint8:
        planes = _stretch(planes)
    if len(planes) == 2:
        planes = np.stack([planes[0], planes.mean(axis=0), planes[1]])
    rgb = np.where(valid, np.broadcast_to(planes, (3, *planes.shape[1:])), 0)
    return np.round(np.concatenate([rgb, 255.0 * valid[None]])).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def _stretch(planes: np.ndarray, softening: float = 8.0) -> np.ndarray:
    """Scale [bands, H, W] to 0 … 255 by the asinh of the flux above the sky; the same curve multiplies all bands.

    Colours are preserved as in Lupton et al. 2004 (arXiv:astro-ph/0312483).
    """
    finite = np.isfinite(planes)
    sky = [np.median(plane[good]) if good.any() else 0.0 for plane, good in zip(planes, finite, strict=True)]
    flux = np.where(finite, planes - np.array(sky)[:, None, None], 0)
    mean = flux.mean(axis=0)
    low, top = -1.4826 * np.median(np.abs(mean - np.median(mean))), np.percentile(mean, 99.7)
    x = (mean - low) / (top - low) if top > low else np.zeros_like(mean)
    level = np.arcsinh(softening * np.clip(x, 0, None)) / np.arcsinh(softening)
    factor = np.divide(level, mean - low, out=np.zeros_like(mean), where=mean > low)
    return 255 * np.clip((flux - low) * factor, 0, 1)


def data_uri(image: np.ndarray, bands: Sequence[str]) -> str:
    """Return a cutout [bands, H, W] as a PNG in a `data:` address."""
    picture = Image.fromarray(to_rgba(image, bands), "RGBA")
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    if picture.getchannel("A").getextrema() == (255, 255):
        picture = picture.convert("L" if image.shape[0] == 1 else "RGB")
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
