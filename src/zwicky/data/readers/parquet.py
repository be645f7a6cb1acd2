"""Parquet: a column of images (lists, tensors, pictures, records of bands) or one a band; also HATS catalogues."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from zwicky.data.bands import band_of_column
from zwicky.data.readers import ReadOptions, Record, Unreadable, find_axes, to_image
from zwicky.data.readers.pictures import decode_picture

BATCH_ROWS = 64
_IMAGES = ("image", "images", "cutout", "rgb_image", "data", "img")
_PIXELS = ("flux", "array", "image", "data", "pixels", "bytes")
_PLAIN = ("integer", "floating", "string", "large_string", "boolean")
_LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)

Cell = tuple[Any, tuple[str, ...], dict[str, Any]]  # array or bytes or None, bands, facts


def read_parquet(path: Path, options: ReadOptions) -> Iterator[Record | Unreadable]:
    """Read the images row by row, with the plain columns beside them."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        images = _image_columns(schema)
        others = [field for field in schema if field.name not in images and "__index_level_" not in field.name]
        plain = [field.name for field in others if _is_plain(field.type)]
        left_out = [field.name for field in others if field.name not in plain]
        options.notes.update(f"{name} is no column of plain values and was left out" for name in left_out)
        renamed = _hats_names(path)
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
        classes = {name: entry["names"] for name, entry in info.get("features", {}).items() if "names" in entry}
        row, groups = 0, list(range(file.num_row_groups))
        while groups and row + (size := file.metadata.row_group(groups[0]).num_rows) <= options.first:
            row, groups = row + size, groups[1:]
        for batch in file.iter_batches(BATCH_ROWS, groups, columns=[*images, *plain]):
            cells = zip(*(_decode_column(batch.column(name), name) for name in images), strict=True)
            for cell, facts in zip(cells, batch.select(plain).to_pylist(), strict=True):
                facts = {renamed.get(name, name): value for name, value in facts.items()}
                named = {n: names[facts[n]] for n, names in classes.items() if facts.get(n) in range(len(names))}
                try:
                    image, bands, of_image = _join(cell, options)
                    yield Record(image, bands, of_image | facts | named, row)
                except Unreadable as error:
                    yield Unreadable(str(error), row)
                row += 1


def _is_plain(type_: pa.DataType) -> bool:
    type_ = type_.value_type if types.is_dictionary(type_) else type_
    return any(getattr(types, f"is_{name}")(type_) for name in _PLAIN)


def _is_bytes(type_: pa.DataType) -> bool:
    return types.is_binary(type_) or types.is_large_binary(type_)


def _depth(type_: pa.DataType) -> int:
    """Return how many lists are around the values: 2 for `list<list<float>>`."""
    type_ = type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_
    return 1 + _depth(type_.value_type) if isinstance(type_, _LISTS) else 0


def _struct(type_: pa.DataType) -> pa.StructType | None:
    type_ = type_.value_type if _depth(type_) == 1 and isinstance(type_, pa.ListType | pa.LargeListType) else type_
    return type_ if types.is_struct(type_) else None


def _image_columns(schema: pa.Schema) -> list[str]:
    """Return the column of images, or one a band."""

    def may_hold_images(field: pa.Field) -> bool:
        struct, depth = _struct(field.type), _depth(field.type)
        if struct is not None:
            return any(entry.name.lower() in _PIXELS for entry in struct)
        is_flat = depth == 1 and field.name.lower() in _IMAGES
        return isinstance(field.type, pa.FixedShapeTensorType) or _is_bytes(field.type) or depth in (2, 3) or is_flat

    fitting = [field for field in schema if may_hold_images(field)]
    usual = [field.name for name in _IMAGES for field in fitting if field.name.lower() == name]
    if usual or len(fitting) == 1:
        return (usual or [fitting[0].name])[:1]
    if fitting and all(_depth(field.type) == 2 and _struct(field.type) is None for field in fitting):
        return [field.name for field in fitting if band_of_column(field.name)] or [field.name for field in fitting]
    columns = ", ".join(f"{field.name}: {field.type}" for field in (fitting or schema))[:150]
    raise Unreadable(f"no column is recognised as the images: it holds {columns}; call the images `image`")


