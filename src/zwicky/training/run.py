"""A run: the directory each command writes, with its settings, versions, machine and results."""

import datetime
import hashlib
import json
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from zwicky import __version__
from zwicky.data.cutouts import Cutouts
from zwicky.errors import UserError
from zwicky.io import file_digest, read_json, read_settings, weights_file, write_json, write_text
from zwicky.training.distributed import run_on_rank_zero
from zwicky.training.processes import rank, world_size

SCHEMA_VERSION = 2
MAX_SEED = 2**31  # numpy's and scikit-learn's go to twice that; draws add to it
PACKAGES = ("torch", "timm", "lightning-fabric", "numpy", "scikit-learn", "pyarrow", "caustics")


class Run:
    """A run directory: `config.yaml`, `run.json`, `checkpoint/`, `metrics.csv` and results. Writes are atomic.

    A directory with the same kind, settings `config` and `fingerprint` of the data resumes. With others it is refused
    with UserError, unless nothing was trained yet: then `is_renewed` is set. Rank 0 reads and writes for all processes.
    `files` are those the run starts from, by the dotted name of their setting; they are compared by content, a run by
    that of its weights.
    `config.yaml` is a recipe of the same command.
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
        paths = {name: weights_file(path) for name, path in (files or {}).items() if path}
        digests = {name: file_digest(path) for name, path in paths.items() if path.is_file()}
        same = {"kind": kind, "data": data, "files": digests}
        self.is_renewed = False
        self.info = run_on_rank_zero(lambda: self._open(to_plain(config), seed, same))
        if self.info["data"] != data:
            raise UserError("this process has other data than rank 0; give all machines the same store")
        self._started = time.monotonic() - self.info["seconds"]

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self.info["finished"] is not None

    def save_seconds(self) -> None:
        """Write how long the run took so far to `run.json`; it counts on from there when it resumes."""
        self.info["seconds"] = round(time.monotonic() - self._started, 1)
        if rank() == 0:
            write_json(self.path / "run.json", self.info)

    def finish(self, **results: Any) -> None:
        """Mark the run complete and add `results` to `run.json`; `seconds` are those of all sessions of a fit."""
        self._started -= max(results.get("seconds", 0.0) - (time.monotonic() - self._started), 0.0)
        self.info |= results | {"finished": _now()}
        self.save_seconds()

    def _open(self, settings: dict[str, Any], seed: int, same: dict[str, Any]) -> dict[str, Any]:
        """Return `run.json`, new unless the run resumes; `same` are the entries that a resumed one shares."""
        is_run = (self.path / "run.json").exists()
        if is_run and self._resumes(settings, **same):
            return read_json(self.path / "run.json")
        if not is_run and self.path.exists() and (not self.path.is_dir() or any(self.path.glob("[!.]*"))):
            raise UserError(f"{self.path} exists and is not a zwicky run; choose another --out")
        self.is_renewed = is_run
        from_command_line = Path(sys.argv[0]).name in ("zwicky", "__main__.py")
        info = same | {
            "command": " ".join(["zwicky", *sys.argv[1:]]) if from_command_line else None,
            "schema_version": SCHEMA_VERSION,
            "seed": seed,
            "started": _now(),
            "finished": None,
            "seconds": 0.0,
            "versions": {"python": platform.python_version(), "zwicky": __version__}
            | {name: metadata.version(name) for name in PACKAGES},
            "machine": _machine(),
        }
        write_json(self.path / "run.json", info)  # first, so that whatever else is here is known to be a run's
        write_text(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
        return info

    def _resumes(self, settings: dict[str, Any], kind: str, data: str, files: dict[str, str]) -> bool:
        """Whether the directory holds this run; False if it holds another that has not trained anything."""
        info = read_json(self.path / "run.json")
        if info.get("schema_version") != SCHEMA_VERSION:
            raise UserError(f"{self.path} was written by another version of zwicky; choose another --out")
        if info["kind"] != kind:
            raise UserError(f"{self.path} holds a {info['kind']} run, not a {kind}; choose another --out")
        if not (self.path / "config.yaml").exists():
            return False
        shared = files.keys() & info["files"].keys()
        before = flat(read_settings(self.path / "config.yaml")) | {name: info["files"][name] for name in shared}
        after = flat(settings) | {name: files[name] for name in shared}
        changed = sorted(name for name in before | after if before.get(name) != after.get(name))
        if not changed and info["data"] == data:
            return True
        if not info["finished"] and not any(self.path.rglob("last.pt")) and not any(self.path.rglob("result.json")):
            return False
        if changed:
            names = ", ".join(changed[:3])
            raise UserError(f"{self.path} was started with other settings ({names}); take these or another --out")
        raise UserError(f"{self.path} was started with other data; choose another --out or the same store")


def fingerprint(cutouts: Cutouts, rows: np.ndarray, truth: np.ndarray | None = None) -> str:
    """Return a hash of the ids and pixels of these rows, and of their labels or targets `truth`."""
    digest = hashlib.blake2b(repr((cutouts.bands, cutouts.pixel_scale, cutouts.size)).encode(), digest_size=16)
    digest.update(cutouts.metadata.get("simulation", "").encode())  # which has no pixel hashes before it is rendered
    for column in ("id", "pixel_hash"):
        digest.update(repr(cutouts.column(column)[rows].tolist()).encode())
    if truth is not None:
        digest.update(repr(np.asarray(truth).tolist()).encode())
    return digest.hexdigest()


def to_plain(value: Any) -> Any:
    """Convert dataclasses, paths and tuples to the dicts, strings and lists of YAML."""
    return json.loads(json.dumps(value, default=lambda item: vars(item) if is_dataclass(item) else str(item)))


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings by dotted name."""
    return pd.json_normalize(settings).to_dict("records")[0]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _machine() -> dict[str, Any]:
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": capabilities.get("cpu_name") or platform.processor(),
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
