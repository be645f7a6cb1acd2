"""Supervised learning: a linear head on the pooled features, for classes or regression; fine-tuning is this method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zwicky.augment.views import Target, Views, ViewsNeeded
from zwicky.backbones.base import Backbone
from zwicky.errors import UserError
from zwicky.methods.base import Method

Values = TypeVar("Values", np.ndarray, Tensor)


@dataclass(frozen=True)
class TargetScaler:
    """Standardise regression targets column by column: z = (y − mean) / std."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def fit(cls, values: np.ndarray, targets: Sequence[Target], equivariant: bool = False) -> Self:
        """Take mean and standard deviation of training values [N, columns] of the targets, in double precision.

        With an equivariant head, the two columns of a vector or spin-2 target get mean 0 and their common root mean
        square, because any other scaling would not rotate with the image. A column that does not vary is scaled by
        its rounding error, so that no std is 0.
        """
        values = values.astype(np.float64)
        rounding = np.finfo(np.float32).eps * np.abs(values).max(0)
        mean, std = values.mean(0), np.maximum(values.std(0), np.where(rounding > 0, rounding, 1.0))
        start = 0
        for target in targets:
            columns = slice(start, start + len(target.columns))
            start += len(target.columns)
            if equivariant and target.kind != "scalar":
                mean[columns], std[columns] = 0.0, np.sqrt((values[:, columns] ** 2).mean()) or 1.0
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def transform(self, values: Values) -> Values:
        """Standardise values [..., columns]."""
        return (values - _like(values, self.mean)) / _like(values, self.std)

    def inverse(self, values: Values) -> Values:
        """Bring standardised values [..., columns] back to the units of the targets."""
        return values * _like(values, self.std) + _like(values, self.mean)


def _like(values: Values, numbers: tuple[float, ...]) -> Values:
    return values.new_tensor(numbers) if isinstance(values, Tensor) else np.array(numbers)


class Supervised(Method):
    """Cross-entropy over classes, or smooth L1 loss on standardised regression targets.

    Args:
        classes: number of classes; 0 for regression.
        targets: what is regressed; empty for classification.
        scaler: standardises the targets.
        label_smoothing: share of the target probability spread over all classes.
    """

    needs = ViewsNeeded(global_crops=1, targets=True)

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: int = 0,
        targets: Sequence[Target] = (),
        scaler: TargetScaler | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if (classes > 1) == (len(targets) > 0):
            raise UserError("supervised: needs two or more classes or a regression target; give labels of two classes")
        outputs = classes or sum(len(target.columns) for target in targets)
        self.encoder = backbone
        self.head = backbone.prediction_head(outputs, targets)
        self.classes, self.targets, self.label_smoothing = classes, tuple(targets), label_smoothing
        self.scaler = scaler or TargetScaler((0.0,) * outputs, (1.0,) * outputs)

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss, and the accuracy or the mean absolute error in the units of the targets."""
        outputs = self.encoder.predict(self.head, torch.cat(views.crops)).float()
        targets = torch.cat(views.targets)
        if self.targets:
            loss = F.smooth_l1_loss(outputs, self.scaler.transform(targets))
            return {"loss": loss, "mae": (self.scaler.inverse(outputs.detach()) - targets).abs().mean()}
        return self.classification(outputs, targets)

    def classification(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return loss and accuracy of outputs [B, classes] for class numbers [B] or probabilities [B, classes]."""
        loss = F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)
        return {"loss": loss, "accuracy": (outputs.detach().argmax(1) == class_numbers(targets)).float().mean()}


def class_numbers(targets: Tensor) -> Tensor:
    """Return the class numbers [B] of class numbers or of probabilities [B, classes]."""
    return targets if targets.ndim == 1 else targets.argmax(1)
