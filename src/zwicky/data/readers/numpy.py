"""NumPy's `.npy` and `.npz`, among them the object arrays of DeepLense; HDF5; and stores of zwicky."""

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zwicky.data.bands import parse_bands
from zwicky.data.labels import read_labels
from zwicky.data.readers import FEW, ReadOptions, Record, Unreadable, find_axes, to_image, to_records
from zwicky.data.readers.arrays import BANDS, read_arrays
from zwicky.data.store import open_store

AXION_MASS = "axion_mass"  # the second entry of DeepLense's `axion` files
_ALLOWED = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")} | {
    (f"{core}.{module}", name)
    for core in ("numpy.core", "numpy._core")  # numpy 1 and numpy 2
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}


class SafeUnpickler(pickle.Unpickler):
    """An unpickler of plain data and NumPy arrays; any other name is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few names that NumPy arrays need."""
        if (module, name) not in _ALLOWED:
            raise Unreadable(f"its pickle asks for {module}.{name}, which is never run; save the data without it")
        return super().find_class(module, name)


def read_npy(path: Path, options: ReadOptions) -> Iterator[Record | Unreadable]:
    """Read one image, or a stack [N, …]; an object array [image, mass] also gives the truth column `axion_mass`."""
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r" if path.stat().st_size > 2**26 else None)
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        yield from _read_objects(path, options)
    else:
        if array.ndim == 4 and array.shape[3] == 1 and len(array) <= FEW and not (options.stacks or options.axes):
            array = array[..., 0]  # one image of some bands, as in a folder of [bands, H, W]
        if array.dtype.names:  # a record an image
            yield from read_arrays({name: array[name] for name in array.dtype.names}, options)
            return
        yield from to_records(array, find_axes(array.shape, options), first=options.first)


def _read_objects(path: Path, options: ReadOptions) -> Iterator[Record | Unreadable]:
    """Read a pickled array: the pair [image, mass], or one dictionary of arrays."""
    with path.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        getattr(np.lib.format, f"read_array_header_{1 if version == (1, 0) else 2}_0")(stream)
        array = SafeUnpickler(stream).load()
    if array.shape == () and isinstance(array.item(), dict):
        arrays = {str(name): np.asarray(values) for name, values in array.item().items()}
        yield from read_arrays(arrays, options, may_be_single=True)
        return
    try:
        image, mass = array
        record = Record(to_image(image, find_axes(image.shape, options)), columns={AXION_MASS: float(np.squeeze(mass))})
    except (TypeError, ValueError, AttributeError) as error:
        raise Unreadable("holds Python objects other than [image, mass]; save a plain array") from error
    options.truth.add(AXION_MASS)
    yield record


def read_folder(path: Path, options: ReadOptions) -> Iterator[Record | Unreadable]:
    """Read the `.npy` files of a folder, images.npy and labels.npy for example, as one archive."""
    arrays = {file.stem: np.load(file, allow_pickle=False, mmap_mode="r") for file in sorted(path.glob("*.npy"))}
    yield from read_arrays(arrays, options)


def is_archive(files: Sequence[Path]) -> bool:
    """Return whether the `.npy` files of a folder are a stack of images and columns of its length."""
    try:
        shapes = [np.load(file, mmap_mode="r").shape for file in files]
    except Exception:  # an array of objects, or a damaged file: reading it gives the reason
        return False
    columns = {shape[0] for shape in shapes if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)}
    return any(len(shape) > 2 and shape[0] in columns for shape in shapes)


def read_npz(path: Path, options: ReadOptions) -> Iterator[Record | Unreadable]:
    """Read the images of an archive and the arrays of their length as columns; arrays of objects are left out."""
    arrays = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            try:
                arrays[name] = archive[name]
            except ValueError:  # an array of objects
                options.notes.add(f"{name} holds objects and was left out")
    yield from read_arrays(arrays, options, may_be_single=not options.stacks)


def read_hdf5(path: Path, options: ReadOptions) -> Iterator[Record | Unreadable]:
    """Read the dataset of images with the datasets beside it; an attribute `bands` or `filters` names the bands."""
    try:
        import h5py
    except ImportError as error:  # an extra
        raise Unreadable("is HDF5, which needs h5py: pip install 'zwicky[hdf5]'") from error
    with h5py.File(path, "r") as file:
        arrays: dict[str, Any] = {}
        attributes: list[Any] = []

        def visit(name: str, item: Any) -> None:
            attributes.append(item.attrs)
            facts = {key: np.asarray(value) for key, value in item.attrs.items() if np.ndim(value) == 0}
            arrays.update({f"{name}/{key}".lstrip("/"): value for key, value in facts.items() if key not in BANDS})
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                is_text = h5py.check_string_dtype(item.dtype) is not None
                values = item.asstr("utf-8", "backslashreplace") if is_text else item
                arrays[name] = np.asarray(values[()]) if item.ndim < 2 else item

        visit("", file)
        file.visititems(visit)
        bands = next((parse_bands(attrs[key]) for attrs in attributes for key in BANDS if key in attrs), ())
        images = [array for array in arrays.values() if array.ndim > 1]
        is_single = not options.stacks and len(images) == 1 and (images[0].ndim == 2 or len(images[0]) <= FEW)
        yield from read_arrays(arrays, options, bands, is_single)


def read_store(path: Path, options: ReadOptions) -> Iterator[Record | Unreadable]:
    """Read the objects of the store that `path`, its `store.json`, describes, with their labels; splits stay behind."""
    cutouts = open_store(path.parent)
    options.truth |= set(cutouts.truth)
    table = cutouts.table.drop(columns=["bands_present", "simulated", "pixel_hash"])
    labels = read_labels(path.parent).of(cutouts.ids)
    items = to_records(cutouts.images, "NBHW", cutouts.bands)
    for item, facts, label in zip(items, table.to_dict("records"), labels, strict=True):
        lists = {name: tuple(facts.pop(name)) for name in ("psf_fwhm", "noise") if facts[name] is not None}
        yield item.at(item.row, facts | lists | {"label": label})
