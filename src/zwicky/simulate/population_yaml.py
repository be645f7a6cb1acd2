"""Populations and instruments from YAML.

A population file may have a `base`, another population whose settings it changes. A mistake is a UserError that names
the file and the key.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from zwicky.errors import UserError
from zwicky.io import read_settings
from zwicky.recipes import merge
from zwicky.simulate import FOLDER, population_names
from zwicky.simulate.instruments import Instrument
from zwicky.simulate.population import Parameter, Population
from zwicky.simulate.priors import FAMILIES, Prior, require
from zwicky.simulate.substructure import SUBSTRUCTURES, Substructure


def read_population(name: str) -> Population:
    """Return the shipped population `name`, or the one that a YAML file describes, named like the file.

    Raises:
        UserError: There is no such population, or its description has a mistake.
    """
    path = _path_of(name)
    settings = _resolve(path, ())
    text = yaml.dump(settings, Dumper=_CompactDumper, sort_keys=False, allow_unicode=True, width=1000)
    return _Reader(name).read(Population, {**settings, "name": path.stem, "text": text}, "")


@cache
def load_instruments() -> dict[str, Instrument]:
    """Return the shipped instruments by name."""
    path = FOLDER.parent / "instruments.yaml"
    read = _Reader(path.name).read
    return {name: read(Instrument, {"name": name, **entry}, name) for name, entry in read_settings(path).items()}


class _Reader:
    """Builds dataclasses from YAML values, by the annotations of their fields."""

    def __init__(self, source: str) -> None:
        self.source = source

    def read(self, annotation: Any, value: Any, path: str) -> Any:
        """Return `value` as what `annotation` says; a ValueError becomes a UserError with file and key."""
        try:
            return self._read(annotation, value, path)
        except ValueError as error:
            raise UserError(": ".join(part for part in (self.source, path, str(error)) if part)) from None

    def _read(self, annotation: Any, value: Any, path: str) -> Any:
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is UnionType:  # X | None
            return self.read(args[0], value, path)
        if origin is tuple:
            values = value if isinstance(value, list) else [value]
            length = len(values) if args[-1] is Ellipsis else len(args)
            require(len(values) == length, f"takes {length} values, not {value!r}")
            return tuple(self.read(args[0], one, path) for one in values)
        if annotation in _SCALARS:
            return _scalar(annotation, value)
        if annotation is Instrument and isinstance(value, str):
            require(value in load_instruments(), f"unknown {value!r}; choose one of {', '.join(load_instruments())}")
            return load_instruments()[value]
        named = isinstance(value, dict) and all(isinstance(key, str) for key in value)
        require(named, f"is {value!r}; write `name: value` lines")
        if origin is not None:  # Mapping[str, X]
            return {key: self.read(args[1], one, _join(path, key)) for key, one in value.items()}
        cls, value = _expand(annotation, value)
        required = {one.name for one in fields(cls) if one.default is one.default_factory is MISSING}
        allowed = {one.name for one in fields(cls)}
        unknown, missing = sorted(set(value) - allowed), sorted(required - set(value))
        require(not unknown, f"has no {', '.join(map(repr, unknown))}; it takes {', '.join(sorted(allowed))}")
        require(not missing, f"lacks {', '.join(missing)}; add it")
        hints = get_type_hints(cls)
        return cls(**{key: self.read(hints[key], one, _join(path, key)) for key, one in value.items()})


def _expand(cls: Any, value: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return (class, settings) of what YAML writes in a shorter form."""
    if cls is Parameter:  # {uniform: [0, 1], unit: arcsec}
        texts = {key: value[key] for key in ("unit", "meaning") if key in value}
        return cls, {"prior": {key: one for key, one in value.items() if key not in texts}} | texts
    if cls is Prior:  # {uniform: [0, 1]}
        families = [family for family in FAMILIES if family in value]
        require(len(families) == 1, f"must be drawn by one of {', '.join(FAMILIES)}")
        return cls, {"values" if key in families else key: one for key, one in value.items()} | {"family": families[0]}
    if cls is Substructure:  # {axion_vortex: {mass: 1e10}}
        require(len(value) == 1 and set(value) <= set(SUBSTRUCTURES), f"must be one of {', '.join(SUBSTRUCTURES)}")
        ((model, settings),) = value.items()
        return SUBSTRUCTURES[model], settings or {}
    return cls, value


def _join(path: str, key: str) -> str:
    return path if key in ("prior", "values") else f"{path}.{key}".lstrip(".")


_SCALARS: dict[Any, tuple[Any, str]] = {  # accepted types, and what to write
    float: (int | float | str, "a finite number"),
    int: (int, "a whole number"),
    bool: (bool, "true or false"),
    str: (str | int | float, "text"),
}


def _scalar(kind: Any, value: Any) -> Any:
    accepted, wanted = _SCALARS[kind]
    valid = isinstance(value, accepted) and isinstance(value, bool) == (kind is bool)
    try:
        result = kind(value) if valid else None
    except ValueError:  # a number that is text
        result = None
    valid = result is not None and not (kind is float and not abs(result) < float("inf"))
    require(valid, f"is {value!r}; write {wanted}")
    return result


class _CompactDumper(yaml.SafeDumper):
    """Writes lists and priors on one line each, the rest as blocks."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, mapping, flow_style=any(family in mapping for family in FAMILIES))

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


def _path_of(name: str) -> Path:
    if name in population_names():
        return FOLDER / f"{name}.yaml"
    if not name.endswith((".yaml", ".yml")) or not Path(name).is_file():
        shipped = ", ".join(population_names())
        raise UserError(f"there is no population {name!r}; choose one of {shipped}, or give the path of a YAML file")
    return Path(name)


def _resolve(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Return the settings of a file merged into those of its bases; a null removes what a base has."""
    if path in above:
        raise UserError(f"{path}: is based on itself; change `base`")
    settings = read_settings(path)
    base = settings.pop("base", None)
    if base is None:
        return settings
    if not isinstance(base, str):
        raise UserError(f"{path}: base is {base!r}; write the name of a population or a YAML file")
    below = _path_of(base if base in population_names() else str(path.parent / base))
    return _without_null(_merge(_resolve(below, (*above, path)), settings))


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `recipes.merge`, except that a prior of another family replaces all but unit and meaning."""
    merged = merge(base, changes)
    for key, new in changes.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            replaced = any(new.get(family) is not None and family not in old for family in FAMILIES)
            merged[key] = _merge({k: old[k] for k in ("unit", "meaning") if k in old} if replaced else old, new)
    return merged


def _without_null(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_null(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if value is not None
    }
