"""The store: a directory of Parquet files, one row an object, the image an Arrow `fixed_shape_tensor`.

    STORE/part-00000-of-00002.parquet   the objects, in row groups of about 15 MB
    STORE/_labels.parquet, _splits/, …  tables that may change; names with `_` are skipped by Parquet readers

Each part carries the schema key `zwicky`: JSON with schema_version, bands, size, dtype and truth. The names of the
parts say how many there are, so a store copied halfway is recognised.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zwicky.data.contract import PIXEL_TYPES, SCHEMA_VERSION, STANDARD_COLUMNS, Cutouts, make_table, pixel_hash
from zwicky.data.memory import most_bytes
from zwicky.data.parts import look, read_pixels, read_table
from zwicky.data.stored_images import Images, StoredImages
from zwicky.errors import UserError
from zwicky.io import beside, clear

ROW_GROUP_BYTES = 15 * 2**20  # of pixels; Parquet may hold 16-bit integers in twice that
PART_ROW_GROUPS = 32  # so a part holds about half a gigabyte of pixels


def rows_of_a_group(image_bytes: int) -> int:
    """How many images of so many bytes make a row group; of small ones whole blocks as a simulation renders them."""
    rows = max(1, round(ROW_GROUP_BYTES / image_bytes))
    return rows - rows % 64 if rows > 64 else rows


class StoreWriter:
    """Write a store piece by piece with flat memory; nothing appears at `path` before all of it is there.

        with StoreWriter("lenses", ("g", "r", "i"), (64, 64), "float32") as writer:
            writer.append(images, table)

    bands: channel names. size: (H, W) in pixels. dtype: uint8, uint16 or float32. truth: names of the table's
    columns that are simulation truth. Work goes on in `folder`, a hidden directory beside `path`; put other tables
    (labels) there to have them arrive with the pixels. After an error or a kill there is no store at `path`.
    A `path` that exists and is not empty is refused (UserError).
    """

    def __init__(
        self,
        path: Path | str,
        bands: Sequence[str],
        size: tuple[int, int],
        dtype: str | np.dtype,
        truth: Sequence[str] = (),
    ) -> None:
        self.path = Path(os.path.abspath(path))
        self.folder = beside(self.path)
        self.bands, self.size, self.dtype, self.truth = (
            tuple(bands),
            (int(size[0]), int(size[1])),
            np.dtype(dtype),
            tuple(truth),
        )
        if self.dtype.name not in PIXEL_TYPES:
            raise ValueError(f"pixels must be one of {PIXEL_TYPES}, not {self.dtype.name}")
        self._shape = (len(self.bands), *self.size)
        self._group_rows = rows_of_a_group(self.dtype.itemsize * int(np.prod(self._shape)))
        self._schema: pa.Schema | None = None
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._parts = 0
        self._groups_in_part = 0
        self._ids: set[str] = set()

    def __enter__(self) -> StoreWriter:
        check_writable(self.path)
        with _writing(self.path):
            clear(self.path)
            self.folder.mkdir(parents=True)
        return self

    def __len__(self) -> int:
        """Rows appended so far."""
        return len(self._ids)

    def __contains__(self, identifier: str) -> bool:
        """Whether an object of this id was appended."""
        return identifier in self._ids

    def append(self, images: np.ndarray, table: pa.Table) -> None:
        """Add n objects: images [n, bands, H, W] of the store's dtype, and their n table rows.

        The first call fixes the columns. `pixel_hash` and `bands_present` are filled in where null.
        Raises ValueError if shape, type, columns or ids do not fit.
        """
        if images.shape != (len(images), *self._shape) or images.dtype != self.dtype:
            raise ValueError(
                f"images {images.dtype} {list(images.shape)}, but the store is {self.dtype} [n, {self._shape}]"
            )
        if table.num_rows != len(images):
            raise ValueError(f"{len(images)} images but {table.num_rows} table rows")
        missing = [name for name in STANDARD_COLUMNS if name not in table.column_names]
        if missing or "image" in table.column_names:
            raise ValueError(f"the table lacks {missing}" if missing else "a column may not be called 'image'")
        ids = table.column("id").to_pylist()
        fresh = set(ids)
        if len(fresh) < len(ids) or fresh & self._ids or None in fresh:
            raise ValueError("ids must be unique and none may be null")
        self._ids |= fresh
        table = _with_image(_filled(table, images, self.bands), images)
        if self._schema is None:
            self._schema = table.schema.with_metadata({"zwicky": json.dumps(self._metadata())})
        with _writing(self.path):
            self._pending.append(table.select(self._schema.names).cast(self._schema))
            self._pending_rows += len(images)
            while self._pending_rows >= self._group_rows:
                self._write_group(self._group_rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._writer is not None:
                with contextlib.suppress(OSError):
                    self._writer.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _metadata(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "bands": list(self.bands),
            "size": list(self.size),
            "dtype": self.dtype.name,
            "truth": list(self.truth),
        }

    def _write_group(self, rows: int) -> None:
        """Write the first `rows` pending rows as one row group; begin a new part where the last one is full."""
        pending = pa.concat_tables(self._pending)
        group, rest = pending.slice(0, rows), pending.slice(rows)
        self._pending, self._pending_rows = ([rest] if rest.num_rows else []), rest.num_rows
        if self._writer is None:
            floats = self.dtype.kind == "f"
            others, pixels = [name for name in group.column_names if name != "image"], ["image.list.element"]
            self._writer = pq.ParquetWriter(
                self.folder / f"part-{self._parts:05d}.parquet",
                self._schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=others if floats else others + pixels,
                use_byte_stream_split=pixels if floats else False,  # the bytes of floats compress better apart
                write_statistics=others,
                write_page_checksum=True,
            )
            self._parts += 1
            self._groups_in_part = 0
        self._writer.write_table(group.combine_chunks(), row_group_size=rows)
        self._groups_in_part += 1
        if self._groups_in_part == PART_ROW_GROUPS:
            self._writer.close()
            self._writer = None

    def _finish(self) -> None:
        if self._schema is None:
            self.append(np.zeros((0, *self._shape), self.dtype), make_table([]))
        with _writing(self.path):
            if self._pending_rows or self._parts == 0:
                self._write_group(max(1, self._pending_rows))
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            for part in range(self._parts):
                name = f"part-{part:05d}"
                os.rename(self.folder / f"{name}.parquet", self.folder / f"{name}-of-{self._parts:05d}.parquet")
            check_writable(self.path)
            if self.path.exists():  # an empty directory
                self.path.rmdir()
            os.rename(self.folder, self.path)


def check_writable(path: Path | str) -> None:
    """Raise UserError unless a store may be written at `path`: nothing there, or an empty directory."""
    path = Path(path)
    if path.is_dir():
        with _writing(path):
            empty = not any(path.iterdir())
        if not empty:
            raise UserError(f"{path} exists already and is not empty; choose another name or remove it")
    elif path.exists() or path.is_symlink():
        raise UserError(f"{path} is a file; choose another name for the store")


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What a store says of itself: schema_version, bands, size, dtype, truth, and its number of `rows`."""
    found = look(path)
    return {**found.metadata, "rows": found.rows}


