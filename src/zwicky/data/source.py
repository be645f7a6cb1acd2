"""The files of a folder: found, grouped into objects and read; folders that are classes or parts of a split."""

import contextlib
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Self

import numpy as np

from zwicky.data.bands import AUXILIARY, EXTENSION, by_wavelength, group_files
from zwicky.data.catalog import is_catalog_name
from zwicky.data.columns import MAX_CLASSES, ROLES, is_unknown
from zwicky.data.image_format import STRAY
from zwicky.data.labels import is_usual_class
from zwicky.data.matching import FileFinder
from zwicky.data.readers import BLANK, ReadOptions, Record, Unreadable, format_of, read
from zwicky.data.readers.numpy import SafeUnpickler, is_archive
from zwicky.data.store import OBJECTS
from zwicky.io import STORE, is_store

MANY = (".hdf5", ".h5", ".hdf", ".npz", ".parquet", ".pq", STORE)
LARGE = 2**26  # bytes; larger files, and those of many images, are read in pieces
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")  # that shutil unpacks
DIGESTED, END = 64, 2**16  # files whose ends are part of a digest, and bytes of an end
MAX_ARRAYS = 20  # files of a folder that may be columns of one another
_ROLES = "|".join(sorted(ROLES, key=len, reverse=True)).replace("_", "[_-]?")
# A role in any case between separators, or with a capital after a small letter: lensesTrain.
_ROLE = re.compile(rf"(?:(?<![A-Za-z0-9])|(?<=[a-z])(?=[A-Z]))((?i:{_ROLES}))\d*(?![a-z0-9])")
_NO_CLASS = re.compile(r"(set|data|dataset|split|images?|imgs?|files?|cutouts?|samples?|part)?[_\-. ]?(v?\d+)?", re.I)
_AUXILIARY = re.compile(rf"[_.-]{AUXILIARY}(?=[_.-]|$)", re.IGNORECASE)
_SCIENCE = re.compile(r"[_.-](sci|science|image|img|drz|drc|coadd)(?=[_.-]|$)", re.IGNORECASE)
_PARTITION = re.compile(r"(Norder|Dir|Npix)=")  # folders of a HATS catalogue

Unit = dict[str, str]  # the file of an image or of many ("" → file), or the files of one object by band


@dataclass
class Source:
    """The folder that is read, and what becomes of its files."""

    folder: Path
    units: dict[str, Unit]
    options: ReadOptions
    set_aside: list[tuple[str, str]]
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, options: ReadOptions) -> Self:
        """Find the files of a folder, or one file, and what they are of; pictures of FITS and arrays are set aside."""
        files, set_aside = scan_folder(path)
        folder = path.parent if path.is_file() else path
        stems = {file: EXTENSION.sub("", file) for file in files}
        original = {stem: file for file, stem in stems.items() if not format_of(file).startswith("pictures")}
        science = {_SCIENCE.sub("", stem) for stem in original if not _AUXILIARY.search(stem)}
        stores = {file for file in files if os.path.basename(file) == STORE}
        reasons = {}
        for file, stem in stems.items():
            if _AUXILIARY.search(stem) and _SCIENCE.sub("", _AUXILIARY.sub("", stem, 1)) in science:
                reasons[file] = "a map of weights, errors or masks by its name"
            elif original.get(stem, file) != file and format_of(file).startswith("pictures"):
                reasons[file] = f"a picture of {original[stem]}"
            elif file in stores and len(stores) < len(files):
                reasons[file] = "a store among other files, perhaps of them; ingest it by itself"
        set_aside += reasons.items()
        files = [file for file in files if file not in reasons]
        arrays = [file for file in files if not format_of(file).startswith(("pictures", "parquet"))]
        names = [stems[file] for file in arrays if not re.search(r"\d", stems[file])]
        are_classes = len(arrays) <= MAX_ARRAYS and any(map(is_usual_class, names))
        options.stacks |= len(arrays) == 1 or are_classes
        return cls(folder, group_units(folder, files, options.bands), options, set_aside)

    def read(self, name: str) -> Iterator[Record | Unreadable]:
        """Read the images of a unit; the last item is an error where the rest cannot be read."""
        unit = self.units[name]
        if "" in unit:
            return read(self.folder / unit[""], self.options)
        bands = by_wavelength(tuple(unit))
        options = replace(self.options, bands=(), stacks=True)  # further planes are images
        files = [read(self.folder / unit[band], options) for band in bands]
        return (join_bands(bands, items) for items in zip_longest(*files))

    def is_large(self, name: str, size: int = LARGE) -> bool:
        """Return whether a unit is read in pieces: above `size` (bytes), or of a format that holds many images."""
        paths = [self.folder / file for file in self.units[name].values()]
        return any(p.name.lower().endswith(MANY) or p.is_dir() or p.stat().st_size > size for p in paths)

    def folder_of(self, name: str) -> str:
        """Return "type:folder" of a unit, since files of one type in one folder belong together."""
        file = next(iter(self.units[name].values()))
        return f"{format_of(file).partition(':')[0]}:{file.rpartition('/')[0]}"


