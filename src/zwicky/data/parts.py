"""The Parquet parts of a store: which there are, what they say of themselves, and their row groups one by one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zwicky.data.contract import PIXEL_TYPES, SCHEMA_VERSION, STANDARD_COLUMNS
from zwicky.errors import UserError

_PART = re.compile(r"part-(\d{5})-of-(\d{5})\.parquet")


@dataclass(frozen=True)
class RowGroup:
    """Some consecutive rows of a store. start: the first of them. number: of the group within the part."""

    part: Path
    number: int
    start: int
    rows: int


@dataclass(frozen=True)
class Parts:
    """A store that was looked at but not read. metadata: schema_version, bands, size, dtype and truth."""

    path: Path
    metadata: dict[str, Any]
    groups: tuple[RowGroup, ...]
    schema: pa.Schema

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)

    @property
    def shape(self) -> tuple[int, int, int]:
        """[bands, H, W] of one image."""
        height, width = self.metadata["size"]
        return len(self.metadata["bands"]), height, width

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.metadata["dtype"])

    @property
    def starts(self) -> np.ndarray:
        """[groups] the first row of each."""
        return np.array([group.start for group in self.groups])

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return self.rows * int(np.prod(self.shape)) * self.dtype.itemsize

    def read(self, group: int, rows: np.ndarray) -> np.ndarray:
        """These rows of a group and no more: what is not needed shall take no memory while the rest waits."""
        whole = self.groups[group]
        pixels = np.empty((whole.rows, *self.shape), self.dtype)
        read_pixels(whole, pixels)
        return pixels if len(rows) == whole.rows else pixels[rows - whole.start]


def look(path: Path | str) -> Parts:
    """Look at a store.

    Raises UserError for a path without a store, a store of a newer or unknown schema, and damaged or missing parts.
    """
    path = Path(path)
    groups: list[RowGroup] = []
    texts, schemas, start = set(), [], 0
    for part in _parts(path):
        try:
            with pq.ParquetFile(part) as file:
                schemas.append(file.schema_arrow)
                texts.add((file.schema_arrow.metadata or {}).get(b"zwicky"))
                counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        except (OSError, pa.ArrowException) as error:
            raise _damaged(part, error) from error
        for number, count in enumerate(counts):
            groups.append(RowGroup(part, number, start, count))
            start += count
    metadata = _checked_metadata(texts, path)
    if not isinstance(metadata["truth"], list) or any(_shape(schema) != _said(metadata) for schema in schemas):
        raise UserError(f"{path} is damaged: its images are not what its schema says; write the store again")
    missing = [name for name in STANDARD_COLUMNS if name not in schemas[0].names]
    if missing:
        raise UserError(f"{path} is damaged: it lacks the columns {', '.join(missing)}; write the store again")
    return Parts(path, metadata, tuple(groups), schemas[0])


def read_table(group: RowGroup) -> pa.Table:
    """All columns of a row group but the pixels."""
    return _read(group, None).replace_schema_metadata(None)


def read_pixels(group: RowGroup, target: np.ndarray) -> None:
    """Read the pixels of a row group into `target` [rows, bands, H, W]."""
    column = _read(group, ["image"]).column("image")
    start = 0
    try:
        for chunk in column.chunks:
            storage = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
            target[start : start + len(chunk)] = storage.flatten().to_numpy().reshape(-1, *target.shape[1:])
            start += len(chunk)
    except (pa.ArrowException, ValueError) as error:
        raise _damaged(group.part, error) from error


def _read(group: RowGroup, columns: list[str] | None) -> pa.Table:
    """These columns, or all but the pixels."""
    try:
        with pq.ParquetFile(group.part, page_checksum_verification=True) as file:
            columns = columns or [name for name in file.schema_arrow.names if name != "image"]
            return file.read_row_group(group.number, columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(group.part, error) from error


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


def _damaged(part: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{part} is damaged or cut short ({reason}); copy or write the store again")


def _checked_metadata(texts: set[bytes | None], path: Path) -> dict[str, Any]:
    """The metadata that all parts share, refused unless this version of the code understands it."""
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


def _shape(schema: pa.Schema) -> list[int] | None:
    """[bands, H, W] of the images of a part, None where it has none."""
    kind = schema.field("image").type if "image" in schema.names else None
    return list(kind.shape) if isinstance(kind, pa.FixedShapeTensorType) else None


def _said(metadata: dict[str, Any]) -> list[Any]:
    """[bands, H, W] as a store says of itself, empty where it says nonsense."""
    bands, size = metadata["bands"], metadata["size"]
    return [len(bands), *size] if bands and isinstance(bands, list) and isinstance(size, list) else []
