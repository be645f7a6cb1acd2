"""A run: the directory each command writes, with its settings, versions, machine and results."""

from __future__ import annotations

import datetime
import hashlib
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from zwicky.data.cutouts import Cutouts
from zwicky.errors import UserError
from zwicky.io import read_object, read_settings, write_json, write_text
from zwicky.training.distributed import rank, run_on_rank_zero, world_size
from zwicky.training.provenance import file_digest

SCHEMA_VERSION = 2
MAX_SEED = 2**31  # numpy's and scikit-learn's go to twice that; draws add to it
PACKAGES = ("zwicky", "torch", "timm", "lightning-fabric", "numpy", "scikit-learn", "pyarrow", "caustics")


class Run:
    """A run directory: `config.yaml`, `run.json`, `checkpoint/`, `metrics.csv` and results. Writes are atomic.

    A directory with the same settings and data resumes. With others it is refused, unless nothing was trained yet.
    Rank 0 reads and writes for all processes.

    Args:
        path: the directory.
        kind: pretrain, finetune or benchmark.
        config: the settings.
        seed: the random seed.
        data: `fingerprint` of the data.
        files: settings, by dotted name, that are files the run starts from; they are compared by content.

    Raises:
        UserError: if the directory holds another run or is not a run.
    """

    def __init__(
        self,
        path: Path | str,
        kind: str,
        config: Any,
        seed: int,
        data: str,
        files: Mapping[str, Path | str | None] | None = None,
    ) -> None:
        self.path = Path(path)
        if not 0 <= seed < MAX_SEED:
            raise UserError(f"seed is {seed}; choose 0 or more, below {MAX_SEED}")
        self.info = run_on_rank_zero(lambda: self._open(kind, to_plain(config), seed, data, _digests(files or {})))
        if self.info["data"] != data:
            raise UserError("this process has other data than rank 0; give all machines the same store")
        self._opened = time.monotonic()
        self._seconds_before = float(self.info["seconds"])

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self.info["finished"] is not None

    @property
    def seconds(self) -> float:
        """Wall time of this run, over all resumptions."""
        return self._seconds_before + time.monotonic() - self._opened

    def finish(self, **results: Any) -> None:
        """Mark the run complete and add `results` to `run.json`."""
        self.info |= {"finished": _now(), "seconds": round(self.seconds, 1), **results}
        if rank() == 0:
            write_json(self.path / "run.json", self.info)

    def _open(self, kind: str, settings: dict[str, Any], seed: int, data: str, files: dict[str, str]) -> dict[str, Any]:
        """Return `run.json`, new unless the run resumes."""
        is_run = (self.path / "run.json").exists()
        if is_run and self._resumes(kind, settings, data, files):
            return read_object(self.path / "run.json")
        if not is_run and self.path.exists() and (not self.path.is_dir() or any(self.path.glob("[!.]*"))):
            raise UserError(f"{self.path} exists and is not a zwicky run; choose another --out")
        from_command_line = Path(sys.argv[0]).name in ("zwicky", "__main__.py")
        info = {
            "kind": kind,
            "command": " ".join(["zwicky", *sys.argv[1:]]) if from_command_line else None,
            "schema_version": SCHEMA_VERSION,
            "seed": seed,
            "data": data,
            "files": files,
            "started": _now(),
            "finished": None,
            "seconds": 0.0,
            "versions": _versions(),
            "machine": _machine(),
        }
        write_json(self.path / "run.json", info)  # first, so that whatever else is here is known to be a run's
        write_text(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
        return info

    def _resumes(self, kind: str, settings: dict[str, Any], data: str, files: dict[str, str]) -> bool:
        """Whether the directory holds this run; False if it holds another that has not trained anything."""
        info = read_object(self.path / "run.json")
        if info.get("schema_version") != SCHEMA_VERSION:
            raise UserError(f"{self.path} was written by another version of zwicky; choose another --out")
        if info["kind"] != kind:
            raise UserError(f"{self.path} holds a {info['kind']} run, not a {kind}; choose another --out")
        trained = info["finished"] or any(self.path.rglob("last.pt")) or any(self.path.rglob("result.json"))
        if not (self.path / "config.yaml").exists():
            return False
        same = {name for name, digest in files.items() if info["files"].get(name) == digest}
        changed = sorted(set(_differences(read_settings(self.path / "config.yaml"), settings)) - same)
        changed += sorted(name for name in set(files) - same - set(changed) if name in info["files"])
        if not changed and info["data"] == data:
            return True
        if not trained:
            return False
        if changed:
            raise UserError(
                f"{self.path} was started with other settings ({', '.join(changed[:3])}); "
                "choose another --out or the same settings"
            )
        raise UserError(f"{self.path} was started with other data; choose another --out or the same store")


def _digests(files: Mapping[str, Path | str | None]) -> dict[str, str]:
    return {name: file_digest(Path(path)) for name, path in files.items() if path and Path(path).is_file()}


def fingerprint(cutouts: Cutouts, rows: np.ndarray, truth: np.ndarray | None = None) -> str:
    """Return a hash of the ids and pixels of these rows, and of their labels or targets `truth`."""
    digest = hashlib.blake2b(repr((cutouts.bands, cutouts.pixel_scale, cutouts.size)).encode(), digest_size=16)
    digest.update(cutouts.metadata.get("simulation", "").encode())  # whose images have no hash before they are rendered
    for column in ("id", "pixel_hash"):
        digest.update(repr(cutouts.column(column)[rows].tolist()).encode())
    if truth is not None:
        digest.update(repr(np.asarray(truth).tolist()).encode())
    return digest.hexdigest()


def to_plain(value: Any) -> Any:
    """Convert dataclasses, paths and tuples to the dicts, strings and lists of YAML."""
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
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
