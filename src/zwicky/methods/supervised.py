"""Supervised learning: a linear head on the summary, for classes or for regression. Fine-tuning is this method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zwicky.augment.views import Target, Views
from zwicky.backbones.base import Backbone
from zwicky.backbones.d4.readout import TargetHead
from zwicky.errors import UserError
from zwicky.methods.base import Method, ViewsNeeded


def make_head(backbone: Backbone, outputs: int, targets: Sequence[Target] = ()) -> nn.Module:
    """A linear layer on the summary; on an equivariant backbone, targets with a direction get one that turns."""
    if backbone.invariant and any(target.kind != "scalar" for target in targets):
        return TargetHead(backbone.dim, targets)
    head = nn.Linear(backbone.dim, outputs)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def head_outputs(backbone: Backbone, head: nn.Module, crops: Tensor) -> Tensor:
    """What a head of `make_head` says of crops [B, bands, h, w]: [B, outputs], not yet on the targets' scale.

    A linear head computes in float32: it may tell classes apart by what bfloat16 would round away.
    """
    if isinstance(head, TargetHead):
        return head(backbone(crops))
    summary = backbone(crops, patch_tokens=False).pooled
    with torch.autocast(summary.device.type, enabled=False):
        return head(summary.float())


def scale_of(values: np.ndarray, head_turns: bool, targets: Sequence[Target]) -> tuple[list[float], list[float]]:
    """(mean, standard deviation) by column of the targets to learn from, [N, columns].

    head_turns: whether the head is equivariant; then a direction has mean 0 and one scale for both its columns, the
    root mean square, since anything else would turn with no image. A column that does not vary has the scale of its
    rounding, so that none is 0. In double precision: squares of an axion's mass, 1e-23 eV, are 0 in single.
    """
    values = values.astype(np.float64)
    rounding = np.finfo(np.float32).eps * np.abs(values).max(0)
    mean = values.mean(0).tolist()
    std = np.maximum(values.std(0), np.where(rounding > 0, rounding, 1.0)).tolist()
    start = 0
    for target in targets:
        columns = slice(start, start + len(target.columns))
        start += len(target.columns)
        if head_turns and target.kind != "scalar":
            mean[columns] = [0.0, 0.0]
            std[columns] = [float(np.sqrt((values[:, columns] ** 2).mean())) or 1.0] * 2
    return mean, std


class Supervised(Method):
    """Cross-entropy over `classes`, or smooth L1 over standardised `targets`; give one of the two.

    classes: number of classes. targets: number of regression columns, `kinds` how they turn; `target_mean` and
    `target_std` (from the labels it may learn from, see `scale_of`) put them on a common scale. label_smoothing: share
    of the target spread over all classes.
    """

    needs = ViewsNeeded(global_crops=1, targets=True)
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: int = 0,
        targets: int = 0,
        kinds: Sequence[Target] = (),
        target_mean: list[float] | None = None,
        target_std: list[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if (classes > 1) == (targets > 0):
            raise UserError(
                "supervised: needs two or more classes or at least one regression target; give labels of two classes"
            )
        self.net = backbone
        self.head = make_head(backbone, classes or targets, kinds)
        self.classes, self.targets, self.label_smoothing = classes, targets, label_smoothing
        if targets:
            self.register_buffer("target_mean", torch.tensor(target_mean or [0.0] * targets))
            self.register_buffer("target_std", torch.tensor(target_std or [1.0] * targets))

    @property
    def backbone(self) -> Backbone:
        return self.net

    def outputs(self, crops: Tensor) -> Tensor:
        """Logits [B, classes], or predictions [B, targets] in the targets' own units; float32."""
        outputs = head_outputs(self.net, self.head, crops).float()
        return outputs * self.target_std + self.target_mean if self.targets else outputs

    def forward(self, views: Views) -> dict[str, Tensor]:
        assert views.targets is not None, "supervised views carry targets"
        outputs = self.outputs(torch.cat(views.crops))
        targets = torch.cat(views.targets)
        if self.targets:
            loss = F.smooth_l1_loss(outputs / self.target_std, targets / self.target_std)
            return {"loss": loss, "mae": (outputs.detach() - targets).abs().mean()}
        loss = F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)
        return {"loss": loss, "accuracy": (outputs.detach().argmax(1) == targets).float().mean()}

    def layer_groups(self) -> list[list[str]]:
        return [[f"net.{name}" for name in group] for group in self.net.layer_groups()]

    def no_weight_decay(self) -> set[str]:
        return {f"net.{name}" for name in self.net.no_weight_decay()}
