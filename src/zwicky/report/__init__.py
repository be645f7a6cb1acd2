"""Result tables become one page: figures, tables, words, in a single HTML file that needs nothing else.

`material` gathers a result directory and forgives what is missing, `verdict` and `health` say it in words,
`roc` holds the curves with their intervals, `svg` and `figures` draw, `tables` tabulate, `pictures` shows cutouts,
`page` puts them together. Nothing here runs a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zwicky.data.contract import Cutouts


def report(run: Path | str, store: Cutouts | None = None, out: Path | str | None = None) -> Path:
    """Write the page of a benchmark's directory; see `zwicky.report.page.report`."""
    from zwicky.report import page

    return page.report(Path(run), store, None if out is None else Path(out))
