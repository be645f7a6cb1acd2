"""What every method promises to the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zwicky.augment.masking import Masking
from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone


@dataclass(frozen=True)
class ViewsNeeded:
    """Which crops a method wants of each image."""

    global_crops: int
    local_crops: bool = False  # whether it can use local crops as well
    targets: bool = False
    masking: Masking | None = None  # how its global crops are masked
    preview: int = 0  # how many images it looks at before the first step


class Method(nn.Module, ABC):
    """Owns student, teacher, heads and centres. All its state is parameters and buffers.

    `forward` is what gets wrapped for several processes, so a step calls nothing else of the method before
    `backward`. Every parameter that requires a gradient enters the loss at each step.
    """

    needs: ViewsNeeded
    progress: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))

    def prepare(self, views: Views) -> None:
        """Look at views of `needs.preview` training images before the first step; a tokenizer is made here."""

    @abstractmethod
    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return {"loss": scalar, further gauges: scalars without gradient}."""

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step; `progress` is the share of all steps done, 0 < progress ≤ 1."""
        self.progress.fill_(progress)

    def diagnose(self, gauges: Mapping[str, float]) -> str | None:
        """One line on the failure these gauges show and what to try; None when they look healthy."""
        return None

    @property
    @abstractmethod
    def backbone(self) -> Backbone:
        """The network to evaluate and to fine-tune: the teacher's where there is a teacher."""

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from input to output, for layer-wise decay. Parameters not named form the last group."""
        return []

    def constant_lr(self) -> set[str]:
        """Names of parameters that keep the peak learning rate to the end."""
        return set()

    def no_weight_decay(self) -> set[str]:
        """Names of parameters never decayed, besides biases and norms."""
        return set()
