"""What the networks built on timm share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from zwicky.backbones.base import Backbone
from zwicky.backbones.patches import PatchProjection, check_stem, conv_stem


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
        """Build timm's transformer, replace its patch embedding, accept any image size, and add a mask token."""
        sizes = {"in_chans": bands, "img_size": image_size, "patch_size": patch_size, "embed_dim": width}
        args = {**sizes, **options}
        self.net = net(num_classes=0, drop_path_rate=drop_path, **args)
        self.convolved = 2 ** len(stem)
        self.stem_patch = self.convolved if stem else 0
        if not stem:
            self.model_args = args
            self.net.patch_embed.proj = PatchProjection(bands, width, patch_size, patch_size)
        else:
            check_stem(stem, patch_size)
            channels = zip((bands, *stem), stem, strict=False)
            convolutions = [nn.Conv2d(one, other, 3, 2, 1, bias=False) for one, other in channels]
            self.net.patch_embed.proj = conv_stem(convolutions, width)
        self.net.patch_embed.strict_img_size = False
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.set_trainable()

    def timm_config(self) -> dict[str, Any] | None:
        """Return architecture, classifier and model_args for timm; None if it has no such network."""
        names = ("architecture", "classifier", "model_args")
        return None if self.model_args is None else {name: getattr(self, name) for name in names}

    def group_matcher(self) -> dict[str, Any]:
        """Return timm's patterns of the layers."""
        matcher = self.net.group_matcher()  # without the final norm, which timm would join to the last block
        return {**matcher, "blocks": [(names, suffix) for names, suffix in matcher["blocks"] if names != "^norm"]}

    def no_weight_decay(self) -> set[str]:
        """Return the names of tokens, position embeddings and bias tables."""
        names = {name for name, _ in self.net.named_parameters()}
        return super().no_weight_decay() | {f"net.{name}" for name in self.net.no_weight_decay() & names}
