"""What every backbone promises, so that every method runs on every backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from zwicky.backbones.decoder import PixelDecoder
from zwicky.errors import UserError


@dataclass
class Features:
    """summary: [B, D], one vector an image. regions: [B, h, w, D], a patch or last-stage cell each, or 0 × 0.

    frames: [B, h, w, 8, C], the regions in the eight frames of D4, on backbones that are equivariant under it.
    """

    pooled: Tensor
    patch_tokens: Tensor
    group_features: Tensor | None = None


class Backbone(nn.Module, ABC):
    """A network from images to `Features`.

    dim: D, the width of summary and regions.
    config: what `backbones.create` needs to build the same network again.
    """

    dim: int
    config: dict
    prefers_bf16_on_cpu = True  # whether bfloat16 pays on CPUs that have it
    invariant = False  # whether turns by 90° and mirrors change neither summary nor what is made of it
    supports_masking = True  # whether regions can be hidden behind a mask token

    @abstractmethod
    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        """images [B, bands, H, W] float → Features.

        mask: [B, h, w] bool on the region grid; True cells are hidden behind a learned mask token.
        regions: False where only the summary is used, which lets a backbone leave out the rest of its last layer.
        """

    def set_trainable(self, masked: bool = False) -> None:
        """Let every parameter learn; the mask token only where a method masks, since else it has no gradient."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(masked or name != "mask_token")

    @abstractmethod
    def grid(self, size: int) -> tuple[int, int]:
        """(h, w) of the regions of a square image of `size` pixels; a size that does not fit raises UserError."""

    @property
    def image_size(self) -> int:
        """Side in pixels of the square the network was built for."""
        return int(self.config["image_size"])

    def pixel_decoder(self) -> nn.Module:
        """A new light decoder `Features` → [B, bands, H, W], images of the size the network was built for."""
        return PixelDecoder(self.dim, self.config["bands"], self.image_size, self.grid(self.image_size)[0])

    def attention(self, images: Tensor) -> Tensor:
        """How much the last layer looks at each region, [B, heads, h, w] with sum 1 over the regions of a head."""
        raise UserError(f"backbone: {self.config['name']} has no attention; take a vit or a swin")

    @abstractmethod
    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the input to the output, one list a layer, for layer-wise learning-rate decay."""

    def no_weight_decay(self) -> set[str]:
        """Names of parameters never decayed besides biases and norms: tokens and position embeddings."""
        return set()
