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
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zwicky.cutouts.contract import PIXEL_TYPES, SCHEMA_VERSION, STANDARD_COLUMNS, Cutouts, make_table, pixel_hash
from zwicky.errors import UserError
from zwicky.files import beside, clear

ROW_GROUP_BYTES = 15 * 2**20  # of pixels; Parquet may hold 16-bit integers in twice that
PART_ROW_GROUPS = 32  # so a part holds about half a gigabyte of pixels
_PART = re.compile(r"part-(\d{5})-of-(\d{5})\.parquet")


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
        self._group_rows = max(1, round(ROW_GROUP_BYTES / (self.dtype.itemsize * int(np.prod(self._shape)))))
        self._schema: pa.Schema | None = None
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._parts = 0
        self._groups_in_part = 0
        self._ids: set[str] = set()

    def __enter__(self) -> StoreWriter:
        refuse_existing(self.path)
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
            refuse_existing(self.path)
            if self.path.exists():  # an empty directory
                self.path.rmdir()
            os.rename(self.folder, self.path)


def refuse_existing(path: Path | str) -> None:
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
    files = [_open_part(part) for part in _parts(Path(path))]
    metadata = _checked_metadata(files, Path(path))
    return {**metadata, "rows": sum(file.metadata.num_rows for file in files)}


def open_store(path: Path | str) -> Cutouts:
    """Read a whole store into memory.

    Raises UserError for a path without a store, a store of a newer or unknown schema, and damaged or missing parts.
    """
    path = Path(path)
    parts = _parts(path)
    files = [_open_part(part) for part in parts]
    metadata = _checked_metadata(files, path)
    shape = (len(metadata["bands"]), *metadata["size"])
    rows = sum(file.metadata.num_rows for file in files)
    images = np.empty((rows, *shape), metadata["dtype"])
    jobs, start = [], 0
    for part, file in zip(parts, files, strict=True):
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            jobs.append((part, group, images[start : start + count]))
            start += count
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        tables = list(pool.map(_read_group, jobs))
    empty = files[0].schema_arrow.empty_table().drop_columns("image")
    table = pa.concat_tables([empty, *tables]).combine_chunks().replace_schema_metadata(None)
    missing = [name for name in STANDARD_COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{path} is damaged: it lacks the columns {', '.join(missing)}; write the store again")
    return Cutouts(images, table, tuple(metadata["bands"]), tuple(metadata["truth"]), metadata)


def _read_group(job: tuple[Path, int, np.ndarray]) -> pa.Table:
    """Read one row group: its pixels into the given view of the result, its other columns as a table."""
    part, group, target = job
    try:
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            table = file.read_row_group(group, use_threads=False)
        start = 0
        for chunk in table.column("image").chunks:
            storage = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
            target[start : start + len(chunk)] = storage.flatten().to_numpy().reshape(-1, *target.shape[1:])
            start += len(chunk)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise _damaged(part, error) from error
    return table.drop_columns("image")


def _parts(path: Path) -> list[Path]:
    """The Parquet files of a store, in order; all of them must be there."""
    if not path.is_dir():
        what = "is a file, not a store" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}; make a store with `zwicky ingest` or `zwicky simulate`")
    try:
        parts = sorted(part for part in path.glob("*.parquet") if not part.name.startswith(("_", ".")))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check that you may read it") from error
    if not parts:
        raise UserError(
            f"{path} holds no Parquet files, so it is no store; make one with `zwicky ingest` or `zwicky simulate`"
        )
    named = [match for part in parts if (match := _PART.fullmatch(part.name))]
    expected = int(named[0][2]) if named else len(parts)
    if len(parts) != expected:
        raise UserError(f"{path} is incomplete: {len(parts)} of {expected} parts are there; copy or write it again")
    return parts


def _open_part(part: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(part)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(part, error) from error


def _damaged(part: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{part} is damaged or cut short ({reason}); copy or write the store again")


def _checked_metadata(files: list[pq.ParquetFile], path: Path) -> dict[str, Any]:
    """The metadata that all parts share, refused unless this version of the code understands it."""
    texts = {(file.schema_arrow.metadata or {}).get(b"zwicky") for file in files}
    if None in texts:
        raise UserError(f"{path} holds Parquet files that zwicky did not write; ingest the images themselves")
    if len(texts) > 1:
        raise UserError(f"{path} mixes the parts of different stores; keep one store a directory")
    try:
        metadata = json.loads(texts.pop() or b"")
        version = metadata["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} says nothing readable of its schema; write the store again") from error
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version!r} and this zwicky reads {SCHEMA_VERSION}; "
            "install the zwicky that wrote it or write the store again"
        )
    absent = [key for key in ("bands", "size", "dtype", "truth") if key not in metadata]
    if absent or metadata["dtype"] not in PIXEL_TYPES:
        lacking = ", ".join(absent) or "a known dtype"
        raise UserError(f"{path} is damaged: its schema lacks {lacking}; write the store again")
    return metadata


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
