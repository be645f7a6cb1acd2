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


def write_report(run: Path | str, data: Cutouts | None = None, out: Path | str | None = None) -> Path:
    """Write the page of a benchmark's directory; see `zwicky.report.page.write_report`."""
    from zwicky.report import page

    return page.write_report(Path(run), data, None if out is None else Path(out))
