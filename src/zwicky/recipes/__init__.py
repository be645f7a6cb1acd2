"""Recipes: complete settings by name, shipped as YAML beside this file; and how one is read.

A recipe may hold `sizes`: named sets of changes to the rest, for example smoke, desk and full.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from zwicky.errors import UserError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str, size: str | None = None) -> dict[str, Any]:
    """The settings of a shipped recipe or of a YAML file, at one of its sizes (the first unless said)."""
    path = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"recipe: there is no {name!r}; name one of {', '.join(names())}, or give the path of a YAML file"
        ) from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise UserError(
            f"recipe {path}: not YAML{line} ({getattr(error, 'problem', 'unreadable')}); mend it there"
        ) from None
    if not isinstance(settings, dict):
        raise UserError(f"recipe {path}: holds {type(settings).__name__}, not settings; write `name: value` lines")
    sizes = settings.pop("sizes", None) or {}
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
