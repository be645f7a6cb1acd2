"""A benchmark's table on disk: CSV that says on which machine and by which command it was made."""

from __future__ import annotations

import csv
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any


def write_csv(path: Path, rows: list[dict[str, Any]], notes: Sequence[str], packages: Sequence[str]) -> None:
    """Write rows after comment lines: machine and versions of `packages`, notes, load, command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        load = f"load average {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
        command = f"python {shlex.join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]])}"
        for line in (machine(packages), *notes, load, command):
            file.write(f"# {line}\n")
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def machine(packages: Sequence[str]) -> str:
    """Processor, its number, and the versions that matter."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
        flags = next((line for line in lines if line.startswith("flags")), "").split()
        name += "".join(f", {flag}" for flag in ("avx512_bf16", "amx_bf16") if flag in flags)
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    return f"{os.cpu_count()} x {name}; {versions}, Python {platform.python_version()}"
