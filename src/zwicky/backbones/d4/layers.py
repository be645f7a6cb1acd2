"""The layers both equivariant transformers are made of. Features are [8, C, B, …tokens], in frames or in irreps.

What is linear works in the irreps, where it is cheap; what acts point by point (GELU, attention within a frame) works
in the frames. `irreps` says which of the two the stream of tokens is kept in: false keeps it in the frames throughout
and multiplies with whole matrices.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from zwicky.backbones.d4.group import orbit, to_frames, to_irreps
from zwicky.backbones.d4.kernels import GroupNorm
from zwicky.backbones.d4.linear import GroupLinear
from zwicky.d4 import ORDER


def by_irreps(device: torch.device, width: int) -> bool:
    """Whether to work in the irreps at this width D = 8C, as measured (see benchmarks/README.md)."""
    return device.type == "cpu" or width > 768


def enter(x: Tensor, irreps: bool) -> Tensor:
    """From the frames to the basis of the stream."""
    return to_irreps(x) if irreps else x


def leave(x: Tensor, irreps: bool) -> Tensor:
    """From the basis of the stream to the frames."""
    return to_frames(x) if irreps else x


def constant(token: Tensor, irreps: bool) -> Tensor:
    """A token [C] that is the same in all frames, in the basis of the stream, [8, C]."""
    if irreps:
        return F.pad(ORDER**0.5 * token[None], (0, 0, 0, ORDER - 1))
    return token.expand(ORDER, -1)


class Norm(nn.Module):
    """LayerNorm over all frames and channels of a token, with scale and shift [C] shared by the frames.

    Mean and variance over the group do not change with the basis: the mean is that of A1 over √8, the sum of squares
    is the same in both. float32 inside; the result is what autocast would make of it.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor, irreps: bool) -> Tensor:
        device = x.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        wide = torch.promote_types(x.dtype, torch.float32)
        flat = x.flatten(2).to(wide)
        y = GroupNorm.apply(flat, self.weight, self.bias, self.eps, 1 if irreps else ORDER, kind)
        return cast(Tensor, y).view_as(x)


class Drop(DropPath):
    """Stochastic depth, per image: [8, C, B, …]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(2, 0)).movedim(0, 2) if self.training and self.drop_prob else x


class Lift(nn.Module):
    """Patches onto the group: F(n, g) = Σ_x K(g⁻¹x) I(n + x) + b, images [B, bands, H, W] → [8, C, B, h, w].

    kernel: K, [C, bands, p, p].
    """

    def __init__(self, bands: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(channels, bands, patch_size, patch_size))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.trunc_normal_(self.kernel, std=(bands * patch_size**2) ** -0.5)

    def forward(self, images: Tensor, irreps: bool) -> Tensor:
        channels, _, size, _ = self.kernel.shape
        patches = images.unflatten(3, (-1, size)).unflatten(2, (-1, size)).permute(1, 3, 5, 0, 2, 4)
        kernels = enter(orbit(self.kernel), irreps).view(ORDER * channels, -1)
        lifted = kernels @ patches.reshape(kernels.shape[1], -1)
        bias = constant(self.bias, irreps).reshape(-1, 1).to(lifted.dtype)
        return (lifted + bias).view(ORDER, channels, *patches.shape[3:])


class MLP(nn.Module):
    """fc2(GELU(fc1 x))."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = GroupLinear(channels, hidden), GroupLinear(hidden, channels)

    def forward(self, x: Tensor, irreps: bool) -> Tensor:
        return self.fc2(enter(F.gelu(leave(self.fc1(x, irreps), irreps)), irreps), irreps)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Σ_m softmax_m(q·k/√d + bias) v; q [..., d, n], k and v [..., d, N], bias [..., n, N] → [..., d, n]."""
    if q.device.type != "cpu":
        q, k, v = (x.transpose(-1, -2) for x in (q, k, v))
        mask = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(-1, -2)
    return v @ weights_of(q, k, bias).to(v.dtype).transpose(-1, -2)


def weights_of(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax_m(q·k/√d + bias), float32 where q and k are narrower, which CPUs do faster too; [..., n, N]."""
    scores = q.transpose(-1, -2) @ k
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * q.shape[-2] ** -0.5
    return (scores if bias is None else scores + bias).softmax(-1)


class Readout(nn.Module):
    """Normed tokens → invariants of D = 8C: the mean over the frames of GELU(linear), and a LayerNorm.

    [8, C, B, …] → [B, …, D].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = GroupLinear(channels, ORDER * channels)
        self.norm = nn.LayerNorm(ORDER * channels, eps=1e-6)

    def forward(self, x: Tensor, irreps: bool) -> Tensor:
        hidden = F.gelu(leave(self.linear(x, irreps), irreps)).mean(0)
        return self.norm(hidden.movedim(0, -1))
