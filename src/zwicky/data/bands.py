"""Names of bands in file names, folders, columns and headers, and the files that are bands of one object."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

# By wavelength. A name may have a survey before it (HSC-G, DECam_r) or `band` before or after it.
_LETTERS = "u U B blue g G V green r R red i I VIS z Z y Y NIR_Y J NIR_J H NIR_H K Ks KS".split()
_FILTER = (
    r"(?:(?i:NIR[-_]?[YJH]|[FN]UV|VIS|KS)|W[1-4]|[Ff]\d{3,4}(?:[WMNXwmnx]|LP|lp)?\d?|"
    r"[ugrizyjhkUGRIZYBVJHK]|red|green|blue)"
)
_SURVEY = (
    "HSC|DECam|DES|DECaLS|LS|SDSS|LSST|Rubin|KiDS|VST|OmegaCAM|VIKING|VISTA|VIRCAM|VHS|UKIDSS|Euclid|EUC|NISP|HST|ACS|"
    "WFC3|JWST|NIRCam|MIRI|PS1?|PanSTARRS|CFHTLS|CFHT|MegaCam|Subaru|WISE|unWISE|GALEX|Roman|ZTF|SkyMapper|SPLUS|JPAS"
)
_NUMBERED = rf"(?i:band|filter|channel|chan|ch)[-_]?(?:\d\d?|{_FILTER})"
_BAND = rf"(?:(?i:{_SURVEY})[-_.]?)?{_FILTER}|{_NUMBERED}|{_FILTER}[-_]?(?i:band)"
_ONE_BAND = re.compile(_BAND)
_IN_PATH = re.compile(rf"(?<![A-Za-z0-9])(?:{_BAND})(?![A-Za-z0-9])")
_MARKED = re.compile(
    r"(?:image|img|flux|band|cutout|stamp)s?[-_.]?(\w+)|(\w+?)[-_.](?:image|img|flux|band|cutout|stamp)s?",
    re.IGNORECASE,
)
_EXTENSION = re.compile(r"(\.(fits|fit|fts))?\.[A-Za-z0-9]+$")


def is_band(name: str) -> bool:
    """Return whether a name is that of a usual filter."""
    return bool(_ONE_BAND.fullmatch(name))


def band_of_column(name: str) -> str:
    """Return the band that a column of images is named after (`IMAGE_G`, `flux_r`, `i`), "" if none."""
    marked = _MARKED.fullmatch(name)
    return (marked[1] or marked[2]) if marked else name if is_band(name) else ""


def parse_bands(values: Any) -> tuple[str, ...]:
    """Return names of bands from a header or array; text like "g,r,z" or "grz" is taken apart."""
    if isinstance(values, bytes | str):
        text = values.decode("utf-8", "replace") if isinstance(values, bytes) else values
        parts = re.sub(r"[\[\]()'\",;|]", " ", text).split()
        is_run = len(parts) == 1 and len(parts[0]) > 1 and all(letter in "ugrizyUGRIZYBVJHK" for letter in parts[0])
        return tuple(parts[0]) if is_run else tuple(parts)
    cells = [cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell) for cell in np.ravel(values)]
    return parse_bands(cells[0]) if len(cells) == 1 else tuple(cell.replace("\0", "").strip() for cell in cells)


def by_wavelength(bands: Sequence[str]) -> tuple[str, ...]:
    """Return bands ordered from blue to red where the names tell, else as they are."""

    def position(band: str) -> float:
        numbered = re.search(r"[Ff](\d{3,4})", band)
        if numbered:
            return int(numbered[1]) * (10 if int(numbered[1]) < 200 else 1)  # F160W is 1.6 µm
        name = re.split(r"[-_.]", band)[-1]
        return _LETTERS.index(band if band in _LETTERS else name) if {band, name} & set(_LETTERS) else len(_LETTERS)

    return tuple(sorted(bands, key=position))


def group_files(files: Sequence[str], given: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Find the files that are bands of one object: their paths differ in nothing but the names of bands.

    The band may be anywhere in the path: obj_g.fits, g_obj.fits, HSC-G/obj.fits, Band1/image_R-1.fits. Where objects
    of a folder come in several files, those of one file are objects that lack the other bands.

    Args:
        files: paths.
        given: names of the bands, if the user states them: then only those count.

    Returns:
        Object → its files by band.
    """
    pattern = _IN_PATH
    if given:
        names = "|".join(map(re.escape, sorted(given, key=len, reverse=True)))
        pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{names})(?![A-Za-z0-9])")
    templates: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for file in files:
        stem = _EXTENSION.sub("", file)
        slots = tuple(pattern.findall(stem))
        if slots:
            templates.setdefault(pattern.sub("\0", stem), []).append((slots, file))
    varying: dict[tuple[int, int], set[int]] = {}  # (depth, slots) → the slots in which files of one object differ
    for template, members in templates.items():
        differing = {
            slot
            for slot, values in enumerate(zip(*(slots for slots, _ in members), strict=True))
            if len(set(values)) > 1
        }
        varying.setdefault((template.count("/"), template.count("\0")), set()).update(differing)
    groups: dict[str, dict[str, str]] = {}
    for template, members in templates.items():
        differing = varying[template.count("/"), template.count("\0")]
        for slots, file in members if differing else ():
            name = _fill(template, slots, differing)
            filters = [slots[slot] for slot in sorted(differing)]
            band = next((value for value in reversed(filters) if not re.search(r"\d$", value)), filters[-1])
            name = name or "object"  # g.fits, r.fits, …: the only one
            if groups.setdefault(name, {}).setdefault(band, file) != file:
                groups[file] = {band: file}  # obj_g.fits and obj_g.fits.gz: an object of its own
    taken = set(files)
    return {name: bands for name, bands in groups.items() if name not in taken or name in bands.values()}


def _fill(template: str, slots: tuple[str, ...], without: set[int]) -> str:
    """The path with the slots filled in but for those `without`, which vanish with their separators."""
    values = iter(["\0" if slot in without else value for slot, value in enumerate(slots)])
    path = re.sub("\0", lambda _: next(values), template)
    parts = [re.sub(r"([._-]?)\0([._-]?)", lambda m: m[1] if m[1] and m[2] else "", part) for part in path.split("/")]
    return "/".join(part for part in parts if part)
