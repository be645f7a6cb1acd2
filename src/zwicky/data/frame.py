"""What all images of a store share (bands, size, type), chosen from a sample, and how an image is made to fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from zwicky.data.config import IngestConfig
from zwicky.data.readers import Image
from zwicky.errors import UserError

MINORITY = 0.1  # a larger share of images of another size or type is refused
MOST_STORED_BANDS = 64
_PICTURES = (("gray",), ("R", "G", "B"))  # what picture formats call their channels: no bands of a survey


@dataclass(frozen=True)
class Kind:
    """shape: [bands, H, W]. bands: their names, empty where the file gives none."""

    shape: tuple[int, ...]
    dtype: str
    bands: tuple[str, ...]

    def __str__(self) -> str:
        bands, height, width = self.shape
        named = f" ({', '.join(self.bands)})" if self.named else ""
        return f"{bands} band{'s' if bands > 1 else ''}{named} of {height}×{width} {self.dtype}"

    @property
    def named(self) -> bool:
        """Whether the bands have names by which those of another image can be told to be the same."""
        return bool(self.bands) and self.bands not in _PICTURES


def kind_of(image: Image) -> Kind:
    """The kind of one image."""
    return Kind(image.pixels.shape, image.pixels.dtype.name, image.bands)


@dataclass(frozen=True)
class Frame:
    """The form of the store.

    bands: the names in the store. own: the names by which files know them; empty where all images have the same
    bands in the same order. size: (H, W). dtype: of the store. crop: whether other sizes are cropped and padded.
    mixed: whether 8- and 16-bit pixels become float32, since some bands or borders are missing. chosen: whether the
    user named the bands wanted of those in the files, so that others may be left behind.
    """

    bands: tuple[str, ...]
    own: tuple[str, ...]
    size: tuple[int, int]
    dtype: str
    crop: bool
    mixed: bool
    chosen: bool = False

    def misfit(self, kind: Kind) -> str | None:
        """Why images of this kind cannot be stored; None if they can."""
        if self.own:
            if not kind.named or not set(kind.bands) & set(self.own):
                return f"has {kind}, the others {self}"
            unknown = [band for band in kind.bands if band not in self.own]
            if unknown and not self.chosen:  # no band is dropped in silence
                return f"has the band {unknown[0]}, which no sampled image had; name all bands by --bands"
            if len(kind.bands) - len(unknown) < len(self.own) and self.dtype != "float32":
                return f"lacks bands of {', '.join(self.own)}, and {self.dtype} has no NaN for them"
        elif kind.shape[0] != len(self.bands):
            return f"has {kind}, the others {self}"
        if not self.crop and kind.shape[1:] != self.size:
            return f"has {kind}, the others {self}"
        if kind.dtype != self.dtype and not (self.mixed and kind.dtype.startswith("uint")):
            return f"has {kind}, the others {self}"
        if self.dtype != "float32" and (kind.shape[1] < self.size[0] or kind.shape[2] < self.size[1]):
            return f"has {kind}, smaller than the {self.size[0]}×{self.size[1]} asked for, and no NaN to pad it with"
        return None

    def __str__(self) -> str:
        return str(Kind((len(self.bands), *self.size), self.dtype, self.own))

    def fit(self, image: Image) -> np.ndarray:
        """The pixels in the store's form, [bands, H, W]: bands in place, cropped or padded around the centre."""
        pixels = image.pixels
        if self.own in ((), image.bands) and pixels.shape[1:] == self.size:
            return pixels.astype(self.dtype, copy=False)
        rows, columns = (_window(have, want) for have, want in zip(pixels.shape[1:], self.size, strict=True))
        target = np.full((len(self.bands), *self.size), np.nan if self.dtype == "float32" else 0, self.dtype)
        for position, own in enumerate(self.own or self.bands):
            if not self.own or own in image.bands:
                source = pixels[image.bands.index(own) if self.own else position]
                target[position, rows[1], columns[1]] = source[rows[0], columns[0]]
        return target

    def places(self, image: Image) -> list[int | None]:
        """For each band of the store its position in the image, None where the image lacks it."""
        if not self.own:
            return list(range(len(self.bands)))
        return [image.bands.index(own) if own in image.bands else None for own in self.own]


def _window(have: int, want: int) -> tuple[slice, slice]:
    """Slices of the image and of the store that lay their centres upon one another."""
    cut, pad = max(0, have - want) // 2, max(0, want - have) // 2
    length = min(have, want)
    return slice(cut, cut + length), slice(pad, pad + length)


