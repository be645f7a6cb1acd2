"""One FITS file a band: files called alike but for the band at the end belong to one object."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zwicky.data.readers import Image, Unreadable, format_of, read_image

# Filters that survey files end with: SDSS to LSST, VISTA, Euclid, HST, JWST. Euclid's NIR_H before a plain H.
_FILTERS = (r"NIR[-_]?[YJH]", r"[ugrizyYJHK]|Ks|VIS|[Ff]\d{3,4}(?:[WMNXwmnx]|LP|lp)?\d?")
_SUFFIXES = [re.compile(rf"(?P<stem>.+)[._-](?P<band>{names})", re.DOTALL) for names in _FILTERS]
_EXTENSION = re.compile(r"\.(fits|fit|fts)(\.gz|\.fz)?$", re.IGNORECASE)

Group = tuple[tuple[str, str], ...]  # (band, file)


def group_bands(files: Sequence[str], given: Sequence[str]) -> dict[str, Group]:
    """Object → its (band, file)s, where at least two FITS files differ in nothing but the band at the end.

    given: names of the bands, if the user said them: then only those count. Where any object of a folder comes in
    several files, those of one file are objects that lack the other bands.
    """
    groups: dict[str, dict[str, str]] = {}
    for file in files:
        if format_of(file) == "fits" and (split := _split(file, given)) is not None:
            stem, band = split
            if band in groups.setdefault(stem, {}):  # obj_g.fits and obj_g.fits.gz: no guessing
                stem = file
            groups.setdefault(stem, {})[band] = file
    pairs = {stem.rpartition("/")[0] for stem, bands in groups.items() if len(bands) > 1}
    taken = set(files)
    return {
        stem: tuple(bands.items())
        for stem, bands in groups.items()
        if stem.rpartition("/")[0] in pairs and stem not in taken
    }


def _split(file: str, given: Sequence[str]) -> tuple[str, str] | None:
    name = _EXTENSION.sub("", file)
    if given:
        for band in sorted(given, key=len, reverse=True):
            if name.endswith(band) and len(name) > len(band) + 1 and name[-len(band) - 1] in "._-":
                return name[: -len(band) - 1], band
        return None
    match = next((match for suffix in _SUFFIXES if (match := suffix.fullmatch(name))), None)
    return None if match is None or match["stem"].endswith("/") else (match["stem"], match["band"])


def read_bands(source: Path, group: Group) -> Image:
    """Read one object from its files, one band each; Unreadable, with the file, if any of them cannot be read."""
    images = []
    for _, file in group:
        try:
            image = read_image(source / file)
        except Unreadable as error:
            raise Unreadable(f"{file}: {error}") from error
        if len(image.pixels) > 1:
            raise Unreadable(f"{file}: has {len(image.pixels)} bands, and its name speaks of one")
        images.append(image)
    if len({(image.pixels.shape, image.pixels.dtype) for image in images}) > 1:
        sizes = ", ".join(
            f"{band} {image.pixels.shape[1]}×{image.pixels.shape[2]}"
            for (band, _), image in zip(group, images, strict=True)
        )
        raise Unreadable(f"its bands differ in size or type: {sizes}")
    if len({image.pixel_scale for image in images} - {None}) > 1:
        raise Unreadable("its bands differ in pixel scale")
    first = images[0]
    return Image(
        np.concatenate([image.pixels for image in images]),
        tuple(band for band, _ in group),
        first.ra,
        first.dec,
        next((image.pixel_scale for image in images if image.pixel_scale), None),
        survey=first.survey,
    )
