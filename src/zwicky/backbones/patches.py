"""Patches of images: their grids over the stages of a network, their embedding, and hiding them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zwicky.errors import UserError


@dataclass(frozen=True)
class StageGrids:
    """The grids of a transformer: each stage after the first halves the grid, none is padded."""

    patch_size: int
    window: int = 1
    stages: int = 1

    def last(self, size: int) -> tuple[int, int]:
        """Return (h, w) of the last stage for images of `size` px; raises UserError with a size that fits."""
        mismatch = self._mismatch(size)
        if mismatch:
            raise UserError(f"backbone: images of {size} px {mismatch}; take {self.nearest(size)} px")
        side = size // self.patch_size >> (self.stages - 1)
        return side, side

    def nearest(self, size: int, least: int = 1) -> int:
        """Return the size nearest to `size` that fits and leaves at least `least` cells along a side."""
        smallest = least * self.patch_size << (self.stages - 1)
        step = self.patch_size * self.window << (self.stages - 1)  # multiples of it always fit
        fits = [s for s in range(smallest, max(size, smallest) + step + 1) if self._mismatch(s) is None]
        return min(fits, key=lambda fit: abs(fit - size))

    def _mismatch(self, size: int) -> str | None:
        """Return why images of this size cannot be cut into patches, stages and windows without padding."""
        if size % self.patch_size or size < self.patch_size:
            return f"do not divide into patches of {self.patch_size} px"
        side = size // self.patch_size
        for stage in range(self.stages):
            if stage and side % 2:
                return f"make an odd grid of {side} cells that stage {stage + 1} cannot halve"
            side = side // 2 if stage else side
            if side > self.window and side % self.window:
                return f"make a grid of {side} cells in stage {stage + 1} that windows of {self.window} do not divide"
        return None


class PatchProjection(nn.Conv2d):
    """A patch embedding's convolution as one matrix product, images [B, bands, H, W] → [B, D, h, w].

    Patches do not overlap, so it is the same sum; the gradient of the convolution is slow on CPUs, and a hundred times
    slower in the memory layout that torch.compile chooses.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Project the patches."""
        height, width = (pixels // self.kernel_size[0] for pixels in images.shape[2:])
        return F.linear(patchify(images, (height, width)), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def conv_stem(convolutions: Sequence[nn.Conv2d], width: int) -> nn.Sequential:
    """Return convolutions, each with BatchNorm and GELU, and a projection to `width` (arXiv:2106.14881)."""
    layers = [(conv, nn.BatchNorm2d(conv.out_channels), nn.GELU()) for conv in convolutions]
    return nn.Sequential(*chain(*layers), nn.Conv2d(convolutions[-1].out_channels, width, 1))


def check_stem(stem: Sequence[int], patch_size: int) -> None:
    """Raise UserError unless convolutions of stride 2 make patches of this size."""
    if stem and 2 ** len(stem) != patch_size:
        raise UserError(
            f"backbone: a stem of {len(stem)} convolutions makes patches of {2 ** len(stem)} px; "
            f"take patch_size {2 ** len(stem)}"
        )


def patchify(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cut images [B, bands, H, W] of any dtype into the patches of an h × w grid: [B, h, w, bands · H/h · W/w]."""
    height, width = grid
    patches = images.unflatten(3, (width, -1)).unflatten(2, (height, -1))  # [B, bands, h, p, w, p]
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3)


def unpatchify(patches: Tensor) -> Tensor:
    """Join patches [B, h, w, bands, p, p] into images [B, bands, h·p, w·p]."""
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def enlarge(mask: Tensor, height: int, width: int) -> Tensor:
    """Repeat the cells of a mask [B, h, w] to a grid of height × width, multiples of h and w."""
    return mask.repeat_interleave(height // mask.shape[1], 1).repeat_interleave(width // mask.shape[2], 2)


def hide_patches(images: Tensor, mask: Tensor | None) -> Tensor:
    """Return images with the masked patches [B, h, w] set to 0, so that the convolutions of a stem do not see them."""
    return images if mask is None else images.masked_fill(enlarge(mask, *images.shape[2:])[:, None], 0.0)


def mask_tokens(tokens: Tensor, mask: Tensor | None, mask_token: Tensor) -> Tensor:
    """Replace the tokens [B, H, W, D] of the masked patches [B, h, w] by the mask token [D]."""
    if mask is None:
        return tokens
    return torch.where(enlarge(mask, *tokens.shape[1:3])[..., None], mask_token.to(tokens.dtype), tokens)
