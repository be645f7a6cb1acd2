"""BEiT (arXiv:2106.08254) through timm: a ViT with relative instead of absolute positions, and LayerScale.

The relative position bias is looked up by offset: two patches one step apart share an entry of the table on any grid.
Offsets beyond the table, in images larger than the network was built for, share the entry at its edge.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from torch import Tensor

from zwicky.backbones.attention import relative_position_index
from zwicky.backbones.vit import PlainTransformer

LAYER_SCALE = 0.1  # initial value, as published for BEiT-B


class BEiT(PlainTransformer):
    """A BEiT; options as those of `ViT`.

    Pooling is as published: "mean", the norm of the patch tokens' mean, after fine-tuning; "cls", the normed [CLS]
    token, after masked image modelling alone.
    """

    architecture = "beit_base_patch16_224"

    def __init__(
        self,
        *,
        bands: int,
        image_size: int,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        pool: str = "mean",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(image_size=image_size, patch_size=patch_size, width=width, heads=heads, pool=pool)
        self.net = Beit(
            img_size=image_size,
            patch_size=patch_size,
            in_chans=bands,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            global_pool="avg" if pool == "mean" else "token",
            drop_path_rate=drop_path,
            init_values=LAYER_SCALE,
            use_abs_pos_emb=False,
            use_rel_pos_bias=True,
        )
        self._adapt(bands, width, patch_size)

    def _embed(self, images: Tensor, mask: Tensor | None) -> Tensor:
        patches = self.net.patch_embed(images)  # [B, N, D]
        if mask is not None:
            patches = torch.where(mask.flatten(1)[..., None], self.mask_token.to(patches.dtype), patches)
        return torch.cat([self.net.cls_token.expand(patches.shape[0], -1, -1), patches], 1)

    def _pool(self, tokens: Tensor, n_prefix: int) -> tuple[Tensor, Tensor]:
        patches = tokens[:, n_prefix:]
        if self.pool == "mean":
            return self.net.fc_norm(patches.mean(1)), self.net.fc_norm(patches)
        return self.net.norm(tokens[:, 0]), self.net.norm(patches)

    def _bias(self, block: Any, side: int) -> Tensor:
        table = block.attn.relative_position_bias_table.float()
        return table[index_with_cls(int(block.attn.window_size[0]), side).to(table.device)].permute(2, 0, 1)

    def _model_args(self) -> dict[str, Any] | None:
        return {**(super()._model_args() or {}), "init_values": LAYER_SCALE}


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def index_with_cls(window: int, side: int) -> Tensor:
    """Return `relative_position_index` with the last three entries of timm's table for [CLS], [1 + N, 1 + N]."""
    index = F.pad(relative_position_index(window, side), (1, 0, 1, 0))
    entries = (2 * window - 1) ** 2  # then [CLS] → patch, patch → [CLS], [CLS] → [CLS]
    index[0, :], index[:, 0], index[0, 0] = entries, entries + 1, entries + 2
    return index
