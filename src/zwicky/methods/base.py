"""The interface between methods and the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from zwicky.augment.views import Views, ViewsNeeded
from zwicky.backbones.base import Backbone
from zwicky.methods import collapse


class Method(nn.Module, ABC):
    """Owns student, teacher, heads and centres; all its state is in parameters and buffers.

    Distributed training wraps `forward`, so a step calls nothing else of the method before `backward`, and every
    parameter that requires a gradient takes part in each step's loss.
    """

    needs: ViewsNeeded  # what `forward` expects
    backbone_prefix = "encoder"  # path of the backbone that the optimiser trains
    teacher_prefix: str | None = None  # path of its teacher, if there is one
    embedding_dim: int | None = None  # of the embeddings measured by `embedding_std`; the backbone's unless set
    prototypes: int | None = None  # K, for methods with a prototype head
    progress: Tensor  # share of the training steps that are done, from 0 to 1

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))

    def prepare(self, views: Views) -> None:
        """Use views of `needs.preview` training images before the first step; BEiT fits its tokenizer here."""

    @abstractmethod
    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return {"loss": scalar, further metrics: scalars without gradient}."""

    def before_step(self) -> None:
        """Change gradients after `backward`, before they are clipped and the optimiser takes its step."""

    def after_step(self, progress: float) -> None:
        """Update teachers and schedules after an optimiser step; `progress` is in (0, 1]."""
        self.progress.fill_(progress)

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Return one line on the failure these metrics show and what to try; None if they look healthy."""
        return collapse.diagnose(metrics, dim=self.embedding_dim or self.backbone.dim, prototypes=self.prototypes)

    @property
    def backbone(self) -> Backbone:
        """The network to evaluate and to fine-tune: the teacher's where there is a teacher."""
        return cast(Backbone, self.get_submodule(self.teacher_prefix or self.backbone_prefix))

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from input to output, for layer-wise decay; parameters not named form the last group."""
        return [[f"{self.backbone_prefix}.{name}" for name in group] for group in self.backbone.layer_groups()]

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and norms."""
        return {f"{self.backbone_prefix}.{name}" for name in self.backbone.no_weight_decay()}

    def constant_lr(self) -> set[str]:
        """Names of parameters that keep the peak learning rate to the end."""
        return set()
