"""The table rows of images that were read: what the catalogue, the file and the options say of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from zwicky.data.config import IngestConfig
from zwicky.data.cutouts import make_table
from zwicky.data.frame import Frame
from zwicky.data.offers import Offer
from zwicky.data.plan import Plan
from zwicky.data.readers.columns import cell, common


def property_types(plan: Plan) -> dict[str, pa.DataType]:
    """The type of every property of the store: the catalogue's first, then what the files tell."""
    types = dict(plan.columns)
    for name, kind in plan.kinds.items():
        if name not in ("ra", "dec"):
            types[name] = common(types[name], kind) if name in types else kind
    return types


def make_rows(kept: list[Offer], ids: list[str], plan: Plan, frame: Frame, config: IngestConfig) -> pa.Table:
    """The rows of images that were read, under these ids."""
    files = [offer.file for offer in kept]
    images = [offer.image for offer in kept]
    told = [plan.row_of.get(file) for file in files]

    def catalogued(name: str) -> list[Any]:
        return [None if row is None else plan.values[name][row] for row in told]

    unknown = [None] * len(kept)
    ra, dec = (catalogued(name) if name in plan.values else unknown for name in ("ra", "dec"))
    places = [
        (a, d) if a is not None and d is not None else (image.ra, image.dec)
        for a, d, image in zip(ra, dec, images, strict=True)
    ]
    columns: dict[str, Any] = {
        "ra": [place[0] for place in places],
        "dec": [place[1] for place in places],
        "bands_present": [_present(offer.pixels, frame.bands) for offer in kept],
        "pixel_scale": [image.pixel_scale if config.pixel_scale is None else config.pixel_scale for image in images],
        "survey": [config.survey or image.survey for image in images],
        "psf_fwhm": [_by_band(image.psf_fwhm, frame.places(image)) for image in images],
        "noise": [_by_band(image.noise, frame.places(image)) for image in images],
        "simulated": [config.simulated] * len(kept),
        "pixel_hash": [offer.digest for offer in kept],
    }
    for name, kind in property_types(plan).items():
        own = [image.properties.get(name) for image in images]
        said = catalogued(name) if name in plan.values else own
        columns[name] = pa.array([cell(a if b is None else b, kind) for a, b in zip(own, said, strict=True)], kind)
    return make_table(ids, columns)


def _present(pixels: np.ndarray, bands: tuple[str, ...]) -> list[str]:
    if pixels.dtype.kind != "f":
        return list(bands)
    return [name for name, band in zip(bands, pixels, strict=True) if not np.isnan(band).all()]


def _by_band(values: tuple[float | None, ...], places: list[int | None]) -> list[float | None] | None:
    """A list for the bands of the store from one for the bands of the file."""
    if not values:
        return None
    return [None if place is None or place >= len(values) else values[place] for place in places]
