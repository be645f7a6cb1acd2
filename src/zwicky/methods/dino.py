"""DINO: self-distillation with no labels (Caron et al. 2021).

A student sees all crops of an image, a teacher only the global ones. The student learns to give each crop the
prototype probabilities the teacher gives another crop. Centring and sharpening of the teacher keep it from
collapsing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zwicky.backbones.contract import Backbone
from zwicky.methods import losses
from zwicky.methods.contract import Method, ViewsNeeded
from zwicky.methods.gauges import diagnose, normalised_std
from zwicky.methods.heads import PrototypeHead
from zwicky.methods.schedules import cosine, ramp
from zwicky.methods.teacher import follow, make_teacher
from zwicky.views.contract import Views


class DINO(Method):
    """Options, with τ temperatures and λ the teacher's momentum:

    prototypes: K; the paper's 65,536 is for 10⁶ images, 512-1024 for 10³-10⁵.
    hidden, bottleneck, batch_norm: of the head, see `PrototypeHead`; the paper has no BatchNorm on ViTs, but with
    thousands of cutouts that look alike it collapsed to uniform without. student_temperature: τ_s.
    teacher_temperature, teacher_temperature_end: τ_t rises from one to the other over the first `temperature_ramp` of
    training. momentum: λ at the start, 1 at the end; the teacher looks back over about 1/(1 − λ) steps, which should
    be a small part of the run. center_momentum: m. freeze_prototypes: share of training during which the last layer
    stands still.
    """

    needs = ViewsNeeded(global_crops=2, local_crops=True)
    teacher: nn.ModuleDict
    center: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        prototypes: int = 1024,
        hidden: int = 2048,
        bottleneck: int = 256,
        batch_norm: bool = True,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        teacher_temperature_end: float = 0.04,
        temperature_ramp: float = 0.3,
        momentum: float = 0.996,
        center_momentum: float = 0.9,
        freeze_prototypes: float = 0.01,
    ) -> None:
        super().__init__()
        self.student = nn.ModuleDict(
            {"backbone": backbone, "head": PrototypeHead(backbone.dim, prototypes, hidden, bottleneck, batch_norm)}
        )
        self.teacher = make_teacher(self.student)
        self.register_buffer("center", torch.zeros(prototypes))
        self.student_temperature = student_temperature
        self.teacher_temperatures = (teacher_temperature, teacher_temperature_end, temperature_ramp)
        self.momentum = momentum
        self.center_momentum = center_momentum
        self.freeze_prototypes = freeze_prototypes
        self._teacher_mean: Tensor | None = None

    @property
    def backbone(self) -> Backbone:
        backbone = self.teacher["backbone"]
        assert isinstance(backbone, Backbone)
        return backbone

    def forward(self, views: Views) -> dict[str, Tensor]:
        progress = float(self.progress)
        start, end, length = self.teacher_temperatures
        global_crops = views.crops[: views.global_count]

        with torch.no_grad():
            embeddings = summaries(self.teacher["backbone"], global_crops)
            teacher_logits = self.teacher["head"](embeddings)
            teacher = losses.teacher_probabilities(teacher_logits, self.center, ramp(start, end, progress, length))
            self._teacher_mean = teacher_logits.mean(0)

        student_embeddings = summaries(self.student["backbone"], views.crops)
        student_logits = self.student["head"](student_embeddings, frozen=progress < self.freeze_prototypes)
        batch = len(views)
        loss = losses.view_cross_entropy(
            list(student_logits.split(batch)), list(teacher.split(batch)), self.student_temperature
        )
        with torch.no_grad():
            entropy = losses.entropy(teacher)
            return {
                "loss": loss,
                "teacher_entropy": entropy,
                "teacher_kl": loss.detach() - entropy,
                "usage_entropy": losses.entropy(teacher.mean(0)),
                "embedding_std": normalised_std(embeddings[:batch]),
            }

    def after_step(self, progress: float) -> None:
        momentum = cosine(self.momentum, 1.0, float(self.progress))
        super().after_step(progress)
        follow(self.teacher, self.student, momentum)
        assert self._teacher_mean is not None, "after_step follows forward"
        losses.update_center(self.center, self._teacher_mean, self.center_momentum)

    def diagnose(self, gauges: Mapping[str, float]) -> str | None:
        return diagnose(gauges, dim=self.backbone.dim, prototypes=len(self.center))

    def layer_groups(self) -> list[list[str]]:
        return [[f"student.backbone.{name}" for name in group] for group in self.backbone.layer_groups()]

    def no_weight_decay(self) -> set[str]:
        return {f"student.backbone.{name}" for name in self.backbone.no_weight_decay()}


def summaries(backbone: nn.Module, crops: list[Tensor]) -> Tensor:
    """[sum of the crops' B, D] summaries in the order of the crops, with one pass of the network per crop size."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for position, crop in enumerate(crops):
        sizes.setdefault(tuple(crop.shape[2:]), []).append(position)
    found: dict[int, Tensor] = {}
    for positions in sizes.values():
        together = backbone(torch.cat([crops[position] for position in positions]), regions=False).summary
        found |= zip(positions, together.split([len(crops[position]) for position in positions]), strict=True)
    return torch.cat([found[position] for position in range(len(crops))])
