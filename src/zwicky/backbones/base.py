"""The interface of every backbone."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import group_parameters
from torch import Tensor, nn

from zwicky.augment.views import Target
from zwicky.backbones.heads import LinearHead, PixelDecoder
from zwicky.backbones.patches import StageGrids
from zwicky.errors import UserError

# Patterns of the names of parameters of `net`, layer by layer, for timm's `group_parameters`; names that match none are
# the last layer. A network with other names adds its own.
LAYERS = {
    "stem": r"^(?:stem|patch_embed|embed|lift|norm1|conv1|bn1|pos_|cls_token|reg_token)",
    "blocks": [
        (r"^(?:stages|layers)\.(\d+)\.(?:merge|downsample)", (0,)),  # merging belongs to its stage's first block
        (r"^(?:stages|layers)\.(\d+)\.blocks\.(\d+)", None),
        (r"^(?:blocks\.|layer)(\d+)", None),
    ],
}
TOKENS = ("mask_token", "cls_token", "reg_token")
POSITIONS = ("pos_embed", "position", "relative_position_bias_table", "bias")


@dataclass
class Features:
    """The output of a backbone; D4-equivariant ones give the patch tokens in the regular representation too."""

    pooled: Tensor  # [B, D], one vector per image
    patch_tokens: Tensor  # [B, h, w, D], one vector per patch or last-stage cell; [B, 0, 0, D] if not computed
    group_features: Tensor | None = None  # [B, h, w, 8, C]


class Backbone(nn.Module, ABC):
    """A network from images to `Features`.

    Attributes:
        dim: D, the width of pooled features and patch tokens.
        config: the arguments of `backbones.create` that build the same network again.
        net: the network itself, without the mask token.
        prefers_bf16_on_cpu: whether bfloat16 is faster on CPUs that have it.
        invariant: whether rotations by 90° and reflections leave the pooled features unchanged.
        target_head: head of targets with a direction, which turn as the image is turned; None: as of all others.
        supports_masking: whether patches can be replaced by a mask token.
        circular: whether the columns of the patch grid are angles, so that the first follows the last.
        convolved: side in pixels of what convolutions of odd kernels reduce to one value, centred on its first pixel.
    """

    dim: int
    config: dict
    net: Any
    grids: StageGrids
    prefers_bf16_on_cpu = True
    invariant = False
    supports_masking = True
    circular = False
    convolved = 1
    target_head: type[nn.Module] | None = None
    decoder_class: type[nn.Module] = PixelDecoder

    @abstractmethod
    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        """Encode images.

        Args:
            images: [B, bands, H, W] float.
            mask: [B, h, w] bool on the patch grid; True patches are replaced by a learned mask token.
            patch_tokens: False where only the pooled features are used, so that a backbone may skip part of its last
                layer.
        """

    def grid(self, size: int) -> tuple[int, int]:
        """Return (h, w) of the patch grid of a square image of `size` pixels; raises UserError if it does not fit."""
        return self.grids.last(size)

    def canvas(self, images: Tensor, like: Tensor | None = None) -> Tensor:
        """Return the images [B, bands, H', W'] whose h × w cells the patch tokens stand for; here the same.

        What belongs to images, such as which pixels are valid, is resampled as the images `like`.
        """
        return images

    def valid_patches(self, images: Tensor, valid: Tensor) -> Tensor:
        """Return which patches [B, h, w] of images are at least half valid; both are [B, bands, H, W]."""
        bands = self.canvas(valid.sum(1, keepdim=True).float(), images)
        return F.adaptive_avg_pool2d(bands, self.grid(images.shape[-1]))[:, 0] >= valid.shape[1] / 2

    def patch_step(self, size: int) -> float:
        """Return the distance in pixels of neighbouring patches of a square image of `size` pixels."""
        return size / self.grid(size)[0]

    def patch_centres(self, size: int) -> Tensor:
        """Return the centres of the patches in pixels of an image of `size`, [h, w, 2] float64 (x, y)."""
        height, width = self.grid(size)
        y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
        step = self.patch_step(size)
        return torch.stack([x, y], -1) * step + (step - self.convolved) / 2

    def patch_at(self, points: Tensor, size: int) -> Tensor:
        """Return the index of the patch with the nearest centre to each point [..., 2] (x, y) in pixels, int64.

        −1 where no centre lies within half the distance of two patches along both axes.
        """
        height, width = self.grid(size)
        column, row = torch.floor((points + self.convolved / 2) / self.patch_step(size)).unbind(-1)
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return torch.where(inside, row * width + column, -1.0).long()

    @property
    def image_size(self) -> int:
        """Side in pixels of the square the network was built for."""
        return int(self.config["image_size"])

    @property
    def patch_pixels(self) -> int:
        """Number of the canvas's values, over all bands, that a patch token stands for."""
        height, width = self.grid(self.image_size)
        with torch.no_grad():
            empty = torch.zeros(1, self.config["bands"], self.image_size, self.image_size)
            return self.canvas(empty).numel() // (height * width)

    def set_trainable(self, masked: bool = False) -> None:
        """Make every parameter trainable; the mask token only for a method that masks, else it has no gradient."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(masked or name != "mask_token")

    def prediction_head(self, n_outputs: int, targets: Sequence[Target] = ()) -> nn.Module:
        """Return a new head `Features` → [B, n_outputs] for classes, or for `targets` in the order of the columns."""
        if self.target_head is not None and any(target.kind != "scalar" for target in targets):
            return self.target_head(self.dim, targets)
        return LinearHead(self.dim, n_outputs)

    def predict(self, head: nn.Module, images: Tensor) -> Tensor:
        """Apply the backbone and a head of `prediction_head` to images [B, bands, H, W]: [B, n_outputs]."""
        return head(self(images, patch_tokens=head.uses_patch_tokens))

    def pixel_decoder(self) -> nn.Module:
        """Return a new light decoder `Features` → [B, bands, H, W], for images of the size the network is built for."""
        size, side = self.image_size, self.grid(self.image_size)[0]
        if size % side:
            raise UserError(
                f"backbone: {side} patches do not divide {size} px, so pixels cannot be decoded; "
                f"take images of {size // side * side} px"
            )
        return self.decoder_class(self.dim, self.config["bands"], (size // side, size // side))

    def attention(self, images: Tensor) -> Tensor:
        """Return the attention of the last layer to each patch, [B, heads, h, w] with sum 1 per head."""
        raise UserError(f"backbone: {self.config['name']} has no attention; take a vit or a swin")

    def timm_config(self) -> dict[str, Any] | None:
        """Return how timm builds the same network: architecture, classifier, model_args; None if it has none."""
        return None

    def layer_groups(self) -> list[list[str]]:
        """Return parameter names from input to output, one list per layer of `LAYERS`, for layer-wise decay."""
        layers = group_parameters(self.net, LAYERS).values()
        first, *rest = [[f"net.{name}" for name in layer] for layer in layers]
        return [[name for name, _ in self.named_parameters(recurse=False)] + first, *rest]

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters never decayed besides norms: tokens, positions and biases of any shape."""
        return {name for name, _ in self.named_parameters() if name.split(".")[-1] in TOKENS + POSITIONS}
