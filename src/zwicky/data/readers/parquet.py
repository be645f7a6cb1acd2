"""Parquet sets of others: an image column, a column a band, or Multimodal Universe's records of bands; HATS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zwicky.data.readers.arrays import make_image
from zwicky.data.readers.columns import Columns, number
from zwicky.data.readers.nested import arrays_of, depth_of
from zwicky.data.readers.record import Image, ImageSet, Unreadable, refuse_claims, said

BATCH_ROWS = 64
_IMAGE_NAMES = ("image", "images", "cutout", "rgb_image", "data")
_PIXEL_NAMES = ("flux", "array", "image", "data", "pixels")


def open_parquet(path: Path) -> ImageSet:
    """Find the images and the columns of one Parquet file.

    Images are a column `image` (or the only one like it): nested lists or a tensor [H, W] or [bands, H, W], a picture
    (PNG or JPEG bytes), or a record with `band` and `flux` or `array` for each band, with `psf_fwhm` and `scale`.
    Else each column of lists [H, W] is a band, called after the column without `image_` or `flux_`.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise Unreadable(said(error, path)) from error
    with file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        refuse_claims(path.stat().st_size, rows, 1)
        if rows != sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)):
            raise Unreadable("counts its rows differently in two places")
    images = _image_columns(schema)
    kinds = {field.name: kind for field in schema if field.name not in images and (kind := _plain(field.type))}
    columns = Columns(kinds, _hats_names(path))
    left_out = tuple(name for name in schema.names if name not in images and name not in kinds)
    bands = _store_bands(schema)
    return ImageSet(rows, lambda: _images(path, images, columns, bands), columns.properties, left_out)


def _plain(kind: pa.DataType) -> pa.DataType | None:
    """The table's type for a column of this type, None for lists and records."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_uint64(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    return kind if pa.types.is_boolean(kind) else None


def _is_image(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold images: lists of lists, tensors, encoded pictures, records of bands."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return 2 <= len(kind.shape) <= 3
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    record = _record(kind)
    if record is not None:
        return _field(record, _PIXEL_NAMES) is not None or _field(record, ("bytes",)) is not None
    return 2 <= depth_of(kind) <= 3


def _record(kind: pa.DataType) -> pa.StructType | None:
    """The record of a column of records or of lists of records."""
    if depth_of(kind) == 1:
        kind = kind.value_type
    return kind if pa.types.is_struct(kind) else None


def _field(record: pa.StructType, names: tuple[str, ...]) -> str | None:
    held = {record.field(position).name.lower(): record.field(position).name for position in range(record.num_fields)}
    return next((held[name] for name in names if name in held), None)


def _image_columns(schema: pa.Schema) -> list[str]:
    """The column of images, or several: one a band."""
    fitting = [field.name for field in schema if _is_image(field.type)]
    for usual in _IMAGE_NAMES:
        for name in fitting:
            if name.lower() == usual:
                return [name]
    planes = [
        name for name in fitting if depth_of(schema.field(name).type) == 2 and _record(schema.field(name).type) is None
    ]
    if len(planes) == len(fitting) > 1:
        marked = [name for name in planes if name.lower().startswith(("image_", "flux_", "band_"))]
        return marked or planes
    if len(fitting) == 1:
        return fitting
    what = f"several columns may be images: {', '.join(fitting[:4])}" if fitting else "no column holds images"
    raise Unreadable(f"{what}; call the images `image`")


def _store_bands(schema: pa.Schema) -> tuple[str, ...]:
    """The bands that a store of zwicky names."""
    try:
        return tuple(str(name) for name in json.loads((schema.metadata or {})[b"zwicky"])["bands"])
    except (KeyError, ValueError, TypeError):
        return ()


def _hats_names(path: Path) -> dict[str, str]:
    """What a HATS catalogue calls its coordinates, from `hats.properties` above `dataset/Norder=…/Dir=…/`."""
    names: dict[str, str] = {}
    if not any(part.startswith("Norder=") for part in path.parts):
        return names
    for folder in list(path.parents)[:6]:
        for file in (folder / "hats.properties", folder / "properties"):
            try:
                lines = file.read_text(encoding="utf-8")[:100_000].splitlines()
            except (OSError, UnicodeDecodeError):
                continue
            told = dict(line.replace(" ", "").split("=", 1) for line in lines if "=" in line)
            return {role: told[f"hats_col_{role}"] for role in ("ra", "dec") if f"hats_col_{role}" in told}
    return names


def _images(path: Path, images: list[str], columns: Columns, bands: tuple[str, ...]) -> Iterator[Image | str]:
    """Row group by row group; a damaged one costs its own rows."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            done = 0
            try:
                for batch in file.iter_batches(BATCH_ROWS, [group], [*images, *columns.used], use_threads=False):
                    found = _batch(batch, images, columns, bands)
                    yield from found
                    done += len(found)
            except Exception as error:  # a damaged page: the rest of its group cannot be reached
                yield from [said(error, path)] * (rows - done)


