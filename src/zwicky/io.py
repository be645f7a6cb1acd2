"""Writing files so that a kill at any moment never leaves half of one.

A file is written beside its destination and renamed onto it, which the file system does in one step.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import math
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from zwicky.errors import UserError

MOST_VALUES = 100_000  # of settings; a few lines of YAML can name more than any memory holds


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success rename it to `path`, on failure remove it."""
    path = Path(path)
    temporary = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear(path)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose a place with room that you may write to"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """The hidden name, this process's own, under which `path` is written before it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}@{platform.node()}.tmp")


def clear(path: Path) -> None:
    """Remove what killed processes of this machine left beside `path`; a living one may still write there."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*@{glob.escape(platform.node())}.tmp"):
        pid = left.name.removeprefix(f".{path.name}.").partition("@")[0]
        if pid.isdecimal() and not _lives(int(pid)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def write_text(path: Path | str, text: str) -> None:
    """Write `text` (UTF-8) atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON atomically; NaN is written as null, since NaN is not JSON."""
    write_text(path, json.dumps(_without_nan(value), indent=2, allow_nan=False) + "\n")


def read_object(path: Path | str) -> dict[str, Any]:
    """Read a JSON file that holds an object; anything else is the user's to mend."""
    held = read_json(path)
    if not isinstance(held, dict):
        raise UserError(f"cannot read {path}: it holds no object; make it again with the command that wrote it")
    return held


def read_settings(path: Path | str) -> dict[str, Any]:
    """Read a YAML file of settings by name; anything else is the user's to mend."""
    try:
        held = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}: not YAML{where} ({getattr(error, 'problem', 'unreadable')}); mend it there") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}; it must be YAML in UTF-8") from error
    if not isinstance(held, dict):
        raise UserError(f"{path}: holds {type(held).__name__}, not settings; write `name: value` lines")
    if _count(held, {}) > MOST_VALUES:
        raise UserError(f"{path}: holds more than {MOST_VALUES} values, or one that holds itself; look at its aliases")
    return held


def _count(held: Any, known: dict[int, float]) -> float:
    """How many values there are, those behind an alias each time it is used; infinite where one holds itself."""
    if not isinstance(held, dict | list):
        return 1
    if id(held) not in known:
        known[id(held)] = math.inf  # if it comes again before it is counted
        known[id(held)] = 1 + sum(_count(value, known) for value in (held.values() if isinstance(held, dict) else held))
    return known[id(held)]


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a missing or damaged one is the user's to mend."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}; make it again with the command that wrote it") from error


def write_csv(path: Path | str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write `rows` as CSV atomically. Columns default to the union of keys in order of first appearance."""
    columns = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _without_nan(value.tolist())
    return value