def join_bands(bands: Sequence[str], items: Sequence[Record | Unreadable | None]) -> Record | Unreadable:
    """Return one image of several bands from one of each."""
    records = [item for item in items if isinstance(item, Record)]
    if records and records[0].image.dtype == np.float32:  # a band without a valid pixel is one that is missing
        empty = replace(records[0], image=np.full_like(records[0].image, np.nan), columns={})
        items = [empty if isinstance(item, Unreadable) and str(item) == BLANK else item for item in items]
        records = [item for item in items if isinstance(item, Record)]
    row = next((item.row for item in items if item is not None), None)
    if len(records) < len(items):
        band, item = next(pair for pair in zip(bands, items, strict=True) if not isinstance(pair[1], Record))
        return Unreadable(f"{band}: {item or 'has fewer images'}", row)
    if counts := {len(record.image) for record in records} - {1}:
        return Unreadable(f"a file has {max(counts)} bands, and its name is that of one", row)
    if len({(record.image.shape, record.image.dtype) for record in records}) > 1:
        shapes = [(band, *record.image.shape[1:]) for band, record in zip(bands, records, strict=True)]
        sizes = ", ".join(f"{band} {height}×{width}" for band, height, width in shapes)
        return Unreadable(f"its bands differ in size or type: {sizes}", row)
    if len({record.columns.get("pixel_scale") for record in records} - {None}) > 1:
        return Unreadable("its bands differ in pixel scale", row)
    columns = {key: value for record in reversed(records) for key, value in record.columns.items()}
    return Record(np.concatenate([record.image for record in records]), tuple(bands), columns, row)


