"""The data contract: `Cutouts`, many small images of one shape with one table row each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from zwicky.errors import UserError

if TYPE_CHECKING:
    from zwicky.data.stored_images import Images

SCHEMA_VERSION = 1
PIXEL_TYPES = ("uint8", "uint16", "float32")

# Columns every store has, besides `image`. Any further column is a property of the object: a truth parameter
# of a simulation (listed in `Cutouts.truth`) or something a catalogue said.
STANDARD_COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),  # catalogue id, else the path relative to what was ingested; never a row number
    "ra": pa.float64(),  # degrees, null where unknown
    "dec": pa.float64(),  # degrees, null where unknown
    "bands_present": pa.list_(pa.string()),  # the bands this object really has; the others are NaN
    "pixel_scale": pa.float64(),  # arcsec per pixel, null where unknown
    "survey": pa.string(),
    "psf_fwhm": pa.list_(pa.float64()),  # arcsec, one per band, null where unknown
    "noise": pa.list_(pa.float64()),  # standard deviation of the sky in image units, one per band
    "simulated": pa.bool_(),  # False: observed; null: the ingester was not told
    "pixel_hash": pa.string(),  # see `pixel_hash`
}


@dataclass(frozen=True)
class Cutouts:
    """N cutouts: pixels that never change, and a table of them.

    images: [N, bands, H, W] in the type they came in (uint8, uint16 or float32); NaN where invalid (float32 only). An
        array, or `StoredImages` where they do not fit into memory: either gives an array for some rows.
    table: N rows; the columns of STANDARD_COLUMNS and any properties, in the order of `images`.
    bands: the name of each channel, e.g. ("g", "r", "i"); ("gray",) where the file does not say.
    truth: names of the columns that are simulation truth, so that nobody mistakes them for observables.
    """

    images: Images
    table: pa.Table
    bands: tuple[str, ...]
    truth: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.images.ndim != 4:
            raise ValueError(f"images must be [N, bands, H, W], not {list(self.images.shape)}")
        if self.images.dtype.name not in PIXEL_TYPES:
            raise ValueError(f"pixels must be one of {PIXEL_TYPES}, not {self.images.dtype.name}")
        if len(self.images) != self.table.num_rows:
            raise ValueError(f"{len(self.images)} images but {self.table.num_rows} table rows")
        if self.images.shape[1] != len(self.bands):
            raise ValueError(f"{self.images.shape[1]} channels but {len(self.bands)} band names")
        missing = [name for name in STANDARD_COLUMNS if name not in self.table.column_names]
        if missing:
            raise ValueError(f"the table lacks the columns {missing}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def ids(self) -> np.ndarray:
        """[N] object array of strings."""
        return np.asarray(self.column("id"), dtype=object)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def pixel_scale(self) -> float | None:
        """Arcsec per pixel if all objects share one, else None."""
        scales = set(self.column("pixel_scale").tolist())
        scale = scales.pop() if len(scales) == 1 else None
        return None if scale is None or scale != scale else float(scale)

    def column(self, name: str) -> np.ndarray:
        """One column as numpy: floats with NaN for null, else objects with None for null."""
        if name not in self.table.column_names:
            known = ", ".join(self.table.column_names)
            raise UserError(f"the store has no column {name!r}; it has {known}")
        column = self.table.column(name)
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            return column.cast(pa.float64()).fill_null(float("nan")).to_numpy()
        return np.array([*column.to_pylist(), None], dtype=object)[:-1]  # the sentinel keeps numpy from nesting lists

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """[N, columns] float64 of these columns, NaN for null. Raises UserError for one that holds no numbers."""
        columns = [self.column(name) for name in names]
        for name, values in zip(names, columns, strict=True):
            if values.dtype != np.float64:
                raise UserError(f"the column {name!r} holds no numbers; name one that does")
        return np.stack(columns, axis=1)

    def take(self, rows: Sequence[int] | np.ndarray) -> Cutouts:
        """The cutouts of these rows, in this order; what was not read stays unread."""
        rows = np.asarray(rows, dtype=np.int64)
        images = self.images[rows] if isinstance(self.images, np.ndarray) else self.images.select(rows)
        return Cutouts(images, self.table.take(pa.array(rows)), self.bands, self.truth, self.metadata)

    def rows_of(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """[len(ids)] row numbers of these ids, in this order; an unknown id is an error."""
        row = {identifier: position for position, identifier in enumerate(self.ids)}
        unknown = [identifier for identifier in ids if identifier not in row]
        if unknown:
            raise UserError(
                f"{len(unknown)} ids are not in the store (first: {unknown[0]!r}); was it ingested from the same files?"
            )
        return np.array([row[identifier] for identifier in ids], dtype=np.int64)


def pixel_hash(image: np.ndarray) -> str:
    """128-bit hash of one image's [bands, H, W] shape and values, the same whichever type or NaN bits hold them."""
    values = np.ascontiguousarray(image, dtype=np.float32)
    values = np.where(np.isnan(values), np.float32(np.nan), values) + np.float32(0)  # one NaN, and -0 becomes +0
    return hashlib.blake2b(repr(image.shape).encode() + values.tobytes(), digest_size=16).hexdigest()


def make_table(ids: Sequence[str], columns: dict[str, Any] | None = None) -> pa.Table:
    """A contract-conforming table of N rows: given columns where given, null elsewhere."""
    columns = dict(columns or {})
    count = len(ids)
    arrays: dict[str, pa.Array] = {"id": pa.array([str(identifier) for identifier in ids], pa.string())}
    for name, kind in STANDARD_COLUMNS.items():
        if name != "id":
            arrays[name] = pa.array(columns.pop(name), kind) if name in columns else pa.nulls(count, kind)
    for name, values in columns.items():
        arrays[name] = values if isinstance(values, pa.Array) else pa.array(values)
    return pa.table(arrays)


def make_cutouts(images: np.ndarray, bands: Sequence[str], ids: Sequence[str] | None = None, **columns: Any) -> Cutouts:
    """`Cutouts` from an array [N, bands, H, W], for notebooks and tests; hashes and band lists are filled in."""
    ids = [f"{position:06d}" for position in range(len(images))] if ids is None else ids
    columns.setdefault("pixel_hash", [pixel_hash(image) for image in images])
    columns.setdefault("bands_present", [list(bands)] * len(images))
    return Cutouts(images, make_table(ids, columns), tuple(bands))
