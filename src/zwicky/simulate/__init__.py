"""Simulated images with known truth: populations, lensing, light, instruments, noise.

Only the names of the populations are here, so that importing is quick.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "populations"


def population_names() -> list[str]:
    """Return the names of the shipped populations."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