def scan_folder(folder: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """List a folder, or one file: (paths of files that may hold images, (path, reason) of all else).

    Links are followed, and each folder is entered once.
    """
    if folder.is_file():
        return [folder.name], []
    files: list[str] = []
    set_aside: list[tuple[str, str]] = []
    visited: set[tuple[int, int]] = set()

    def reason_against(entry: os.DirEntry, name: str) -> str:
        """Return why an entry holds no image, "" if it may."""
        if not name.endswith(entry.name):
            return "its name is not UTF-8"
        if entry.name.startswith((".", "__MACOSX")):
            return "hidden folder" if entry.is_dir() else "hidden file"
        if entry.is_dir():
            return ""
        if not entry.is_file():  # reading a pipe would wait for ever
            return "broken link" if entry.is_symlink() else "not a regular file"
        if entry.name.lower().endswith(ARCHIVES):
            return f"an archive; unpack it, or ingest it alone: zwicky ingest {entry.name}"
        if entry.name.lower().endswith((".7z", ".rar", ".zst")):
            return "an archive; unpack it"
        if format_of(entry.name) and entry.name != "data_thumbnail.parquet":  # of a HATS catalogue
            return ""
        is_packed = entry.name.lower().endswith((".gz", ".bz2", ".xz", ".lz4")) and not is_catalog_name(entry.name)
        return "compressed; unpack it" if is_packed else "not an image"

    def visit(path: Path, prefix: str) -> None:
        status = path.stat()
        if (status.st_dev, status.st_ino) in visited:
            raise OSError(0, "it was already read under another name (a link)")
        visited.add((status.st_dev, status.st_ino))
        if is_store(path):  # a store of ours, which is read as one
            files.append(prefix + STORE)
            return
        for entry in sorted(os.scandir(path), key=lambda entry: os.fsencode(entry.name)):
            name = (prefix + entry.name).encode("utf-8", "backslashreplace").decode()
            if reason := reason_against(entry, name):
                set_aside.append((name, reason))
            elif entry.is_dir():
                try:
                    visit(path / entry.name, name + "/")
                except OSError as error:
                    set_aside.append((name, f"folder cannot be read: {error.strerror}"))
            else:
                files.append(name)

    visit(folder, "")
    return files, set_aside


def files_digest(folder: Path, names: Iterable[str]) -> str:
    """Return a hash of the names and sizes of files, and of both ends of some; a store within counts by its table."""
    paths = [(folder / name).with_name(OBJECTS) if Path(name).name == STORE else folder / name for name in names]
    paths = [*chain.from_iterable(sorted(path.iterdir()) if path.is_dir() else [path] for path in paths)]
    digest = hashlib.blake2b(digest_size=16)
    for number, path in enumerate(paths):
        with contextlib.suppress(OSError):  # what cannot be read is listed when it is scored
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder)} {size}\n".encode())
            if number % max(1, len(paths) // DIGESTED) == 0:
                with path.open("rb") as file:
                    digest.update(file.read(END))
                    file.seek(max(0, size - END))
                    digest.update(file.read(END))
    return digest.hexdigest()


def group_units(folder: Path, files: Sequence[str], bands: Sequence[str]) -> dict[str, Unit]:
    """Return what holds images by its name: files, objects that come as one file a band, folders of arrays.

    Paths are relative to the folder; `bands` are their names, if the user states them.
    """
    arrays: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        if file.lower().endswith(".npy"):
            arrays[os.path.dirname(file) or "."].append(file)
    archives = {
        parent: members
        for parent, members in arrays.items()
        if 1 < len(members) <= MAX_ARRAYS and is_archive([folder / file for file in members])
    }
    archived = {file for members in archives.values() for file in members}
    rest = [file for file in files if file not in archived]
    units = {parent: {"": parent} for parent in archives} | group_files(rest, bands)
    grouped = {file for unit in units.values() for file in unit.values()}
    units |= {file: {"": file} for file in rest if file not in grouped}
    return {name: units[name] for name in sorted(units)}


def split_role(name: str) -> tuple[str, str]:
    """Return the role that a name speaks of and the rest: train_lenses is ("train", "lenses"), lensesTest2 ("test", …).

    What describes the part alone (set, data, images, a number) is no rest.
    """
    if match := _ROLE.search(name):
        around = name[: match.start()], name[match.end() :]
        rest = "_".join(filter(None, (part.strip("_-. ") for part in around)))
        return ROLES[match[1].lower().replace("-", "_")], "" if _NO_CLASS.fullmatch(rest) else rest
    return "", name


def read_folders(files: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return class and role of files by the folders they are in: (file → class, file → role).

    Classes are the folders of the first level that has two or more; or of a deeper one whose names recur in the
    folders above. A role is given by folders such as train/, test_lenses/ and Model_X_test/, where some have one, the
    others are training images; or by all file names (train_1.png, test-00000-of-00002.parquet). Folders called
    `unlabelled` give no class.
    """
    parts = {file: [name for name in file.split("/")[:-1] if not _PARTITION.match(name)] for file in files}
    folders = {file: [re.sub(r"^\w+=", "", name) for name in names] for file, names in parts.items()}  # class=lens
    pairs = {file: [split_role(name) for name in names] for file, names in folders.items()}
    roles = {file: next((role for role, _ in pairs[file] if role), "train") for file in files}
    if {"validation", "test"} & set(roles.values()) or any(role == "train" for p in pairs.values() for role, _ in p):
        folders = {file: [name for _, name in pairs[file] if name] for file in files}
    else:
        roles = {file: split_role(os.path.basename(file))[0] for file in files}
        roles = roles if "" not in roles.values() and {"validation", "test"} & set(roles.values()) else {}
    classes: dict[str, str] = {}
    for depth in range(max(map(len, folders.values()), default=0)):
        level = {file: names[depth] for file, names in folders.items() if len(names) > depth}
        distinct = set(level.values())
        if not 2 <= len(distinct) <= MAX_CLASSES or (len(distinct) == len(level) > 3):
            continue
        parents = Counter(name for name, _ in {(name, classes.get(file, "")) for file, name in level.items()})
        if classes and (min(parents.values()) == 1 or len(level) < 2 * len(distinct)):
            break
        classes = level
    return {file: name for file, name in classes.items() if not (is_unknown(name) or STRAY.fullmatch(name))}, roles


def read_index(path: Path, name: str, files: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Read a pickled index of file names, as DeepLense's real lenses have: {"train": {"lenses": [names]}, "test": …}.

    Return (file → role, names without a file). `name` is the path within the folder of the files; `train_indices.pkl`
    lists one role by class. Unreadable if it is no such index, or puts a file into two roles.
    """
    try:
        with path.open("rb") as stream:
            index = SafeUnpickler(stream).load()
    except Unreadable:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise Unreadable(f"is a damaged pickle: {str(error)[:100]}") from error
    finder = FileFinder(files)
    roles: dict[str, str] = {}
    orphans = []
    for role, entry in _entries(index, name):
        match = finder(entry)
        if len(match) != 1:
            orphans.append(entry)
        elif roles.setdefault(file := match.pop(), role) != role:
            raise Unreadable(f"puts {file} into both {roles[file]} and {role}: a leak")
    if not roles:
        raise Unreadable("names no file of this folder in a split (train, validation, test)")
    return roles, orphans


def _entries(index: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield (role, file name with its class folder) of an index."""
    if not (isinstance(index, dict) and index and all(str(key).lower() in ROLES for key in index)):
        index = {split_role(name.rpartition("/")[2].rpartition(".")[0])[0]: index}
        if "" in index:
            raise Unreadable("is no index of file names by split (train, validation, test)")
    for role, names in index.items():
        for folder, entries in names.items() if isinstance(names, dict) else [("", names)]:
            for entry in np.ravel(entries).tolist() if isinstance(entries, list | tuple | np.ndarray) else [None]:
                if not isinstance(entry, str):
                    raise Unreadable("is no index of file names: it holds other things than names")
                yield ROLES[str(role).lower()], f"{folder}/{entry}".strip("/")
