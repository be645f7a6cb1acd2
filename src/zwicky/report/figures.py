"""The figures: matplotlib drawings as inline SVG that takes its colours from the page, and cutouts as PNG."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from itertools import product, zip_longest
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.patheffects import withStroke
from PIL import Image

from zwicky.data.bands import wavelength_rank
from zwicky.evaluation.arms import Arm
from zwicky.evaluation.metrics import reliability
from zwicky.report.data import NotRun, ReportData
from zwicky.report.tables import CONTROLS, MEASURES, PERCENT, count, measured, metric_name, plural

# Placeholder colours of figures.mplstyle and of this file; in the SVG they become variables of style.css.
INK, MUTED, GRID, GOOD, BAD, PAPER = (f"#01010{k}" for k in range(1, 7))
ARM_COLOURS = [f"#01020{k}" for k in range(1, 9)]
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", GOOD: "good", BAD: "bad", PAPER: "paper"}
VARIABLES |= {colour: f"arm-{k}" for k, colour in enumerate(ARM_COLOURS)}
MARKERS, LINES = "osD^vPXh", ("-", "--", "-.", ":")
DIAGONAL: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (2, 3))}
MAX_POINTS = 400  # of a curve; more is below a pixel
OUTPUTS = ("truth", "predicted")  # of a cell
DIAGNOSTICS_SHOWN = 8
FIT_CURVES = ("loss", "accuracy")  # of a fit without labels for selection
NOT_DIAGNOSTICS = {"step", "images", "epoch", "seconds", "lr", "progress", "momentum", "weight_decay"}
MATCHES_SHOWN = 8  # lines between two views
TILE = 48  # pixels on a side of a cutout in a mosaic
LARGEST = 96  # pixels on a side of a picture; larger cutouts are averaged down


class Panel(NamedTuple):
    """One drawing: its SVG, a description of what it shows, and a title above it."""

    svg: Markup
    description: str
    title: str = ""


def canvas(width: float = 4.6, height: float = 3.8) -> tuple[Figure, Axes]:
    """Return a new figure of this size in inches, and its axes."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def to_panel(figure: Figure, description: str, title: str = "") -> Panel:
    """Write a figure as SVG with the colours of style.css; its description is read aloud, and unique on the page."""
    stream, nothing = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": f"{description}{figure.get_size_inches()}"}):
        figure.savefig(stream, format="svg", metadata=nothing)
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


def efficiency(data: ReportData, metric: str, arms: Sequence[Arm], height: float = 3.8) -> Panel:
    """Draw a metric against the number of labels with 95 % intervals, one line per arm."""
    scale, name = 100 if metric in PERCENT else 1, metric_name(metric)
    (figure, axes), texts = canvas(4.8, height), []
    for position, arm in enumerate(arms):
        points = [(n, e) for n in data.labels if (e := data.estimate(arm, n, metric))]
        x = np.array([n for n, _ in points]) * 1.045 ** (position - (len(arms) - 1) / 2)  # side by side
        y, low, high = scale * np.array([(e.value, e.low, e.high) for _, e in points]).reshape(-1, 3).T
        axes.plot(x, y, **look(data, arm))
        axes.vlines(x, low, high, color=look(data, arm)["color"], linewidth=1.2, alpha=0.75)
        texts.append(f"{arm.title}: " + ", ".join(f"{measured(e, metric)} at {n}" for n, e in points))
    axes.set_xscale("log")
    axes.set_xticks(data.labels, [count(n) for n in data.labels])
    axes.minorticks_off()
    if len(data.labels) == 1:
        axes.set_xlim(data.labels[0] / 1.5, data.labels[0] * 1.5)
    axes.set(xlabel="labels (log scale)", title=name[0].upper() + name[1:] + (" (%)" if scale == 100 else ""))
    return to_panel(figure, f"{name} against number of labels. {'; '.join(texts)}")


def roc(data: ReportData) -> list[Panel]:
    """Draw ROC curves at both ends of the label axis, with linear and with logarithmic false-positive rate."""
    panels = []
    for labels, log in product(data.roc, (False, True)):
        figure, axes = canvas()
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
        panels.append(to_panel(figure, f"ROC curves at {labels} labels" + ", low false-positive rates" * log))
    return panels


def calibration(data: ReportData) -> list[Panel]:
    """Draw reliability diagrams at both ends of the label axis, all draws together."""
    event, panels = "probability of " + (data.classes[-1] if len(data.classes) == 2 else "the predicted class"), []
    for labels, arms in data.predicted.items():
        figure, axes = canvas()
        axes.plot([0, 1], [0, 1], **DIAGONAL)
        for arm in [arm for arm in data.featured if arm.name in arms]:
            truth, predicted = (np.concatenate([getattr(c, of) for c in arms[arm.name]]) for of in OUTPUTS)
            axes.plot(*reliability(truth, predicted)[:2], **look(data, arm))
        axes.set(title=plural(labels, "label"), xlabel=event, ylabel="observed frequency")
        panels.append(to_panel(figure, f"Reliability diagram at {labels} labels; the diagonal is perfect calibration."))
    return panels


