"""Vision transformers (arXiv:2010.11929) and BEiTs (arXiv:2106.08254) through timm, at any size the patch divides."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from zwicky.backbones.attention import check_heads, relative_position_index
from zwicky.backbones.patches import StageGrids
from zwicky.backbones.timm_backbone import TimmBackbone
from zwicky.backbones.transformer import Transformer, VisibleEncoder
from zwicky.errors import UserError


class PlainTransformer(TimmBackbone, Transformer):
    """What ViT and BEiT share, and the options of `backbones.create`."""

    net_class: type[torch.nn.Module]

    def __init__(
        self,
        timm_options: dict[str, Any],
        *,
        bands: int,
        image_size: int,
        patch_size: int = 8,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        pool: str = "cls",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        pools = {"cls": "token", "mean": "avg"}
        if pool not in pools:
            raise UserError(f"backbone: pool is {pool!r}; choose cls or mean")
        self.dim, self.pool, self.grids = width, pool, StageGrids(patch_size)
        self.grid(image_size)
        options = {"depth": depth, "num_heads": heads, "global_pool": pools[pool], **timm_options}
        self._build(self.net_class, bands, image_size, patch_size, width, drop_path, **options)
        self.n_prefix = self.net.num_prefix_tokens


class ViT(PlainTransformer, VisibleEncoder):
    """A ViT; its patch tokens are the normed tokens of the last block."""

    architecture, net_class = "vit_base_patch16_224", VisionTransformer

    def __init__(
        self, *, layer_scale: float = 0.0, registers: int = 0, stem: Sequence[int] = (), **options: Any
    ) -> None:
        # Registers take no position, as in timm's own networks; "avg" pools without a norm of its own.
        timm_options = {"init_values": layer_scale or None, "reg_tokens": registers, "no_embed_class": registers > 0}
        super().__init__({**timm_options, "fc_norm": False, "dynamic_img_size": True, "stem": stem}, **options)

    def _embed(self, images: Tensor, mask: Tensor | None) -> Tensor:
        return self.net._pos_embed(self._patches(images, mask))


class BEiT(PlainTransformer):
    """A ViT with LayerScale, and relative instead of absolute positions: a bias looked up by the offset of two patches.

    Offsets beyond the table, in images larger than the network was built for, share the entry at its edge. Pooling is
    as published: "mean", the norm of the patch tokens' mean, after fine-tuning; "cls", the normed [CLS] token, after
    masked image modelling alone.
    """

    architecture, net_class = "beit_base_patch16_224", Beit

    def __init__(self, **options: Any) -> None:
        # LayerScale as published for BEiT-B.
        super().__init__({"init_values": 0.1, "use_abs_pos_emb": False, "use_rel_pos_bias": True}, **options)

    def _embed(self, images: Tensor, mask: Tensor | None) -> Tensor:
        patches = self._patches(images, mask).flatten(1, 2)
        return torch.cat([self.net.cls_token.expand(patches.shape[0], -1, -1), patches], 1)

    def _pool(self, tokens: Tensor, n_prefix: int) -> tuple[Tensor, Tensor]:
        patches = tokens[:, n_prefix:]
        if self.pool == "mean":
            return self.net.fc_norm(patches.mean(1)), self.net.fc_norm(patches)
        return self.net.norm(tokens[:, 0]), self.net.norm(patches)

    def _bias(self, block: Any, side: int) -> Tensor:
        table = block.attn.relative_position_bias_table.float()
        return table[index_with_cls(int(block.attn.window_size[0]), side).to(table.device)].permute(2, 0, 1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def index_with_cls(window: int, side: int) -> Tensor:
    """Return `relative_position_index` with the last three entries of timm's table for [CLS], [1 + N, 1 + N]."""
    index = F.pad(relative_position_index(window, side), (1, 0, 1, 0))
    entries = (2 * window - 1) ** 2  # then [CLS] → patch, patch → [CLS], [CLS] → [CLS]
    index[0, :], index[:, 0], index[0, 0] = entries, entries + 1, entries + 2
    return index
