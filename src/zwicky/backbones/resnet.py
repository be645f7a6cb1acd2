"""ResNet-18 through timm: the small convolutional network everything is compared with."""

from __future__ import annotations

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from zwicky.backbones.base import Backbone, Features
from zwicky.errors import UserError


class ResNet18(Backbone):
    """Summary: mean of the last feature map; regions: that map. Images under 40 px skip the stem's max-pooling."""

    # bfloat16 convolutions gain a third on a quiet machine, but where another process is busy their backward pass
    # waits in barriers of its own: 0.2 to 0.4 of the rate of float32 was seen.
    prefers_bf16_on_cpu = False
    supports_masking = False

    def __init__(self, *, bands: int, image_size: int) -> None:
        super().__init__()
        self.dim = 512
        self.net = ResNet(BasicBlock, (2, 2, 2, 2), num_classes=0, in_chans=bands, zero_init_last=True)  # type: ignore[arg-type]
        self.net.to(memory_format=torch.channels_last)
        self.stride = 32 if image_size >= 40 else 16
        if self.stride == 16:
            self.net.add_module("maxpool", nn.Identity())
        self.grid(image_size)

    def grid(self, size: int) -> tuple[int, int]:
        side = -(-size // self.stride)
        if size < self.stride:
            raise UserError(
                f"backbone: resnet18 needs images of at least {self.stride} px, not {size}; take larger crops"
            )
        return side, side

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        if mask is not None:
            raise UserError("backbone: resnet18 has no tokens to mask; take a vit for methods that mask")
        maps = self.net.forward_features(images.contiguous(memory_format=torch.channels_last))
        return Features(maps.mean((2, 3)), maps.permute(0, 2, 3, 1))

    def layer_groups(self) -> list[list[str]]:
        stages: list[list[str]] = [[] for _ in range(5)]
        for name, _ in self.named_parameters():
            stage = int(name[len("net.layer")]) if name.startswith("net.layer") else 0
            stages[stage].append(name)
        return stages
