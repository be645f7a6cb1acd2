"""Means over the images of all processes, for what DDP's mean of gradients alone would not get right."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def average(value: Tensor) -> Tensor:
    """Mean over processes of a float tensor; gradients pass."""
    return value if count() == 1 else _Average.apply(value)


class _Average(torch.autograd.Function):
    """Every process's value has a share of 1/count in every process's mean, so gradients are averaged alike."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        mean = value.clone()
        dist.all_reduce(mean)
        return mean / count()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return _Average.forward(_, gradients[0])
