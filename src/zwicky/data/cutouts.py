"""`Cutouts`: many small images of one shape, with one table row each."""

import copy
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from zwicky.data.columns import sentinels
from zwicky.errors import UserError

PIXEL_TYPES = ("uint8", "uint16", "float16", "float32")

# Columns of every table, with their types in `objects.parquet`. Any further column is a property of the object:
# from a catalogue, or a truth parameter of a simulation (listed in `Cutouts.truth`).
STANDARD_COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),  # catalogue id, else the path relative to the ingested folder; never a row number
    "ra": pa.float64(),  # degrees, null where unknown
    "dec": pa.float64(),  # degrees, null where unknown
    "bands_present": pa.list_(pa.string()),  # the bands this object has; the others are NaN
    "pixel_scale": pa.float64(),  # arcsec per pixel, null where unknown
    "survey": pa.string(),
    "psf_fwhm": pa.list_(pa.float64()),  # arcsec, one per band, null where unknown
    "noise": pa.list_(pa.float64()),  # standard deviation of the sky in image units, one per band
    "simulated": pa.bool_(),  # False: observed; null: not stated
    "pixel_hash": pa.string(),  # see `pixel_hash`
}


class LazyImages:
    """Images [N, bands, H, W] that are read, or rendered, when they are indexed.

    `images[7]`, `images[10:20]`, `images[row_numbers]`, `images[mask]` and `images[:, 0]` return arrays; `take` selects
    rows without reading them. A subclass sets `dtype`, `image_shape` and `rows` and defines `_load`.
    """

    ndim = 4
    dtype: np.dtype
    image_shape: tuple[int, int, int]
    rows: np.ndarray  # the selected rows of what `_load` reads

    def _load(self, rows: np.ndarray) -> np.ndarray:
        """Return [len(rows), bands, H, W], in an array of its own."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, bands, H, W)."""
        return (len(self), *self.image_shape)

    @property
    def nbytes(self) -> int:
        """Size of all selected pixels in bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def take(self, rows: Any) -> Self:
        """Return the images of `rows` (a slice, row numbers or a mask), still unread."""
        view = copy.copy(self)
        view.rows = self.rows[rows]
        return view

    def __getitem__(self, rows: Any) -> np.ndarray:
        rows, *rest = rows if isinstance(rows, tuple) else (rows,)
        if isinstance(rows, int | np.integer):
            return self._load(self.rows[np.array([rows])])[(0, *rest)]
        return self._load(self.rows[rows])[(slice(None), *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


Images = np.ndarray | LazyImages


def batches(count: int, size: int) -> Iterator[slice]:
    """Yield the slices that cover `count` rows, `size` at a time."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@dataclass(frozen=True)
