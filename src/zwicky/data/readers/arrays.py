"""Many images in one file, as arrays side by side: which array holds the images, and which are columns."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zwicky.data.bands import AUXILIARY, band_of_column, by_wavelength, is_band, parse_bands
from zwicky.data.labels import is_usual_class
from zwicky.data.readers import FEW, ReadOptions, Record, Unreadable, find_axes, to_image, to_records

BLOCK_BYTES = 8 * 2**20  # of pixels read at a time
_IMAGES = "images image image_array cutouts cutout stamps stamp x data img imgs arr_0".split()
_AUXILIARY = re.compile(rf"(^|_){AUXILIARY}($|_)")
BANDS = ("bands", "band", "filters", "filter", "image_band")
_PER_BAND = {"psf_fwhm": "psf_fwhm", "image_psf_fwhm": "psf_fwhm", "noise": "noise", "image_scale": "pixel_scale"}
_PER_BAND |= dict.fromkeys(BANDS, "bands")
_SHARED = ("pixel_scale", "pixscale", "survey", "psf_fwhm", "noise")  # scalars that hold for all images of a stack
_LABELS = ("label", "labels", "y", "target", "targets", "class")
_ROLE = re.compile(r"(?:^|(?<=[_/.-]))(train|training|valid|validation|val|test|testing)(?:$|[_/.-])", re.IGNORECASE)

Arrays = Mapping[str, Any]  # NumPy arrays, HDF5 datasets or columns of astropy: shape, dtype, slices


def read_arrays(
    arrays: Arrays, options: ReadOptions, bands: Sequence[str] = (), may_be_single: bool = False
) -> Iterator[Record | Unreadable]:
    """Read the images among named arrays, with the arrays of their length as columns.

    Names with `train`, `val` or `test` (x_train, y_train, test/images) are the user's own split. Several groups of an
    HDF5 file, where names are paths, with images are classes, and so are stacks of one size called lens and nonlens.
    `bands` are the names that the file gives once for all images; with `may_be_single` a three-dimensional array
    without columns may be one image [bands, H, W]. Unreadable if no array is recognised as the images.
    """
    shapes = [array.shape for array in arrays.values() if array.ndim > 1]
    if len(shapes) > 2 and len(set(shapes)) == 1 and not may_be_single and _are_objects(arrays, shapes[0]):
        yield from _read_objects(arrays, options, bands)
        return
    parts: dict[tuple[str, str], dict[str, Any]] = {}
    for name, array in arrays.items():
        role = _ROLE.search(name)
        group, _, short = (_ROLE.sub("", name).strip("_/.-") if role else name).rpartition("/")
        parts.setdefault((role[1].lower() if role else "", group), {})[short or "images"] = array
    for (part, group), members in [*parts.items()]:
        deep = [name for name, array in members.items() if array.ndim > 2 and not _AUXILIARY.search(name.lower())]
        if len({members[name].shape[1:] for name in deep}) == 1 < len(deep) and any(map(is_usual_class, deep)):
            parts |= {(part, f"{group}/{name}"): {"images": members.pop(name)} for name in deep}
    images = {part: names for part, members in parts.items() if (names := _find_images(members, may_be_single))}
    if not images:
        listed = ", ".join(f"{name} {list(a.shape)}" for name, a in list(arrays.items())[:4] if a.ndim) or "nothing"
        raise Unreadable(f"no array of images [N, H, W] or [N, bands, H, W]: it holds {listed}; call them `images`")
    shared = {name: array for part in parts if part not in images for name, array in parts[part].items()}
    stacks = {group.rpartition("/")[2]: parts[part, group][names[0]] for (part, group), names in images.items()}
    if len(stacks) == len(images) > 1 and all(map(is_band, stacks)) and len({s.shape for s in stacks.values()}) == 1:
        parts = {("", ""): {n: a for members in parts.values() for n, a in members.items() if a.ndim < 3} | stacks}
        images = {("", ""): list(by_wavelength(list(stacks)))}  # a group a band
    may_be_single &= len(images) == 1
    options = options if len(images) == 1 else replace(options, first=0, last=None)
    row = options.first
    for (role_name, group), names in images.items():
        members = shared | parts[role_name, group]
        facts = {"split": role_name} if role_name else {}
        if len({group for _, group in images}) > 1 and not set(_LABELS) & {name.lower() for name in members}:
            facts["label"] = group.rpartition("/")[2]
        for item in _read_part(members, names, options, bands, may_be_single):
            yield item.at(None if item.row is None else row, facts)
            row += 1


def _are_objects(arrays: Arrays, shape: tuple[int, ...]) -> bool:
    """Return whether arrays of one shape are an image each, rather than stacks in classes or bands."""
    columns = {len(array) for array in arrays.values() if array.ndim == 1}
    names = [name.rpartition("/")[2] for name, array in arrays.items() if array.ndim > 1]
    are_bands = all(is_band(band_of_column(name)) for name in names)
    return not are_bands and (len(shape) == 2 or (len(shape) == 3 and shape[0] <= FEW and shape[0] not in columns))


def _read_objects(arrays: Arrays, options: ReadOptions, bands: Sequence[str]) -> Iterator[Record | Unreadable]:
    """Read a file with an array or a group for each object, whose name is its id and whose scalars are columns."""
    groups: dict[str, dict[str, Any]] = {}
    in_group = Counter(name.rpartition("/")[0] for name, array in arrays.items() if array.ndim > 1)
    for name, array in arrays.items():
        group, _, short = name.rpartition("/")
        group, short = (name, "image") if in_group[group] > 1 and array.ndim > 1 else (group, short)
        groups.setdefault(group, {})[short] = array
    groups = {group: members for group, members in groups.items() if any(array.ndim > 1 for array in members.values())}
    for row, (group, members) in enumerate(groups.items()):
        columns = {"id": group.rpartition("/")[2]} | _scalars(members)
        try:
            image = next(array for array in members.values() if array.ndim > 1)
            pixels = to_image(image[()], find_axes(image.shape, options, len(bands)))
            yield Record(pixels, tuple(bands) if len(bands) == len(pixels) else (), columns, row)
        except Unreadable as error:
            yield Unreadable(str(error), row)


def _find_images(arrays: Arrays, may_be_single: bool) -> list[str]:
    """Return the array of images, or one array a band; none where nothing looks like images."""
    fitting = [
        name
        for name, array in arrays.items()
        if array.dtype.kind in "buif" and all(array.shape) and not _AUXILIARY.search(name.lower())
        if (2 if may_be_single else 3) <= array.ndim <= 4 or _flat_side(array)
    ]
    usual = [name for word in _IMAGES for name in fitting if name.lower() == word]
    deep = usual[:1] or [name for name in fitting if arrays[name].ndim > 2] or fitting
    if len(deep) > 1 and not (len({arrays[name].shape for name in deep}) == 1 and all(map(band_of_column, deep))):
        shapes = ", ".join(f"{name} {list(arrays[name].shape)}" for name in deep[:4])
        raise Unreadable(f"several arrays may be the images: {shapes}; call the images `images`")
    order = by_wavelength([band_of_column(name) for name in deep])
    return sorted(deep, key=lambda name: order.index(band_of_column(name)))


def _flat_side(array: Any) -> int:
    """Return the side of flat square images [N, side²], 0 for anything else."""
    side = round(array.shape[1] ** 0.5) if array.ndim == 2 else 0
    return side if side >= 8 and side * side == array.shape[1] else 0


def _read_part(
    arrays: Arrays, names: list[str], options: ReadOptions, bands: Sequence[str], may_be_single: bool
) -> Iterator[Record | Unreadable]:
    """Read the images of one group of arrays in blocks."""
    first = arrays[names[0]]
    others = {name: array for name, array in arrays.items() if name not in names}
    lengths = {
        len(array)
        for name, array in others.items()
        if (array.ndim == 1 and name.lower() not in _PER_BAND) or (array.ndim == 2 and name.lower() in _LABELS)
    }
    side = _flat_side(first) if not may_be_single or len(first) in lengths else 0
    shape = (len(first), side, side) if side else first.shape
    if len(shape) == 3 and not (may_be_single and not lengths) and shape[2] not in lengths:
        lengths.add(shape[0])
    given = (array for name, array in others.items() if name.lower() in BANDS and array.ndim == 1)
    common = next((parse_bands(array[()]) for array in given if len(array) not in lengths), tuple(bands))
    axes = find_axes(shape, replace(options, stacks=True), len(common) if len(names) == 1 else 0, lengths)
    if len(names) > 1:
        common = tuple(map(band_of_column, names))
    if "N" not in axes:
        yield from to_records(first[()], axes, common, _scalars(others))
        return
    count, step = shape[axes.index("N")], max(1, BLOCK_BYTES // (int(np.prod(shape[1:])) * first.dtype.itemsize))
    begin, end = options.first, min(count, options.last or count)
    columns = _columns(others, range(count)[begin:end], count, options)
    shared = {name: value for name, value in _scalars(others).items() if name.lower() in _SHARED}
    if axes[0] == "N":
        step = max(step, *(getattr(first, "chunks", None) or (1,))[:1])  # a chunk of HDF5 is decompressed whole
    else:
        arrays = {name: np.moveaxis(arrays[name][()], axes.index("N"), 0) for name in names}
    for row in range(begin, end):
        if row == begin or row % step == 0:
            start, stop = row, min(row - row % step + step, end)
            blocks = [arrays[name][start:stop] for name in names]
        facts = shared | {name: values[row - begin] for name, values in columns.items()}
        named = parse_bands(facts.pop("bands")) if "bands" in facts else common
        planes = [block[row - start].reshape(shape[1:]) if side else block[row - start] for block in blocks]
        try:
            is_flat = len(planes) > 1 and planes[0].ndim == 2  # an array a band, of which some may be blank
            image = (
                to_image(np.ma.stack(planes), "BHW") if is_flat else np.concatenate([to_image(p, axes) for p in planes])
            )
            if named and len(named) != len(image):
                raise Unreadable(f"names {len(named)} bands and has {len(image)}")
            yield Record(image, named, facts, row)
        except Unreadable as error:
            yield error.at(row, {})


def _columns(arrays: Arrays, rows: range, count: int, options: ReadOptions) -> dict[str, list]:
    """Return the columns beside `count` images, for some rows: plain values, or tuples with one a band."""
    columns: dict[str, list] = {}
    for name, array in arrays.items():
        key, values, some = name.lower(), None, slice(rows.start, rows.stop)
        if not array.ndim or len(array) != count:
            if array.ndim == 1 and key in _PER_BAND:  # the same for all images
                columns |= {_PER_BAND[key]: [tuple(array[()].tolist())] * len(rows)} if key not in BANDS else {}
                continue
        elif array.ndim == 1:
            values = plain_values(array[some])
        elif array.ndim == 2 and key in _PER_BAND:
            name, values = _PER_BAND[key], [tuple(of_bands) for of_bands in array[some].tolist()]
        elif array.ndim == 2 and key in _LABELS:  # one column, or one-hot
            values = plain_values(array[some, 0] if array.shape[1] == 1 else np.argmax(array[some], axis=1))
        if values is not None:
            columns[name] = values
        elif array.ndim:
            options.notes.add(f"{name} {list(array.shape)} is no column of plain values and was left out")
    return columns


def _scalars(arrays: Arrays) -> dict[str, Any]:
    """Return the plain values of arrays without axes."""
    values = {name: plain_values([array[()]]) for name, array in arrays.items() if not array.ndim}
    return {name: of_one[0] for name, of_one in values.items() if of_one}


def plain_values(array: Any) -> list | None:
    """Turn a column into int, float, bool, str and None (masked, NaN, empty text); None if it holds other things."""
    mask = np.ma.getmaskarray(array)
    values = np.ma.getdata(array).tolist()
    for row, value in enumerate(values):
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        if isinstance(value, str):
            value = value.replace("\0", "").strip() or None
        if value is not None and not isinstance(value, int | float | str):
            return None
        values[row] = None if mask[row] or value != value else value
    return values
