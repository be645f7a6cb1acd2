"""ResNet-18 (arXiv:1512.03385) through timm: the small convolutional network everything is compared with."""

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from zwicky.backbones.base import Features
from zwicky.backbones.timm_backbone import TimmBackbone
from zwicky.errors import UserError


class ResNet18(TimmBackbone):
    """Patch tokens are the last feature map, pooled features its mean. Images under 40 px skip the max-pooling."""

    architecture, classifier = "resnet18", "fc"
    # bfloat16 convolutions gain a third on a quiet CPU, but on a busy one their backward pass waits in barriers of
    # its own: 0.2 to 0.4 of the rate of float32 was measured.
    prefers_bf16_on_cpu = False
    supports_masking = False

    def __init__(self, *, bands: int, image_size: int) -> None:
        super().__init__()
        self.dim = 512
        self.net = ResNet(BasicBlock, (2, 2, 2, 2), num_classes=0, in_chans=bands, zero_init_last=True)  # type: ignore[arg-type]
        self.net.to(memory_format=torch.channels_last)
        self.stride = self.convolved = 32 if image_size >= 40 else 16
        if self.stride == 16:
            self.net.add_module("maxpool", nn.Identity())
        else:
            self.model_args = {"in_chans": bands}  # timm's always has the stem's max-pooling
        self.grid(image_size)

    def grid(self, size: int) -> tuple[int, int]:
        """Return (h, w) of the patch grid."""
        if size < self.stride:
            raise UserError(
                f"backbone: resnet18 needs images of at least {self.stride} px, not {size}; take larger crops"
            )
        return -(-size // self.stride), -(-size // self.stride)

    def patch_step(self, size: int) -> float:
        """Return the stride, at which the last cells may reach beyond the image."""
        return self.stride

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        """Encode images; see `Backbone.forward`."""
        if mask is not None:
            raise UserError("backbone: resnet18 has no tokens to mask; take a vit for methods that mask")
        maps = self.net.forward_features(images.contiguous(memory_format=torch.channels_last))
        return Features(maps.mean((2, 3)), maps.permute(0, 2, 3, 1))
