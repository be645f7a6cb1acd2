"""The group's linear layer: one weight, and two ways to multiply with it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from zwicky.backbones.d4.group import CHARACTERS
from zwicky.backbones.d4.kernels import BlockProduct
from zwicky.d4 import INVERSE, ORDER, PRODUCT


class GroupLinear(nn.Module):
    """y(g) = Σ_k W(g⁻¹k) x(k) + b, features [8, C_in, …] → [8, C_out, …]; every linear map that commutes with D4.

    weight: W, [8, C_out, C_in]. bias: b, [C_out], the same in all frames.

    By irreps W falls into four blocks C_out × C_in and one 2C_out × 2C_in, used twice, which is 5.33 times less work
    than the whole 8C_out × 8C_in matrix.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(ORDER, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.trunc_normal_(self.weight, std=(ORDER * inputs) ** -0.5)

    def forward(self, x: Tensor, irreps: bool) -> Tensor:
        """irreps: whether x stands in the irreps, as the result then does too, or in the frames."""
        return self._by_irreps(x) if irreps else self._dense(x)

    def _by_irreps(self, x: Tensor) -> Tensor:
        outputs, inputs = self.weight.shape[1:]
        characters = CHARACTERS.to(self.weight.device, self.weight.dtype)
        blocks = (characters @ self.weight.flatten(1)).view(ORDER, outputs, inputs)
        single, pairs = blocks.split(4)
        # Of E the block from (l, c) to (j, o) is Σ_u ρ_jl(u) W(u).
        double = pairs.view(2, 2, outputs, inputs).transpose(1, 2).reshape(2 * outputs, 2 * inputs)
        kind = blocks.dtype  # bfloat16 under autocast
        y = BlockProduct.apply(x.flatten(2).to(kind).contiguous(), single, double, self.bias.to(kind))
        return cast(Tensor, y).view(ORDER, outputs, *x.shape[2:])

    def _dense(self, x: Tensor) -> Tensor:
        outputs, inputs = self.weight.shape[1:]
        index = PRODUCT[INVERSE].to(self.weight.device)  # g⁻¹k by g and k
        whole = self.weight[index].transpose(1, 2).reshape(ORDER * outputs, ORDER * inputs)
        y = whole @ x.reshape(ORDER * inputs, -1)
        return (y + self.bias.repeat(ORDER)[:, None].to(y.dtype)).view(ORDER, outputs, *x.shape[2:])
