"""Readers: each a generator from a path to records of one image each, in one form whatever the file held."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from zwicky.io import STORE

FEW = 6  # an axis this short is that of the bands
MANY = 64  # a longer one is not
BLANK = "has no valid pixel"
GRAY, RGB = ("gray",), ("R", "G", "B")  # the bands of pictures

_READERS: dict[tuple[str, ...], str] = {
    tuple(".png .jpg .jpeg .tif .tiff .bmp .gif .webp .jp2 .pgm .ppm".split()): "pictures:read_picture",
    (".npy",): "numpy:read_npy",
    (".npz",): "numpy:read_npz",
    tuple(".fits .fit .fts .fits.gz .fit.gz .fits.bz2 .fits.fz .fz".split()): "fits:read_fits",
    (".hdf5", ".h5", ".hdf"): "numpy:read_hdf5",
    (".parquet", ".pq"): "parquet:read_parquet",
    (STORE,): "numpy:read_store",
}


class Unreadable(ValueError):
    """An image that cannot be used; the message is the reason. `row`: its number in a file of many images."""

    def __init__(self, reason: str, row: int | None = None) -> None:
        super().__init__(reason)
        self.row = row

    def at(self, row: int | None, columns: Mapping[str, Any]) -> "Unreadable":
        """Return the same reason for a row."""
        return Unreadable(str(self), row)


@dataclass(frozen=True)
class Record:
    """One cutout and what its file says about it.

    `columns` are further facts by the name the file gives them, e.g. id, label, ra (degrees), pixel_scale (arcsec).
    """

    image: np.ndarray  # [bands, H, W] uint8, uint16 or float32; NaN where invalid
    bands: tuple[str, ...] = ()  # empty where the file names none
    columns: dict[str, Any] = field(default_factory=dict)
    row: int | None = None  # its number in a file of many images, None in a file of one

    def at(self, row: int | None, columns: Mapping[str, Any]) -> "Record":
        """Return the same cutout at a row, with these columns beside its own."""
        return replace(self, columns={**columns, **self.columns}, row=row)


@dataclass
class ReadOptions:
    """What the user states about the files (see `IngestConfig`), and what readers note."""

    bands: tuple[str, ...] = ()
    axes: str = ""
    hdu: tuple[str, ...] = ()
    stacks: bool = False  # whether an axis of 7 to 64 entries counts images rather than bands
    first: int = 0  # the row to begin with in a file that `spans` divides …
    last: int | None = None  # … and the row before which to end
    truth: set[str] = field(default_factory=set)  # columns that readers know to be simulation truth
    notes: set[str] = field(default_factory=set)  # what readers left out


def format_of(name: str) -> str:
    """Return the reader of files of this name, "" if there is none."""
    return next((reader for suffixes, reader in _READERS.items() if name.lower().endswith(suffixes)), "")


def read(path: Path, options: ReadOptions | None = None) -> Iterator[Record | Unreadable]:
    """Yield a record, or the reason why there is none, for each image of a file; large files are read in pieces.

    The last item is the reason where the file as a whole, or what follows, cannot be read.
    """
    options = options or ReadOptions()
    row = options.first
    try:
        if path.stat().st_size == 0:
            raise Unreadable("is empty")
        module, _, name = ("numpy:read_folder" if path.is_dir() else format_of(path.name)).partition(":")
        if not module:
            raise Unreadable("is not an image")
        for item in getattr(import_module(f"{__name__}.{module}"), name)(path, options):
            yield item
            row += 1
    except Exception as error:  # decoders raise anything on a damaged file; none of it may end an ingest
        yield to_unreadable(error, path).at(row or None, {})


def to_unreadable(error: Exception, path: Path) -> Unreadable:
    """Return what a decoder raised as one line without the path."""
    message = " ".join(str(error).replace(str(path), "the file").split()) or type(error).__name__
    return error if isinstance(error, Unreadable) else Unreadable(f"cannot be read: {message[:200]}")


def read_image(path: Path, options: ReadOptions | None = None) -> Record:
    """Read the one image of a file; raise Unreadable where that fails or there are several."""
    items = list(read(path, options))
    if len(items) != 1:
        raise Unreadable(f"holds {len(items)} images, not one")
    if isinstance(items[0], Unreadable):
        raise items[0]
    return items[0]


def spans(path: Path, size: int) -> list[tuple[int, int | None]]:
    """Divide a file of many images into ranges of about `size` rows, [(0, None)] where only reading would count them.

    The last range is open, so that no row is lost where the number of images is guessed from the shapes.
    """
    ends: Sequence[int] = ()
    try:
        reader = format_of(path.name)
        if reader.startswith("parquet"):
            from pyarrow.parquet import ParquetFile

            with ParquetFile(path) as file:
                lengths = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            ends = np.cumsum(lengths[:-1], dtype=int).tolist()
        elif reader == "numpy:read_hdf5":
            import h5py

            shapes: list[tuple[int, ...]] = [(0,)]
            with h5py.File(path, "r") as file:
                file.visititems(lambda _, item: shapes.append(item.shape) if getattr(item, "ndim", 0) > 2 else None)
            ends = range(size, max(shape[0] for shape in shapes), size)
        elif reader == "numpy:read_npy":
            shape = np.load(path, mmap_mode="r").shape
            ends = range(size, shape[0] if len(shape) > 3 or shape[0] > MANY else 0, size)
    except Exception:  # a damaged file: reading it gives the reason
        return [(0, None)]
    starts = [0]
    for end in ends:
        if end >= starts[-1] + size:
            starts.append(end)
    return list(zip(starts, [*starts[1:], None], strict=True))


def find_axes(shape: tuple[int, ...], options: ReadOptions, n_bands: int = 0, rows: Collection[int] = ()) -> str:
    """Return what each axis of an array of images is: some of "NBHW", in their order.

    `options.axes` decides for arrays with as many axes. Else the band axis has `n_bands` entries (those the file names,
    else `options.bands`), or is the one beside two equal sides, or a short one. `rows` are possible numbers of images:
    the lengths of the columns beside them. Unreadable if the axes are ambiguous, or too few or too many.
    """
    if len(shape) == len(options.axes):
        return options.axes
    if len(shape) == 2:
        return "HW"
    if len(shape) not in (3, 4):
        raise Unreadable(f"has {len(shape)} axes; a cutout has 2, or 3 with the bands, a stack of cutouts one more")
    n_bands = n_bands or len(options.bands)
    if len(shape) == 4:
        square_first = shape[0] == shape[1] not in shape[2:] and shape[2] != shape[3]
        last = shape[0] not in rows and ((shape[3] in rows and shape[3] > FEW) or square_first)
        axes = ("BHW", "HBW", "HWB")[_band_axis(shape[:3] if last else shape[1:], n_bands) or 0]
        return axes + "N" if last else "N" + axes
    if shape[0] in rows or (shape[2] in rows and shape[0] == shape[1]):
        return "NHW" if shape[0] in rows else "HWN"
    axis = _band_axis(shape, n_bands)
    if axis is None and not options.stacks:
        raise Unreadable(f"shape {list(shape)}: the axis of the bands is ambiguous; name all, e.g. --axes HWB or NHW")
    length = 0 if axis is None else shape[axis]
    is_long = length != n_bands and (n_bands == 1 or length > (FEW if options.stacks else MANY))
    if axis is None or (axis != 1 and is_long):
        return "HWN" if axis == 2 else "NHW"
    if n_bands > 1 and n_bands != length:
        raise Unreadable(f"shape {list(shape)}: no axis of {n_bands} bands")
    return ("BHW", "HBW", "HWB")[axis]


def _band_axis(shape: tuple[int, ...], n_bands: int) -> int | None:
    """Return the axis of three that counts bands: with n_bands entries, beside two equal sides, or short."""
    beside_square = [axis for axis in (0, 2, 1) if len({*shape[:axis], *shape[axis + 1 :]}) == 1 < len(set(shape))]
    matching = [axis for axis in (0, 2, 1) if shape[axis] == n_bands]
    short = sorted((axis for axis in (0, 2, 1) if shape[axis] <= FEW), key=lambda axis: shape[axis])
    both = [axis for axis in matching if axis in beside_square]
    return next(iter(both + matching + beside_square + short), None)


def to_image(array: Any, axes: str) -> np.ndarray:
    """Turn numbers with these axes (N aside) into [bands, H, W] in the byte order of the machine.

    uint8 and uint16 stay, booleans become uint8, all else float32; infinite and masked pixels become NaN. Unreadable if
    it holds other things than real numbers, or no valid pixel.
    """
    mask, array = np.ma.getmask(array), np.ma.getdata(array)
    if array.dtype.kind not in "buif":
        raise Unreadable(f"holds {array.dtype.name} values, not real numbers")
    if array.size == 0:
        raise Unreadable("holds no pixels")
    if np.any(mask) or array.dtype.kind not in "bu" or array.dtype.itemsize > 2:
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(np.float32)
        array[~np.isfinite(array) | mask] = np.nan
        if np.isnan(array).all():
            raise Unreadable(BLANK)
    axes = axes.replace("N", "")
    array = array[None] if "B" not in axes else array.transpose([axes.index(axis) for axis in "BHW"])
    return np.ascontiguousarray(array, np.uint8 if array.dtype.kind == "b" else array.dtype.newbyteorder("="))


def to_records(
    array: Any, axes: str, bands: Sequence[str] = (), columns: dict | None = None, first: int = 0
) -> Iterator[Record | Unreadable]:
    """Yield the images of an array along its axis N, from row `first` on, or its one image; one is read at a time.

    An image that cannot be used is yielded as Unreadable.
    """
    stack = [array] if "N" not in axes else array if axes[0] == "N" else np.moveaxis(array, axes.index("N"), 0)
    for number, plane in enumerate(stack[first:] if first else stack, first):
        row = number if "N" in axes else None
        try:
            image = to_image(plane, axes)
            yield Record(image, tuple(bands) if len(bands) == len(image) else (), columns or {}, row)
        except Unreadable as error:
            yield Unreadable(str(error), row)
