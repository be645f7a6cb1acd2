"""What DINO, iBOT and EsViT share: a student, and a teacher that follows it and whose answers it learns."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from zwicky.backbones.base import Backbone, Features
from zwicky.errors import UserError
from zwicky.methods import losses
from zwicky.methods.base import Method, ViewsNeeded
from zwicky.methods.collapse import diagnose
from zwicky.methods.ema import ema_update, make_teacher
from zwicky.methods.heads import PrototypeHead
from zwicky.methods.schedules import cosine, ramp


class Distillation(Method):
    """Options, with τ temperatures and λ the teacher's momentum:

    prototypes: K; the paper's 65,536 is for 10⁶ images, 512-1024 for 10³-10⁵.
    hidden, bottleneck, batch_norm: of the head, see `PrototypeHead`; the paper has no BatchNorm on ViTs, but with
    thousands of cutouts that look alike it collapsed to uniform without. student_temperature: τ_s.
    teacher_temperature, teacher_temperature_end: τ_t rises from one to the other over the first `temperature_ramp` of
    training. momentum: λ at the start, 1 at the end; the teacher looks back over about 1/(1 − λ) steps, which should
    be a small part of the run. center_momentum: m. freeze_prototypes: share of training during which the last layer
    stands still.

    A subclass writes `forward`: it calls `schedule` once, and `targets` once for every centre.
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
        backbone.set_trainable()
        self._new_head = partial(PrototypeHead, backbone.dim, prototypes, hidden, bottleneck, batch_norm)
        self.student = nn.ModuleDict({"backbone": backbone, "head": self._new_head()})
        self.teacher = make_teacher(self.student)
        self.register_buffer("center", torch.zeros(prototypes))
        self.student_temperature = student_temperature
        self.teacher_temperatures = (teacher_temperature, teacher_temperature_end, temperature_ramp)
        self.momentum = momentum
        self.center_momentum = center_momentum
        self.freeze_prototypes = freeze_prototypes
        self._means: dict[str, Tensor] = {}

    def add_region_level(self, own_head: bool) -> None:
        """A second centre, and a second head unless the regions share the first."""
        self.register_buffer("region_center", torch.zeros_like(self.center))
        if own_head:
            self.student["region_head"] = self._new_head()
            self.teacher["region_head"] = make_teacher(self.student["region_head"])

    @property
    def backbone(self) -> Backbone:
        backbone = self.teacher["backbone"]
        assert isinstance(backbone, Backbone)
        return backbone

    def schedule(self) -> tuple[float, bool]:
        """(τ_t, whether the prototypes stand still) at this step."""
        progress = float(self.progress)
        start, end, length = self.teacher_temperatures
        return ramp(start, end, progress, length), progress < self.freeze_prototypes

    def targets(
        self, logits: Tensor, temperature: float, center: str = "center", mean: Tensor | None = None
    ) -> Tensor:
        """p_t = softmax((logits − c) / τ_t), [N, K] → [N, K].

        center: name of c, which follows `mean` [K] after the step; left out, that is the mean of these logits.
        """
        self._means[center] = logits.mean(0) if mean is None else mean
        return losses.teacher_probabilities(logits, getattr(self, center), temperature)

    def after_step(self, progress: float) -> None:
        momentum = cosine(self.momentum, 1.0, float(self.progress))
        super().after_step(progress)
        ema_update(self.teacher, self.student, momentum)
        assert self._means, "after_step follows forward"
        for center, mean in self._means.items():
            losses.update_center(getattr(self, center), mean, self.center_momentum)

    def diagnose(self, gauges: Mapping[str, float]) -> str | None:
        return diagnose(gauges, dim=self.backbone.dim, prototypes=len(self.center))

    def layer_groups(self) -> list[list[str]]:
        return [[f"student.backbone.{name}" for name in group] for group in self.backbone.layer_groups()]

    def no_weight_decay(self) -> set[str]:
        return {f"student.backbone.{name}" for name in self.backbone.no_weight_decay()}


def encode(backbone: nn.Module, crops: list[Tensor], patch_tokens: bool = False) -> list[Features]:
    """Features of each crop, with one pass of the network per crop size."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for position, crop in enumerate(crops):
        sizes.setdefault(tuple(crop.shape[2:]), []).append(position)
    found: dict[int, Features] = {}
    for positions in sizes.values():
        together = backbone(torch.cat([crops[position] for position in positions]), patch_tokens=patch_tokens)
        counts = [len(crops[position]) for position in positions]
        parts = zip(together.pooled.split(counts), together.patch_tokens.split(counts), strict=True)
        found |= zip(positions, (Features(*part) for part in parts), strict=True)
    return [found[position] for position in range(len(crops))]


def summaries(backbone: nn.Module, crops: list[Tensor]) -> Tensor:
    """[sum of the crops' B, D] summaries in the order of the crops."""
    return torch.cat([features.pooled for features in encode(backbone, crops)])


def refuse_single_region(method: str, backbone: Backbone) -> None:
    """Raise UserError where the backbone sees its whole image as one region."""
    size = backbone.image_size
    if min(backbone.grid(size)) > 1:
        return
    larger = next((other for other in range(size + 1, 16 * size) if _side(backbone, other) > 1), 2 * size)
    raise UserError(
        f"{method}: {backbone.config['name']} sees {size} px as a single region, which leaves nothing to learn from "
        f"regions; take {larger} px or smaller patches"
    )


def _side(backbone: Backbone, size: int) -> int:
    try:
        return min(backbone.grid(size))
    except UserError:
        return 0
