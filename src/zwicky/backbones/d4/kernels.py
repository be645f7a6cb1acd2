"""The two sums most of the time goes into, with gradients written out, so that nothing is copied or padded on the way.

Left to autograd, each slice of the irreps costs a tensor of zeros in the gradient, and each concatenation a copy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zwicky.d4 import ORDER


class BlockProduct(torch.autograd.Function):
    """y = Ŵ x̂: A1, A2, B1, B2 by `single` [4, C_out, C_in] and both rows of E by `double` [2C_out, 2C_in]; b in A1.

    x: [8, C_in, T] → [8, C_out, T]; all of one type.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, single: Tensor, double: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, single, double)
        y = _multiply(single, double, x)
        y[0] += ORDER**0.5 * bias[:, None]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, single, double = ctx.saved_tensors
        grad = grad.contiguous()
        of_single = torch.bmm(grad[:4], x[:4].transpose(1, 2))
        rows = torch.bmm(_paired(grad), _paired(x).transpose(1, 2))
        back = _multiply(single.transpose(1, 2), double.T, grad)
        return back, of_single, rows[0] + rows[1], ORDER**0.5 * grad[0].sum(1)


def _multiply(single: Tensor, double: Tensor, x: Tensor) -> Tensor:
    y = x.new_empty(ORDER, single.shape[1], x.shape[2])
    torch.bmm(single, x[:4], out=y[:4])
    torch.bmm(double.expand(2, -1, -1), _paired(x), out=_paired(y))
    return y


def _paired(x: Tensor) -> Tensor:
    """The irreps E00, E01, E10, E11 of [8, C, T] as [2, 2C, T]."""
    return x[4:].view(2, 2 * x.shape[1], x.shape[2])


class GroupNorm(torch.autograd.Function):
    """y = γ (x − mean) / √(variance + ε) + β, statistics over the group and the channels; [8, C, T] → [8, C, T].

    A constant over the frames stands in the first `spread` of the eight, times √(8/spread): 1 in the irreps, where it
    is A1, and 8 in the frames. The result is of type `dtype`, everything inside float32 or better.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, spread: int, dtype: torch.dtype
    ) -> Tensor:
        unit = (ORDER / spread) ** 0.5
        mean = x[:spread].mean((0, 1)) / unit
        square = x.square().mean((0, 1))
        inverse = ((square - mean.square()).clamp(min=0) + eps).rsqrt()  # [T]
        scale = weight[:, None] * inverse
        y = torch.mul(x, scale, out=torch.empty_like(x, dtype=dtype))
        y[:spread] += unit * (bias[:, None] - mean * scale)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.spread = spread
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        unit, count = (ORDER / ctx.spread) ** 0.5, ORDER * len(weight)
        constant = unit * grad[: ctx.spread].sum(0, dtype=x.dtype)  # [C, T], the gradient of what is added to all
        along = ((grad * x).sum(0) - mean * constant) * inverse  # [C, T], gradient · normalised x
        a = (weight @ along) * inverse.square() / count  # [T]
        b = (weight @ constant) * inverse / count
        back = (grad * (weight[:, None] * inverse)).addcmul_(x, a, value=-1)
        back[: ctx.spread] += unit * (mean * a - b)
        return back, along.sum(1), constant.sum(1), None, None, None
