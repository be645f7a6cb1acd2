"""The interface of every backbone, its heads, and what the networks built on timm share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import group_parameters
from torch import Tensor, nn

from zwicky.augment.views import Target
from zwicky.errors import UserError


@dataclass
class Features:
    """The output of a backbone; D4-equivariant ones give the patch tokens in the regular representation too."""

    pooled: Tensor  # [B, D], one vector per image
    patch_tokens: Tensor  # [B, h, w, D], one vector per patch or last-stage cell; [B, 0, 0, D] if not computed
    group_features: Tensor | None = None  # [B, h, w, 8, C]


class LinearHead(nn.Linear):
    """A linear layer on standardised pooled features: BatchNorm without affine parameters, as in MAE's linear probe.

    Pooled features of different images are nearly parallel and differ in a small part of their length; a linear layer
    on raw features needs large weights, which the first steps of a fit destroy (Appendix A.1 of arXiv:2111.06377). It
    computes in float32, since bfloat16 would round small differences between classes away.
    """

    uses_patch_tokens = False

    def __init__(self, dim: int, n_outputs: int) -> None:
        super().__init__(dim, n_outputs)
        self.norm = nn.BatchNorm1d(dim, affine=False)
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, features: Features) -> Tensor:  # type: ignore[override]
        """Return [B, n_outputs]."""
        if self.training and len(features.pooled) < 2:
            raise UserError("train.batch_size: BatchNorm needs at least two images per process; raise it")
        with torch.autocast(features.pooled.device.type, enabled=False):
            return super().forward(self.norm(features.pooled.float()))

    @torch.no_grad()
    def set_linear(self, weight: Tensor, bias: Tensor, features: Tensor) -> None:
        """Take over a linear model of raw features: weight [n_outputs, D] and bias [n_outputs].

        The mean and variance of `features` [n, D] become the running statistics.
        """
        weight, bias, features = (values.to(self.weight) for values in (weight, bias, features))
        self._mean().copy_(features.mean(0))
        self._variance().copy_(features.var(0))
        self.weight.copy_(weight * self._std())
        self.bias.copy_(bias + weight @ self._mean())

    @torch.no_grad()
    def as_linear(self) -> dict[str, Tensor]:
        """Return weight and bias of the same linear model of raw features."""
        weight = self.weight / self._std()
        return {"weight": weight, "bias": self.bias - weight @ self._mean()}

    def _mean(self) -> Tensor:
        return self.norm.get_buffer("running_mean")

    def _variance(self) -> Tensor:
        return self.norm.get_buffer("running_var")

    def _std(self) -> Tensor:
        return (self._variance() + self.norm.eps).sqrt()


class PixelDecoder(nn.Module):
    """One linear layer: each patch token gives the pixels of its own patch, the head of SimMIM (arXiv:2111.09886)."""

    def __init__(self, dim: int, bands: int, patch_size: int) -> None:
        super().__init__()
        self.bands, self.patch_size = bands, patch_size
        self.linear = nn.Linear(dim, bands * patch_size**2)

    def forward(self, features: Features) -> Tensor:
        """Decode patch tokens [B, h, w, D] to [B, bands, H, W]."""
        pixels = self.linear(features.patch_tokens)
        return unpatchify(pixels.unflatten(3, (self.bands, self.patch_size, self.patch_size)))


def unpatchify(patches: Tensor) -> Tensor:
    """Join patches [B, h, w, bands, p, p] into images [B, bands, h·p, w·p]."""
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


class Backbone(nn.Module, ABC):
    """A network from images to `Features`.

    Attributes:
        dim: D, the width of pooled features and patch tokens.
        config: the arguments of `backbones.create` that build the same network again.
        net: the network itself, without the mask token.
        prefers_bf16_on_cpu: whether bfloat16 is faster on CPUs that have it.
        invariant: whether rotations by 90° and reflections leave the pooled features unchanged.
        turns_heads: whether its heads turn targets with a direction as the image is turned.
        supports_masking: whether patches can be replaced by a mask token.
        circular: whether the columns of the patch grid are angles, so that the first follows the last.
    """

    dim: int
    config: dict
    net: Any
    grids: "StageGrids"
    prefers_bf16_on_cpu = True
    invariant = False
    turns_heads = False
    supports_masking = True
    circular = False
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

    def patch_centres(self, size: int) -> Tensor:
        """Return the centres of the patches in pixels of an image of `size`, [h, w, 2] float64 (x, y)."""
        height, width = self.grid(size)
        y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
        return (torch.stack([x, y], -1) + 0.5) * torch.tensor([size / width, size / height]).double() - 0.5

    def patch_at(self, points: Tensor, size: int) -> Tensor:
        """Return the index of the patch that holds each point [..., 2] (x, y) in pixels, int64; −1 outside of all."""
        height, width = self.grid(size)
        column, row = torch.floor((points + 0.5) * points.new_tensor([width / size, height / size])).unbind(-1)
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
        return self.decoder_class(self.dim, self.config["bands"], size // side)

    def attention(self, images: Tensor) -> Tensor:
        """Return the attention of the last layer to each patch, [B, heads, h, w] with sum 1 per head."""
        raise UserError(f"backbone: {self.config['name']} has no attention; take a vit or a swin")

    def timm_config(self) -> dict[str, Any] | None:
        """Return how timm builds the same network: architecture, classifier, model_args; None if it has none."""
        return None

    @abstractmethod
    def group_matcher(self) -> dict[str, Any]:
        """Return timm's patterns of parameter names of `net`, layer by layer; names not matched are the last layer."""

    def layer_groups(self) -> list[list[str]]:
        """Return parameter names from input to output, one list per layer, for layer-wise learning-rate decay."""
        layers = group_parameters(self.net, self.group_matcher()).values()
        first, *rest = [[f"net.{name}" for name in layer] for layer in layers]
        return [[name for name, _ in self.named_parameters(recurse=False)] + first, *rest]

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters never decayed besides biases and norms: tokens and position embeddings."""
        return {name for name, _ in self.named_parameters(recurse=False)}


class PatchProjection(nn.Conv2d):
    """A patch embedding's convolution as one matrix product, images [B, bands, H, W] → [B, D, h, w].

    Patches do not overlap, so it is the same sum; the gradient of the convolution is slow on CPUs, and a hundred times
    slower in the memory layout that torch.compile chooses.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Project the patches."""
        size = self.kernel_size[0]
        patches = images.unflatten(3, (-1, size)).unflatten(2, (-1, size)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


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


def hide_patches(images: Tensor, mask: Tensor | None, patch_size: int) -> Tensor:
    """Return images with the masked patches [B, h, w] set to 0."""
    if mask is None:
        return images
    hidden = mask.repeat_interleave(patch_size, 1).repeat_interleave(patch_size, 2)
    return images.masked_fill(hidden[:, None], 0.0)


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
        self.stem_patch = 2 ** len(stem) if stem else 0
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

    def _hide(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Return images with the masked patches [B, h, w] set to 0 if the patches overlap, as those of a stem do."""
        return hide_patches(images, mask, self.stem_patch) if self.stem_patch else images

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


def check_heads(width: int, heads: int, suffix: str = "") -> None:
    """Raise UserError unless `heads` divide the width."""
    if width % heads:
        raise UserError(
            f"backbone: width {width}{suffix} is not divisible by {heads} heads; take a multiple of {heads}"
        )


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

    def refine(self, mask: Tensor) -> Tensor:
        """Enlarge a mask on the last stage's grid [B, h, w] to the first stage's."""
        factor = 1 << (self.stages - 1)
        return mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)

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
