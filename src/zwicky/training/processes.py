"""The processes that torchrun or srun started, by their environment."""

import os


def world_size() -> int:
    """Return the number of processes that train together: 1 unless torchrun or srun started more."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or 1)


def rank() -> int:
    """Return the number of this process; 0 is the one that writes."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) if world_size() > 1 else 0


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", 1)) if "RANK" not in os.environ else 1
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size() // nodes))
