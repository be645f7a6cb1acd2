"""A run: the directory each command writes, and what it says of itself."""

from __future__ import annotations

import datetime
import platform
import sys
import time
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from zwicky.errors import UserError
from zwicky.files import read_json, write_json, write_text

SCHEMA_VERSION = 1
PACKAGES = ("zwicky", "torch", "timm", "lightning-fabric", "numpy", "scikit-learn", "pyarrow", "caustics")


class Run:
    """A run directory: `config.yaml`, `run.json`, `checkpoint/`, `metrics.csv` and results. Writes are atomic.

    Opening a directory that holds the same configuration goes on where it stopped; another one is refused.
    """

    def __init__(self, path: Path | str, kind: str, config: Any, seed: int = 0) -> None:
        self.path = Path(path)
        settings = to_plain(config)
        if (self.path / "run.json").exists():
            self._check_same(kind, settings)
            self.info = read_json(self.path / "run.json")
        else:
            if self.path.exists() and (not self.path.is_dir() or any(_visible(self.path))):
                raise UserError(f"{self.path} exists and is not a zwicky run; choose another --out")
            write_text(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
            self.info = {
                "kind": kind,
                "command": " ".join(["zwicky", *sys.argv[1:]]) if Path(sys.argv[0]).name == "zwicky" else None,
                "schema_version": SCHEMA_VERSION,
                "seed": seed,
                "started": _now(),
                "finished": None,
                "seconds": 0.0,
                "versions": _versions(),
                "machine": _machine(),
            }
            write_json(self.path / "run.json", self.info)
        self._opened = time.monotonic()
        self._seconds_before = float(self.info["seconds"])

    @property
    def finished(self) -> bool:
        return self.info["finished"] is not None

    @property
    def seconds(self) -> float:
        """Wall time spent on this run, over all its sittings."""
        return self._seconds_before + time.monotonic() - self._opened

    def finish(self, **results: Any) -> None:
        """Mark the run done; `results` join `run.json`."""
        self.info |= {"finished": _now(), "seconds": round(self.seconds, 1), **results}
        write_json(self.path / "run.json", self.info)

    def _check_same(self, kind: str, settings: dict[str, Any]) -> None:
        info = read_json(self.path / "run.json")
        if info.get("schema_version", 0) > SCHEMA_VERSION:
            raise UserError(f"{self.path} was written by a newer zwicky; update zwicky or choose another --out")
        if info.get("kind") != kind:
            raise UserError(f"{self.path} holds a {info.get('kind')} run, not a {kind}; choose another --out")
        stored = read_config(self.path)
        changed = sorted(_differences(stored, settings))
        if changed:
            raise UserError(f"{self.path} was started with other settings ({', '.join(changed[:3])}); choose another --out or the same settings")


def read_config(path: Path) -> dict[str, Any]:
    """The settings a run was started with."""
    try:
        return yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path / 'config.yaml'} ({type(error).__name__}); is {path} a zwicky run?") from error


def to_plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as dicts, strings and lists: what YAML holds."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _differences(first: Any, second: Any, name: str = "") -> list[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        keys = first.keys() | second.keys()
        return [d for key in keys for d in _differences(first.get(key), second.get(key), f"{name}.{key}".lstrip("."))]
    return [] if first == second else [name]


def _visible(path: Path) -> list[Path]:
    return [child for child in path.iterdir() if not child.name.startswith(".")]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _machine() -> dict[str, Any]:
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.cpu.get_capabilities().get("cpu_name", platform.processor()) if hasattr(torch.cpu, "get_capabilities") else platform.processor(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
