"""The text of a description: found by name or path, laid over those it is based on, and written out whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from zwicky.errors import UserError
from zwicky.io import read_settings
from zwicky.recipes import merge
from zwicky.simulate import FOLDER, population_names
from zwicky.simulate.words import WORDS


def find(name: str) -> tuple[str, dict[str, Any], str]:
    """(name, description, its text) of the shipped population of this name, or of a YAML file, called like the file."""
    path = _path_of(name)
    description = _resolved(path, ())
    text = yaml.dump(description, Dumper=_OneLineAParameter, sort_keys=False, allow_unicode=True, width=1000)
    return path.stem, description, text


class _OneLineAParameter(yaml.SafeDumper):
    """Writes lists and distributions on one line each, the rest as blocks."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, mapping, flow_style=any(word in mapping for word in WORDS))

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


def _path_of(name: str) -> Path:
    if name in population_names():
        return FOLDER / f"{name}.yaml"
    if not name.endswith((".yaml", ".yml")):
        raise UserError(
            f"there is no population {name!r}; choose one of {', '.join(population_names())}, or give a YAML file"
        )
    return Path(name)


def _resolved(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The description with those it is based on laid under it; a null takes away what they have."""
    if path in above:
        raise UserError(f"{path}: is based on itself; mend `base`")
    if not path.is_file():
        raise UserError(
            f"population {path}: there is no such file; choose one of {', '.join(population_names())}, or give a "
            "YAML file"
        )
    settings = read_settings(path)
    base = settings.pop("base", None)
    if base is None:
        return settings
    if not isinstance(base, str):
        raise UserError(f"{path}: base is {base!r}; write the name of a population or a YAML file")
    below = _path_of(base) if base in population_names() or Path(base).is_absolute() else path.parent / _path_of(base)
    return _without_null(_laid_over(_resolved(below, (*above, path)), settings))


def _laid_over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """As `merge`, but a parameter that is drawn by another word keeps only its unit and meaning."""
    merged = merge(base, changes)
    for key, new in changes.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            words = [word for word in WORDS if new.get(word) is not None]
            kept = old if not words or words[0] in old else {k: old[k] for k in ("unit", "meaning") if k in old}
            merged[key] = _laid_over(kept, new)
    return merged


def _without_null(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_null(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if value is not None
    }