def scatter(data: ReportData) -> list[Panel]:
    """Draw predicted against true numbers of a regression at the most labels, first draw, two arms."""
    cells, panels = data.predicted[data.ends[-1]], []
    for column, name in enumerate(data.columns):
        figure, axes = canvas()
        for arm in data.scattered:
            truth, predicted = (getattr(cells[arm.name][0], of)[:, column] for of in OUTPUTS)
            rows = spread(len(truth), 3 * MAX_POINTS)
            axes.plot(truth[rows], predicted[rows], **look(data, arm) | {"linestyle": "", "alpha": 0.4})
        axes.axline((truth[0], truth[0]), slope=1, **DIAGONAL)
        axes.set(title=name, xlabel="true", ylabel="predicted")
        panels.append(to_panel(figure, f"Predicted against true {name} of the test objects; the diagonal is perfect."))
    return panels


def curves(logs: Sequence[pd.DataFrame], columns: Sequence[str], title: str) -> list[Panel]:
    """Draw columns of training logs against progress, each in its line style; no panel without two points."""
    figure, axes = canvas(3.6, 2.4)
    axis = next((name for name in ("images", "epoch", "step") if logs and name in logs[0]), "")
    for log, (k, column) in product(logs, enumerate(columns)):
        points = log.loc[np.isfinite(log[column])] if column in log else log[:0]
        if len(points) > 1:
            points = points.iloc[spread(len(points), MAX_POINTS)]
            axes.plot(points[axis], points[column], LINES[k], color=ARM_COLOURS[k], linewidth=1.4, alpha=0.85)
    if not axes.lines:
        return []
    axes.set(title=columns[0].replace("_", " "), xlabel="images seen" if axis == "images" else axis)
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axes.locator_params(axis="x", nbins=5)
    last = float(np.asarray(axes.lines[0].get_ydata())[-1])
    return [to_panel(figure, f"{columns[0]}: {title}; it ends at {last:.3g}.", title if len(columns) > 1 else "")]


def pretraining(name: str, log: pd.DataFrame) -> list[Panel]:
    """Draw the loss and the diagnostics of one pretraining as it logged them."""
    columns = sorted((c for c in log if c not in NOT_DIAGNOSTICS), key=lambda column: column != "loss")
    return [panel for column in columns[:DIAGNOSTICS_SHOWN] for panel in curves([log], [column], name)]


def finetuning(data: ReportData) -> list[Panel]:
    """Draw loss and score of the fits on the labels trained on and on those for selection, one line per draw."""
    draws, panels = data.results.groupby(["arm", "labels"])["draw"].unique(), []
    for labels, arm in product(data.ends, data.featured):
        logs = [data.curves(arm.name, labels, draw) for draw in draws.get((arm.name, labels), ())]
        logs = [log for log in logs if len(log)]
        columns = [] if not logs else list(logs[0])
        scores = [name for name in columns if f"select_{name}" in columns] or [n for n in FIT_CURVES if n in columns]
        title = f"{arm.title}, {plural(labels, 'label')}"
        panels += [panel for name in scores for panel in curves(logs, [name, f"select_{name}"], title)]
    if not panels:
        raise NotRun("No fit to labels was logged at two steps or more.")
    return panels


def correspondence(data: ReportData) -> list[Panel]:
    """Draw the share of regions matched correctly by each pretrained network, beside its controls."""
    groups, panels = dict(list(data.correspondence.groupby("title", sort=False))), []
    for measure, title in MEASURES.items():
        figure, axes = canvas(5.2, 1.2 + 0.36 * len(groups))
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
        panels.append(to_panel(figure, f"Per cent of regions, {title}. {'; '.join(values)}"))
    return panels


