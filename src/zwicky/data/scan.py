"""What lies in a folder: every file once, without ever failing on one, and the labels that folder names give."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from zwicky.data.readers import is_image_name
from zwicky.data.readers.columns import UNLABELLED_NAMES

_PARTITION = re.compile("(Norder|Dir|Npix)=")
_SPLIT_FOLDERS = {"train", "training", "valid", "val", "validation", "test"}


@dataclass
class Scan:
    """files: paths of what may be images, relative to the folder, with `/`. set_aside: (path, reason) of all else."""

    files: list[str] = field(default_factory=list)
    set_aside: list[tuple[str, str]] = field(default_factory=list)


def scan_folder(folder: Path) -> Scan:
    """List a folder (or one file) and all below in a fixed order. Links are followed, each directory is entered once.

    A folder that cannot be entered counts as one entry of `set_aside`, as do hidden ones and loops of links.
    """
    scan = Scan()
    if folder.is_file():
        scan.files.append(folder.name)
        return scan
    _scan(folder, "", set(), scan)
    return scan


def _scan(folder: Path, prefix: str, seen: set[tuple[int, int]], scan: Scan) -> None:
    name = prefix.rstrip("/") or "."
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            scan.set_aside.append((name, "folder was already read under another name (a link)"))
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        scan.set_aside.append((name, f"folder cannot be read: {error.strerror}"))
        return
    for entry in entries:
        path = prefix + entry.name
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError as error:
            scan.set_aside.append((printable(path), f"cannot be read: {error.strerror}"))
            continue
        if printable(path) != path:
            scan.set_aside.append((printable(path), "its name is not UTF-8"))
        elif entry.name.startswith("."):
            scan.set_aside.append((path, "hidden folder" if is_folder else "hidden file"))
        elif is_folder:
            _scan(folder / entry.name, path + "/", seen, scan)
        elif not is_file:  # reading a pipe would wait for ever
            scan.set_aside.append((path, "broken link" if entry.is_symlink() else "not a regular file"))
        elif not is_image_name(entry.name):
            scan.set_aside.append((path, "not an image"))
        else:
            scan.files.append(path)


def printable(name: str) -> str:
    """The name with bytes that are not UTF-8 written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def folder_labels(files: list[str]) -> dict[str, str]:
    """Labels by class folder, {} where the folders are no classes.

    Folders are classes if at least two of them hold images. Where all of them are called train, test or the like,
    the classes are the folders within. A class folder called `unlabelled` gives no label, nor do the partitions of
    a HATS catalogue (`Norder=1`).
    """
    paths = {file: PurePosixPath(file).parts for file in files}
    top = {parts[0] for parts in paths.values() if len(parts) > 1}
    depth = 1 if top and {name.lower() for name in top} <= _SPLIT_FOLDERS else 0
    within = {file: parts[depth] for file, parts in paths.items() if len(parts) > depth + 1}
    labels = {file: name for file, name in within.items() if not _PARTITION.match(name)}
    if len(set(labels.values())) < 2:
        return {}
    return {file: label for file, label in labels.items() if label.lower() not in UNLABELLED_NAMES}
