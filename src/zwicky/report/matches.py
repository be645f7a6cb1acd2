"""Pairs of views with the regions a network matched, and where it looks, as one drawing an object."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

from zwicky.report import words
from zwicky.report.pictures import data_uri

SIDE, GAP, HEAD = 100, 8, 12  # of a view, between two, of the words above, in units of the drawing
LINES = 8  # matches drawn; more cannot be told apart
HEAT = (255, 140, 0)
KEY = Markup(
    '<ul class="legend"><li><span class="stroke" style="border-top:2px solid var(--good)" aria-hidden="true"></span> '
    '● right place</li><li><span class="stroke" style="border-top:2px dashed var(--bad)" aria-hidden="true"></span> '
    '✕ wrong place</li><li><span class="key" style="color:var(--arm-1)" aria-hidden="true">■</span> attention, '
    "the denser the more</li></ul>"
)


def complete(arrays: dict[str, np.ndarray], grid: tuple[int, int]) -> bool:
    """Whether the arrays of `correspondence.npz` are those of pictures on this grid."""
    if not {"ids", "crops", "match", "partner", "informative"} <= set(arrays):
        return False
    objects, regions = len(arrays["ids"]), grid[0] * grid[1]
    flat = [arrays[name].shape == (objects, regions) for name in ("match", "partner", "informative")]
    attention = arrays.get("attention")
    indices = np.stack([arrays["match"], arrays["partner"]]) if all(flat) else np.full(1, regions)
    return (
        arrays["crops"].ndim == 5
        and arrays["crops"].shape[:2] == (objects, 2)
        and arrays["crops"].dtype == np.uint8
        and bool((indices < regions).all())
        and (attention is None or attention.shape == (objects, 2, *grid))
    )


def drawing(
    arrays: dict[str, np.ndarray],
    position: int,
    grid: tuple[int, int],
    bands: Sequence[str],
    title: str,
    drawn: set[str],
) -> Markup:
    """One object: both views with matches between them, below them the attention.

    drawn: ids of the views that stand on the page already; a view is written once and referred to from then on.
    """
    match, partner = arrays["match"][position], arrays["partner"][position]
    counted = partner >= 0
    right = counted & (match == partner)
    name = str(arrays["ids"][position])
    views = [_view(arrays["crops"][position, view], bands, drawn) for view in (0, 1)]
    parts = [_words(0, "view A"), _words(1, "view B"), *(_place(view, column, 0) for column, view in enumerate(views))]
    for region in _chosen(counted, arrays["informative"][position]):
        parts.append(_line(int(region), int(match[region]), bool(right[region]), grid))
    height = HEAD + SIDE
    if "attention" in arrays:
        maps = arrays["attention"][position]
        for column, view in enumerate(views):
            peak = float(maps[column].max() * maps[column].size)
            parts += [
                _words(column, f"attention, peak {peak:.1f}×", 1),
                _place(view[:1], column, 1),
                _heat(maps[column], column),
            ]
        height = 2 * height + GAP
    said = f"{right.sum()} of {counted.sum()} regions right"
    label = f"{title}, two views of {name}: {said}."
    return Markup(
        '<p class="panel-title">{}: {}</p><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(words.short(name), said, 2 * SIDE + GAP, height, label, Markup("").join(parts))


def _chosen(counted: np.ndarray, informative: np.ndarray) -> np.ndarray:
    """Regions whose match is drawn, evenly among those that are not mere sky."""
    places = np.flatnonzero(counted & informative)
    places = places if len(places) else np.flatnonzero(counted)
    return places[np.unique(np.linspace(0, len(places) - 1, LINES).round().astype(int))] if len(places) else places


def _view(crop: np.ndarray, bands: Sequence[str], drawn: set[str]) -> list[str]:
    """[id, address]; the address is left out where the page has the view already."""
    key = "view-" + hashlib.blake2b(crop.tobytes(), digest_size=6).hexdigest()
    if key in drawn:
        return [key]
    drawn.add(key)
    return [key, data_uri(crop, bands)]


def _place(view: list[str], column: int, row: int) -> Markup:
    x, y = column * (SIDE + GAP), HEAD + row * (HEAD + SIDE + GAP)
    if len(view) == 1:
        return Markup('<use href="#{}" x="{}" y="{}"/>').format(view[0], x, y)
    image = Markup(
        '<image id="{}" href="{}" width="{}" height="{}" preserveAspectRatio="none" style="image-rendering:pixelated"/>'
    )
    defined = image.format(view[0], view[1], SIDE, SIDE)
    return Markup('<defs>{}</defs><use href="#{}" x="{}" y="{}"/>').format(defined, view[0], x, y)


def _words(column: int, text: str, row: int = 0) -> Markup:
    y = HEAD - 4 + row * (HEAD + SIDE + GAP)
    return Markup('<text x="{}" y="{}" style="font-size:8px;fill:var(--muted)">{}</text>').format(
        column * (SIDE + GAP), y, text
    )


def _line(region: int, found: int, right: bool, grid: tuple[int, int]) -> Markup:
    """From a region of view A to the region of view B it was matched to."""
    (x, y), (u, v) = (
        ((place % grid[1] + 0.5) * SIDE / grid[1], HEAD + (place // grid[1] + 0.5) * SIDE / grid[0])
        for place in (region, found)
    )
    u += SIDE + GAP
    path = f"M{x:.1f} {y:.1f}L{u:.1f} {v:.1f}"
    if right:
        style, end = "stroke:var(--good)", f"M{u - 2:.1f} {v:.1f}a2 2 0 1 0 4 0a2 2 0 1 0 -4 0"
        fill = "fill:var(--good)"
    else:
        style, fill = "stroke:var(--bad);stroke-dasharray:3 2", "fill:none"
        end = f"M{u - 2.2:.1f} {v - 2.2:.1f}l4.4 4.4m0 -4.4l-4.4 4.4"
    start = f"M{x - 2:.1f} {y:.1f}a2 2 0 1 0 4 0a2 2 0 1 0 -4 0"
    colour = style.split(";")[0]
    # A wide line in the colour of the paper below it, so that it stands out from any picture.
    return Markup(
        '<path d="{}{}" style="stroke:var(--paper);stroke-width:3;stroke-opacity:.55;fill:none"/>'
        '<path d="{}" style="{};stroke-width:1.3;fill:none"/><path d="{}{}" style="{};stroke-width:1.2;{}"/>'
    ).format(path, end, path, style, start, end, colour, fill)


def _heat(weights: np.ndarray, column: int) -> Markup:
    """An attention map [h, w] as a veil over its view, from the least to the most."""
    low, high = float(weights.min()), float(weights.max())
    alpha = 200 * (weights - low) / max(high - low, 1e-12)
    colour = np.broadcast_to(np.array(HEAT), (*weights.shape, 3))
    rgba = np.concatenate([colour, alpha[..., None]], -1).round().clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(rgba, "RGBA").save(stream, "PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    return Markup(
        '<image href="{}" x="{}" y="{}" width="{}" height="{}" preserveAspectRatio="none" '
        'style="image-rendering:pixelated"/>'
    ).format(address, column * (SIDE + GAP), 2 * HEAD + SIDE + GAP, SIDE, SIDE)
