"""Options of the `cutouts` room."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IngestConfig:
    """What the files do not say themselves, and how to read them.

    Args:
        bands: names of the channels, e.g. g, r, i; empty means what the files say (gray, or R, G, B).
        size: crop or pad every image around its centre to this many pixels a side, with NaN; null means that all
            must have one size.
        pixel_scale: arcsec per pixel of every image; null means what the headers say.
        survey: the survey or instrument the images come from.
        simulated: true for simulations, false for observations; null means not stated.
        label_source: who gave the labels; empty means the class folders or the name of the catalogue.
        max_invalid: an image with a larger share of invalid (NaN) pixels than this is set aside.
        workers: threads that decode files.
    """

    bands: tuple[str, ...] = ()
    size: int | None = None
    pixel_scale: float | None = None
    survey: str = ""
    simulated: bool | None = None
    label_source: str = ""
    max_invalid: float = 0.5
    workers: int = 2
