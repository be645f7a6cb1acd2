"""Names of bands in file names, folders, columns and headers, and the files that are bands of one object."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

# By wavelength. A name may have a survey before it (HSC-G, DECam_r) or `band` before or after it.
_NIRCAM = ("250", "277", "322", "335", "356", "360", "444", "460", "480")  # of F277W: 2.77 µm
_LETTERS = (
    "u U B b blue g G V v green r R r2 R2 red i I i2 I2 VIS vis z Z y Y NIR_Y J j NIR_J H h NIR_H K k Ks KS ks".split()
)
_FILTER = (
    r"(?:(?i:NIR[-_]?[YJH]|[FN]UV|VIS|KS)|[Ww][1-4]|[Ff]\d{3,4}(?:[WMNXwmnx]|LP|lp)?\d?|"
    r"[RIri]2|[ugrizyjhkUGRIZYBVJHK]|red|green|blue)"
)
_SURVEY = (
    "HSC|DECam|DES|DECaLS|LS|SDSS|LSST|Rubin|KiDS|VST|OmegaCAM|VIKING|VISTA|VIRCAM|VHS|UKIDSS|Euclid|EUC|NISP|HST|ACS|"
    "WFC3|JWST|NIRCam|MIRI|PS1?|PanSTARRS|CFHTLS|CFHT|MegaCam|Subaru|WISE|unWISE|GALEX|Roman|ZTF|SkyMapper|SPLUS|JPAS"
)
_NUMBERED = rf"(?i:band|filter|channel|chan|ch)[-_]?(?:\d\d?|{_FILTER})"
_BAND = rf"{_FILTER}[-_]?(?i:band)|(?:(?i:{_SURVEY})[-_.]?)?{_FILTER}|{_NUMBERED}"
_IMAGES = r"(?:image|img|flux|band|cutout|stamp|sci|science|coadd|bgsub)s?"
_MARKED = re.compile(rf"{_IMAGES}[-_.]?(\w+)|(\w+?)[-_.]{_IMAGES}", re.IGNORECASE)
# Words in names of files, arrays and extensions that are no images but weights, errors, masks or models of one.
AUXILIARY = (
    "(?:wht|weight|wgt|rms|err|error|mask|msk|psf|dq|ivar|invvar|var|variance|seg|segmap|bkg|sky|model|resid|flag|unc|"
    "uncert|sigma|noise|exp|exptime|ctx|con)s?"
)
EXTENSION = re.compile(r"(\.(fits|fit|fts))?\.[A-Za-z0-9]+$")


def is_band(name: str) -> bool:
    """Return whether a name is that of a usual filter."""
    return bool(re.fullmatch(_BAND, name))


def band_of_column(name: str) -> str:
    """Return the band that a column of images is named after (`IMAGE_G`, `flux_r`, `i`), "" if none."""
    marked = _MARKED.fullmatch(name)
    return (marked[1] or marked[2]) if marked else name if is_band(name) else ""


def parse_bands(values: Any) -> tuple[str, ...]:
    """Return names of bands from a header or array; text like "g,r,z" or "grz" is taken apart."""
    cells = [cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell) for cell in np.ravel(values)]
    if len(cells) != 1:
        return tuple(cell.replace("\0", "").strip() for cell in cells)
    parts = re.sub(r"[\[\]()'\",;|]", " ", cells[0]).split()
    return tuple(parts[0] if len(parts) == 1 and re.fullmatch("[ugrizyUGRIZYBVJHK]+", parts[0]) else parts)


def unnamed_bands(count: int) -> tuple[str, ...]:
    """Return names for `count` bands that have none: band1, band2 and so on."""
    return tuple(f"band{number}" for number in range(1, count + 1))


def wavelength_rank(band: str) -> float | None:
    """Return a number that grows with the wavelength of a band, None where the name does not tell it."""
    if numbered := re.search(r"[Ff](\d{3,4})", band):
        return int(numbered[1]) * (10 if int(numbered[1]) < 200 or numbered[1] in _NIRCAM else 1)  # F160W: 1.6 µm
    band = re.sub(r"(?i)[-_]?band$", "", band)
    name = band if band in _LETTERS else re.split(r"[-_.]", band)[-1]
    return _LETTERS.index(name) if name in _LETTERS else None


def by_wavelength(bands: Sequence[str]) -> tuple[str, ...]:
    """Return bands ordered from blue to red where the names tell, else as they are."""
    return tuple(sorted(bands, key=lambda band: len(_LETTERS) if (rank := wavelength_rank(band)) is None else rank))


def group_files(files: Sequence[str], given: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Return object → its files by band, for files whose paths differ in nothing but the names of bands.

    The band may be anywhere in the path: obj_g.fits, g_obj.fits, HSC-G/obj.fits, Band1/image_R-1.fits. Where objects
    of a folder come in several files, those of one file are objects that lack the other bands. Where several parts of
    a path vary, the last is the band, with those that vary along with it. Only the bands given count, if any are.
    """
    bands = "|".join(map(re.escape, sorted(given, key=len, reverse=True))) or _BAND
    pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{bands})(?![A-Za-z0-9])")
    stems = [EXTENSION.sub("", file) for file in files]
    tails = Counter(stem[-1:] if re.search(rf"\d(?:{bands})$", stem) else "" for stem in stems)
    if "" not in tails and len(files) == len(tails) * len({stem[:-1] for stem in stems}) > len(tails) > 1:
        pattern = re.compile(rf"(?<=\d)(?:{bands})$")  # lens001g, lens001r, for all objects
    templates: defaultdict[str, list[tuple[list[str], str]]] = defaultdict(list)
    for file, stem in zip(files, stems, strict=True):
        if slots := pattern.findall(stem):
            templates[pattern.sub("\0", stem)].append((slots, file))
    varying: defaultdict[tuple[int, int], set[int]] = defaultdict(set)  # (depth, slots) → the slots of the band
    for template, members in templates.items():
        columns = list(zip(*(slots for slots, _ in members), strict=True))
        vary = [n for n, names in enumerate(columns) if len(set(names)) > 1]
        along = [n for n in vary if len(set(zip(columns[n], columns[vary[-1]], strict=True))) == len(set(columns[n]))]
        varying[template.count("/"), template.count("\0")] |= set(along)
    groups: dict[str, dict[str, str]] = {}
    for template, members in templates.items():
        differing = varying[template.count("/"), template.count("\0")]
        for slots, file in members if differing else ():
            filters = [slots[slot] for slot in sorted(differing)]
            band = next((name for name in reversed(filters) if not re.search(r"\d$", name)), filters[-1])
            name = _fill(template, slots, differing) or "object"  # g.fits, r.fits, …: the only one
            if groups.setdefault(name, {}).setdefault(band, file) != file:
                groups[file] = {band: file}  # obj_g.fits and obj_g.fits.gz: an object of its own
    taken = set(files)
    return {name: group for name, group in groups.items() if name not in taken or name in group.values()}


def _fill(template: str, slots: Sequence[str], without: set[int]) -> str:
    """Return the path with the slots filled in but for those `without`, which vanish with their separators."""
    values = iter(["\0" if slot in without else value for slot, value in enumerate(slots)])
    path = re.sub("\0", lambda _: next(values), template)
    parts = [re.sub(r"([._-]?)\0([._-]?)", lambda m: m[1] if m[1] and m[2] else "", part) for part in path.split("/")]
    return "/".join(part for part in parts if part)
