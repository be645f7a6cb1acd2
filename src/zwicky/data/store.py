"""The store: a directory of `.npy` shards, a Parquet table and CSV files that open without zwicky.

STORE/images-00000.npy, …   [n, bands, H, W] pixels, at most 1 GB a shard, NaN where invalid
STORE/objects.parquet       one row an object, in the order of the images
STORE/labels.csv            id, label, source, time
STORE/splits/NAME.csv       id, role, group
STORE/set_aside.csv         file, reason: what `zwicky ingest` could not read
STORE/store.json            schema version, bands, size, pixel type, truth columns, number of objects
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zwicky.data.cutouts import (
    PIXEL_TYPES,
    STANDARD_COLUMNS,
    Cutouts,
    Images,
    LazyImages,
    as_pixels,
    batches,
    complete_table,
    fill_table,
    is_numeric,
)
from zwicky.data.labels import Labels, write_labels
from zwicky.errors import UserError
from zwicky.io import STORE, file_digest, is_store, read_json, replacing, write_json

SCHEMA_VERSION = 1
SHARD_BYTES = 10**9
OBJECTS = "objects.parquet"
BATCH = 1024  # images written at a time
_INTEGERS = {pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}  # beside nulls they keep every digit


class ShardedImages(LazyImages):
    """Images in memory-mapped shards: indexing reads only those rows, and the page cache keeps what is used."""

    def __init__(self, shards: Sequence[np.ndarray], rows: slice = slice(None)) -> None:
        self.shards = list(shards)
        self.dtype, self.image_shape = self.shards[0].dtype, self.shards[0].shape[1:]
        self.starts = np.cumsum([0, *map(len, self.shards)])
        self.rows = np.arange(*rows.indices(self.starts[-1]))

    def _load(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self.image_shape), self.dtype)
        shard_of = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(shard_of):
            inside = shard_of == shard
            images[inside] = self.shards[shard][rows[inside] - self.starts[shard]]
        return images


@dataclass
class StoreWriter:
    """Write a store in pieces with flat memory; it appears at `path` only when it is complete.

        with StoreWriter("lenses", ("g", "r", "i"), (64, 64), "float32") as writer:
            writer.append(images, table)

    The work is done in `folder`, a hidden directory beside `path`; labels and splits written there arrive with the
    pixels. After an error nothing is left. UserError if `path` exists and is not empty, or cannot be written.
    """

    path: Path | str  # a new directory, or an empty one
    bands: Sequence[str]
    size: tuple[int, int]  # (H, W) in pixels
    dtype: str | np.dtype  # one of PIXEL_TYPES
    _: KW_ONLY
    truth: Sequence[str] = ()  # the columns that are simulation truth
    metadata: dict[str, Any] = field(default_factory=dict)  # further facts, JSON-able, that `open_store` returns
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.dtype = np.dtype(self.dtype)
        if self.dtype.name not in PIXEL_TYPES:
            raise ValueError(f"pixels must be one of {PIXEL_TYPES}, not {self.dtype.name}")
        self.image_shape = (len(self.bands), int(self.size[0]), int(self.size[1]))
        self._shard_rows = max(1, SHARD_BYTES // (self.dtype.itemsize * int(np.prod(self.image_shape))))
        self._rows = 0
        self._tables: list[pa.Table] = []
        self._ids: set[str] = set()
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        check_writable(self.path)
        self.folder = self._exit.enter_context(replacing(self.path, directory=True))
        self._exit.push(lambda kind, *_: None if kind else self._finish())
        return self

    def __exit__(self, *error: Any) -> None:
        self._exit.__exit__(*error)

    def __len__(self) -> int:
        return self._rows

    def append(self, images: Images, table: pd.DataFrame) -> None:
        """Add images [n, bands, H, W] of the store's size and pixel type, and their n rows.

        Standard columns that are missing are null; `pixel_hash` and `bands_present` are filled in.
        """
        images, expected = np.asarray(images), (len(table), *self.image_shape)
        if images.shape != expected or images.dtype != self.dtype:
            raise ValueError(f"images {images.dtype} {images.shape}, but store and rows are {self.dtype} {expected}")
        ids = table["id"].tolist()
        if len(set(ids)) < len(ids) or not self._ids.isdisjoint(ids) or not all(isinstance(name, str) for name in ids):
            raise ValueError("ids must be unique strings")
        self._ids.update(ids)
        self._tables.append(_to_arrow(fill_table(complete_table(table), images, self.bands)))
        while len(images):
            shard, row = divmod(self._rows, self._shard_rows)
            part, images = np.split(images, [self._shard_rows - row])
            if row == 0:
                self._write_header(shard, 0)
            with self._shard(shard).open("ab") as file:
                file.write(np.ascontiguousarray(part).data)
            self._rows += len(part)

    def replace_table(self, table: pd.DataFrame) -> None:
        """Replace the rows appended so far, for writers who know ids and columns only once everything is read."""
        if len(table) != len(self):
            raise ValueError(f"{len(table)} rows for {len(self)} images")
        self._tables, self._ids = [_to_arrow(complete_table(table))], set(table["id"])

    def _shard(self, number: int) -> Path:
        return self.folder / f"images-{number:05d}.npy"

    def _write_header(self, shard: int, rows: int) -> None:
        """Write a shard's header; NumPy pads it so that the number of rows may grow."""
        shape, dtype = (rows, *self.image_shape), np.lib.format.dtype_to_descr(np.dtype(self.dtype))
        with self._shard(shard).open("r+b" if rows else "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})

    def _finish(self) -> None:
        for start in range(0, max(1, len(self)), self._shard_rows):
            self._write_header(start // self._shard_rows, min(self._shard_rows, len(self) - start))
        tables = self._tables or [_to_arrow(complete_table(pd.DataFrame({"id": []})))]
        pq.write_table(pa.concat_tables(tables, promote_options="permissive"), self.folder / OBJECTS)
        description = {
            "schema_version": SCHEMA_VERSION,
            "objects": len(self),
            "bands": list(self.bands),
            "size": list(self.image_shape[1:]),
            "dtype": str(self.dtype),
            "truth": list(self.truth),
            "metadata": self.metadata,
        }
        write_json(self.folder / STORE, description)


def write_store(
    images: Images,
    table: pd.DataFrame,
    path: Path | str,
    *,
    bands: Sequence[str],
    truth: Sequence[str] = (),
    labels: Labels | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write a store from images and a table, whatever format they came in.

    `images` [N, bands, H, W] are an array or anything that gives arrays for slices of rows, of numbers of any kind;
    `table` has N rows with at least the column `id`, see `StoreWriter.append`.
    """
    table = table.assign(id=[str(identifier) for identifier in table["id"]])
    first = as_pixels(images[:1], len(bands))
    with StoreWriter(path, bands, first.shape[2:], first.dtype, truth=truth, metadata=metadata or {}) as writer:
        for rows in batches(len(images), BATCH):
            writer.append(as_pixels(images[rows], len(bands)), table.iloc[rows])
        if labels is not None:
            write_labels(writer.folder, labels)


def open_store(path: Path | str) -> Cutouts:
    """Open a store: the table is read, the pixels are memory-mapped; UserError if it is absent or incomplete."""
    path = Path(path)
    if not is_store(path):
        problem = f"is no store (it has no {STORE})" if path.exists() else "does not exist"
        raise UserError(f"{path} {problem}; make a store with `zwicky ingest` or `zwicky simulate`")
    description = read_json(path / STORE)
    if (version := description.get("schema_version")) != SCHEMA_VERSION:
        raise UserError(f"{path} has schema version {version!r}, not {SCHEMA_VERSION}; write the store again")
    try:
        table = pq.read_table(path / OBJECTS).to_pandas(types_mapper=_INTEGERS.get)
        images = open_images(path)
        if not len(images) == len(table) == description["objects"]:
            raise ValueError(f"{len(images)} images, {len(table)} rows, {description['objects']} objects")
        facts = tuple(description["bands"]), tuple(description["truth"]), description["metadata"]
        return Cutouts(images, table, *facts)
    except (OSError, EOFError, ValueError, LookupError, pa.ArrowException) as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"{path} is incomplete ({problem}); copy or write the store again") from error


def store_digest(store: Path) -> str:
    """Return a hash of the table of a store, which has the ids and a hash of the pixels of each object."""
    if not (store / OBJECTS).is_file():
        raise UserError(f"{store} is no store; make one with `zwicky ingest`")
    return file_digest(store / OBJECTS)


def open_images(path: Path, rows: slice = slice(None)) -> ShardedImages:
    """Map the images of a store, or of some rows, [N, bands, H, W]."""
    return ShardedImages([np.load(shard, mmap_mode="r") for shard in sorted(path.glob("images-*.npy"))], rows)


def read_rows(path: Path, first: int, last: int, columns: Sequence[str]) -> pd.DataFrame:
    """Read some rows and columns of the table of a store, in memory independent of its length."""
    with pq.ParquetFile(path / OBJECTS) as file:
        lengths = np.array([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)], int)
        ends = np.cumsum(lengths)
        groups = np.flatnonzero((ends > first) & (ends - lengths < last))
        table = file.read_row_groups(groups.tolist(), columns=list(columns))
    return table.slice(first - int(ends[ends <= first].max(initial=0)), last - first).to_pandas()


def check_writable(path: Path | str) -> None:
    """Raise UserError unless `path` does not exist or is an empty directory."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; choose another name")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} exists already and is not empty; choose another name or remove it")


def _to_arrow(table: pd.DataFrame) -> pa.Table:
    columns = {name: values if is_numeric(values) else values.to_numpy(object) for name, values in table.items()}
    arrays = {n: pa.array(c, STANDARD_COLUMNS.get(n), from_pandas=True) for n, c in columns.items()}
    return pa.table(arrays)
