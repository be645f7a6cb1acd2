"""Sets that are arrays side by side, as HDF5 and `.npz` files hold them: which array is the images, which a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from zwicky.data.readers.columns import Columns, kind_of, number, text
from zwicky.data.readers.record import Image, Unreadable, as_pixels

BLOCK_BYTES = 8 * 2**20  # of pixels read at a time
_IMAGE_NAMES = ("images", "image", "image_array", "cutouts", "x", "x_train", "data", "arr_0")
_BAND_NAMES = ("bands", "band", "filters", "image_band")


@dataclass(frozen=True)
class Layout:
    """images: name of the images [N, …]. columns: names of what has one value a row, [N], and their roles.

    per_band: "psf_fwhm", "pixel_scale", "bands" → the array [N, bands] or [bands] that tells it. left_out: columns of
    objects or with further axes.
    """

    images: str
    columns: Columns
    per_band: Mapping[str, str]
    left_out: tuple[str, ...]


def find_images(shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, np.dtype], least: int) -> str:
    """The name of the array of images: the one of a usual name, else the only one with `least` or more axes."""
    fitting = [
        name
        for name, shape in shapes.items()
        if least <= len(shape) <= 4 and dtypes[name].kind in "buif" and all(shape)
    ]
    for usual in _IMAGE_NAMES:
        for name in fitting:
            if name.lower().rsplit("/", 1)[-1] == usual:
                return name
    if len(fitting) == 1:
        return fitting[0]
    held = ", ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:4]) or "nothing"
    problem = "several arrays may be the images" if fitting else "no array of images [N, H, W] or [N, bands, H, W]"
    raise Unreadable(f"{problem}: it holds {held}; call the images `images`")


def make_layout(
    images: str, rows: int, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, np.dtype]
) -> Layout:
    """Sort the arrays beside the images into columns, what is told by band, and what is left out."""
    prefix = images.rpartition("/")[0]
    kinds: dict[str, pa.DataType] = {}
    per_band: dict[str, str] = {}
    left_out: list[str] = []
    for name, shape in shapes.items():
        if name == images or name.rpartition("/")[0] != prefix:
            continue
        short = name.rsplit("/", 1)[-1].lower()
        kind = kind_of(dtypes[name])
        if short in _BAND_NAMES and dtypes[name].kind in "SU":
            per_band["bands"] = name
        elif short in ("psf_fwhm", "image_psf_fwhm"):
            per_band["psf_fwhm"] = name
        elif short == "image_scale":
            per_band["pixel_scale"] = name
        elif shape == (rows,) and kind is not None:
            kinds[name] = kind
        elif shape[:1] == (rows,):
            left_out.append(name)
    names = {name: name.rsplit("/", 1)[-1] for name in kinds}
    columns = Columns({names[name]: kind for name, kind in kinds.items()})
    return Layout(images, columns, per_band, tuple(left_out))


def images_of(
    block: np.ndarray, columns: Mapping[str, Any], layout: Layout, bands: Sequence[str], told: Mapping[str, np.ndarray]
) -> list[Image | str]:
    """The images of a block [n, …] with its columns, name → [n]; told: what is told by band, [n, bands]."""
    results: list[Image | str] = []
    for row, pixels in enumerate(block):
        names = band_names(told["bands"][row]) if "bands" in told else tuple(bands)
        fields = layout.columns.of_row(columns, row)
        if "psf_fwhm" in told:
            fields["psf_fwhm"] = tuple(number(value) for value in told["psf_fwhm"][row])
        if "pixel_scale" in told and "pixel_scale" not in fields:
            scale = number(told["pixel_scale"][row, 0])
            fields["pixel_scale"] = float(f"{scale:.6g}") if scale is not None and scale > 0 else None
        results.append(make_image(pixels, names, fields))
    return results


def make_image(pixels: np.ndarray, names: tuple[str, ...], fields: Mapping[str, Any]) -> Image | str:
    """An image whose file names its bands; the reason where the pixels will not do."""
    if len(set(names)) < len(names) or not all(names):
        return f"names its bands oddly: {', '.join(map(str, names[:8]))}"
    try:
        pixels = as_pixels(pixels, len(names) if len(names) > 1 else 0)
    except Unreadable as error:
        return str(error)
    if names and len(names) != len(pixels):
        return f"names {len(names)} bands and has {len(pixels)}"
    fields = {
        **fields,
        "psf_fwhm": fields.get("psf_fwhm", ()) if len(fields.get("psf_fwhm", ())) == len(pixels) else (),
    }
    return Image(pixels, names, **fields)


def told_by_band(column: Any, role: str, rows: int, start: int, stop: int) -> np.ndarray:
    """[stop − start, bands] of an array (NumPy or HDF5) that tells something by band, for each row or once for all."""
    if column.shape[:1] == (rows,) and (len(column.shape) == 2 or role != "bands"):
        return np.reshape(column[start:stop], (stop - start, -1))
    values = np.ravel(column[()])
    return np.broadcast_to(values, (stop - start, len(values)))


def band_names(values: Any) -> tuple[str, ...]:
    """Names of bands as text; one string like "g,r,z" or "grz" is taken apart."""
    if isinstance(values, bytes | str):
        said = text(values.decode("utf-8", "replace") if isinstance(values, bytes) else values) or ""
        parts = said.replace(",", " ").split()
        return tuple(parts[0]) if len(parts) == 1 and parts[0].isalpha() and parts[0].islower() else tuple(parts)
    cells = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in np.ravel(values)]
    return tuple(cell.replace("\0", "").strip() for cell in cells)
