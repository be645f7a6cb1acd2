"""The options of an ingest; what all images of a store share (bands, size, pixel type), and how one is made to fit."""

import codecs
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from zwicky.data.bands import unnamed_bands, wavelength_rank
from zwicky.data.readers import GRAY, RGB, Record
from zwicky.errors import UserError, check_limits

MINORITY = 0.1  # a larger share of images of another format is refused
MAX_BANDS = 64
LIMITS = {"pixel_scale": (1e-6, 1e6), "size": (1, 8192), "max_invalid": (0, 1), "workers": (1, 1024)}
STRAY = re.compile(
    r"(.*:)?(plot|fig|figure|thumb|thumbnail|preview|mask|psf|log|result|output|seg|weight|rms|err|tmp)s?", re.I
)
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow converts RGB to grey


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
        encoding: character set of catalogues that are not Unicode, e.g. cp1251 or gbk; empty reads them as cp1252.
        positive: the positive class; empty takes lens-like names, else the last by name.
        axes: the axes of arrays in files, e.g. HWB or NHW (N images, B bands, H rows, W columns); empty means that
            they are recognised.
        hdu: names or numbers of the FITS extensions to read; empty takes all images that are no masks or errors.
        invalid: the value of pixels that are invalid, e.g. -9999; they become NaN (in images of floats).
        max_invalid: an image with a larger share of invalid (NaN) pixels than this is set aside.
        workers: threads that decode files.
    """

    bands: tuple[str | int, ...] = ()
    size: int | None = None
    pixel_scale: float | None = None
    survey: str = ""
    simulated: bool | None = None
    label_column: str = ""
    file_column: str = ""
    id_column: str = ""
    ra_column: str = ""
    dec_column: str = ""
    encoding: str = ""
    positive: str = ""
    axes: str = ""
    hdu: tuple[str | int, ...] = ()
    invalid: float | None = None
    max_invalid: float = 0.5
    workers: int = 2

    def check(self) -> None:
        """Raise a UserError for values that no ingest can use."""
        check_limits("", vars(self), LIMITS)
        bands = [str(band) for band in self.bands]
        if len(set(bands)) < len(bands) or not all(bands):
            raise UserError(f"the bands {', '.join(bands)} repeat a name or lack one; give each its own")
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            raise UserError(f"there is no encoding {self.encoding!r}; name one such as cp1251 or gbk") from None
        if set(self.axes.upper()) - set("NBHW") or len(set(self.axes)) < len(self.axes):
            raise UserError(f"the axes are {self.axes!r}; name each axis once, of N (images), B (bands), H and W")


@dataclass(frozen=True)
class ImageFormat:
    """Shape [bands, H, W], pixel type and band names (empty where the file gives none) of an image."""

    shape: tuple[int, ...]
    dtype: str
    bands: tuple[str, ...]

    @classmethod
    def of(cls, record: Record) -> Self:
        """Return the format of a record."""
        return cls(record.image.shape, record.image.dtype.name, record.bands)

    @property
    def is_picture(self) -> bool:
        """Whether it is a grey or colour picture, which can be turned into one another."""
        return self.bands in (GRAY, RGB)

    @property
    def is_named(self) -> bool:
        """Whether its bands have names of a survey, rather than the channels of a picture."""
        return bool(self.bands) and not self.is_picture

    def __str__(self) -> str:
        count, height, width = self.shape
        names = f" ({', '.join(self.bands)})" if self.is_named else ""
        return f"{count} band{'s' if count > 1 else ''}{names} of {height}×{width} {self.dtype}"


@dataclass(frozen=True)
class StoreFormat:
    """The format of a store."""

    bands: tuple[str, ...]
    source_bands: tuple[str, ...]  # their names in the files; empty where all images have the same bands in one order
    size: tuple[int, int]  # (H, W) in pixels
    dtype: str
    crop: bool = False  # whether images of other sizes are cropped and padded
    promote: bool = False  # whether 8- and 16-bit images become float32, since some bands or borders are missing
    chosen: bool = False  # whether the user chose among the bands, so that others may be left out

    def mismatch(self, image: ImageFormat) -> str:
        """Return why an image of this format does not fit, "" if it does."""
        n_bands, height, width = image.shape
        other = f"has {image}, the others {ImageFormat((len(self.bands), *self.size), self.dtype, self.source_bands)}"
        if self.source_bands:
            unknown = [band for band in image.bands if band not in self.source_bands]
            if not image.is_named or len(unknown) == n_bands:
                return other
            if unknown and not self.chosen:
                return f"has the band {unknown[0]}, which no sampled image had; name all bands by --bands"
            if n_bands - len(unknown) < len(self.source_bands) and self.dtype != "float32":
                return f"lacks bands of {', '.join(self.source_bands)}, and {self.dtype} has no NaN for them"
        elif n_bands != len(self.bands) and not (image.is_picture and len(self.bands) in (1, 3)):
            return other
        if not self.crop and (height, width) != self.size:
            return other
        if image.dtype != self.dtype and not (self.promote and image.dtype.startswith("uint")):
            return other
        if self.dtype != "float32" and (height < self.size[0] or width < self.size[1]):
            return f"has {image}, smaller than {self.size[0]}×{self.size[1]}, and no NaN to pad it with"
        return ""

    def conform(self, record: Record) -> np.ndarray:
        """Return [bands, H, W] in the store's format: bands in place, cropped or padded around the centre."""
        image = record.image
        if len(image) != len(self.bands) and not self.source_bands:  # a grey picture among colour ones, or the reverse
            gray = np.tensordot(_LUMINANCE, image.astype(np.float32), 1)[None] if len(image) == 3 else image
            rounded = np.rint(gray).astype(image.dtype) if image.dtype.kind == "u" else gray
            image = np.repeat(rounded, len(self.bands), 0)
        if self.source_bands in ((), record.bands) and image.shape[1:] == self.size:
            return image.astype(self.dtype, copy=False)
        # Slices of the image and of the store that put their centres upon one another.
        lengths = list(zip(image.shape[1:], self.size, strict=True))
        rows, columns = (slice(cut := max(0, have - want) // 2, cut + want) for have, want in lengths)
        to_rows, to_columns = (slice(pad := max(0, want - have) // 2, pad + have) for have, want in lengths)
        result = np.full((len(self.bands), *self.size), np.nan if self.dtype == "float32" else 0, self.dtype)
        for band, index in enumerate(self.band_indices(record)):
            if index is not None:
                result[band, to_rows, to_columns] = image[index, rows, columns]
        return result

    def band_indices(self, record: Record) -> list[int | None]:
        """Return for each band of the store its index in the record, None where the record lacks it."""
        if not self.source_bands:
            return list(range(len(self.bands)))
        return [record.bands.index(band) if band in record.bands else None for band in self.source_bands]


def find_sentinel(image: np.ndarray) -> float | None:
    """Return the whole number far from all other values that many pixels share (-9999, 100), which may mean invalid."""
    values = image[np.isfinite(image)] if image.dtype.kind == "f" else image[:0]
    for extreme in (values.min(), values.max()) if values.size else ():
        rest = values[values != extreme]
        is_far = rest.size and abs(extreme - np.median(rest)) > 10 * np.ptp(rest) > 0
        if is_far and float(extreme).is_integer() and len(values) - len(rest) >= 5:
            return float(extreme)
    return None


def choose_format(formats: Counter[ImageFormat], config: IngestConfig) -> StoreFormat:
    """Return the format that fits most images.

    UserError if the names in `config.bands` do not fit the bands of the images.
    """
    given = tuple(map(str, config.bands))
    size = (config.size or 0, config.size or 0)
    if not config.size:
        size = _most_common(formats, lambda f: (f.shape[1:], f.is_named or f.dtype))[0]
        formats = Counter({f: n for f, n in formats.items() if f.shape[1:] == size})
    is_named = bool(_most_common(formats, lambda f: f.bands if f.is_named else ()))
    formats = Counter({f: n for f, n in formats.items() if f.is_named == is_named})
    source: tuple[str, ...] = ()
    promote = chosen = False
    if is_named:
        source = tuple(dict.fromkeys(band for f, _ in formats.most_common() for band in f.bands))
        chosen = bool(set(given) & set(source))
        promote = len({frozenset(f.bands) for f in formats}) > 1 or (chosen and not set(given) <= set(source))
        bands = source = given if chosen else source
        number = len(bands)
    else:
        number, _ = _most_common(formats, lambda f: (f.shape[0], f.dtype))
        if all(f.is_picture for f in formats) and len(given) in (1, 3):
            number = len(given)  # grey and colour are converted as the user asks
        formats = Counter({f: n for f, n in formats.items() if f.shape[0] == number or f.is_picture})
        names = {f.bands for f in formats if len(f.bands) == number} or {GRAY if number == 1 else ()}
        bands = max(names) or unnamed_bands(number)
    if given and len(given) != number:
        raise UserError(f"{len(given)} band names given ({', '.join(given)}) but the images have {number}; name each")
    ranks = [rank for band in given if (rank := wavelength_rank(band)) is not None]
    if bands == RGB and ranks == sorted(ranks) and len(ranks) == 3:
        problem = f"the images are pictures in red, green and blue, and {', '.join(given)} run from blue to red"
        raise UserError(f"{problem}; name the bands of the pictures in their order, as {', '.join(reversed(given))}")
    if number > MAX_BANDS and is_named:
        raise UserError(f"the images have {number} bands in all ({', '.join(source[:4])}, …); choose some by --bands")
    promote = promote or any(f.shape[1] < size[0] or f.shape[2] < size[1] for f in formats)
    dtype = "float32" if promote else _most_common(formats, lambda f: f.dtype)
    return StoreFormat(given or bands, source, size, dtype, config.size is not None, promote, chosen)


def _most_common(formats: Counter[ImageFormat], key: Callable[[ImageFormat], Any]) -> Any:
    counts: Counter = Counter()
    for image_format, count in formats.items():
        counts[key(image_format)] += count
    return counts.most_common(1)[0][0]


def check_uniform(formats: Counter[tuple[str, ImageFormat]], store: StoreFormat) -> list[str]:
    """Return the folders of which no image fits, as they hold something else (plots, thumbnails).

    `formats` counts images by (file type and folder, format). UserError if more than a tenth of the other images do not
    fit.
    """
    misfits, fits, common = Counter[str](), Counter[str](), Counter[ImageFormat]()
    for (folder, image_format), count in formats.items():
        (misfits if store.mismatch(image_format) else fits)[folder] += count
        common[image_format] += count
    types = {folder.partition(":")[0] for folder in fits}

    def is_stray(folder: str) -> bool:
        is_other = folder.partition(":")[0] not in types or STRAY.fullmatch(folder.rpartition("/")[2])
        return misfits[folder] <= MINORITY * common.total() or (len(fits) > 1 and bool(is_other))

    stray = [folder for folder in misfits if folder not in fits and folder.partition(":")[2] and is_stray(folder)]
    n_stray = sum(misfits[folder] for folder in stray)
    if misfits.total() - n_stray > MINORITY * (common.total() - n_stray):
        listed = ", ".join(f"{image_format} ({count} images)" for image_format, count in common.most_common(4))
        differ = len({f.shape[1:] for f in common}) > 1 and not store.crop
        advice = ", or crop and pad all to N pixels by --size N" if differ else ""
        raise UserError(f"the images are of several kinds: {listed}; ingest each kind into a store of its own{advice}")
    return stray
