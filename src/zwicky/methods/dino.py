"""DINO (Caron et al. 2021, arXiv:2104.14294), and what iBOT and EsViT share with it."""

from functools import partial
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zwicky.augment.views import Views, ViewsNeeded
from zwicky.backbones.base import Backbone, Features
from zwicky.backbones.heads import init_linear
from zwicky.errors import UserError
from zwicky.methods import losses
from zwicky.methods.collapse import embedding_std, prototype_metrics
from zwicky.methods.ema import MomentumTeacher, make_teacher


class PrototypeHead(nn.Module):
    """The head of DINO, iBOT and EsViT: a 3-layer GELU MLP, an L2-normalised bottleneck, and K prototypes.

    The last layer is weight-normalised with its norm fixed to 1, so that it takes the cosine with each prototype:
    logits_k = ⟨z/‖z‖, w_k/‖w_k‖⟩ (Sec. 3.1 of arXiv:2104.14294). It computes in float32.
    """

    def __init__(
        self, dim: int, prototypes: int, hidden: int = 2048, bottleneck: int = 256, batch_norm: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (dim, hidden):
            layers += [nn.Linear(width, hidden), *([nn.BatchNorm1d(hidden)] if batch_norm else []), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        self.mlp.apply(init_linear)
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.uniform_(self.prototypes, -(bottleneck**-0.5), bottleneck**-0.5)  # nn.Linear's, as in DINO's code

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, D] to logits [N, K] in float32."""
        z = F.normalize(self.mlp(features).float(), dim=-1)
        # Divided by temperatures of some hundredths, logits rounded to bfloat16 would be off by tenths.
        with torch.autocast(z.device.type, enabled=False):
            return z @ F.normalize(self.prototypes.float(), dim=-1).T


class Center(nn.Module):
    """The running mean c of the teacher's logits with momentum m, Eq. 4 of arXiv:2104.14294."""

    value: Tensor

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(prototypes))
        self.momentum = momentum

    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Centre and sharpen: logits [N, K] → p_t = softmax((logits − c) / τ_t) in float32."""
        return torch.softmax((logits.float() - self.value) / temperature, dim=-1)

    @torch.no_grad()
    def update(self, logits: Tensor, valid: Tensor | None = None) -> None:
        """Set c ← m c + (1 − m) · mean of the logits [N, K] of all processes, over rows where `valid` [N] is True."""
        valid = logits.new_ones(len(logits), dtype=torch.bool) if valid is None else valid
        self.value.lerp_(losses.mean_over_ranks(losses.masked_mean(logits, valid)), 1.0 - self.momentum)


class DINO(MomentumTeacher):
    """Self-distillation: the student matches the teacher's prototype distribution on another crop of the image.

    Algorithm 1 of arXiv:2104.14294 (gs, gt: student and teacher; C: centre; tps, tpt: temperatures; l, m: momenta),
    with multi-crop (Eq. 3): the teacher sees the global crops, the student these and the local crops.

        s, t = [gs(x) for x in crops], [gt(x) for x in global_crops]  # n × K each
        p = [softmax((t_g - C) / tpt) for t_g in t]  # centre and sharpen, without gradient
        loss = mean([-(p[g] * log_softmax(s[v] / tps)).sum(dim=1).mean() for g, v in pairs if g != v])
        gt.params = l * gt.params + (1 - l) * gs.params
        C = m * C + (1 - m) * cat(t).mean(dim=0)

    Args:
        prototypes: K; the paper's 65,536 is for 10⁶ images, 512-1024 suits 10³-10⁵.
        hidden, bottleneck: widths of the head's hidden layers and of its normalised layer.
        batch_norm: BatchNorm in the head, off as in the paper. It removes what all images have in common, so that
            cutouts that look alike leave the uniform distribution sooner. Its statistics are those of one process.
        student_temperature: τ_s.
        teacher_temperature: τ_t at the start; linear to `teacher_temperature_end` over `temperature_ramp` of training.
        momentum: λ of the teacher at the start; a cosine brings it to 1.
        center_momentum: m.
        freeze_prototypes: share of training during which the prototypes are frozen.
    """

    needs = ViewsNeeded(global_crops=2, local_crops=True)

    def __init__(
        self,
        backbone: Backbone,
        *,
        prototypes: int = 1024,
        hidden: int = 2048,
        bottleneck: int = 256,
        batch_norm: bool = False,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        teacher_temperature_end: float = 0.04,
        temperature_ramp: float = 0.3,
        momentum: float = 0.996,
        center_momentum: float = 0.9,
        freeze_prototypes: float = 0.01,
    ) -> None:
        super().__init__()
        self.prototypes = prototypes
        self._new_head = partial(PrototypeHead, backbone.dim, prototypes, hidden, bottleneck, batch_norm)
        self._new_center = partial(Center, prototypes, center_momentum)
        self.student = nn.ModuleDict({"backbone": backbone, "head": self._new_head()})
        self.teacher = make_teacher(self.student)
        self.center = self._new_center()
        self.student_temperature = student_temperature
        self._teacher_temperatures = (teacher_temperature, teacher_temperature_end, temperature_ramp)
        self.momentum, self.freeze_prototypes = momentum, freeze_prototypes

    def add_region_level(self, own_head: bool) -> None:
        """Add a centre for the patch tokens, and a head unless they share the first."""
        self.region_center = self._new_center()
        if own_head:
            self.student["region_head"] = self._new_head()
            self.teacher["region_head"] = make_teacher(self.student["region_head"])

    @property
    def teacher_temperature(self) -> float:
        """τ_t at this step."""
        start, end, length = self._teacher_temperatures
        progress = float(self.progress)
        return start + (end - start) * progress / length if progress < length else end

    def before_step(self) -> None:
        """Freeze the prototypes at first: without gradient, AdamW neither moves nor decays nor counts them."""
        if float(self.progress) < self.freeze_prototypes:
            for name, parameter in self.student.named_parameters():
                if name.endswith("prototypes"):
                    parameter.grad = None

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return the loss and the metrics of collapse."""
        with torch.no_grad():
            teacher = encode(self.teacher["backbone"], views.crops[: views.global_count])
        return self.view_loss(encode(self.student["backbone"], views.crops), teacher, len(views))

    def view_loss(self, student: list[Features], teacher: list[Features], batch: int) -> dict[str, Tensor]:
        """Return the loss between the pooled features of the views, and the metrics of collapse; move the centre."""
        z_s, z_t = (torch.cat([crop.pooled for crop in crops]) for crops in (student, teacher))  # [V·B, D], [G·B, D]
        with torch.no_grad():
            t = self.teacher["head"](z_t)
            p_t = self.center(t, self.teacher_temperature)
            self.center.update(t)
        loss = losses.view_loss(self.student["head"](z_s), p_t, batch, self.student_temperature)
        return {"loss": loss, **prototype_metrics(p_t, loss), "embedding_std": embedding_std(z_t[:batch])}


def encode(backbone: nn.Module, crops: list[Tensor], patch_tokens: bool = False) -> list[Features]:
    """Compute the features of each crop [B, bands, h, w], with one forward pass for consecutive crops of one size."""
    features: list[Features] = []
    for _, group in groupby(crops, key=lambda crop: crop.shape[2:]):
        same = list(group)
        merged = backbone(torch.cat(same), patch_tokens=patch_tokens)
        features += map(Features, merged.pooled.chunk(len(same)), merged.patch_tokens.chunk(len(same)))
    return features


def require_several_regions(method: str, backbone: Backbone) -> None:
    """Raise UserError if the backbone reduces its whole image to one patch token."""
    size = backbone.image_size
    if min(backbone.grid(size)) < 2:
        raise UserError(
            f"{method}: {backbone.config['name']} reduces {size} px to a single region, so there is nothing to learn "
            "between regions; take a larger views.crop or smaller patches"
        )