def matches(arrays: dict[str, np.ndarray], grid: tuple[int, int], bands: Sequence[str], title: str) -> list[Panel]:
    """Draw two views of each object with matches between their h × w regions, below them the attention.

    The arrays are those of correspondence.npz: ids [S], crops [S, 2, bands, s, s], match, partner and informative
    [S, regions], perhaps attention [S, 2, h, w].
    """
    size, rows, panels = arrays["crops"].shape[-1], 2 if "attention" in arrays else 1, []
    picture = {"extent": (0, size, size, 0), "interpolation": "none"}

    def centre(region: int) -> tuple[float, float]:
        return (region % grid[1] + 0.5) * size / grid[1], (region // grid[1] + 0.5) * size / grid[0]

    for k, name in enumerate(map(str, arrays["ids"])):
        match, partner = arrays["match"][k], arrays["partner"][k]
        shown = np.flatnonzero((partner >= 0) & arrays["informative"][k])
        figure = Figure(figsize=(4, 2.2 * rows))
        views: Any = figure.subplots(rows, 2, squeeze=False)
        for row, view in np.ndindex(rows, 2):
            axes, text = views[row, view], f"view {'AB'[view]}"
            axes.axis("off")
            axes.imshow(to_rgba(arrays["crops"][k, view], bands), **picture)
            if row == 1:
                weights = arrays["attention"][k, view]
                heat = np.full((*weights.shape, 4), (1, 0.55, 0, 0.8))
                heat[..., 3] *= (weights - weights.min()) / max(float(np.ptp(weights)), 1e-12)
                axes.imshow(heat, **picture)
                text = f"attention, peak {weights.max() * weights.size:.1f}×"
            axes.set_title(text, color=MUTED, fontsize=10, fontweight="normal")
        for region in shown[spread(len(shown), MATCHES_SHOWN)]:
            correct, ends = match[region] == partner[region], (centre(region), centre(match[region]))
            colour, halo = GOOD if correct else BAD, [withStroke(linewidth=3.2, foreground=PAPER, alpha=0.4)]
            line = ConnectionPatch(*ends, "data", "data", axesA=views[0, 0], axesB=views[0, 1])
            line.set(color=colour, linestyle="-" if correct else "--", linewidth=2, path_effects=halo)
            figure.add_artist(line)
            for axes, end, marker in zip(views[0], ends, ("o", "o" if correct else "x"), strict=True):
                axes.plot(*end, marker, markersize=4, color=colour, path_effects=halo)
        n_correct = f"{np.sum((partner >= 0) & (match == partner))} of {np.sum(partner >= 0)} regions correct"
        panels.append(to_panel(figure, f"{title}, two views of {name}: {n_correct}.", f"{short(name)}: {n_correct}"))
    return panels


def spread(n: int, most: int) -> np.ndarray:
    """Return at most `most` evenly spaced numbers of 0 … n − 1."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def short(identifier: str) -> str:
    """Return the end of a long identifier, which distinguishes it from others."""
    return identifier if len(identifier) <= 22 else "…" + identifier[-21:]


def to_rgba(image: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Convert a cutout [bands, H, W] to a picture [H, W, 4] uint8; pixels invalid in every band are transparent.

    Three bands become red, green and blue by wavelength where the names tell it, else in their order; of more than
    three the first, middle and last are used; with two, green is their mean; one is grey. 8-bit values are kept.
    """
    order = list(range(len(bands))) if len(bands) <= 3 else [0, len(bands) // 2, len(bands) - 1]
    ranks = {k: rank for k in order if (rank := wavelength_rank(bands[k])) is not None}
    if len(ranks) == len(order):
        order.sort(key=lambda k: -ranks[k])
    planes = image[order].astype(np.float32)
    valid = np.any(np.isfinite(planes), axis=0)
    if image.dtype != np.uint8:
        planes = _stretch(planes)
    if len(planes) == 2:
        planes = np.stack([planes[0], planes.mean(axis=0), planes[1]])
    rgb = np.where(valid, np.broadcast_to(planes, (3, *planes.shape[1:])), 0)
    return np.round(np.concatenate([rgb, 255.0 * valid[None]])).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def show_cutouts(
    images: np.ndarray, bands: Sequence[str], titles: Sequence[str] = (), colours: Sequence[str] = (), columns: int = 8
) -> None:
    """Show cutouts [N, bands, H, W] in a notebook, with titles and coloured borders."""
    from matplotlib import pyplot as plt

    rows = max(1, -(-len(images) // columns))
    lines = max((1 + title.count("\n") for title in titles), default=0)
    size = (1.15 * columns, rows * (1.15 + 0.2 * lines))
    axes = plt.subplots(rows, columns, figsize=size, dpi=80, layout="constrained", squeeze=False)[1].flat
    for axis, image, title, colour in zip_longest(axes, images, titles, colours):
        axis.set(xticks=[], yticks=[], frame_on=colour is not None)
        axis.set_title(title, fontsize=9)
        plt.setp(axis.spines.values(), color=colour, linewidth=4)
        if image is not None:
            axis.imshow(to_rgba(image, bands), origin="lower")
    plt.show()


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
    return _address(picture, "PNG", optimize=True)


def mosaic(tiles: Mapping[tuple[int, int], np.ndarray], rows: int, columns: int, bands: Sequence[str]) -> str:
    """Return cutouts [bands, H, W] by (row, column) as one WebP picture in a `data:` address."""
    picture = Image.new("RGBA", (columns * TILE, rows * TILE), (0, 0, 0, 0))
    for (row, column), image in tiles.items():
        tile = Image.fromarray(to_rgba(image, bands), "RGBA").resize((TILE, TILE), Image.Resampling.BOX)
        picture.paste(tile, (column * TILE, row * TILE))
    return _address(picture, "WebP", quality=80)


def _address(picture: Image.Image, form: str, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return f"data:image/{form.lower()};base64," + base64.b64encode(stream.getvalue()).decode()
