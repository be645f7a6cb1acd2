"""FITS images, through astropy."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from astropy.coordinates import Angle
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from zwicky.data.readers.arrays import band_names
from zwicky.data.readers.record import Image, Unreadable, as_pixels

_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,24}")


def read_fits(path: Path) -> Image:
    """Read the first image HDU with at least two axes; BSCALE, BZERO, BLANK and tile compression are undone.

    The position is that of the image centre by the celestial WCS, else the header's RA and DEC.
    """
    with fits.open(path, memmap=False) as hdus:
        for hdu in hdus:
            if hdu.is_image and hdu.header.get("NAXIS", 0) >= 2 and hdu.data is not None:
                bands = bands_of(hdu.header, hdu.data.shape)
                pixels = as_pixels(hdu.data, len(bands) if len(bands) > 1 else 0)
                ra, dec, scale = _place(hdu.header, pixels.shape[1:])
                named = bands if len(bands) == len(pixels) else ()
                return Image(pixels, named, ra, dec, scale, survey=_text(hdu.header, "SURVEY"))
    raise Unreadable("has no image HDU")


def bands_of(header: fits.Header, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the bands of an image of `shape`: of one plane FILTER or BAND; of more BAND0, BAND1, …, else BANDS
    (`grz` or `g,r,z`). Empty where there is not one name for each band.
    """
    if len(shape) == 2:
        name = _text(header, "FILTER") or _text(header, "BAND")
        return (name,) if name and _NAME.fullmatch(name) else ()
    names = tuple(name for number in range(64) if (name := _text(header, f"BAND{number}")))
    names = names or band_names(_text(header, "BANDS") or "")
    return names if len(set(names)) == len(names) and len(names) in (shape[-3], shape[-1]) else ()


def _text(header: fits.Header, key: str) -> str | None:
    try:
        value = header.get(key)
    except Exception:  # a card that cannot be parsed says nothing
        return None
    return value.strip() or None if isinstance(value, str) else None


def _place(header: fits.Header, size: tuple[int, ...]) -> tuple[float | None, float | None, float | None]:
    """(ra, dec, arcsec per pixel) of an image of `size` (H, W); None where the header does not say."""
    try:
        wcs = WCS(header).celestial
        if wcs.naxis == 2 and wcs.wcs.ctype[0]:
            height, width = size
            sky = wcs.pixel_to_world((width - 1) / 2, (height - 1) / 2).icrs
            scale = float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs)))) * 3600  # degrees → arcsec
            if np.isfinite([sky.ra.deg, sky.dec.deg, scale]).all() and scale > 0:
                return float(sky.ra.deg), float(sky.dec.deg), float(f"{scale:.5g}")  # equal cameras, equal numbers
    except Exception:  # any malformed WCS: the pixels are still good
        pass
    ra, dec = _angle(header.get("RA"), "hourangle"), _angle(header.get("DEC"), "deg")
    if ra is None or dec is None or not -90 <= dec <= 90:
        return None, None, None
    return ra % 360, dec, None


def _angle(value: object, sexagesimal_unit: str) -> float | None:
    """Degrees of a header value: a number is in degrees, text with colons or spaces is sexagesimal."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        pass
    try:
        return float(Angle(value, sexagesimal_unit).deg)
    except Exception:  # astropy raises many kinds here, all meaning "not an angle"
        return None
