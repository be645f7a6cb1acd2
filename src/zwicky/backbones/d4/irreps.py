"""Features of the group D4 in its two bases, and the two sums most of the time goes into.

Features are tensors [8, C, …]. Along the first axis they have either one entry per element g of the group, the regular
representation, on which an element acts by (h·F)(n, g) = F(h⁻¹n, h⁻¹g); or they are in the orthonormal basis of the
irreducible representations (irreps)

    A1, A2, B1, B2, E00, E01, E10, E11

to which `CHANGE` leads: x̂_χ = 8^(−½) Σ_g χ(g) x(g) and x̂_Eij = ½ Σ_g ρ_ij(g) x(g). There h multiplies x̂_χ by χ(h), and
transforms the index i of x̂_Eij as it transforms a vector (x, y) of the image. See arXiv:1602.07576 for group
convolutions and arXiv:1911.08251 for irreps.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zwicky import d4
from zwicky.d4 import ORDER

_K, _M = torch.arange(ORDER) % 4, torch.arange(ORDER) // 4
_SIGNS = torch.stack([torch.ones(ORDER), (-1.0) ** _M, (-1.0) ** _K, (-1.0) ** (_K + _M)])
# [8, 8]: one row per irrep, the characters χ(g), then the entries ρ_ij(g), all 0, 1 or −1
CHARACTERS = torch.cat([_SIGNS, d4.VECTORS.flatten(1).T])
CHANGE = CHARACTERS.double() / torch.tensor([8.0] * 4 + [4.0] * 4).double().sqrt()[:, None]


def orbit(maps: Tensor) -> Tensor:
    """Return square maps [..., h, w] under each element, [8, ..., h, w]: out[g](x) = maps(g⁻¹x)."""
    return torch.stack(d4.apply(maps))


def to_irreps(x: Tensor) -> Tensor:
    """Change [8, ...] from the regular representation to the irreps."""
    return _mix(CHANGE, x)


def to_regular(x: Tensor) -> Tensor:
    """Change [8, ...] from the irreps to the regular representation."""
    return _mix(CHANGE.T, x)


def _mix(change: Tensor, x: Tensor) -> Tensor:
    return (change.to(x.device, x.dtype) @ x.reshape(ORDER, -1)).view_as(x)


class BlockProduct(torch.autograd.Function):
    """y = Ŵ x̂: A1, A2, B1, B2 by `single` [4, C_out, C_in] and both rows of E by `double` [2C_out, 2C_in]; b in A1.

    x: [8, C_in, T] → [8, C_out, T]; all of one type. Left to autograd, each slice of the irreps would cost a tensor of
    zeros in the gradient, and each concatenation a copy.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, single: Tensor, double: Tensor, bias: Tensor) -> Tensor:
        """Multiply."""
        ctx.save_for_backward(x, single, double)
        y = _multiply(single, double, x)
        y[0] += ORDER**0.5 * bias[:, None]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of x, single, double and bias."""
        x, single, double = ctx.saved_tensors
        grad = grad.contiguous()
        grad_single = torch.bmm(grad[:4], x[:4].transpose(1, 2))
        rows = torch.bmm(_e_rows(grad), _e_rows(x).transpose(1, 2))
        grad_x = _multiply(single.transpose(1, 2), double.T, grad)
        return grad_x, grad_single, rows[0] + rows[1], ORDER**0.5 * grad[0].sum(1)


def _multiply(single: Tensor, double: Tensor, x: Tensor) -> Tensor:
    y = x.new_empty(ORDER, single.shape[1], x.shape[2])
    torch.bmm(single, x[:4], out=y[:4])
    torch.bmm(double.expand(2, -1, -1), _e_rows(x), out=_e_rows(y))
    return y


def _e_rows(x: Tensor) -> Tensor:
    """View the irreps E00, E01, E10, E11 of [8, C, T] as [2, 2C, T]."""
    return x[4:].view(2, 2 * x.shape[1], x.shape[2])
