"""Recipes: complete settings by name, shipped as YAML files in this folder.

A recipe may hold `sizes`, named sets of changes to the rest, e.g. smoke, desk and full.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from zwicky.errors import UserError
from zwicky.io import read_settings

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str, size: str | None = None) -> dict[str, Any]:
    """Return the settings of a shipped recipe or of a YAML file, at one of its sizes (by default the first).

    UserError if there is no such recipe or size, or it is malformed.
    """
    path = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        close = "".join(f"did you mean {match}? " for match in get_close_matches(name, names(), 1))
        raise UserError(f"recipe: there is no {name!r}; {close}choose one of {', '.join(names())}, or give a YAML file")
    settings = read_settings(path)
    sizes = settings.pop("sizes", None) or {}
    if not isinstance(sizes, dict) or not all(isinstance(changes, dict | None) for changes in sizes.values()):
        raise UserError(f"recipe {path}: sizes must map each name to the settings that it changes")
    if size is not None and size not in sizes:
        raise UserError(f"recipe {path}: has no size {size!r}; it has {', '.join(sizes) or 'none'}")
    selected = size or next(iter(sizes), None)
    return merge(settings, sizes[selected] or {}) if selected else settings


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` overridden by `changes`, with dictionaries merged key by key."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
