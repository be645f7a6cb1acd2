"""What the networks built on timm share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zwicky.backbones.base import Backbone
from zwicky.backbones.patches import PatchProjection, check_stem, conv_stem, hide_patches, mask_tokens


class TimmBackbone(Backbone):
    """A network of timm's in `net`, whose weights keep timm's names.

    Attributes:
        architecture: a model of timm's that `model_args` turn into this one; None where none does.
        classifier: where that model has its head.
    """

    architecture: str
    classifier = "head"
    model_args: dict[str, Any] | None = None

    def _build(
        self,
        net: Any,
        bands: int,
        image_size: int,
        patch_size: int,
        width: int,
        drop_path: float,
        stem: Sequence[int] = (),
        **options: Any,
    ) -> None:
        """Build timm's transformer, replace its patch embedding, and add a mask token."""
        args = {"in_chans": bands, "img_size": image_size, "patch_size": patch_size, "embed_dim": width, **options}
        self.net = net(num_classes=0, drop_path_rate=drop_path, **args)
        self.convolved = 2 ** len(stem)
        if not stem:
            self.model_args = args
            self.net.patch_embed.proj = PatchProjection(bands, width, patch_size, patch_size)
        else:
            check_stem(stem, patch_size)
            channels = zip((bands, *stem), stem, strict=False)
            convolutions = [nn.Conv2d(one, other, 3, 2, 1, bias=False) for one, other in channels]
            self.net.patch_embed.proj = conv_stem(convolutions, width)
        self.mask_token = nn.Parameter(torch.zeros(width))

    def _patches(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Return the embedded patches, [B, h, w, D] of the first stage; raises UserError if the size does not fit."""
        self.grid(images.shape[-1])
        embed = self.net.patch_embed
        patches = embed.norm(embed.proj(hide_patches(images, mask)).permute(0, 2, 3, 1))
        return mask_tokens(patches, mask, self.mask_token)

    def timm_config(self) -> dict[str, Any] | None:
        """Return architecture, classifier and model_args for timm; None if it has no such network."""
        names = ("architecture", "classifier", "model_args")
        return None if self.model_args is None else {name: getattr(self, name) for name in names}
