"""Atomic writes: a file is written beside its destination and renamed onto it, so a kill never leaves half a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from zwicky.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

WEIGHTS = "network.safetensors"  # of a run
NETWORK = "network.json"  # its description, see `training.network`
STORE = "store.json"  # the description of a store, see `data.store`


@contextlib.contextmanager
def replacing(path: Path | str, *, directory: bool = False) -> Iterator[Path]:
    """Yield a hidden path, or fresh directory, beside `path`; rename it to `path` on success, remove it on failure.

    A killed attempt is overwritten by the next. UserError if it cannot be written, or a directory holds files already.
    """
    path = Path(path)
    temporary = path.absolute().with_name(f".{path.absolute().name}.tmp")
    try:
        if directory:
            remove(temporary)  # left by a killed process
        (temporary if directory else path.parent).mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path}: {reason}; choose a writable --out with enough space") from error
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` atomically in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` atomically as indented JSON; NaN, which JSON lacks, becomes null."""
    plain = json.dumps(value, default=lambda item: item.tolist())  # NumPy scalars and arrays
    write_text(path, json.dumps(json.loads(plain, parse_constant=lambda _: None), indent=2) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; UserError if it is missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; write it again with the command that made it") from error


def read_settings(path: Path | str) -> dict[str, Any]:
    """Read a YAML file of `name: value` settings; UserError if it is missing, malformed or holds anything else."""
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}: invalid YAML{line} ({getattr(error, 'problem', 'unreadable')}); fix it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; it must be YAML in UTF-8") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: holds {type(settings).__name__}, not settings; write `name: value` lines")
    return settings


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Write a table atomically, as Parquet or CSV by the suffix of `path`; missing values are empty cells."""
    with replacing(path) as temporary:
        (table.to_parquet if Path(path).suffix == ".parquet" else table.to_csv)(temporary, index=False)


def file_digest(path: Path) -> str:
    """Return a 128-bit hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def is_store(path: Path | str) -> bool:
    """Return whether a path is a store."""
    return (Path(path) / STORE).is_file()


def weights_file(source: Path | str) -> Path:
    """Return the weights file that a run or a path names."""
    return Path(source) / WEIGHTS if Path(source).is_dir() else Path(source)


def write_set_aside(path: Path | str, entries: Iterable[tuple[str, str]]) -> None:
    """Write the list of what was left out: file, reason."""
    import pandas as pd

    write_table(path, pd.DataFrame(entries, columns=["file", "reason"]))


def read_set_aside(path: Path | str) -> list[tuple[str, str]]:
    """Read such a list; a file may be called `nan`."""
    import pandas as pd

    return list(pd.read_csv(path, dtype=str, na_filter=False).itertuples(index=False, name=None))


def write_array(path: Path | str, array: np.ndarray) -> None:
    """Write an array atomically as .npy."""
    import numpy as np

    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array)
