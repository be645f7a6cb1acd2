"""Random numbers: every stream is a function of a key of integers, through `numpy.random.SeedSequence`.

Streams of different keys are independent, so nothing depends on how many numbers another part of the program drew.
Zeros at the end of a key do not count: (5,) is (5, 0). In training, the order of epoch k, the views of step k and what
a method draws in step k on the first process have one key and so the same numbers, as do pixel noise and the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def numpy_rng(*key: int) -> np.random.Generator:
    """Return the NumPy generator of the stream `key`, e.g. `numpy_rng(seed, epoch)`."""
    return np.random.default_rng(list(key))


def torch_rng(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the torch generator of the stream `key` on `device`."""
    import torch

    seed = np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> 1
    return torch.Generator(device).manual_seed(int(seed))


def seed_torch(*key: int) -> None:
    """Seed torch's global generators (weight initialisation, dropout, drop path) with the stream `key`."""
    import torch

    torch.manual_seed(torch_rng(*key).initial_seed())
