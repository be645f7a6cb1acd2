"""The interface between methods and the training loop, and what the masked-image methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zwicky.augment.views import Masking, Views
from zwicky.backbones.base import Backbone
from zwicky.errors import UserError
from zwicky.methods import collapse


@dataclass(frozen=True)
class ViewsNeeded:
    """Which crops a method needs of each image.

    Args:
        global_crops: number of global crops.
        local_crops: whether it uses local crops as well.
        targets: whether it needs labels.
        masking: how its global crops are masked, if they are.
        preview: number of images that `Method.prepare` receives before the first step.
    """

    global_crops: int
    local_crops: bool = False
    targets: bool = False
    masking: Masking | None = None
    preview: int = 0


class Method(nn.Module, ABC):
    """Owns student, teacher, heads and centres; all its state is in parameters and buffers.

    Distributed training wraps `forward`, so a step calls nothing else of the method before `backward`, and every
    parameter that requires a gradient takes part in each step's loss.

    Attributes:
        needs: the views `forward` expects.
        backbone_prefix: path of the backbone that the optimiser trains.
        embedding_dim: width of the embeddings measured by `embedding_std`; the backbone's unless set.
        prototypes: K, for methods with a prototype head.
        progress: share of the training steps that are done, from 0 to 1.
    """

    needs: ViewsNeeded
    backbone_prefix = "encoder"
    embedding_dim: int | None = None
    prototypes: int | None = None
    progress: Tensor

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
        backbone = self.get_submodule(self.backbone_prefix)
        assert isinstance(backbone, Backbone)
        return backbone

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from input to output, for layer-wise decay; parameters not named form the last group."""
        return [[f"{self.backbone_prefix}.{name}" for name in group] for group in self.backbone.layer_groups()]

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and norms."""
        return {f"{self.backbone_prefix}.{name}" for name in self.backbone.no_weight_decay()}

    def constant_lr(self) -> set[str]:
        """Names of parameters that keep the peak learning rate to the end."""
        return set()


class MaskedMethod(Method):
    """Predict the masked patches of one global crop from the visible ones; base of SimMIM, MAE and BEiT.

    Attributes:
        grid: (h, w) of the patches.
        trivial: the prediction whose loss is `constant_loss`, and what to try when the method is no better.
    """

    trivial = "predicting one value everywhere: train longer, raise the learning rate, or hide less (mask_ratio)"

    def __init__(
        self, name: str, backbone: Backbone, mask_ratio: float, *, blocks: bool = False, preview: int = 0
    ) -> None:
        super().__init__()
        require_masking(name, backbone)
        self.grid = backbone.grid(backbone.image_size)
        self.needs = ViewsNeeded(1, masking=random_masking(name, self.grid, mask_ratio, blocks), preview=preview)
        self.encoder = backbone
        backbone.set_trainable(masked=True)

    def patches(self, views: Views) -> tuple[Tensor, Tensor]:
        """Return the pixels of the patches, [B, h, w, pixels], and which of them are valid."""
        valid = self.encoder.canvas(views.valid[0].float()) > 0.999
        return patchify(self.encoder.canvas(views.crops[0]), self.grid), patchify(valid, self.grid)

    def patch_valid(self, views: Views) -> Tensor:
        """Return which patches [B, h, w] are at least half valid."""
        return views.patch_valid(0, self.grid, self.encoder.canvas)

    def mask(self, views: Views) -> Tensor:
        """Return the mask [B, h, w] of the first crop."""
        assert views.masks is not None, "views of a masked method carry masks"
        return views.masks[0]

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Compare the loss with that of a trivial prediction, then look for collapse."""
        if metrics["loss"] > 0.98 * metrics["constant_loss"]:
            return f"no better than {self.trivial}"
        return super().diagnose(metrics)


def require_masking(name: str, backbone: Backbone) -> None:
    """Raise UserError unless the backbone can replace patches by a mask token."""
    if not backbone.supports_masking:
        raise UserError(
            f"{name}: {backbone.config['name']} has no tokens, so no patch can be masked; take a vit or a swin"
        )


def random_masking(name: str, grid: tuple[int, int], ratio: float, blocks: bool = False) -> Masking:
    """Masks that hide round(ratio · h · w) patches of every image; UserError if that is none or all of them."""
    count = grid[0] * grid[1]
    if not 0 < round(ratio * count) < count:
        raise UserError(
            f"{name}: mask_ratio {ratio} hides none or all of the {grid[0]} × {grid[1]} patches; "
            "take a ratio between 0 and 1, larger crops or smaller patches"
        )
    return Masking(grid=grid, ratio=(ratio, ratio), blocks=blocks)


def patchify(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cut images [B, bands, H, W] of any dtype into the patches of an h × w grid: [B, h, w, bands · H/h · W/w]."""
    height, width = grid
    patches = images.unflatten(3, (width, -1)).unflatten(2, (height, -1))  # [B, bands, h, p, w, p]
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
