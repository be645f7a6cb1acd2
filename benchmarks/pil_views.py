"""The usual way to feed DINO: each image through PIL and torchvision, crop by crop, in two worker processes."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms as T

from zwicky.augment.config import ViewsConfig


def pipeline(size: int, scale: tuple[float, float], config: ViewsConfig) -> T.Compose:
    """The augmentation of `config`, as near as PIL has it."""
    return T.Compose(
        [
            T.RandomRotation(180, interpolation=T.InterpolationMode.BILINEAR),
            T.CenterCrop(config.crop),
            T.RandomResizedCrop(size, scale=scale, ratio=(1, 1), interpolation=T.InterpolationMode.BILINEAR),
            T.RandomHorizontalFlip(),
            T.ColorJitter(brightness=config.brightness, contrast=config.contrast),
            T.RandomApply([T.GaussianBlur(5, config.blur_sigma)], p=config.blur),
            T.ToTensor(),
            T.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ]
    )


class PilCrops(Dataset):
    """images: [N, 3, H, W] uint8."""

    def __init__(self, images: np.ndarray, config: ViewsConfig) -> None:
        self.pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
        large = pipeline(config.image_size or config.crop or 0, config.global_scale, config)
        small = pipeline(config.local_size, config.local_scale, config)
        self.pipelines = [large] * 2 + [small] * config.local_crops

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> list[Tensor]:
        return [transform(self.pictures[index]) for transform in self.pipelines]


class PilLoader:
    """Endless batches from two workers, which stand still except between `resume` and `pause`.

    So they take no time from the others that are measured, nor work ahead while those run.
    """

    def __init__(self, images: np.ndarray, config: ViewsConfig, batch: int) -> None:
        data = PilCrops(images, config)
        sampler = RandomSampler(data, replacement=True, num_samples=10**9)
        loader = DataLoader(data, batch, sampler=sampler, num_workers=2, worker_init_fn=one_thread)
        self.batches: Iterator[list[Tensor]] = iter(loader)
        self.pids = [worker.pid for worker in self.batches._workers]  # type: ignore[attr-defined]
        atexit.register(self.resume)  # a process that stands still cannot be ended

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def cpu_seconds(self) -> float:
        """Processor time of the workers so far (Linux)."""
        ticks = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])  # user and system time
        return ticks / os.sysconf("SC_CLK_TCK")

    def _signal(self, number: int) -> None:
        for pid in self.pids:
            os.kill(pid, number)


def one_thread(_: int) -> None:
    torch.set_num_threads(1)
