"""Which images a step sees: a function of (seed, step) alone, so that a resumed run sees the same."""

from __future__ import annotations

import torch
from torch import Tensor


class Batches:
    """Row numbers of the global batch of each step: a fresh permutation an epoch, the incomplete last batch dropped."""

    def __init__(self, rows: Tensor, batch_size: int, seed: int) -> None:
        self.rows = rows
        self.size = min(batch_size, len(rows))
        self.per_epoch = len(rows) // self.size
        self.seed = seed
        self._epoch, self._order = -1, rows

    def __call__(self, step: int) -> Tensor:
        """[batch] int64."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, self.rows[torch.randperm(len(self.rows), generator=generator)]
        return self._order[position * self.size : (position + 1) * self.size]
