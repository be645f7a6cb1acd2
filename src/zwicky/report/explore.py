"""Pages of pictures: a gallery; and for `zwicky start` without labels a map, clusters with neighbours, oddities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zwicky.data.cutouts import Cutouts
from zwicky.evaluation.explore import central, neighbours
from zwicky.io import write_text
from zwicky.report import figures
from zwicky.report.page import RANKED, Picture, make_environment, show

COLUMNS, ROWS = 20, 14  # tiles of the map
ODDITIES = 24


def write_gallery(
    path: Path, title: str, images: Sequence[np.ndarray], bands: Sequence[str], captions: Sequence[Sequence[str]]
) -> None:
    """Write an HTML page with one picture for each image [bands, H, W], and lines of text below it."""
    pictures = [(figures.data_uri(image, bands), lines) for image, lines in zip(images, captions, strict=True)]
    write_text(path, make_environment().get_template("gallery.html").render(title=title, pictures=pictures))


def write_explore_page(
    out: Path, cutouts: Cutouts, x: np.ndarray, table: pd.DataFrame, sentences: Sequence[str], facts: dict[str, Any]
) -> Path:
    """Write the page of all cutouts: their components x [N, K], see `evaluation.explore`, and the table `explore(x)`.

    That has the columns id and, where there are labels to rank by, score. `sentences` say what can be said and what
    not; `facts` are terms and values for the bottom of the page.
    """
    centres = central(x, table["cluster"].to_numpy())
    clusters = {}
    for number, (row, near) in enumerate(zip(centres, neighbours(x, centres)[1], strict=True)):
        size = int((table["cluster"] == number).sum())
        clusters[f"Cluster {number + 1}"] = (f"{size} objects", _show(cutouts, table, [row, *near[:7]]))
    oddest = table["oddity"].sort_values(ascending=False).index[:ODDITIES]
    ranked = []
    if "score" in table:
        ranked = _show(cutouts, table, table["score"].dropna().sort_values(ascending=False).index[:RANKED], "score")
    oddities = _show(cutouts, table, oddest, "oddity")
    content = {"sentences": sentences, "map": _map(cutouts, table), "clusters": clusters, "oddities": oddities}
    content |= {"title": "A map of the cutouts", "ranked": ranked, "facts": facts}
    write_text(out, make_environment().get_template("explore.html").render(content))
    return out


def _show(cutouts: Cutouts, table: pd.DataFrame, rows: Any, column: str = "") -> list[Picture]:
    chosen = table.iloc[rows]
    score = chosen[column] if column else 0.0
    return show(chosen.assign(row=chosen.index, label="", score=score), cutouts)


def _map(cutouts: Cutouts, table: pd.DataFrame) -> str:
    """Return a picture whose tiles show the objects nearest to their places on the map."""
    known = table[["x", "y"]].dropna()
    scaled = (known - known.min()) / (known.max() - known.min()).clip(lower=1e-12)
    place = (scaled * [COLUMNS, ROWS]).clip(upper=[COLUMNS - 1e-6, ROWS - 1e-6], axis=1)
    cell = place.astype(int)
    distance = ((place - cell - 0.5) ** 2).sum(axis=1)
    chosen = distance.groupby([cell["y"], cell["x"]]).idxmin()
    tiles = {place: cutouts.images[int(row)] for place, row in chosen.items()}
    return figures.mosaic(tiles, ROWS, COLUMNS, cutouts.bands)
