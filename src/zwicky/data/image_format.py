"""What all images of a store share (bands, size, pixel type), and how an image is made to fit."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from zwicky.data.config import IngestConfig
from zwicky.data.readers import Record
from zwicky.errors import UserError

MINORITY = 0.1  # a larger share of images of another format is refused
MAX_BANDS = 64
GRAY, RGB = ("gray",), ("R", "G", "B")
_STRAY = re.compile(
    r"(.*:)?(plot|fig|figure|thumb|thumbnail|preview|mask|psf|log|result|output|seg|weight|rms|err|tmp)s?", re.I
)
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow converts RGB to grey


@dataclass(frozen=True)
class ImageFormat:
    """Shape [bands, H, W], pixel type and band names (empty where the file gives none) of an image."""

    shape: tuple[int, ...]
    dtype: str
    bands: tuple[str, ...]

    @classmethod
    def of(cls, record: Record) -> ImageFormat:
        """Return the format of a record."""
        return cls(record.image.shape, record.image.dtype.name, record.bands)

    @property
    def is_named(self) -> bool:
        """Whether its bands have names of a survey, rather than the channels of a picture."""
        return bool(self.bands) and not self.is_picture

    @property
    def is_picture(self) -> bool:
        """Whether it is a grey or colour picture, which can be turned into one another."""
        return self.bands in (GRAY, RGB)

    def __str__(self) -> str:
        count, height, width = self.shape
        names = f" ({', '.join(self.bands)})" if self.is_named else ""
        return f"{count} band{'s' if count > 1 else ''}{names} of {height}×{width} {self.dtype}"


@dataclass(frozen=True)
class StoreFormat:
    """The format of a store.

    Args:
        bands: their names in the store.
        source_bands: their names in the files; empty where all images have the same bands in the same order.
        size: (H, W) in pixels.
        dtype: pixel type.
        crop: whether images of other sizes are cropped and padded.
        promote: whether 8- and 16-bit images become float32, since some bands or borders are missing.
        chosen: whether the user chose among the bands, so that others may be left out.
    """

    bands: tuple[str, ...]
    source_bands: tuple[str, ...]
    size: tuple[int, int]
    dtype: str
    crop: bool = False
    promote: bool = False
    chosen: bool = False

    def __str__(self) -> str:
        return str(ImageFormat((len(self.bands), *self.size), self.dtype, self.source_bands))

    def mismatch(self, image: ImageFormat) -> str:
        """Return why an image of this format does not fit, "" if it does."""
        other = f"has {image}, the others {self}"
        if self.source_bands:
            unknown = [band for band in image.bands if band not in self.source_bands]
            if not image.is_named or len(unknown) == len(image.bands):
                return other
            if unknown and not self.chosen:
                return f"has the band {unknown[0]}, which no sampled image had; name all bands by --bands"
            if len(image.bands) - len(unknown) < len(self.source_bands) and self.dtype != "float32":
                return f"lacks bands of {', '.join(self.source_bands)}, and {self.dtype} has no NaN for them"
        elif image.shape[0] != len(self.bands) and not (image.is_picture and len(self.bands) in (1, 3)):
            return other
        if not self.crop and image.shape[1:] != self.size:
            return other
        if image.dtype != self.dtype and not (self.promote and image.dtype.startswith("uint")):
            return other
        if self.dtype != "float32" and (image.shape[1] < self.size[0] or image.shape[2] < self.size[1]):
            return f"has {image}, smaller than {self.size[0]}×{self.size[1]}, and no NaN to pad it with"
        return ""

    def conform(self, record: Record) -> np.ndarray:
        """Return [bands, H, W] in the store's format: bands in place, cropped or padded around the centre."""
        image = record.image
        if len(image) != len(self.bands) and not self.source_bands:  # a grey picture among colour ones, or the reverse
            image = np.repeat(image, 3, 0) if len(image) == 1 else _to_gray(image)
        if self.source_bands in ((), record.bands) and image.shape[1:] == self.size:
            return image.astype(self.dtype, copy=False)
        (rows, to_rows), (columns, to_columns) = map(_window, image.shape[1:], self.size)
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


def _to_gray(image: np.ndarray) -> np.ndarray:
    gray = np.tensordot(_LUMINANCE, image.astype(np.float32), 1)[None]
    return np.rint(gray).astype(image.dtype) if image.dtype.kind == "u" else gray


