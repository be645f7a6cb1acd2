"""How much memory is free, on this machine and in the container or batch job this process runs in."""

from __future__ import annotations

import os
import re
from pathlib import Path

from zwicky.errors import UserError

UNKNOWN = 8 * 2**30  # where the system does not say


def free_bytes(root: Path = Path("/")) -> int:
    """Bytes that may still be taken: of the machine, or of the control group (Linux) where that allows less."""
    found = [_of_machine(root / "proc/meminfo"), *_of_groups(root)]
    return min((value for value in found if value is not None), default=UNKNOWN)


def most_bytes(memory_gb: float | None) -> int:
    """Bytes of pixels to keep: 10⁹ times what the user says, or half of the memory that is free."""
    if memory_gb is None:
        return free_bytes() // 2
    if not memory_gb >= 0:
        raise UserError(f"memory_gb is {memory_gb}; choose 0 or more, or null for half of the memory that is free")
    return round(memory_gb * 1e9)


def _of_machine(meminfo: Path) -> int | None:
    try:
        available = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        return int(available[1]) * 1024 if available else None
    except OSError:
        pass
    try:  # macOS says what there is, not what is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _of_groups(root: Path) -> list[int]:
    """Room in each control group around this process, version 2 or 1; pages of files count as free."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    room = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        limit, used = (
            ("memory.max", "memory.current") if not controllers else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        group = top / place.strip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            try:
                most, taken = int((folder / limit).read_text()), int((folder / used).read_text())
                files = re.search(r"^(?:total_)?inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.M)
            except (OSError, ValueError):  # no such file, or "max"
                continue
            room.append(max(most - taken + (int(files[1]) if files else 0), 0))
    return room
