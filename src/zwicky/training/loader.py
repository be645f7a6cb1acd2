"""How a batch is made: shuffled row numbers → pixels → augmented views, a function of (seed, step) alone."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from zwicky.augment.views import Augment, Views
from zwicky.data.cutouts import Cutouts, Images
from zwicky.rng import torch_rng


@dataclass
class TrainingSet:
    """What a fit learns from."""

    images: Images  # [N, bands, H, W]; an array, or `LazyImages` that may be larger than memory
    rows: np.ndarray  # [n] the row numbers that are used
    targets: Tensor | None = None  # [N] class numbers or [N, columns] regression targets
    partners: np.ndarray | None = None  # [N] for each row the row shown beside it, see `find_partners`


def find_partners(cutouts: Cutouts, rows: np.ndarray) -> np.ndarray | None:
    """Return [N] for each of `rows` another of them with the same `pair_id`, or itself (LenSiam, arXiv:2311.10100).

    None if there is no column `pair_id`.
    """
    if "pair_id" not in cutouts.table:
        return None
    partners = np.arange(len(cutouts))
    pair_ids = cutouts.table["pair_id"].iloc[rows].reset_index(drop=True)
    for members in pair_ids.groupby(pair_ids).indices.values():
        pair = np.asarray(rows)[members]
        partners[pair] = np.roll(pair, -1)
    return partners


class BatchLoader:
    """The views of each step.

    Every epoch is one full shuffle by `torch_rng(seed, epoch)`; its incomplete last batch is dropped. Each process
    reads its own slice of the global batch. On a GPU the pixels are resident if they take at most half of its free
    memory; otherwise the rows of a batch are read from memory or from the memory-mapped store.
    """

    def __init__(
        self,
        data: TrainingSet,
        augment: Augment,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.data, self.augment, self.seed, self.device = data, augment, seed, device
        self.batch_size = min(batch_size, len(data.rows))
        self.steps_per_epoch = len(data.rows) // self.batch_size
        share = self.batch_size // world_size
        self.part = slice(rank * share, (rank + 1) * share)
        self._rows = torch.from_numpy(np.asarray(data.rows, dtype=np.int64))
        self._epoch, self._order = -1, self._rows
        self._resident = self._to_gpu() if device.type == "cuda" else None

    def rows(self, step: int) -> Tensor:
        """Return the row numbers of the global batch, [batch_size] int64."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            shuffle = torch.randperm(len(self._rows), generator=torch_rng(self.seed, epoch))
            self._epoch, self._order = epoch, self._rows[shuffle]
        return self._order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def views(self, step: int) -> Views:
        """Return this process's views of a step, mixed with those of the partners if there are any."""
        rows = self.rows(step)[self.part]
        views = self._augmented(rows, step)
        if self.data.partners is None:
            return views
        return views.mixed_with(self._augmented(torch.from_numpy(self.data.partners)[rows], step))

    def _augmented(self, rows: Tensor, step: int) -> Views:
        targets = None if self.data.targets is None else self.data.targets[rows].to(self.device)
        draw = partial(self.augment, seed=self.seed, step=step, part=self.part, global_batch=self.batch_size)
        return draw(self.pixels(rows), rows.to(self.device), targets=targets)

    def pixels(self, rows: Tensor) -> Tensor:
        """Return the raw pixels of `rows`, [n, bands, H, W], on the device."""
        if self._resident is None:
            return torch.from_numpy(self.data.images[rows.numpy()]).to(self.device, non_blocking=True)
        positions, pixels = self._position[rows].to(self.device), self._resident
        if pixels.dtype == torch.uint16:  # which torch cannot index
            return pixels.view(torch.int16)[positions].view(torch.uint16)
        return pixels[positions]

    def _to_gpu(self) -> Tensor | None:
        images = self.data.images
        size = len(self._rows) * int(np.prod(images.shape[1:])) * images.dtype.itemsize
        if size > torch.cuda.mem_get_info(self.device)[0] // 2:
            return None
        self._position = torch.full((len(images),), -1)
        self._position[self._rows] = torch.arange(len(self._rows))
        return torch.from_numpy(images[self.data.rows]).to(self.device)
