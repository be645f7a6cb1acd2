"""Which populations there are; light, so that the command line can name them at once."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "populations"


def population_names() -> list[str]:
    """Names of the shipped populations."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
