"""Which images a step sees: a function of (seed, step) alone, so that a resumed run sees the same."""

from __future__ import annotations

import torch
from torch import Tensor

from zwicky.data.store import rows_of_a_group
from zwicky.rng import torch_rng

MIXED_BYTES = 2**29  # of pixels that are mixed with each other: what streaming from a store keeps in memory


class Batches:
    """Row numbers of the global batch of each step: every epoch in a fresh order, the incomplete last batch dropped.

    image_bytes: of one image. Sets of up to MIXED_BYTES are mixed as a whole. Larger ones are, wherever they lie, as
    they can be streamed: row groups in a random order, and in that sequence each image moved back by a uniform random
    number of places, up to as many as MIXED_BYTES hold. So a group is needed once an epoch and not for long.
    """

    def __init__(self, rows: Tensor, batch_size: int, seed: int, image_bytes: int = 1) -> None:
        self.rows = rows
        self.size = min(batch_size, len(rows))
        self.per_epoch = len(rows) // self.size
        self.seed = seed
        self.reach = MIXED_BYTES // image_bytes
        self.group_rows = rows_of_a_group(image_bytes)
        self._epoch, self._order = -1, rows

    def __call__(self, step: int) -> Tensor:
        """[batch] int64."""
        epoch, position = divmod(step, self.per_epoch)
        return self.epoch(epoch)[position]

    def epoch(self, number: int) -> Tensor:
        """[batches, batch] int64: all batches of an epoch."""
        if number != self._epoch:
            generator = torch_rng(self.seed, number)
            self._epoch, self._order = number, self._mixed(generator)
        return self._order[: self.per_epoch * self.size].unflatten(0, (self.per_epoch, self.size))

    def _mixed(self, generator: torch.Generator) -> Tensor:
        count = len(self.rows)
        if count <= self.reach:
            return self.rows[torch.randperm(count, generator=generator)]
        names, group = (self.rows // self.group_rows).unique(return_inverse=True)
        turn = torch.randperm(len(names), generator=generator)[group]
        sequence = self.rows[turn.argsort(stable=True)]
        place = torch.arange(count) + self.reach * torch.rand(count, dtype=torch.float64, generator=generator)
        return sequence[place.argsort()]
