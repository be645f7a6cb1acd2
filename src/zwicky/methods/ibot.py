"""iBOT (Zhou et al. 2021, arXiv:2111.07832): DINO plus masked patch prediction."""

from typing import Any

import torch
from torch import Tensor

from zwicky.augment.views import Masking, Views, ViewsNeeded
from zwicky.backbones.base import Backbone
from zwicky.methods import losses
from zwicky.methods.collapse import prototype_metrics
from zwicky.methods.dino import DINO, Center, encode, require_several_regions
from zwicky.methods.masked import require_masking


class IBOT(DINO):
    """At masked patches, the student matches the prototype distribution of the teacher, which sees the whole crop.

    Algorithm 1 of arXiv:2111.07832 (H as in DINO, C' the centre of the patches), for a global crop u with mask m_u:

        u_s, u_t = gs(blockwise_mask(u)), gt(u)  # [CLS]: n × K, patches: n × S² × K
        L_mim = (m_u * H(u_s[patch], u_t[patch], C')).sum(dim=1) / m_u.sum(dim=1)
        loss = DINO's of the [CLS] tokens + L_mim averaged over images and global crops

    Half of the global crops are masked, in blocks of 10 to 50 % of their patches. Patches with more than half of their
    pixels invalid are neither predicted nor counted in the centre.

    Args:
        shared_head: whether [CLS] and patches share a head, as in the paper. They pass it separately, so that
            BatchNorm compares [CLS] with [CLS] and patches with patches.
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
        count = views.global_count
        x, mask = torch.cat(views.crops[:count]), torch.cat(views.masks)  # [2B, bands, H, W], [2B, h, w]
        valid = self.backbone.valid_patches(x, torch.cat(views.valid[:count]))
        predicted = (mask & valid).flatten()
        order = predicted.int().argsort(descending=True, stable=True)
        index = order[: max(int(predicted.sum()), 2)]  # BatchNorm needs two

        with torch.no_grad():
            t = self.teacher["backbone"](x)
        s = self.student["backbone"](x, mask=mask)
        local = encode(self.student["backbone"], views.crops[count:])
        metrics = self.view_loss([s, *local], [t], len(views))

        with torch.no_grad():
            t_patch = self.teacher[self.patch_head](t.patch_tokens.flatten(0, 2))  # of all patches, for the centre
            p_patch = self.region_center(t_patch[index], self.teacher_temperature)
            self.region_center.update(t_patch, valid.flatten())
        s_patch = self.student[self.patch_head](s.patch_tokens.flatten(0, 2)[index])
        token_loss = losses.cross_entropy(s_patch, p_patch, self.student_temperature)
        mim_loss = (losses.patch_weights(mask & valid).flatten()[index] * token_loss).sum()
        patch_metrics = prototype_metrics(p_patch, token_loss.mean(), "region_")
        return {**metrics, **patch_metrics, "loss": metrics["loss"] + mim_loss}
