"""FITS images, cubes, extensions and tables, through astropy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import Angle
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from zwicky.data.bands import is_band, parse_bands
from zwicky.data.readers.arrays import read_arrays
from zwicky.data.readers.record import ReadOptions, Record, Unreadable, find_axes, split_stack, to_image

MAX_PIXEL_SCALE = 60.0  # arcsec; a header without CDELT means 1 degree
_SCIENCE = re.compile(r"SCI|SCIENCE|COADD|DATA|IMAGE|IMG", re.IGNORECASE)
_AUXILIARY = re.compile(
    r"(.*[_.-])?(DQ|ERR|ERROR|WHT|WEIGHT|WGT|MASK|MSK|VAR|VARIANCE|IVAR|INVVAR|RMS|SIGMA|CTX|CON|PSF|BKG|SKY|MODEL|"
    r"FLAGS?|NOISE|UNC|UNCERT|EXP|EXPTIME|RESID|SEG|SEGMAP)([_.-].*|\d*)",
    re.IGNORECASE,
)


def read_fits(path: Path, options: ReadOptions) -> Iterator[Record | Unreadable]:
    """Read the image extensions of a file, else its table with a column of images.

    Extensions named after filters are bands of one image, several others are images of their own; science comes
    before masks, errors and weights. The position is that of the image centre by the celestial WCS, else RA and DEC
    of the header. BSCALE, BZERO, BLANK, TNULL and tile compression are undone by astropy.
    """
    with fits.open(path, memmap=path.stat().st_size > 2**26 and not path.name.endswith(".gz")) as hdus:
        images = _choose_images(hdus, options)
        if not images:
            yield from _read_table(hdus, path, options)
        elif bands := _band_names(images, options):
            planes = [to_image(hdu.data, "HW") for hdu in images]
            yield Record(np.concatenate(planes), bands, _facts(images[0].header, planes[0].shape[1:]))
        else:
            records = (record for hdu in images for record in _read_image(hdu, options))
            for row, record in enumerate(records):
                is_one = len(images) == 1 and record.row is None
                yield Record(record.image, record.bands, record.columns, None if is_one else row)


def _choose_images(hdus: fits.HDUList, options: ReadOptions) -> list[Any]:
    """The image extensions to read: those the user names, else science, else all but masks, errors and weights."""
    images = {number: hdu for number, hdu in enumerate(hdus) if hdu.is_image and hdu.header.get("NAXIS", 0) >= 2}
    if options.hdu:
        wanted = {name.upper() for name in options.hdu}
        return [hdu for number, hdu in images.items() if {str(number), hdu.name.upper()} & wanted]
    science = [hdu for hdu in images.values() if not _AUXILIARY.fullmatch(hdu.name)] or list(images.values())
    chosen = [hdu for hdu in science if _SCIENCE.fullmatch(hdu.name)] or science
    if left := sorted({hdu.name or "unnamed" for hdu in images.values() if hdu not in chosen}):
        options.notes.add(f"image HDUs {', '.join(left[:5])} were not read (--hdu)")
    return chosen


def _band_names(images: list[Any], options: ReadOptions) -> tuple[str, ...]:
    """Names of the extensions if each is a band of one image, else ()."""
    if len(images) < 2 or len({hdu.shape for hdu in images}) > 1 or len(images[0].shape) != 2:
        return ()
    given = {name.upper(): name for name in options.bands}
    for names in (
        [_text(hdu.header, "EXTNAME") for hdu in images],
        [_text(hdu.header, "FILTER", "BAND") for hdu in images],
    ):
        if len(set(names)) == len(names) and all(is_band(name) or name.upper() in given for name in names):
            return tuple(given.get(name.upper(), name) for name in names)
    return options.bands if len(options.bands) == len(images) else ()


def _read_image(hdu: Any, options: ReadOptions) -> Iterator[Record]:
    """Read the image of an extension, or the images of a cube with more planes than bands."""
    shape = hdu.shape
    while len(shape) > 3 and shape[0] == 1:  # radio images have axes for frequency and polarisation
        shape = shape[1:]
    bands = _bands_of(hdu.header, shape)
    axes = find_axes(shape, options, len(bands))
    is_stack = "N" in axes
    stack: Iterator[Any]
    if axes[0] == "N" and shape == hdu.shape and hasattr(hdu, "section"):
        stack = (hdu.section[row] for row in range(shape[0]))  # read one by one
    else:
        stack = iter(split_stack(hdu.data.reshape(shape), axes))
    for row, array in enumerate(stack):
        image = to_image(array, axes)
        facts = {} if is_stack else _facts(hdu.header, image.shape[1:])
        yield Record(image, bands if len(bands) == len(image) else (), facts, row if is_stack else None)


def _bands_of(header: fits.Header, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the bands: FILTER or BAND of one plane; BAND0, BAND1, … or BANDS (`grz`, `g,r,z`) of more."""
    if len(shape) == 2:
        name = _text(header, "FILTER", "BAND")
        return (name,) if re.fullmatch(r"[A-Za-z0-9_.+-]{1,24}", name) else ()
    numbered = tuple(name for number in range(100) if (name := _text(header, f"BAND{number}", f"FILTER{number}")))
    names = numbered or parse_bands(_text(header, "BANDS", "FILTERS", "BAND", "FILTER"))
    return names if len(set(names)) == len(names) and len(names) in shape else ()


def _text(header: fits.Header, *keys: str) -> str:
    values = [header.get(key) for key in keys]
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), "")


def _facts(header: fits.Header, size: tuple[int, ...]) -> dict[str, Any]:
    """Position (degrees), pixel scale (arcsec) and survey of an image of `size` (H, W), as far as the header says."""
    facts: dict[str, Any] = {"survey": survey} if (survey := _text(header, "SURVEY")) else {}
    if "CTYPE1" in header:
        try:
            wcs = WCS(header).celestial
            height, width = size
            sky = wcs.pixel_to_world((width - 1) / 2, (height - 1) / 2).icrs
            scale = float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs)))) * 3600  # degrees → arcsec
            if np.isfinite([sky.ra.deg, sky.dec.deg]).all() and 0 < scale < MAX_PIXEL_SCALE:
                scale = float(f"{scale:.5g}")  # equal cameras, equal numbers
                return facts | {"ra": float(sky.ra.deg), "dec": float(sky.dec.deg), "pixel_scale": scale}
        except Exception:  # astropy raises many kinds for a malformed WCS; the pixels are still good
            pass
    ra, dec = _angle(header.get("RA"), "hourangle"), _angle(header.get("DEC"), "deg")
    return facts if ra is None or dec is None or abs(dec) > 90 else facts | {"ra": ra % 360, "dec": dec}


def _angle(value: Any, unit: str) -> float | None:
    """Degrees of a header value: numbers are degrees, text with colons or spaces is sexagesimal in `unit`."""
    try:
        return float(Angle(value, "deg" if isinstance(value, int | float) else unit).deg)
    except Exception:  # astropy raises many kinds here, all meaning "not an angle"
        return None


def _read_table(hdus: fits.HDUList, path: Path, options: ReadOptions) -> Iterator[Record | Unreadable]:
    tables = [number for number, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU)]
    if not tables:
        raise Unreadable("has no image HDU and no table with a column of images")
    table = Table.read(path, hdu=tables[0], memmap=True, mask_invalid=False, unit_parse_strict="silent")
    bands = parse_bands(_text(hdus[tables[0]].header, "BANDS"))
    bands = bands or tuple(name for number in range(100) if (name := _text(hdus[tables[0]].header, f"BAND{number}")))
    yield from read_arrays({name: table[name] for name in table.colnames}, options, bands)
