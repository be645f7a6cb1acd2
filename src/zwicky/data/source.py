"""The files of a folder: found, grouped into objects, and read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from zwicky.data.bands import by_wavelength, group_files
from zwicky.data.readers import ReadOptions, Record, Unreadable, is_image_name, read
from zwicky.data.readers.numpy import is_archive

STORE = "store.json"
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

MAX_ARRAYS = 20  # files of a folder that may be columns of one another

Unit = dict[str, str]  # the file of an image or of many ("" → file), or the files of one object by band


@dataclass
class Source:
    """The folder that is read, and what becomes of its files."""

    folder: Path
    units: dict[str, Unit]
    options: ReadOptions
    set_aside: list[tuple[str, str]]
    warnings: list[str] = field(default_factory=list)

    def read(self, name: str) -> Iterator[Record | Unreadable]:
        """Read the images of a unit; the last item is an error where the rest cannot be read."""
        unit, row = self.units[name], 0
        try:
            if "" in unit:
                records = read(self.folder / unit[""], self.options)
            else:
                bands = by_wavelength(tuple(unit))
                options = replace(self.options, bands=(), stacks=True)  # further planes are images
                files = [read(self.folder / unit[band], options) for band in bands]
                records = (join_bands(bands, items) for items in zip_longest(*files))
            for record in records:
                yield record
                row += 1
        except Unreadable as error:
            error.row = row if row else None
            yield error


def join_bands(bands: Sequence[str], items: Sequence[Record | Unreadable | None]) -> Record | Unreadable:
    """One image of several bands from one of each."""
    records = [item for item in items if isinstance(item, Record)]
    row = next((item.row for item in items if item is not None), None)
    if len(records) < len(items):
        band, item = next(pair for pair in zip(bands, items, strict=True) if not isinstance(pair[1], Record))
        return Unreadable(f"{band}: {item or 'has fewer images'}", row)
    shapes = {band: record.image.shape for band, record in zip(bands, records, strict=True)}
    if counts := {len(record.image) for record in records} - {1}:
        return Unreadable(f"a file has {max(counts)} bands, and its name is that of one", row)
    if len({(record.image.shape, record.image.dtype) for record in records}) > 1:
        sizes = ", ".join(f"{band} {shape[1]}×{shape[2]}" for band, shape in shapes.items())
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

    def visit(path: Path, prefix: str) -> None:
        status = path.stat()
        if (status.st_dev, status.st_ino) in visited:
            raise OSError(0, "it was already read under another name (a link)")
        visited.add((status.st_dev, status.st_ino))
        if (path / STORE).is_file():  # a store of ours, which is read as one
            files.append(prefix + STORE)
            return
        for entry in sorted(os.scandir(path), key=lambda entry: os.fsencode(entry.name)):
            name = (prefix + entry.name).encode("utf-8", "backslashreplace").decode()
            if name != prefix + entry.name:
                set_aside.append((name, "its name is not UTF-8"))
            elif entry.name.startswith((".", "__MACOSX")):
                set_aside.append((name, "hidden folder" if entry.is_dir() else "hidden file"))
            elif entry.is_dir():
                try:
                    visit(path / entry.name, name + "/")
                except OSError as error:
                    set_aside.append((name, f"folder cannot be read: {error.strerror}"))
            elif not entry.is_file():  # reading a pipe would wait for ever
                set_aside.append((name, "broken link" if entry.is_symlink() else "not a regular file"))
            elif entry.name.lower().endswith(ARCHIVES):
                set_aside.append((name, f"an archive; unpack it, or ingest it alone: zwicky ingest {entry.name}"))
            elif is_image_name(entry.name) and entry.name != "data_thumbnail.parquet":  # of a HATS catalogue
                files.append(name)
            else:
                set_aside.append((name, "not an image"))

    visit(folder, "")
    return files, set_aside


def group_units(folder: Path, files: Sequence[str], bands: Sequence[str]) -> dict[str, Unit]:
    """Return what holds images by its name: files, objects that come as one file a band, folders of arrays.

    Args:
        folder: that the paths are relative to.
        files: paths.
        bands: names of the bands, if the user states them.
    """
    arrays: dict[str, list[str]] = {}
    for file in files:
        if file.lower().endswith(".npy"):
            arrays.setdefault(os.path.dirname(file), []).append(file)
    units: dict[str, Unit] = {}
    for parent, members in arrays.items():
        if 1 < len(members) <= MAX_ARRAYS and is_archive([folder / file for file in members]):
            units[parent or "."] = {"": parent or "."}
    rest = [file for file in files if not file.lower().endswith(".npy") or (os.path.dirname(file) or ".") not in units]
    units |= group_files(rest, bands)
    grouped = {file for unit in units.values() for file in unit.values()}
    units |= {file: {"": file} for file in rest if file not in grouped}
    return {name: units[name] for name in sorted(units)}