def open_store(path: Path | str, memory_gb: float | None = None) -> Cutouts:
    """Read a store. Pixels of at most `memory_gb` are loaded, larger ones are read when asked for (`StoredImages`).

    memory_gb: 10⁹ bytes; None takes half of the memory that is free.
    Raises UserError for a path without a store, a store of a newer or unknown schema, and damaged or missing parts.
    """
    most = most_bytes(memory_gb)
    found = look(path)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        tables = list(pool.map(read_table, found.groups))
        empty = found.schema.empty_table().drop_columns("image").replace_schema_metadata(None)
        table = pa.concat_tables([empty, *tables]).combine_chunks()
        images: Images = StoredImages(found, most)
        if images.nbytes <= most:
            images = np.empty(images.shape, images.dtype)
            targets = [images[group.start : group.start + group.rows] for group in found.groups]
            for _ in pool.map(read_pixels, found.groups, targets):
                pass
    return Cutouts(images, table, tuple(found.metadata["bands"]), tuple(found.metadata["truth"]), found.metadata)


def _filled(table: pa.Table, images: np.ndarray, bands: tuple[str, ...]) -> pa.Table:
    """Fill in pixel hashes and the bands present where the table has none."""
    hashes = table.column("pixel_hash")
    if hashes.null_count:
        given = hashes.to_pylist()
        filled = [known or pixel_hash(image) for known, image in zip(given, images, strict=True)]
        index = table.schema.get_field_index("pixel_hash")
        table = table.set_column(index, "pixel_hash", pa.array(filled, pa.string()))
    present = table.column("bands_present")
    if present.null_count:
        lists = [list(bands) if known is None else known for known in present.to_pylist()]
        kind = STANDARD_COLUMNS["bands_present"]
        table = table.set_column(table.schema.get_field_index("bands_present"), "bands_present", pa.array(lists, kind))
    return table


def _with_image(table: pa.Table, images: np.ndarray) -> pa.Table:
    """Append the column `image`; the pixels are copied, so the caller may reuse its array."""
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(images.dtype), images.shape[1:])
    flat = pa.array(np.array(images, order="C").reshape(-1))
    storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(images.shape[1:])))
    return table.append_column("image", pa.ExtensionArray.from_storage(kind, storage))


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path}: {reason}; choose a place with room that you may write to") from error
