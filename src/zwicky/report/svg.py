"""Matplotlib to inline SVG that takes its colours and its font from the page, so that it is legible light and dark."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours drawn as placeholders and replaced by CSS variables of style.css.
INK, MUTED, GRID = "#010101", "#010102", "#010103"
ARM_COLOURS = tuple(f"#0102{position:02x}" for position in range(1, 9))
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    colour: f"--arm-{i}" for i, colour in enumerate(ARM_COLOURS)
}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def new_axes(width: float = 4.6, height: float = 3.5, left: float = 0.62) -> Axes:
    """Axes of one panel with fixed margins, inches; call inside `matplotlib.rc_context(STYLE)`."""
    right, bottom, top = 0.12, 0.55, 0.32
    box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    return Figure(figsize=(width, height)).add_axes(box)


def to_svg(axes: Axes, name: str, description: str) -> Markup:
    """One inline `<svg role="img">`. `name` makes its ids unique on the page; `description` is read aloud."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    stream = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box is not None
    label = escape(description)
    head = Markup('<svg {} role="img" aria-label="{}">').format(Markup(view_box.group()), label)
    body = text[text.index(">") + 1 :].replace("xlink:href", "href")
    body = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r"font: (?:bold |700 )?([\d.]+)px [^;\"]*", _font, body)
    body = re.sub(
        r"#0[0-9a-f]{5}",
        lambda match: f"var({_VARIABLES[match.group()]})" if match.group() in _VARIABLES else match.group(),
        body,
    )
    return head + Markup(re.sub(r"\n\s*", "\n", body))


def _font(match: re.Match[str]) -> str:
    weight = "; font-weight: 600" if "bold" in match.group() or "700 " in match.group() else ""
    return f"font-size: {match.group(1)}px{weight}"