def _batch(batch: pa.RecordBatch, images: list[str], columns: Columns, bands: tuple[str, ...]) -> list[Image | str]:
    values = {name: batch.column(name).to_pylist() for name in columns.used}
    if len(images) == 1:
        pixels = _pixels(batch.column(images[0]), bands)
    else:
        planes = [arrays_of(batch.column(name)) for name in images]
        names = tuple(_band_of(name) for name in images)
        pixels = [_stack(row, names) for row in zip(*planes, strict=True)]
    results: list[Image | str] = []
    for row, found in enumerate(pixels):
        if isinstance(found, str):
            results.append(found)
        else:
            array, names, more = found
            results.append(make_image(array, names, {**more, **columns.of_row(values, row)}))
    return results


Found = tuple[np.ndarray, tuple[str, ...], dict[str, Any]]  # pixels, bands, further fields of `Image`


def _band_of(name: str) -> str:
    for prefix in ("image_", "flux_", "band_"):
        if name.lower().startswith(prefix) and len(name) > len(prefix):
            return name[len(prefix) :]
    return name


def _stack(planes: tuple[np.ndarray | str, ...], names: tuple[str, ...], fields: dict | None = None) -> Found | str:
    """Planes of one object → [bands, H, W]; a band whose cell is empty is not there."""
    there = [(plane, name) for plane, name in zip(planes, names, strict=True) if not isinstance(plane, str)]
    broken = [plane for plane in planes if isinstance(plane, str) and plane != "has no image"]
    if broken or not there:
        return broken[0] if broken else "has no image"
    if len({plane.shape for plane, _ in there}) > 1 or there[0][0].ndim != 2:
        return "its bands differ in size"
    kept = [names.index(name) for _, name in there]
    more = {key: tuple(value[band] for band in kept) for key, value in (fields or {}).items()}
    return np.stack([plane for plane, _ in there]), tuple(name for _, name in there), more


def _pixels(column: pa.Array, bands: tuple[str, ...]) -> list[Found | str]:
    kind = column.type
    if isinstance(kind, pa.FixedShapeTensorType) or depth_of(kind) in (2, 3):
        return [found if isinstance(found, str) else (found, bands, {}) for found in arrays_of(column)]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [_picture(cell) for cell in column.to_pylist()]
    record = _record(kind)
    if record is None:
        raise Unreadable("holds no images")
    if (name := _field(record, ("bytes",))) is not None:
        return [_picture(cell and cell.get(name)) for cell in column.to_pylist()]
    return [_bands(cell, record) for cell in column]


def _bands(cell: Any, record: pa.StructType) -> Found | str:
    """One object of Multimodal Universe: lists of bands, planes, PSF widths and scales."""
    if not cell.is_valid:
        return "has no image"
    name = _field(record, _PIXEL_NAMES)
    many = isinstance(cell, pa.ListScalar | pa.LargeListScalar)
    values = cell.values if many else cell

    def told(of: tuple[str, ...]) -> Any:
        key = _field(record, of)
        if key is None:
            return None
        return values.field(key) if many else values[key].values

    planes = arrays_of(told((name or "",)))
    names = told(("band", "bands", "filter"))
    labels = [str(band) for band in names.to_pylist()] if names is not None else []
    if labels and len(labels) != len(planes):
        return f"names {len(labels)} bands and has {len(planes)}"
    labels = labels or [f"band{position + 1}" for position in range(len(planes))]
    widths = told(("psf_fwhm",))
    fields: dict[str, Any] = {}
    if widths is not None and len(widths) == len(planes):
        fields["psf_fwhm"] = tuple(number(width) for width in widths.to_pylist())
    found = _stack(tuple(planes), tuple(labels), fields)
    scales = told(("scale", "pixel_scale"))
    if not isinstance(found, str) and scales is not None and len(scales):
        scale = number(scales[0].as_py())
        if scale is not None and scale > 0:
            found[2]["pixel_scale"] = float(f"{scale:.6g}")
    return found


def _picture(data: bytes | None) -> Found | str:
    from zwicky.data.readers.images import decode_picture

    if not data:
        return "has no image"
    try:
        image = decode_picture(data)
    except Exception as error:  # Pillow raises anything on damaged data
        return said(error)
    return image.pixels, image.bands, {}
