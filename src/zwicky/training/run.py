"""A run: the directory each command writes, and what it says of itself."""

from __future__ import annotations

import datetime
import hashlib
import platform
import sys
import time
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from zwicky.data.cutouts import Cutouts
from zwicky.errors import UserError
from zwicky.io import read_object, read_settings, write_json, write_text
from zwicky.training.launch import rank, world
from zwicky.training.processes import run_on_rank_zero

SCHEMA_VERSION = 1
MOST_SEED = 2**31  # numpy's and scikit-learn's go to twice that; draws add to it
PACKAGES = ("zwicky", "torch", "timm", "lightning-fabric", "numpy", "scikit-learn", "pyarrow", "caustics")


class Run:
    """A run directory: `config.yaml`, `run.json`, `checkpoint/`, `metrics.csv` and results. Writes are atomic.

    Opening a directory that holds the same configuration and data goes on where it stopped; another one is refused,
    unless nothing has been learnt there yet.

    data: `fingerprint` of what is learnt from. Of several processes the first looks and writes for all.
    """

    def __init__(self, path: Path | str, kind: str, config: Any, seed: int, data: str) -> None:
        self.path = Path(path)
        if not 0 <= seed < MOST_SEED:
            raise UserError(f"seed is {seed}; choose 0 or more, below {MOST_SEED}")
        self.info = run_on_rank_zero(lambda: self._open(kind, to_plain(config), seed, data))
        if self.info["data"] != data:
            raise UserError("this process sees other data than the first one; give all machines the same store")
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
        if rank() == 0:
            write_json(self.path / "run.json", self.info)

    def _open(self, kind: str, settings: dict[str, Any], seed: int, data: str) -> dict[str, Any]:
        """What `run.json` says, written where this begins."""
        if (self.path / "run.json").exists() and self._goes_on(kind, settings, data):
            return read_object(self.path / "run.json")
        foreign = self.path.exists() and (not self.path.is_dir() or any(_visible(self.path)))
        if foreign and not (self.path / "run.json").exists():
            raise UserError(f"{self.path} exists and is not a zwicky run; choose another --out")
        called = Path(sys.argv[0]).name in ("zwicky", "__main__.py")
        info = {
            "kind": kind,
            "command": " ".join(["zwicky", *sys.argv[1:]]) if called else None,
            "schema_version": SCHEMA_VERSION,
            "seed": seed,
            "data": data,
            "started": _now(),
            "finished": None,
            "seconds": 0.0,
            "versions": _versions(),
            "machine": _machine(),
        }
        write_json(self.path / "run.json", info)  # first: what else lies here is then known to be a run's
        write_text(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
        return info

    def _goes_on(self, kind: str, settings: dict[str, Any], data: str) -> bool:
        """Whether this is the run that stands here; False where it failed before it learnt anything."""
        info = read_object(self.path / "run.json")
        absent = [key for key in ("kind", "schema_version", "data", "finished", "seconds") if key not in info]
        if absent or not isinstance(info["schema_version"], int) or not isinstance(info["seconds"], int | float):
            what = f"lacks {absent[0]!r}" if absent else "holds text where numbers should be"
            raise UserError(f"{self.path / 'run.json'} {what}; choose another --out, or delete the run")
        if info["schema_version"] > SCHEMA_VERSION:
            raise UserError(f"{self.path} was written by a newer zwicky; update zwicky or choose another --out")
        if info.get("kind") != kind:
            raise UserError(f"{self.path} holds a {info.get('kind')} run, not a {kind}; choose another --out")
        learnt = info["finished"] or any(self.path.rglob("last.pt")) or any(self.path.rglob("result.json"))
        if not learnt and not (self.path / "config.yaml").exists():
            return False
        changed = sorted(_differences(read_settings(self.path / "config.yaml"), settings))
        if not changed and info.get("data") == data:
            return True
        if not learnt:
            return False
        if changed:
            raise UserError(
                f"{self.path} was started with other settings ({', '.join(changed[:3])}); "
                "choose another --out or the same settings"
            )
        raise UserError(f"{self.path} was started with other data; choose another --out or the same store")


def fingerprint(cutouts: Cutouts, rows: np.ndarray, known: np.ndarray | None = None) -> str:
    """A hash of what is learnt from: ids and pixels of these rows, and what is `known` of them (labels, targets)."""
    digest = hashlib.blake2b(repr((cutouts.bands, cutouts.pixel_scale, cutouts.size)).encode(), digest_size=16)
    digest.update(cutouts.metadata.get("simulation", "").encode())  # stands for the pixels that have no hash yet
    for column in ("id", "pixel_hash"):
        digest.update(repr(cutouts.column(column)[rows].tolist()).encode())
    if known is not None:
        digest.update(repr(np.asarray(known).tolist()).encode())
    return digest.hexdigest()


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

    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": capabilities.get("cpu_name") or platform.processor(),
        "processes": world(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
