"""The layers both equivariant transformers are made of. Features are [8, C, B, …tokens], see `irreps`.

Linear layers work in the irreps, where they are cheap; what acts point by point (GELU, attention of one group element)
works in the regular representation. `irreps` tells in which of the two the stream of tokens is kept: False keeps it
in the regular representation throughout and multiplies with whole matrices.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from zwicky.backbones.d4.irreps import CHARACTERS, BlockProduct, orbit, to_irreps, to_regular
from zwicky.backbones.patches import check_stem, enlarge
from zwicky.d4 import INVERSE, ORDER, PRODUCT
from zwicky.errors import UserError


def by_irreps(device: torch.device, width: int) -> bool:
    """Return whether to work in the irreps at this width D = 8C, the faster way on CPUs (see benchmarks/README.md)."""
    return device.type == "cpu" or width > 768


def into_stream(x: Tensor, irreps: bool) -> Tensor:
    """Change features from the regular representation to the basis of the stream."""
    return to_irreps(x) if irreps else x


def out_of_stream(x: Tensor, irreps: bool) -> Tensor:
    """Change features from the basis of the stream to the regular representation."""
    return to_regular(x) if irreps else x


def constant(token: Tensor, irreps: bool) -> Tensor:
    """Return a token [C] that is the same for all group elements, in the basis of the stream, [8, C]."""
    if irreps:
        return F.pad(ORDER**0.5 * token[None], (0, 0, 0, ORDER - 1))
    return token.expand(ORDER, -1)


def mask_tokens(tokens: Tensor, mask: Tensor | None, mask_token: Tensor, irreps: bool) -> Tensor:
    """Replace the tokens [8, C, B, H, W] of the masked patches [B, h, w] by the mask token [C]."""
    if mask is None:
        return tokens
    hidden = constant(mask_token, irreps)[:, :, None, None, None].to(tokens.dtype)
    return torch.where(enlarge(mask, *tokens.shape[3:]), hidden, tokens)


def channels_of(width: int, heads: int, suffix: str = "") -> int:
    """Return C = D / 8; raises UserError for a width that 8 times the heads do not divide."""
    unit = ORDER * heads
    if width % unit or width < 1:
        better = max(round(width / unit), 1) * unit
        raise UserError(f"backbone: width {width}{suffix} is no multiple of 8 elements × {heads} heads; take {better}")
    return width // ORDER


class GroupLinear(nn.Module):
    """y(g) = Σ_k W(g⁻¹k) x(k) + b, features [8, C_in, …] → [8, C_out, …]; every linear map that commutes with D4.

    In the irreps W, [8, C_out, C_in], is four blocks C_out × C_in and one 2C_out × 2C_in, used twice: 5.33 times less
    work than the whole 8C_out × 8C_in matrix. The bias b, [C_out], is the same for all group elements.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(ORDER, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.trunc_normal_(self.weight, std=(ORDER * inputs) ** -0.5)

    def forward(self, x: Tensor, irreps: bool) -> Tensor:
        """Apply to features in the basis of the stream; the result is in the same."""
        outputs, inputs = self.weight.shape[1:]
        if not irreps:
            index = PRODUCT[INVERSE].to(self.weight.device)  # g⁻¹k by g and k
            whole = self.weight[index].transpose(1, 2).reshape(ORDER * outputs, ORDER * inputs)
            y = whole @ x.reshape(ORDER * inputs, -1)
            return (y + self.bias.repeat(ORDER)[:, None].to(y.dtype)).view(ORDER, outputs, *x.shape[2:])
        characters = CHARACTERS.to(self.weight.device, self.weight.dtype)
        blocks = (characters @ self.weight.flatten(1)).view(ORDER, outputs, inputs)
        single, pairs = blocks.split(4)
        # The block of E from (l, c) to (j, o) is Σ_u ρ_jl(u) W(u).
        double = pairs.view(2, 2, outputs, inputs).transpose(1, 2).reshape(2 * outputs, 2 * inputs)
        dtype = blocks.dtype  # bfloat16 under autocast
        y = BlockProduct.apply(x.flatten(2).to(dtype).contiguous(), single, double, self.bias.to(dtype))
        return cast(Tensor, y).view(ORDER, outputs, *x.shape[2:])


class Norm(nn.Module):
    """LayerNorm over group and channels of a token, with scale and shift [C] shared by the group elements.

    Mean and variance over the group do not depend on the basis: the mean is that of A1 over √8, the sum of squares is
    the same in both. float32 inside; the result is of the type autocast would give.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, irreps: bool) -> Tensor:
        """Normalise features in the basis of the stream."""
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        wide = x.flatten(2).to(torch.promote_types(x.dtype, torch.float32))  # [8, C, T]
        # A constant over the group is √8 in A1 and 0 in the other irreps, or 1 for each element.
        first, unit = (1, ORDER**0.5) if irreps else (ORDER, 1.0)
        mean = wide[:first].mean((0, 1)) / unit
        variance = (wide.square().mean((0, 1)) - mean.square()).clamp(min=0)
        scale = self.weight[:, None] * (variance + 1e-6).rsqrt()
        y = wide * scale
        y[:first] += unit * (self.bias[:, None] - mean * scale)
        return y.to(dtype).view_as(x)


class Drop(DropPath):
    """Stochastic depth, per image."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop whole images of [8, C, B, …]."""
        return super().forward(x.movedim(2, 0)).movedim(0, 2) if self.training and self.drop_prob else x


class Lift(nn.Module):
    """Patches lifted to the group: F(n, g) = Σ_x K(g⁻¹x) I(n + x) + b; kernel: K, [C, bands, p, p]."""

    def __init__(self, bands: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(channels, bands, patch_size, patch_size))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.trunc_normal_(self.kernel, std=(bands * patch_size**2) ** -0.5)

    def forward(self, images: Tensor, irreps: bool) -> Tensor:
        """Lift images [B, bands, H, W] to [8, C, B, h, w]."""
        channels, _, size, _ = self.kernel.shape
        patches = images.unflatten(3, (-1, size)).unflatten(2, (-1, size)).permute(1, 3, 5, 0, 2, 4)
        kernels = into_stream(orbit(self.kernel), irreps).view(ORDER * channels, -1)
        lifted = kernels @ patches.reshape(kernels.shape[1], -1)
        bias = constant(self.bias, irreps).reshape(-1, 1).to(lifted.dtype)
        return (lifted + bias).view(ORDER, channels, *patches.shape[3:])


class Stem(nn.Module):
    """Group convolutions of stride 2 in place of `Lift`, each with BatchNorm and GELU, and a linear layer to C.

    y(n, g) = Σ_k Σ_δ W(g⁻¹k, g⁻¹δ) x(2n + δ, k), the first without k. Kernels are 4 × 4, since a stride of 2 keeps the
    symmetry of even ones alone; BatchNorm is shared by the group elements.
    """

    def __init__(self, bands: int, channels: int, stem: Sequence[int]) -> None:
        super().__init__()
        inputs = [(bands,), *((ORDER, count) for count in stem[:-1])]
        self.kernels = nn.ParameterList()
        for shape, count in zip(inputs, stem, strict=True):
            self.kernels.append(nn.Parameter(torch.empty(count, *shape, 4, 4)))
            nn.init.trunc_normal_(self.kernels[-1], std=(16 * math.prod(shape)) ** -0.5)
        self.norms = nn.ModuleList(nn.BatchNorm3d(count) for count in stem)
        self.linear = GroupLinear(stem[-1], channels)

    def forward(self, images: Tensor, irreps: bool) -> Tensor:
        """Lift images [B, bands, H, W] to [8, C, B, h, w]."""
        x = images
        for kernel, norm in zip(self.kernels, self.norms, strict=True):
            kernels = orbit(kernel)  # [8, C_out, bands or 8 · C_in, 4, 4]
            if kernels.dim() == 6:
                index = PRODUCT[INVERSE].to(kernels.device)[:, None, :, None, None, None]  # g⁻¹k by g and k
                kernels = kernels.gather(2, index.expand_as(kernels)).flatten(2, 3)
            x = F.conv2d(x, kernels.flatten(0, 1), stride=2, padding=1).unflatten(1, (ORDER, -1))  # [B, 8, C, h, w]
            x = F.gelu(norm(x.transpose(1, 2)).transpose(1, 2)).flatten(1, 2)
        x = x.unflatten(1, (ORDER, -1)).permute(1, 2, 0, 3, 4)
        return self.linear(into_stream(x, irreps), irreps)


def make_lift(bands: int, channels: int, patch_size: int, stem: Sequence[int]) -> nn.Module:
    """Return a patch embedding, or a stem where its channels (of each group element) are given."""
    check_stem(stem, patch_size)
    return Stem(bands, channels, stem) if stem else Lift(bands, channels, patch_size)


class MLP(nn.Module):
    """fc2(GELU(fc1 x))."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = GroupLinear(channels, hidden), GroupLinear(hidden, channels)

    def forward(self, x: Tensor, irreps: bool) -> Tensor:
        """Apply to features in the basis of the stream."""
        hidden = F.gelu(out_of_stream(self.fc1(x, irreps), irreps))
        return self.fc2(into_stream(hidden, irreps), irreps)


class Readout(nn.Module):
    """Invariants of D = 8C from normed tokens: the mean over the group of GELU(linear), and a LayerNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = GroupLinear(channels, ORDER * channels)
        self.norm = nn.LayerNorm(ORDER * channels, eps=1e-6)

    def forward(self, x: Tensor, irreps: bool) -> Tensor:
        """Map [8, C, B, …] to [B, …, D]."""
        hidden = F.gelu(out_of_stream(self.linear(x, irreps), irreps)).mean(0)
        return self.norm(hidden.movedim(0, -1))