class Cutouts:
    """N cutouts: pixels that never change, and a table of their properties."""

    images: Images  # [N, bands, H, W] in one of PIXEL_TYPES, NaN where invalid; `images[rows]` is an array
    table: pd.DataFrame  # N rows in the order of `images`: STANDARD_COLUMNS and any properties
    bands: tuple[str, ...]  # the name of each channel, e.g. ("g", "r", "i"); ("gray",) where it is unknown
    truth: tuple[str, ...] = ()  # the columns that are simulation truth rather than observables
    metadata: dict[str, Any] = field(default_factory=dict)  # further facts, kept in `store.json`

    def __post_init__(self) -> None:
        shape, expected = tuple(self.images.shape), (len(self.table), len(self.bands))
        if len(shape) != 4 or shape[:2] != expected:
            raise ValueError(f"images must be [N, bands, H, W] with (N, bands) = {expected}, not {shape}")
        if self.images.dtype.name not in PIXEL_TYPES:
            raise ValueError(f"pixels must be one of {PIXEL_TYPES}, not {self.images.dtype.name}")
        if missing := [name for name in STANDARD_COLUMNS if name not in self.table]:
            raise ValueError(f"the table lacks the columns {missing}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def ids(self) -> np.ndarray:
        """[N] object array of strings."""
        return self.table["id"].to_numpy(object)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def pixel_scale(self) -> float | None:
        """Arcsec per pixel if all objects share one, else None."""
        scales = self.table["pixel_scale"].unique()
        return float(scales[0]) if len(scales) == 1 and np.isfinite(scales[0]) else None

    def column(self, name: str) -> np.ndarray:
        """Return one column, [N]: float64 with NaN for null if numeric, else objects with None for null."""
        if name not in self.table:
            raise UserError(f"the store has no column {name!r}; it has {', '.join(self.table.columns)}")
        values = self.table[name]
        if is_numeric(values):
            return values.to_numpy(np.float64, na_value=np.nan)
        column = np.empty(len(values), object)
        column[:] = [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
        column[values.isna().to_numpy()] = None
        return column

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """Return numeric columns, [N, len(names)] float64; NaN for null and, with a warning, for -99 and the like."""
        columns = [self.column(name) for name in names]
        for index, (name, values) in enumerate(zip(names, columns, strict=True)):
            if values.dtype != np.float64:
                raise UserError(f"the column {name!r} holds no numbers; name one that does")
            if (is_code := sentinels(values)).any():
                warnings.warn(f"{is_code.sum()} × {values[is_code][0]:g} in {name!r} taken as unknown", stacklevel=2)
                columns[index] = np.where(is_code, np.nan, values)
        return np.stack(columns, axis=1)

    def take(self, rows: Any) -> Self:
        """Return the cutouts of `rows` (a slice, row numbers in any order or a mask); lazy images stay unread."""
        if not isinstance(rows, slice):
            rows = np.asarray(rows) if len(rows) else np.empty(0, np.int64)
        rows = np.arange(len(self))[rows]
        images = self.images[rows] if isinstance(self.images, np.ndarray) else self.images.take(rows)
        table = self.table.iloc[rows].reset_index(drop=True)
        return replace(self, images=images, table=table)

    def rows_of(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the row numbers of `ids`, [len(ids)] int64, in their order; UserError for ids that are not here."""
        ids = np.asarray(ids, dtype=object)
        rows = pd.Index(self.ids).get_indexer(ids).astype(np.int64)
        if len(unknown := ids[rows < 0]):
            problem = f"{len(unknown)} ids are not in the store (first: {unknown[0]!r})"
            raise UserError(f"{problem}; was it ingested from the same files?")
        return rows


def is_numeric(values: pd.Series) -> bool:
    """Return whether a column holds numbers; booleans are categories here, not numbers."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def pixel_hash(image: np.ndarray) -> str:
    """Return a 128-bit hash of the shape and values of one image [bands, H, W], whatever its pixel type."""
    values = np.ascontiguousarray(image, dtype=np.float32)
    values = np.where(np.isnan(values), np.float32(np.nan), values) + np.float32(0)  # one NaN, and -0 becomes +0
    return hashlib.blake2b(repr(image.shape).encode() + values.tobytes(), digest_size=16).hexdigest()


def as_pixels(images: Any, n_bands: int | None = None) -> np.ndarray:
    """Return images [N, bands, H, W] in a pixel type of this machine; masked pixels become NaN.

    One image [bands, H, W] or [H, W], and images [N, H, W] of one band, get the axes that they lack. UserError if they
    are no numbers, or their axes do not fit.
    """
    if isinstance(images, np.ma.MaskedArray):
        images = np.ma.filled(images.astype(np.float32), np.nan)
    array = as_array(images)
    is_one = array.ndim == 3 and len(array) == n_bands
    shape = {2: (1, 1, *array.shape), 3: (1, *array.shape) if is_one else (*array.shape[:1], 1, *array.shape[1:])}
    full = shape.get(array.ndim, array.shape)
    if array.dtype.kind not in "buif" or len(full) != 4 or full[1] != (n_bands or full[1]):
        wanted = f"[N, {n_bands or 'bands'}, H, W]"
        raise UserError(f"the images are {array.dtype} {list(array.shape)}; give numbers {wanted}")
    if full[1] == full[2] > full[3] and n_bands is None and full[3] <= 4:
        raise UserError(f"the images are {list(full)}, with the bands last; give np.moveaxis(images, -1, 1)")
    native = array.reshape(full).astype(array.dtype.newbyteorder("="), copy=False)  # FITS is big-endian
    return native if native.dtype.name in PIXEL_TYPES else native.astype(np.float32)


def as_array(images: Any) -> np.ndarray:
    """Return images, e.g. a list of them, as an array; UserError if they differ in shape."""
    try:
        return np.asarray(images)
    except ValueError:
        raise UserError("the images are of several shapes; cut or pad them to one") from None


def complete_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with every standard column, in their order, before its other columns; null where absent."""
    table = table.reindex(columns=dict.fromkeys([*STANDARD_COLUMNS, *table])).reset_index(drop=True)
    return table.astype({name: np.float64 if t == pa.float64() else object for name, t in STANDARD_COLUMNS.items()})


def fill_table(table: pd.DataFrame, images: Images, bands: Sequence[str]) -> pd.DataFrame:
    """Return the table with the pixel hash and the bands of each image where it has none."""
    hashes = [h if isinstance(h, str) else pixel_hash(images[row]) for row, h in enumerate(table["pixel_hash"])]
    present = [value if np.ndim(value) else list(bands) for value in table["bands_present"]]
    return table.assign(pixel_hash=hashes, bands_present=pd.Series(present, dtype=object))


def make_table(ids: Sequence[str], columns: dict[str, Any] | None = None) -> pd.DataFrame:
    """Return a table of `len(ids)` rows: the given columns where given, null in the other standard columns."""
    lists = {name: list(v) if getattr(v, "ndim", 1) > 1 else v for name, v in (columns or {}).items()}
    return complete_table(pd.DataFrame({"id": [str(identifier) for identifier in ids], **lists}))


def make_cutouts(images: np.ndarray, bands: Sequence[str], ids: Sequence[str] | None = None, **columns: Any) -> Cutouts:
    """Return `Cutouts` of an array (see `as_pixels`); ids, hashes and `bands_present` are filled in where not given."""
    images = images if isinstance(images, LazyImages) else as_pixels(images, len(bands))
    ids = [f"{row:06d}" for row in range(len(images))] if ids is None else ids
    return Cutouts(images, fill_table(make_table(ids, columns), images, bands), tuple(bands))
