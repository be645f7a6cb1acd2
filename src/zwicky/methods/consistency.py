"""A consistency loss for self-training, after FixMatch (Sohn et al. 2020, arXiv:2001.07685)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zwicky.augment.views import Views, ViewsNeeded
from zwicky.backbones.base import Backbone
from zwicky.methods.ema import early_momentum, ema_update, make_teacher
from zwicky.methods.supervised import Supervised, class_numbers

CONFIDENCE = 0.95  # τ: a target is used where its largest probability is at least this
NOISE = 0.5  # largest deviation of the noise of strong views; pixels have a deviation of about 1
MOMENTUM = 0.99  # of the teacher, as in Mean Teacher (arXiv:1703.01780)


class Consistency(Supervised):
    """Classes, and agreement between two views of every image.

        L = CE(y, f(x₁)) + λ · 1/B Σ 1[max q ≥ τ] CE(q, f(x₂ + noise)),  q = softmax(f_t(x₁))

    with y the labels and pseudo-labels, and f_t the teacher, a moving average of f. FixMatch's q is of f itself and
    one-hot. The strong view has another rotation and shift and, where pixels are valid, Gaussian noise of a deviation
    drawn per image.

    Args:
        weight: λ.
    """

    needs = ViewsNeeded(global_crops=2, targets=True)
    steps: Tensor  # taken, for the teacher's momentum

    def __init__(self, backbone: Backbone, *, classes: int, label_smoothing: float = 0.0, weight: float = 1.0) -> None:
        super().__init__(backbone, classes=classes, label_smoothing=label_smoothing)
        self.teacher = make_teacher(self._student())
        self.weight = weight
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss, the accuracy, and of the targets the share that is used and agrees with the labels given."""
        weak, strong = views.crops
        deviation = NOISE * torch.rand(len(strong), 1, 1, 1, device=strong.device)
        noisy = strong + deviation * torch.randn_like(strong) * views.valid[1]
        outputs = self.encoder.predict(self.head, torch.cat([weak, noisy])).float()
        metrics = self.classification(outputs[: len(weak)], views.targets[0])
        with torch.no_grad():
            averaged = cast(Backbone, self.teacher["backbone"])
            q = averaged.predict(self.teacher["head"], weak).float().softmax(1)
            used = (q.amax(1) >= CONFIDENCE).float()
        loss = (used * F.cross_entropy(outputs[len(weak) :], q, reduction="none")).mean()
        agreement = (q.argmax(1) == class_numbers(views.targets[0])).float().mean()
        shares = {"consistency": loss.detach(), "confident": used.mean(), "agreement": agreement}
        return metrics | shares | {"loss": metrics["loss"] + self.weight * loss}

    def after_step(self, progress: float) -> None:
        """Update the teacher, which soon forgets the head it started with."""
        super().after_step(progress)
        ema_update(self.teacher, self._student(), early_momentum(MOMENTUM, int(self.steps)))
        self.steps += 1

    def _student(self) -> nn.ModuleDict:
        return nn.ModuleDict({"backbone": self.encoder, "head": self.head})
