"""Recipes: complete settings by name, shipped as YAML beside this file; and how one is read.

A recipe may hold `sizes`: named sets of changes to the rest, for example smoke, desk and full.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zwicky.errors import UserError
from zwicky.io import read_settings

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str, size: str | None = None) -> dict[str, Any]:
    """The settings of a shipped recipe or of a YAML file, at one of its sizes (the first unless said)."""
    path = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        raise UserError(
            f"recipe: there is no {name!r}; name one of {', '.join(names())}, or give the path of a YAML file"
        )
    settings = read_settings(path)
    sizes = settings.pop("sizes", None) or {}
    if not isinstance(sizes, dict) or not all(isinstance(changes, dict | None) for changes in sizes.values()):
        raise UserError(f"recipe {path}: sizes must hold a name each, with the settings it changes below it")
    if size is not None and size not in sizes:
        raise UserError(f"recipe {path}: has no size {size!r}; it has {', '.join(sizes) or 'none'}")
    chosen = size or next(iter(sizes), None)
    return merge(settings, sizes[chosen] or {}) if chosen else settings


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, dictionaries merged key by key."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
