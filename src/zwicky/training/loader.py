"""What a fit learns from, and how its pixels come: from memory by their number, or streamed from a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zwicky.data.contract import Cutouts
from zwicky.data.stored_images import Images, StoredImages, in_batches
from zwicky.training.batches import Batches


@dataclass
class Source:
    """What to learn from.

    images: [N, bands, H, W]. rows: the [n] rows used. targets: [N] or [N, columns]. partners: [N] of each row used the
    row, among those used, that is shown beside it.
    """

    images: Images
    rows: np.ndarray
    targets: Tensor | None = None
    partners: np.ndarray | None = None


def partners_of(cutouts: Cutouts, rows: np.ndarray) -> np.ndarray | None:
    """[N] of each of `rows` another of them with the same `pair_id`, itself where there is none; None without pairs."""
    if "pair_id" not in cutouts.table.column_names:
        return None
    partners = np.arange(len(cutouts))
    members, ids = dict[str, list[int]](), cutouts.column("pair_id")
    for row in rows.tolist():
        if ids[row] is not None:
            members.setdefault(ids[row], []).append(row)
    for pair in members.values():
        partners[pair] = np.roll(pair, -1)
    return partners


class BatchLoader:
    """Row numbers, pixels and targets of each step, on a device. Which those are does not depend on how they come.

    The pixels are resident where they fit: all of them, or of a store those that are used; on the device if it has
    room for them. Else they are streamed.
    """

    def __init__(self, source: Source, batch_size: int, seed: int, device: torch.device) -> None:
        images, rows = source.images, np.asarray(source.rows, dtype=np.int64)
        image_bytes = int(np.prod(images.shape[1:])) * images.dtype.itemsize
        self.device = device
        self.batches = Batches(torch.from_numpy(rows), batch_size, seed, image_bytes)
        self.partners = None if source.partners is None else torch.from_numpy(source.partners)
        self.targets = None if source.targets is None else source.targets.to(device)
        self._stored: StoredImages | None = None
        self._place: Tensor | None = None  # of each row among the pixels held, where those are not all
        self._next: tuple[int, slice] | None = None  # what the stream gives next
        if isinstance(images, StoredImages):
            if len(rows) * image_bytes > images.most:
                self._stored = images
                return
            self._place = torch.full((len(images),), -1)
            self._place[rows] = torch.arange(len(rows))
            images = images[rows]
        self._pixels = torch.from_numpy(images)
        if device.type != "cuda" or self._pixels.nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
            self._pixels = self._pixels.to(device)

    def __call__(self, step: int, part: slice) -> tuple[Tensor, Tensor, Tensor | None]:
        """(rows [b], raw pixels [b, bands, H, W], targets) of one process's `part` of the global batch of a step.

        Where the source has partners, those of the rows follow them, so b is twice as large.
        """
        rows = self._with_partners(self.batches(step)[part])
        pixels = self._resident(rows) if self._stored is None else self._streamed(step, part)
        rows = rows.to(self.device)
        return rows, pixels.to(self.device), None if self.targets is None else self.targets[rows]

    def _with_partners(self, rows: Tensor) -> Tensor:
        """[…, b] → […, 2b]."""
        return rows if self.partners is None else torch.cat([rows, self.partners[rows]], -1)

    def _resident(self, rows: Tensor) -> Tensor:
        places = (rows if self._place is None else self._place[rows]).to(self._pixels.device)
        if self._pixels.dtype == torch.uint16:  # which torch cannot index
            return self._pixels.view(torch.int16)[places].view(torch.uint16)
        return self._pixels[places]

    def _streamed(self, step: int, part: slice) -> Tensor:
        if self._next != (step, part):
            self._stream = self._from(step, part)
        self._next = (step + 1, part)
        return torch.from_numpy(next(self._stream))

    def _from(self, step: int, part: slice) -> Iterator[np.ndarray]:
        assert self._stored is not None
        epoch, position = divmod(step, self.batches.per_epoch)
        while True:
            order = self._with_partners(self.batches.epoch(epoch)[position:, part])
            for _, pixels in in_batches(self._stored, order.shape[1], order.flatten().numpy()):
                yield pixels
            epoch, position = epoch + 1, 0
