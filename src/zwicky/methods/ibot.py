"""iBOT (Zhou et al. 2021, arXiv:2111.07832): DINO plus masked patch prediction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zwicky.augment.views import Masking, Views
from zwicky.backbones.base import Backbone
from zwicky.methods import losses
from zwicky.methods.base import ViewsNeeded, require_masking
from zwicky.methods.collapse import embedding_std, prototype_metrics
from zwicky.methods.dino import DINO, Center, encode, require_several_regions


class IBOT(DINO):
    """At masked patches, the student matches the prototype distribution of the teacher, which sees the whole crop.

    Algorithm 1 of arXiv:2111.07832 (H, C, l, m as in DINO; C' the centre of the patches):

        for x in loader:
            u, v = augment(x), augment(x)
            û, v̂ = blockwise_mask(u), blockwise_mask(v)
            û_s, v̂_s = gs(û, return_all_tok=True), gs(v̂, return_all_tok=True)  # [n, K], [n, S², K]
            u_t, v_t = gt(u, return_all_tok=True), gt(v, return_all_tok=True)
            L_cls = H(û_s[cls], v_t[cls], C) / 2 + H(v̂_s[cls], u_t[cls], C) / 2
            L_mim = (m_u * H(û_s[patch], u_t[patch], C')).sum(dim=1) / m_u.sum(dim=1) / 2
                  + (m_v * H(v̂_s[patch], v_t[patch], C')).sum(dim=1) / m_v.sum(dim=1) / 2
            (L_cls.mean() + L_mim.mean()).backward()
            update(gs), gt.params, C and C'

    Half of the global crops are masked, in blocks of 10 to 50 % of their patches. Patches with more than half of their
    pixels invalid are neither predicted nor counted in the centre.

    Args:
        shared_head: whether [CLS] and patches share a head, as in the paper. They pass it separately, so that
            BatchNorm compares [CLS] with [CLS] and patches with patches.
        options: those of `DINO`.
    """

    region_center: Center

    def __init__(self, backbone: Backbone, *, shared_head: bool = True, **options: Any) -> None:
        require_masking("ibot", backbone)
        require_several_regions("ibot", backbone)
        super().__init__(backbone, **options)
        backbone.set_trainable(masked=True)
        self.add_region_level(own_head=not shared_head)
        self.patch_head = "head" if shared_head else "region_head"
        grid = backbone.grid(backbone.image_size)
        self.needs = ViewsNeeded(2, True, masking=Masking(grid, ratio=(0.1, 0.5), probability=0.5, blocks=True))

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Return L_[CLS] + L_MIM and the metrics of collapse, those of the patches with the prefix region_."""
        views = views.interleave_partner()
        assert views.masks is not None, "views for iBOT carry masks"
        batch, count = len(views), views.global_count
        x, mask = torch.cat(views.crops[:count]), torch.cat(views.masks)  # [2B, bands, H, W], [2B, h, w]
        valid = torch.cat(
            [views.patch_valid(crop, (mask.shape[1], mask.shape[2]), self.backbone.canvas) for crop in range(count)]
        )
        index = masked_index(mask & valid)

        with torch.no_grad():
            t = self.teacher["backbone"](x)
            t_cls = self.teacher["head"](t.pooled)
            t_patch = self.teacher[self.patch_head](t.patch_tokens.flatten(0, 2))  # of all patches, for the centre
            p_cls = self.center(t_cls, self.teacher_temperature)
            p_patch = self.region_center(t_patch[index], self.teacher_temperature)
            self.center.update(t_cls)
            self.region_center.update(t_patch, valid.flatten())

        s = self.student["backbone"](x, mask=mask)
        local = [crop.pooled for crop in encode(self.student["backbone"], views.crops[count:])]
        s_cls = self.student["head"](torch.cat([s.pooled, *local]))
        s_patch = self.student[self.patch_head](s.patch_tokens.flatten(0, 2)[index])

        cls_loss = losses.view_loss(s_cls, p_cls, batch, self.student_temperature)
        token_loss = losses.cross_entropy(s_patch, p_patch, self.student_temperature)
        mim_loss = (losses.patch_weights(mask & valid).flatten()[index] * token_loss).sum()

        return {
            "loss": cls_loss + mim_loss,
            **prototype_metrics(p_cls, cls_loss),
            **prototype_metrics(p_patch, token_loss.mean(), "region_"),
            "embedding_std": embedding_std(t.pooled[:batch]),
        }


def masked_index(mask: Tensor, at_least: int = 2) -> Tensor:
    """Return the positions of the True cells in the flattened mask, and others up to `at_least`, as BatchNorm needs."""
    order = mask.flatten().int().argsort(descending=True, stable=True)
    return order[: max(int(mask.sum()), at_least)]
