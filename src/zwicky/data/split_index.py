"""Splits that come as a pickle of file names, as the real-lens project of DeepLense ships its training and test set.

Its `indices.pkl` is {"train": {"lenses": [names], "nonlenses": [names]}, "test": …}; `train_indices_300.pkl` lists the
names of one role by class. The pickle is read as plain data (`readers.pickles`); nothing in it is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from zwicky.data.catalog import FileFinder
from zwicky.data.readers import Unreadable
from zwicky.data.readers.pickles import read_pickle

SUFFIXES = (".pkl", ".pickle")
LARGEST = 2**28  # bytes
_ROLES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
    "unlabelled": "unlabelled",
    "unlabeled": "unlabelled",
}


@dataclass(frozen=True)
class SplitIndex:
    """name: of the split, after the file. roles: file → role. orphans: (name in the index, reason) without a file."""

    name: str
    roles: dict[str, str]
    orphans: list[tuple[str, str]]


def read_index(source: Path, path: str, files: list[str]) -> SplitIndex:
    """Read the index at `path` within `source` and find its names among `files`. Raises Unreadable for what is none."""
    file = source / path
    try:
        if file.stat().st_size > LARGEST:
            raise Unreadable("is too large for an index of file names")
        data = file.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error
    stem = PurePosixPath(path).name.rsplit(".", 1)[0]
    find = FileFinder(files)
    roles: dict[str, str] = {}
    orphans: list[tuple[str, str]] = []
    for role, name in _entries(read_pickle(data), stem):
        found = find(name)
        if found is None:
            orphans.append((f"{path}: {name}", "in the index, but no such file"))
        elif roles.setdefault(found, role) != role:
            raise Unreadable(f"puts {found} into both {roles[found]} and {role}: a leak")
    if not roles:
        raise Unreadable("names no file of this folder in a split (train, validation, test)")
    return SplitIndex(re.sub(r"[^\w.-]+", "_", stem), roles, orphans)


def _entries(index: Any, stem: str) -> Iterator[tuple[str, str]]:
    """(role, file name, with its class folder where told) of an index of names."""
    if isinstance(index, dict) and index and all(str(key).lower() in _ROLES for key in index):
        parts = [(_ROLES[str(key).lower()], names) for key, names in index.items()]
    else:
        role = _ROLES.get(re.split(r"[^a-z]", stem.lower())[0])
        if role is None:
            raise Unreadable("is no index of file names by split (train, validation, test)")
        parts = [(role, index)]
    for role, names in parts:
        classes = names.items() if isinstance(names, dict) else [("", names)]
        for folder, listed in classes:
            if isinstance(listed, np.ndarray):
                listed = listed.ravel().tolist()
            if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
                raise Unreadable("is no index of file names: it holds other things than names")
            for name in listed:
                yield role, f"{folder}/{name}" if folder and "/" not in name else name
