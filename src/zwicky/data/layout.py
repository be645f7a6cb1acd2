"""Folders that are classes or parts of the user's own split, and indices of files that are splits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zwicky.data.catalog import FileFinder
from zwicky.data.columns import MAX_CLASSES, ROLES, UNKNOWN
from zwicky.data.readers import Unreadable

_ROLE = "|".join(sorted(ROLES, key=len, reverse=True))
_WITH_ROLE = re.compile(rf"(?:({_ROLE})[_\-. ]+(.+)|(.+?)[_\-. ]+({_ROLE}))", re.IGNORECASE)
_PARTITION = re.compile(r"(Norder|Dir|Npix)=")


def split_role(folder: str) -> tuple[str, str]:
    """Return the role a folder's name speaks of and the rest: `train_lenses` is ("train", "lenses")."""
    if folder.lower() in ROLES:
        return ROLES[folder.lower()], ""
    match = _WITH_ROLE.fullmatch(folder)
    return (ROLES[(match[1] or match[4]).lower()], match[2] or match[3]) if match else ("", folder)


def read_folders(files: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return class and role of files by the folders they are in.

    Classes are the folders of the first level that has two or more; or of a deeper one whose names recur in the
    folders above. A role is given by folders such as train/, test_lenses/ and Model_X_test/; where some have one, the
    others are training images. Folders called `unlabelled` give no class.

    Args:
        files: paths.

    Returns:
        (file → class, file → role).
    """
    names: dict[str, list[str]] = {}
    roles: dict[str, str] = {}
    for file in files:
        pairs = [split_role(folder) for folder in file.split("/")[:-1] if not _PARTITION.match(folder)]
        names[file] = [name for _, name in pairs if name]
        if role := next((role for role, _ in pairs if role), ""):
            roles[file] = role
    is_divided = bool({"train", "validation", "test"} & set(roles.values()))
    if not is_divided:
        names = {file: [f for f in file.split("/")[:-1] if not _PARTITION.match(f)] for file in files}
    depth = max(map(len, names.values()), default=0)
    levels = [{file: parts[level] for file, parts in names.items() if len(parts) > level} for level in range(depth)]
    classes: dict[str, str] = {}
    for level in levels:
        distinct = set(level.values())
        if not 2 <= len(distinct) <= MAX_CLASSES or (len(distinct) == len(level) > 3):
            continue
        if classes and not _recur(level, classes):
            break
        classes = level
    roles = {file: roles.get(file, "train") for file in files} if is_divided else {}
    return {file: name for file, name in classes.items() if name.lower() not in UNKNOWN}, roles


def _recur(level: dict[str, str], above: dict[str, str]) -> bool:
    """Whether each folder name of a level recurs in two or more folders above, and holds several files."""
    parents: dict[str, set[str]] = {}
    for file, name in level.items():
        parents.setdefault(name, set()).add(above.get(file, ""))
    return all(len(folders) > 1 for folders in parents.values()) and len(level) >= 2 * len(parents)


def read_index(path: Path, name: str, files: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Read a pickled index of file names, as DeepLense's real lenses have: {"train": {"lenses": [names]}, "test": …}.

    Args:
        path: the pickle.
        name: its path within the folder; `train_indices.pkl` lists one role by class.
        files: paths within the folder.

    Returns:
        (file → role, names without a file).

    Raises:
        Unreadable: It is no such index, or puts a file into two roles.
    """
    from zwicky.data.readers.numpy import SafeUnpickler

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
    """(role, file name with its class folder) of an index."""
    if not (isinstance(index, dict) and index and all(str(key).lower() in ROLES for key in index)):
        role = split_role(name.rpartition("/")[2].rpartition(".")[0])[0]
        if not role:
            raise Unreadable("is no index of file names by split (train, validation, test)")
        index = {role: index}
    for role, names in index.items():
        for folder, listed in names.items() if isinstance(names, dict) else [("", names)]:
            listed = np.ravel(listed).tolist() if isinstance(listed, list | tuple | np.ndarray) else [None]
            if not all(isinstance(entry, str) for entry in listed):
                raise Unreadable("is no index of file names: it holds other things than names")
            yield from ((ROLES[str(role).lower()], f"{folder}/{entry}".strip("/")) for entry in listed)