def choose_frame(kinds: Counter[Kind], config: IngestConfig) -> Frame:
    """The form that fits most of the sampled images; UserError where more than a small minority would not fit."""
    if config.size is not None:
        size = (config.size, config.size)
        fitting = kinds
    else:
        shapes = Counter[tuple[tuple[int, ...], str]]()
        for kind, count in kinds.items():
            shapes[kind.shape[1:], "" if kind.named else kind.dtype] += count
        ((height, width), _) = shapes.most_common(1)[0][0]
        size = (height, width)
        fitting = Counter({kind: count for kind, count in kinds.items() if kind.shape[1:] == size})
    sets = Counter[tuple[str, ...]]()
    for kind, count in fitting.items():
        sets[kind.bands if kind.named else ()] += count
    if sets.most_common(1)[0][0]:
        frame = _named(Counter({kind: count for kind, count in fitting.items() if kind.named}), size, config)
    else:
        frame = _unnamed(Counter({kind: count for kind, count in fitting.items() if not kind.named}), size, config)
    refuse_mixed(kinds, frame)
    return frame


def _named(kinds: Counter[Kind], size: tuple[int, int], config: IngestConfig) -> Frame:
    """A frame for files that name their bands: the union of them, in order of appearance."""
    own = tuple(dict.fromkeys(band for kind, _ in kinds.most_common() for band in kind.bands))
    union = len({frozenset(kind.bands) for kind in kinds}) > 1
    bands = own
    chosen = bool(set(config.bands) & set(own))
    if chosen:
        union = union or not set(config.bands) <= set(own)
        own = bands = tuple(config.bands)
    elif config.bands:
        if len(config.bands) != len(own):
            raise _miscounted(config, len(own))
        bands = tuple(config.bands)
    if len(own) > MOST_STORED_BANDS:
        raise UserError(f"the images have {len(own)} bands in all ({', '.join(own[:4])}, …); choose some by --bands")
    dtype, mixed = _dtype(kinds, size, union)
    return Frame(bands, own, size, dtype, config.size is not None, mixed, chosen)


def _unnamed(kinds: Counter[Kind], size: tuple[int, int], config: IngestConfig) -> Frame:
    """A frame for files that do not: all have the same number of bands."""
    forms = Counter[tuple[int, str]]()
    for kind, count in kinds.items():
        forms[kind.shape[0], kind.dtype] += count
    (number, dtype), _ = forms.most_common(1)[0]
    chosen = Counter({k: count for k, count in kinds.items() if (k.shape[0], k.dtype) == (number, dtype)})
    names = config.bands or chosen.most_common(1)[0][0].bands
    if config.bands and len(config.bands) != number:
        raise _miscounted(config, number)
    if not names:
        names = ("gray",) if number == 1 else tuple(f"band{position + 1}" for position in range(number))
    dtype, mixed = _dtype(chosen, size, False)
    return Frame(tuple(names), (), size, dtype, config.size is not None, mixed)


def _miscounted(config: IngestConfig, number: int) -> UserError:
    given = ", ".join(config.bands)
    return UserError(f"{len(config.bands)} band names given ({given}) but the images have {number}; name each")


def _dtype(kinds: Counter[Kind], size: tuple[int, int], union: bool) -> tuple[str, bool]:
    """(type of the store, whether integers become float32 because something is missing)."""
    padded = any(kind.shape[1] < size[0] or kind.shape[2] < size[1] for kind in kinds)
    if union or padded:
        return "float32", True
    forms = Counter[str]()
    for kind, count in kinds.items():
        forms[kind.dtype] += count
    return forms.most_common(1)[0][0], False


def refuse_mixed(kinds: Counter[Kind], frame: Frame) -> None:
    """Raise UserError if more than a small minority of the images do not fit the frame."""
    misfits = Counter({kind: count for kind, count in kinds.items() if frame.misfit(kind) is not None})
    total = sum(kinds.values())
    if sum(misfits.values()) > MINORITY * total:
        common = Counter[str]()
        for kind, count in kinds.items():
            common[str(kind)] += count
        listed = ", ".join(f"{said} ({count} images)" for said, count in common.most_common(4))
        raise UserError(
            f"the images are of several kinds: {listed}{', …' * (len(common) > 4)}; ingest each kind into a store "
            "of its own, or crop and pad all to N pixels by --size N"
        )
