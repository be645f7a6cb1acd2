"""iBOT: DINO, and masked patches whose prototypes the teacher, who sees them, tells (Zhou et al. 2021).

L = L_[CLS] + L_MIM. The student sees its global crops with patches hidden behind a mask token.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from zwicky.augment.masking import Masking
from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.errors import UserError
from zwicky.methods import losses
from zwicky.methods.base import ViewsNeeded
from zwicky.methods.collapse import normalised_std, teacher_gauges
from zwicky.methods.distillation import Distillation, refuse_single_region, summaries
from zwicky.methods.heads import PrototypeHead
from zwicky.methods.pixels import mean_row, seen


class IBOT(Distillation):
    """Options besides those of `Distillation`:

    shared_head: one head for summaries and patches, as in the paper, or one each. Either way the two pass it apart,
    so that BatchNorm compares summaries with summaries and patches with patches.

    Half of the global crops are masked, in blocks of 10 to 50 % of their patches. The patches' centre follows the
    teacher's mean over all patches; since logits are linear in z/‖z‖, that is the logit of the mean z/‖z‖. Patches most
    of whose pixels are not valid neither learn nor teach.
    """

    region_center: Tensor

    def __init__(self, backbone: Backbone, *, shared_head: bool = True, **options: Any) -> None:
        if not backbone.supports_masking:
            raise UserError(
                f"ibot: {backbone.config['name']} has no tokens, so no patch can be hidden; take a vit or a swin"
            )
        refuse_single_region("ibot", backbone)
        super().__init__(backbone, **options)
        backbone.set_trainable(masked=True)
        self.add_region_level(own_head=not shared_head)
        self.patch_head = "head" if shared_head else "region_head"
        grid = backbone.grid(backbone.image_size)
        self.needs = ViewsNeeded(2, True, masking=Masking(grid, ratio=(0.1, 0.5), probability=0.5, blocks=True))

    def forward(self, views: Views) -> dict[str, Tensor]:
        views = views.interleave_partner()
        assert views.masks is not None, "views for iBOT carry masks"
        temperature, frozen = self.schedule()
        batch, count = len(views), views.global_count
        x, mask = torch.cat(views.crops[:count]), torch.cat(views.masks)  # [2B, bands, H, W], [2B, h, w]
        valid = seen(torch.cat(views.valid[:count]), (mask.shape[1], mask.shape[2]))
        picked = at_least(mask & valid, 2)  # BatchNorm asks for two
        weights = losses.mask_weights(mask & valid).flatten()[picked]

        with torch.no_grad():
            t = self.teacher["backbone"](x)
            p_cls = self.targets(self.teacher["head"](t.pooled), temperature)
            head = cast(PrototypeHead, self.teacher[self.patch_head])
            z = head.embed(t.patch_tokens.flatten(0, 2))  # all patches, for the centre
            mean = head.logits(mean_row(z, valid.flatten()))
            p_patch = self.targets(head.logits(z[picked]), temperature, "region_center", mean)

        s = self.student["backbone"](x, mask=mask)
        local = views.crops[count:]
        z_cls = torch.cat([s.pooled, summaries(self.student["backbone"], local)]) if local else s.pooled
        cls = self.student["head"](z_cls, frozen)
        patch = self.student[self.patch_head](s.patch_tokens.flatten(0, 2)[picked], frozen)

        cls_loss = losses.view_cross_entropy(cls.split(batch), p_cls.split(batch), self.student_temperature)
        token_loss = losses.cross_entropy(patch, p_patch, self.student_temperature)
        mim_loss = (weights * token_loss).sum()

        return {
            "loss": cls_loss + mim_loss,
            **teacher_gauges(p_cls, cls_loss),
            **teacher_gauges(p_patch, token_loss.mean(), "region_"),
            "embedding_std": normalised_std(t.pooled[:batch]),
        }


def at_least(mask: Tensor, count: int) -> Tensor:
    """Positions of the True cells of a mask in the flattened mask, filled up to `count` with other cells."""
    order = mask.flatten().int().argsort(descending=True, stable=True)
    return order[: max(int(mask.sum()), count)]
