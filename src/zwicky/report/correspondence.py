"""Where regions go: the share matched to the right place by each pretrained network, with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup

from zwicky.report import figures, matches, tables, words
from zwicky.report.material import Material, Missing, is_number
from zwicky.report.svg import ARM_COLOURS, INK, MUTED, STYLE, new_axes, to_svg

MEASURES = {"exact": "right place", "near": "within one cell"}
KINDS = {"": "All regions", "informative_": "The half of the regions that stand out most of the sky"}
CONTROLS = {"untrained": "untrained", "position": "same position", "chance": "chance"}
# column suffix → marker, its sign in the legend, colour, filled
POINTS = {
    "": ("o", "●", 0, True),
    "untrained": ("s", "□", 1, False),
    "position": ("x", "✕", 2, True),
    "chance": ("|", "|", 6, True),
}


@dataclass(frozen=True)
class Start:
    """One method on one network; rows: of correspondence.csv, one a pretraining."""

    network: str
    method: str
    rows: tuple[dict[str, Any], ...]

    @property
    def title(self) -> str:
        return f"{self.method}, {self.network}"

    @cached_property
    def grid(self) -> tuple[int, int] | None:
        height, _, width = str(self.rows[0].get("regions")).partition("×")
        return (int(height), int(width)) if height.isdigit() and width.isdigit() else None

    def mean(self, column: str) -> float:
        values = [row[column] for row in self.rows if is_number(row.get(column))]
        return float(np.mean(values)) if values else float("nan")

    def bounds(self, column: str) -> tuple[float, float] | None:
        """The interval of a single pretraining; lowest and highest of several."""
        if len(self.rows) == 1:
            found = [self.rows[0].get(f"{column}_{end}") for end in ("low", "high")]
        else:
            values = [row[column] for row in self.rows if is_number(row.get(column))]
            found = [min(values, default=None), max(values, default=None)]
        low, high = found
        return (float(low), float(high)) if is_number(low) and is_number(high) else None  # type: ignore[arg-type]


def starts(material: Material) -> list[Start]:
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in material.correspondence:
        if is_number(row.get("exact")) and row.get("network") is not None and row.get("method") is not None:
            grouped.setdefault((str(row["network"]), str(row["method"])), []).append(row)
    return [Start(*names, tuple(rows)) for names, rows in grouped.items()]


def correspondence(material: Material) -> Markup:
    """The figure, the tables, the pictures."""
    found = starts(material)
    if not found:
        raise Missing(
            "Not measured. `correspondence: 256` in the recipe matches regions between two views of 256 test objects."
        )
    objects = max(int(row["objects"]) for start in found for row in start.rows if is_number(row.get("objects")))
    note = (
        "Two views of each object are cut with known rotations, mirrors, shifts and zooms. Each region of view A goes "
        "to the region of view B with the most similar feature; it is right where that one shows the same place. "
        f"{words.count(objects)} test objects; nothing is learnt here. Read it against its controls: an untrained "
        "network of the same architecture; a network that knows nothing but where in the view a region stands; and "
        "chance, which depends on the number of regions."
    )
    panels = [_panel(found, measure) for measure in MEASURES]
    caption = "Share of regions, one dot a pretraining; bars are 95 % intervals over objects."
    return Markup("\n").join(
        [
            Markup('<p class="note">{}</p>').format(note),
            figures.figure(panels, caption, _legend()),
            figures.side_by_side(
                [
                    _table(found, kind + measure, f"{what}: {where}")
                    for kind, what in KINDS.items()
                    for measure, where in MEASURES.items()
                ]
            ),
            _differences(material),
            *_pictures(material, found),
        ]
    )


def _panel(found: Sequence[Start], measure: str) -> Markup:
    said = []
    with matplotlib.rc_context(STYLE):
        axes = new_axes(5.2, 1.1 + 0.36 * len(found), 1.9)
        for place, start in enumerate(found):
            spread = 0.15 * (np.arange(len(start.rows)) - (len(start.rows) - 1) / 2) / max(len(start.rows) / 2, 1)
            for suffix, (marker, _, colour, filled) in reversed(POINTS.items()):
                column = f"{measure}_{suffix}" if suffix else measure
                at = place + spread if not suffix else [place]
                values = [row.get(column) for row in start.rows] if not suffix else [start.mean(column)]
                good = [(100 * x, y) for x, y in zip(values, at, strict=True) if x is not None and is_number(x)]
                ink = ARM_COLOURS[colour]
                axes.plot(
                    [x for x, _ in good],
                    [y for _, y in good],
                    marker,
                    color=ink,
                    markerfacecolor=ink if filled else "none",
                    markersize=12 if marker == "|" else 6,
                    markeredgewidth=1.5,
                )
            for row, y in zip(start.rows, place + spread, strict=True):
                ends = [row.get(f"{measure}_{end}") for end in ("low", "high")]
                if all(is_number(end) for end in ends):
                    axes.plot([100 * end for end in ends], [y, y], color=ARM_COLOURS[0], linewidth=1.4)  # type: ignore[operator]
            said.append(
                f"{start.title}: {100 * start.mean(measure):.1f}, untrained "
                f"{100 * start.mean(f'{measure}_untrained'):.1f}, chance {100 * start.mean(f'{measure}_chance'):.1f}"
            )
        axes.set_yticks(range(len(found)), [_short(start.title) for start in found])
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_xlim(0, None)
        axes.tick_params(axis="y", labelcolor=INK, color=MUTED)
        axes.set(xlabel="% of regions", title=MEASURES[measure][0].upper() + MEASURES[measure][1:])
    return to_svg(axes, f"regions-{measure}", f"Per cent of regions matched, {MEASURES[measure]}. " + "; ".join(said))


def _short(title: str) -> str:
    return title if len(title) <= 26 else title[:25] + "…"


def _legend() -> Markup:
    names = {"": "pretrained", **CONTROLS}
    items = Markup("").join(
        Markup('<li><span class="key" style="color:var(--arm-{})" aria-hidden="true">{}</span> {}</li>').format(
            colour, sign, names[suffix]
        )
        for suffix, (_, sign, colour, _) in POINTS.items()
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if is_number(value) else "–"


def _table(found: Sequence[Start], column: str, caption: str) -> Markup:
    several = max(len(start.rows) for start in found) > 1
    rows = []
    for start in found:
        bounds = ""
        if ends := start.bounds(column):
            bounds = Markup('<br><span class="bounds">[{}, {}]</span>').format(*map(_percent, ends))
        controls = [_percent(start.mean(f"{column}_{control}")) for control in CONTROLS]
        value = Markup("{}{}").format(_percent(start.mean(column)), bounds)
        rows.append([f"{start.title} ({start.rows[0].get('regions')})", value, *controls])
    bounds = "lowest and highest of several pretrainings" if several else "95 % interval"
    return tables.table(f"{caption} (%), with {bounds}", ["Network", "pretrained", *CONTROLS.values()], rows, "numbers")


def _differences(material: Material) -> Markup:
    """Paired differences, both measures in a row."""
    grouped: dict[tuple[str, str], dict[str, str]] = {}
    for row in material.correspondence_pairs:
        if all(is_number(row.get(key)) for key in ("difference", "low", "high")) and row.get("measure") in MEASURES:
            one, other = (f"{row.get(f'{of}method')}, {row.get(f'{of}network')}" for of in ("", "other_"))
            value, low, high = (f"{100 * row[key]:+.1f}".replace("-", "−") for key in ("difference", "low", "high"))
            grouped.setdefault((one, other), {})[row["measure"]] = f"{value} [{low}, {high}]"
    if not grouped:
        return Markup("")
    rows = [[f"{one} − {other}", *(cell.get(key, "–") for key in MEASURES)] for (one, other), cell in grouped.items()]
    caption = (
        "Paired differences over the same views, all regions (points, 95 % interval over objects, conditional on these "
        "pretrainings and not corrected for their number)"
    )
    return tables.table(caption, ["Difference", *MEASURES.values()], rows, "numbers")


def _pictures(material: Material, found: Sequence[Start]) -> list[Markup]:
    """Views, matches and attention of the first pretraining of each start that kept its arrays."""
    drawn: set[str] = set()
    names = material.data.get("bands")
    parts = []
    for start in found:
        if start.grid is None:
            continue
        kept = (material.regions(str(row.get("run"))) for row in start.rows)
        arrays = next((arrays for arrays in kept if matches.complete(arrays, start.grid)), None)
        if arrays is None:
            continue
        count = arrays["crops"].shape[2]
        bands = names if isinstance(names, list) and len(names) == count else list(map(str, range(count)))
        panels = [
            matches.drawing(arrays, position, start.grid, [str(band) for band in bands], start.title, drawn)
            for position in range(len(arrays["ids"]))
        ]
        caption = f"Up to {matches.LINES} matches of informative regions. Objects chosen without regard to the result."
        if "attention" in arrays:
            caption += " Attention: mean over the heads of the last layer, its peak in units of an even one."
        parts += [Markup("<h3>{}</h3>").format(start.title), figures.figure(panels, caption, matches.KEY, "small")]
    return parts or [Markup('<p class="missing">No pictures: no pretraining kept correspondence.npz.</p>')]
