"""Options of the `cutouts` room."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IngestConfig:
    """What the files do not say themselves, and how to read them.

    bands: names of the channels, e.g. g r i; empty: what the files say (`gray`, or `R G B` for colour images).
    pixel_scale: arcsec per pixel of every image; empty: what the headers or the catalogue say.
    survey: the survey or instrument the images come from.
    simulated: yes for simulations, no for observations; empty: not stated.
    label_source: who gave the labels; empty: the class folders or the name of the catalogue.
    max_invalid: an image with a larger share of invalid (NaN) pixels is set aside.
    workers: threads that decode files.
    """

    bands: tuple[str, ...] = ()
    pixel_scale: float | None = None
    survey: str = ""
    simulated: bool | None = None
    label_source: str = ""
    max_invalid: float = 0.5
    workers: int = 2
