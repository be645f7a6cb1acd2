"""FITS images, cubes, extensions and tables, through astropy."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import ICRS, Angle, UnitSphericalRepresentation
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS, WCSSUB_CELESTIAL, Wcsprm
from astropy.wcs.utils import proj_plane_pixel_scales, wcs_to_celestial_frame

from zwicky.data.bands import AUXILIARY, band_of_column, is_band, parse_bands
from zwicky.data.readers import ReadOptions, Record, Unreadable, find_axes, to_image, to_records, to_unreadable
from zwicky.data.readers.arrays import plain_values, read_arrays

MAX_PIXEL_SCALE = 60.0  # arcsec; a header without CDELT means 1 degree
_SCIENCE = re.compile(r"SCI|SCIENCE|COADD|DATA|IMAGE|IMG", re.IGNORECASE)
_AUXILIARY = re.compile(rf"(.*[_.-])?{AUXILIARY}([_.-].*|\d*)", re.IGNORECASE)
# What the primary header says of the one image of an extension.
_INHERITED = "RA DEC SURVEY LABEL CLASS ISLENS PIXSCALE SECPIX FILTER BAND FILTERS BANDS".split()
_DISTORTIONS = ("A_ORDER", "CPDIS", "D2IM", "PV1_")  # keywords of a WCS that wcslib alone does not apply


def read_fits(path: Path, options: ReadOptions) -> Iterator[Record | Unreadable]:
    """Read the image extensions of a file, else its table with a column of images.

    Extensions named after filters are bands of one image, several others are images of their own; science comes
    before masks, errors and weights. A table with as many rows as there are images has their columns. The position is
    that of the image centre by the celestial WCS, else RA and DEC of the header. BSCALE, BZERO, BLANK, TNULL and tile
    compression are undone by astropy.
    """
    with fits.open(path, memmap=path.stat().st_size > 2**26 and not path.name.endswith((".gz", ".bz2"))) as hdus:
        images = _choose_images(hdus, options)
        if not images:
            if not (tables := _wanted(hdus, _table_numbers(hdus), options)):
                raise Unreadable("has no image HDU and no table with a column of images")
            first, *others = sorted(tables, key=lambda number: isinstance(hdus[number], fits.TableHDU))  # text: last
            bands = parse_bands(_text(hdus[first].header, "BANDS")) or _numbered(hdus[first].header, "BAND")
            yield from read_arrays(_read_table(path, first), options, bands)
            _note_tables(hdus, others, options)  # after it, as a file without images may be a catalogue
            return
        bands = _band_names(images, options)
        for key in _INHERITED if bands or len(images) == 1 else ():
            if key in hdus[0].header:
                images[0].header.setdefault(key, hdus[0].header[key])
        if bands:
            _note_tables(hdus, _table_numbers(hdus), options)
            image = to_image(np.stack([_pixels(hdu) for hdu in images]), "BHW")
            yield Record(image, bands, _facts(images[0].header, *images[0].shape))
        else:
            columns = _columns_beside(hdus, images, path, options)
            for count, item in enumerate(_read_images(images, path, options)):
                row = None if len(images) == 1 and item.row is None else count
                yield item.at(row, {name: values[count] for name, values in columns.items()})


def _choose_images(hdus: fits.HDUList, options: ReadOptions) -> list[Any]:
    """Return the image extensions the user names, else science, else all but masks, errors and weights."""
    numbers = [number for number, hdu in enumerate(hdus) if hdu.is_image and hdu.header.get("NAXIS", 0) >= 2]
    images = [hdus[number] for number in _wanted(hdus, numbers, options)]
    if options.hdu:
        return images
    science = [hdu for hdu in images if not _AUXILIARY.fullmatch(hdu.name)] or images
    chosen = [hdu for hdu in science if _SCIENCE.fullmatch(hdu.name)] or science
    if left := sorted({hdu.name or "unnamed" for hdu in images if hdu not in chosen}):
        options.notes.add(f"image HDUs {', '.join(left[:5])} were not read (--hdu)")
    return chosen


def _wanted(hdus: fits.HDUList, numbers: list[int], options: ReadOptions) -> list[int]:
    """Return those of some extensions that the user names, or all; Unreadable if the file has none so named."""
    if not options.hdu:
        return numbers
    wanted = {name.upper() for name in options.hdu}
    found = [number for number, hdu in enumerate(hdus) if {str(number), hdu.name.upper()} & wanted]
    if not found:
        names = ", ".join(hdu.name or str(number) for number, hdu in enumerate(hdus))
        raise Unreadable(f"has no extension {', '.join(options.hdu)} (--hdu); it has {names}")
    return [number for number in numbers if number in found]


def _band_names(images: list[Any], options: ReadOptions) -> tuple[str, ...]:
    """Return the names of the extensions if each is a band of one image, else ()."""
    if len(images) < 2 or len({hdu.shape for hdu in images}) > 1 or len(images[0].shape) != 2:
        return ()
    given = {name.upper(): name for name in options.bands}
    for keys in (("EXTNAME",), ("FILTER", "BAND")):
        names = [band_of_column(name) or name for name in (_text(hdu.header, *keys) for hdu in images)]
        if len(set(names)) == len(names) and all(is_band(name) or name.upper() in given for name in names):
            return tuple(given.get(name.upper(), name) for name in names)
    return options.bands if len(options.bands) == len(images) else ()


def _read_images(images: list[Any], path: Path, options: ReadOptions) -> Iterator[Record | Unreadable]:
    """Read each extension, of a cube with more planes than bands its images; damage in one does not end the file."""
    for hdu in images:
        try:
            shape, axes, bands = _layout(hdu, options)
            facts = {} if "N" in axes else _facts(hdu.header, shape[axes.index("H")], shape[axes.index("W")])
            by_plane = axes[0] == "N" and shape == hdu.shape and _unsigned_blank(hdu) is None
            yield from to_records(hdu.section if by_plane else _pixels(hdu).reshape(shape), axes, bands, facts)
        except Exception as error:  # astropy raises many kinds on damaged data
            if len(images) == 1:
                raise
            yield to_unreadable(error, path)


def _unsigned_blank(hdu: Any) -> int | None:
    """The value of invalid pixels of unsigned integers, stored as signed ones; astropy leaves it as it is."""
    blank, zero = hdu.header.get("BLANK"), hdu.header.get("BZERO")
    return None if blank is None or zero != 2 ** (hdu.header["BITPIX"] - 1) else blank + zero


def _pixels(hdu: Any) -> np.ndarray:
    """Return the array of an extension; BLANK is NaN."""
    blank = _unsigned_blank(hdu)  # before the data: astropy then changes the header
    return hdu.data if blank is None else np.where(hdu.data == blank, np.float32(np.nan), hdu.data)


def _count(hdu: Any, options: ReadOptions) -> int:
    try:
        shape, axes, _ = _layout(hdu, options)
    except Unreadable:
        return 1
    return shape[axes.index("N")] if "N" in axes else 1


def _layout(hdu: Any, options: ReadOptions) -> tuple[tuple[int, ...], str, tuple[str, ...]]:
    """Return the shape, the axes and the bands of an extension."""
    shape = hdu.shape
    while len(shape) > 3 and shape[0] == 1:  # radio images have axes for frequency and polarisation
        shape = shape[1:]
    header = hdu.header
    if len(shape) == 2:
        names = tuple(re.findall(r"^[A-Za-z0-9_.+-]{1,24}$", _text(header, "FILTER", "BAND")))
    else:
        names = _numbered(header, "BAND", "FILTER") or parse_bands(_text(header, "BANDS", "FILTERS", "BAND", "FILTER"))
    bands = names if len(shape) == 2 or (len(set(names)) == len(names) and len(names) in shape) else ()
    return shape, find_axes(shape, options, len(bands)), bands


def _text(header: fits.Header, *keys: str) -> str:
    values = [header.get(key) for key in keys]
    return next((str(value).strip() for value in values if isinstance(value, str | int) and str(value).strip()), "")


def _numbered(header: fits.Header, *keys: str) -> tuple[str, ...]:
    pattern = re.compile(rf"({'|'.join(keys)})(\d\d?)")
    numbers = sorted({int(match[2]) for key in header if (match := pattern.fullmatch(key))})
    return tuple(name for n in numbers if (name := _text(header, *(f"{key}{n}" for key in keys))))


def _celestial(header: fits.Header) -> WCS:
    """Return the celestial WCS; without distortions wcslib reads it in a tenth of the time that astropy takes."""
    text = header.tostring(endcard=False, padding=False)
    if any(key in text for key in _DISTORTIONS):
        return WCS(header).celestial
    wcs = WCS(naxis=2)
    wcs.wcs = Wcsprm(text.encode("ascii"), relax=True).sub([WCSSUB_CELESTIAL])
    wcs.fix()
    return wcs


def _facts(header: fits.Header, height: int, width: int) -> dict[str, Any]:
    """Return position (degrees), pixel scale (arcsec), survey and label of an image, as far as the header says."""
    texts = {"survey": ("SURVEY",), "label": ("LABEL", "CLASS", "ISLENS")}
    facts: dict[str, Any] = {name: text for name, keys in texts.items() if (text := _text(header, *keys))}
    for key in ("PIXSCALE", "SECPIX"):
        facts |= {"pixel_scale": header[key]} if isinstance(header.get(key), int | float) else {}
    if "CTYPE1" in header:
        with suppress(Exception):  # astropy raises many kinds for a malformed WCS; the pixels are still good
            wcs = _celestial(header)
            sky = wcs.all_pix2world([[(width - 1) / 2, (height - 1) / 2]], 0)[0, [wcs.wcs.lng, wcs.wcs.lat]]
            frame = wcs_to_celestial_frame(wcs)
            if frame.name != "icrs":
                position = frame.realize_frame(UnitSphericalRepresentation(*sky * u.deg)).transform_to(ICRS())
                sky = np.array([position.ra.deg, position.dec.deg])
            scale = float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs)))) * 3600  # degrees → arcsec
            if np.isfinite(sky).all() and 0 < scale < MAX_PIXEL_SCALE:
                scale = float(f"{scale:.5g}")  # equal cameras, equal numbers
                return facts | {"ra": float(sky[0] % 360), "dec": float(sky[1]), "pixel_scale": scale}
    with suppress(Exception):  # astropy raises many kinds here, all meaning "not an angle"
        ra, dec = _degrees(header.get("RA"), "hourangle"), _degrees(header.get("DEC"), "deg")
        facts |= {"ra": ra % 360, "dec": dec} if np.isfinite(ra) and abs(dec) <= 90 else {}
    return facts


def _degrees(value: Any, unit: str) -> float:
    """Return an angle: numbers, also as text, are degrees; text with colons or spaces is sexagesimal, in `unit`."""
    try:
        return float(value)
    except ValueError:
        return float(Angle(value, unit).deg)


def _table_numbers(hdus: fits.HDUList) -> list[int]:
    kinds = (fits.BinTableHDU, fits.TableHDU)
    return [number for number, hdu in enumerate(hdus) if isinstance(hdu, kinds) and not hdu.is_image]


def _read_table(path: Path, number: int) -> dict[str, Any]:
    table = Table.read(path, hdu=number, memmap=True, mask_invalid=False, unit_parse_strict="silent")
    return {name: table[name] for name in table.colnames}


def _columns_beside(hdus: fits.HDUList, images: list[Any], path: Path, options: ReadOptions) -> dict[str, list]:
    """Return the columns of the one table with a row for each of several images, {} if there is none."""
    if not (tables := _table_numbers(hdus)):
        return {}
    counts = [_count(hdu, options) for hdu in images]
    count = counts[0] if len(images) == 1 else len(images) if set(counts) == {1} else 0
    fitting = [number for number in tables if hdus[number].header["NAXIS2"] == count > 1]
    chosen = fitting if len(fitting) == 1 else []
    _note_tables(hdus, [number for number in tables if number not in chosen], options)
    columns = {name: array for number in chosen for name, array in _read_table(path, number).items()}
    return {name: values for name, array in columns.items() if array.ndim == 1 and (values := plain_values(array))}


def _note_tables(hdus: fits.HDUList, numbers: list[int], options: ReadOptions) -> None:
    if names := sorted({hdus[number].name or "unnamed" for number in numbers}):
        advice = "save one as a file of its own and give it as --catalog"
        options.notes.add(f"table HDUs {', '.join(names[:5])} were not read; {advice}")