def _decode_column(column: pa.Array, name: str) -> list[Cell]:
    """Return the cells of a column; a record of the Multimodal Universe has lists of bands, fluxes, PSFs and scales."""
    struct = _struct(column.type)
    if struct is None:
        values = column.to_pylist() if _is_bytes(column.type) else _to_numpy(column)
        return [(value, (band_of_column(name) or name,), {}) for value in values]

    def entries(*keys: str) -> Any:
        names = {entry.name.lower(): entry.name for entry in struct}
        field = next((names[key] for key in keys if key in names), None)
        if field is None:
            return pa.nulls(len(column))
        if types.is_struct(column.type):
            return pc.struct_field(column, field)
        return pa.ListArray.from_arrays(column.offsets.cast(pa.int32()), pc.struct_field(column.values, field))

    pixels = entries(*_PIXELS)
    if _is_bytes(pixels.type):
        return [(value, (), {}) for value in pixels.to_pylist()]
    lists = (entries("band", "bands", "filter"), entries("psf_fwhm"), entries("scale", "pixel_scale"))
    return [
        (image, tuple(b or ()), ({"psf_fwhm": tuple(w)} if w else {}) | ({"pixel_scale": s[0]} if s else {}))
        for image, b, w, s in zip(_to_numpy(pixels), *(values.to_pylist() for values in lists), strict=True)
    ]


def _join(cells: Sequence[Cell], options: ReadOptions) -> tuple[np.ndarray, tuple[str, ...], dict[str, Any]]:
    """Return one image [bands, H, W] from one cell or one a band; empty cells are bands that are missing."""
    present = [cell for cell in cells if cell[0] is not None and len(cell[0])]
    if not present:
        raise Unreadable("has no image")
    array, bands, facts = present[0]
    if len(cells) > 1:
        if len({cell[0].shape for cell in present}) > 1 or array.ndim != 2:
            raise Unreadable("its bands differ in size")
        return to_image(np.stack([cell[0] for cell in present]), "BHW"), tuple(cell[1][0] for cell in present), {}
    if isinstance(array, bytes):
        try:
            picture = decode_picture(io.BytesIO(array))
        except OSError as error:
            raise Unreadable(f"holds {len(array)} bytes that are no picture; save PNG or lists of numbers") from error
        return picture.image, picture.bands, {}
    if array.ndim == 1:
        side = round(array.size**0.5)
        if side * side != array.size:
            raise Unreadable(f"is a flat list of {array.size} numbers, not a square; save it as nested lists")
        array = array.reshape(side, side)
    image = to_image(array, "BHW" if facts else find_axes(array.shape, options))
    if facts and len(bands) not in (0, len(image)):
        raise Unreadable(f"names {len(bands)} bands and has {len(image)}")
    return image, bands if facts or len(bands) == len(image) > 1 else (), facts


def _to_numpy(column: pa.Array) -> list[np.ndarray | None]:
    """Return an array a row of nested lists or tensors, None where it is missing; missing numbers become NaN."""
    if isinstance(column, pa.FixedShapeTensorArray) and not column.null_count:
        return list(column.to_numpy_ndarray())
    column = column.storage if isinstance(column, pa.ExtensionArray) else column
    shape, values = [len(column)], column
    while _depth(values.type):
        lengths = pc.min_max(pc.list_value_length(values)).as_py()
        if values.null_count or lengths["min"] != lengths["max"]:  # row by row, then
            if len(column) > 1:
                return [_to_numpy(column.slice(row, 1))[0] for row in range(len(column))]
            return [None if column.null_count else np.full((1, 0), np.nan)]
        shape.append(lengths["min"] or 0)
        values = values.flatten()
    if values.null_count:
        values = pc.fill_null(values.cast(pa.float64()), float("nan"))
    return list(values.to_numpy(zero_copy_only=False).reshape(shape))


def _hats_names(path: Path) -> dict[str, str]:
    """Return what a HATS catalogue calls ra and dec, from `hats.properties` above `dataset/Norder=…/Dir=…/`."""
    files = [folder / name for folder in list(path.parents)[:6] for name in ("hats.properties", "properties")]
    file = next((file for file in files if file.is_file()), None)
    if file is None or "Norder=" not in str(path):
        return {}
    pairs = dict(line.replace(" ", "").split("=", 1) for line in file.read_text().splitlines() if "=" in line)
    return {pairs[f"hats_col_{role}"]: role for role in ("ra", "dec") if f"hats_col_{role}" in pairs}