def _window(have: int, want: int) -> tuple[slice, slice]:
    """Slices of the image and of the store that put their centres upon one another."""
    cut, pad, length = max(0, have - want) // 2, max(0, want - have) // 2, min(have, want)
    return slice(cut, cut + length), slice(pad, pad + length)


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

    Raises:
        UserError: The names in `config.bands` do not fit the bands of the images.
    """
    size = (
        (config.size, config.size)
        if config.size
        else _most_common(formats, lambda f: (f.shape[1:], f.is_named or f.dtype))[0]
    )
    fitting = formats if config.size else Counter({f: n for f, n in formats.items() if f.shape[1:] == size})
    named = _most_common(fitting, lambda f: f.bands if f.is_named else ())
    fitting = Counter({f: n for f, n in fitting.items() if f.is_named == bool(named)})
    source: tuple[str, ...] = ()
    union = chosen = False
    if named:
        source = tuple(dict.fromkeys(band for f, _ in fitting.most_common() for band in f.bands))
        union = len({frozenset(f.bands) for f in fitting}) > 1
        chosen = bool(set(config.bands) & set(source))
        union = union or (chosen and not set(config.bands) <= set(source))
        source = tuple(config.bands) if chosen else source
        number, bands = len(source), source
    else:
        number, _ = _most_common(fitting, lambda f: (f.shape[0], f.dtype))
        pictures = all(f.is_picture for f in fitting)
        if pictures and len(config.bands) in (1, 3):
            number = len(config.bands)  # grey and colour are converted as the user asks
        fitting = Counter({f: n for f, n in fitting.items() if f.shape[0] == number or f.is_picture})
        names = {f.bands for f in fitting if len(f.bands) == number} or {GRAY if number == 1 else ()}
        bands = names.pop() or tuple(f"band{band + 1}" for band in range(number))
    if config.bands and len(config.bands) != number:
        names_ = ", ".join(config.bands)
        raise UserError(f"{len(config.bands)} band names given ({names_}) but the images have {number}; name each")
    if number > MAX_BANDS and named:
        raise UserError(f"the images have {number} bands in all ({', '.join(source[:4])}, …); choose some by --bands")
    promote = union or any(f.shape[1] < size[0] or f.shape[2] < size[1] for f in fitting)
    dtype = "float32" if promote else _most_common(fitting, lambda f: f.dtype)
    return StoreFormat(tuple(config.bands) or bands, source, size, dtype, config.size is not None, promote, chosen)


def _most_common(formats: Counter[ImageFormat], key):  # type: ignore[no-untyped-def]
    counts: Counter = Counter()
    for image_format, count in formats.items():
        counts[key(image_format)] += count
    return counts.most_common(1)[0][0]


def check_uniform(formats: Counter[tuple[str, ImageFormat]], store: StoreFormat) -> list[str]:
    """Check that no more than a small minority of images do not fit.

    Args:
        formats: (file type and folder, format) → number of images.
        store: the format of the store.

    Returns:
        The folders of which no image fits, as they hold something else (plots, thumbnails).

    Raises:
        UserError: More than a tenth of the other images do not fit.
    """
    folders: dict[str, list[int]] = {}
    for (folder, image_format), count in formats.items():
        folders.setdefault(folder, [0, 0])[not store.mismatch(image_format)] += count
    total = sum(map(sum, folders.values()))
    fitting = {folder.partition(":")[0] for folder, (_, good) in folders.items() if good}  # their file types
    n_fitting = sum(good > 0 for _, good in folders.values())
    stray = [
        folder
        for folder, (bad, good) in folders.items()
        if not good and folder.partition(":")[2]
        if bad <= MINORITY * total
        or (n_fitting > 1 and (folder.partition(":")[0] not in fitting or _STRAY.fullmatch(folder.rpartition("/")[2])))
    ]
    total -= sum(folders[folder][0] for folder in stray)
    if sum(bad for folder, (bad, _) in folders.items() if folder not in stray) > MINORITY * total:
        common: Counter[ImageFormat] = Counter()
        for (_, image_format), count in formats.items():
            common[image_format] += count
        listed = ", ".join(f"{image_format} ({count} images)" for image_format, count in common.most_common(4))
        differ = len({f.shape[1:] for f in common}) > 1 and store.crop is False
        advice = ", or crop and pad all to N pixels by --size N" if differ else ""
        raise UserError(f"the images are of several kinds: {listed}; ingest each kind into a store of its own{advice}")
    return stray
