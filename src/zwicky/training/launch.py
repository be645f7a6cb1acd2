"""Which of several processes this one is, as torchrun or srun says; loads nothing."""

from __future__ import annotations

import os
import re


def world() -> int:
    """How many processes train together; 1 unless torchrun or srun started more."""
    _take_over_srun()
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 1


def rank() -> int:
    """The number of this process, 0 for the one that writes."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def local_world() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world()))


def _take_over_srun() -> None:
    """Say what srun says under the names torchrun uses. Within sbatch alone, without srun, there is one process."""
    said = os.environ
    tasks = int(said.get("SLURM_STEP_NUM_TASKS", 1))
    if "RANK" in said or tasks < 2:
        return
    said["WORLD_SIZE"], said["RANK"], said["LOCAL_RANK"] = str(tasks), said["SLURM_PROCID"], said["SLURM_LOCALID"]
    said["GROUP_RANK"] = said["SLURM_NODEID"]
    said["LOCAL_WORLD_SIZE"] = str(tasks // int(said.get("SLURM_STEP_NUM_NODES", 1)))
    said.setdefault("MASTER_ADDR", _first(said.get("SLURM_STEP_NODELIST", "127.0.0.1")))
    said.setdefault("MASTER_PORT", str(15_000 + int(said.get("SLURM_JOB_ID", "0")) % 10_000))


def _first(nodes: str) -> str:
    """The first name of a list as SLURM writes it: node[03-07,9],other → node03."""
    found = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    return nodes if found is None else found[1] + (found[2] or "")
