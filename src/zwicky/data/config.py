"""Options of `zwicky ingest`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IngestConfig:
    """What the files do not say themselves, and how to read them.

    Args:
        bands: names of the channels, e.g. g, r, i; empty takes what the files say (gray, or R, G, B).
        size: crop or pad every image around its centre to this many pixels a side, with NaN; null means that all
            must have one size.
        pixel_scale: arcsec per pixel of every image; null takes what the headers say.
        survey: the survey or instrument the images come from.
        simulated: true for simulations, false for observations; null means not stated.
        label_column: column of the class labels, in the catalogue or in files of many images.
        file_column: column of the catalogue that names the files.
        id_column: column of the object ids.
        ra_column: column of the right ascension, degrees or sexagesimal.
        dec_column: column of the declination, degrees or sexagesimal.
        positive: the positive class; empty takes lens-like names, else the last by name.
        axes: the axes of arrays in files, e.g. HWB or NHW (N images, B bands, H rows, W columns); empty means that
            they are recognised.
        hdu: names or numbers of the FITS extensions to read; empty takes all images that are no masks or errors.
        label_source: where the labels come from; empty takes the class folders or the name of the catalogue.
        invalid: the value of pixels that are invalid, e.g. -9999; they become NaN (in images of floats).
        max_invalid: an image with a larger share of invalid (NaN) pixels than this is set aside.
        workers: threads that decode files.
    """

    bands: tuple[str, ...] = ()
    size: int | None = None
    pixel_scale: float | None = None
    survey: str = ""
    simulated: bool | None = None
    label_column: str = ""
    file_column: str = ""
    id_column: str = ""
    ra_column: str = ""
    dec_column: str = ""
    positive: str = ""
    axes: str = ""
    hdu: tuple[str, ...] = ()
    label_source: str = ""
    invalid: float | None = None
    max_invalid: float = 0.5
    workers: int = 2
