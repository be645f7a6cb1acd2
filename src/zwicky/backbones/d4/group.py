"""D4, the eight turns and mirrors of a square: how they multiply, act on maps, and split features into irreps.

Element g = 4m + k mirrors left and right m times and then turns by k quarters, the order of `augment.d4`.
It acts on a map by (g·f)(x) = f(g⁻¹x), and on features in the regular representation by (h·F)(n, g) = F(h⁻¹n, h⁻¹g).

Features are tensors [8, C, …]. Along the first axis they stand either in the eight frames g ("regular"), or in the
orthonormal basis of the irreducible representations

    A1, A2, B1, B2, E00, E01, E10, E11

that `CHANGE` leads to: x̂_χ = 8^(−½) Σ_g χ(g) x(g) and x̂_Eij = ½ Σ_g ρ_ij(g) x(g). There h multiplies x̂_χ by χ(h), and
turns the index i of x̂_Eij as it turns a vector (x, y) of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zwicky.augment.augment import d4

ORDER = 8


def _tables() -> tuple[Tensor, Tensor, Tensor]:
    # What they do to (x, y), y downwards.
    quarter, mirror = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    turns = [torch.linalg.matrix_power(quarter, k) for k in range(4)]
    matrices = torch.stack(turns + [turn @ mirror for turn in turns])
    products = matrices[:, None] @ matrices[None]  # [8, 8, 2, 2]
    product = (products[:, :, None] == matrices).all(-1).all(-1).long().argmax(-1)
    k, m = torch.arange(ORDER) % 4, torch.arange(ORDER) // 4
    characters = torch.stack([torch.ones(ORDER), (-1.0) ** m, (-1.0) ** k, (-1.0) ** (k + m)])
    return matrices, product, torch.cat([characters, matrices.flatten(1).T])


# VECTORS: [8, 2, 2] what each element does to a vector (x, y). PRODUCT: [8, 8] the index of g·h.
# CHARACTERS: [8, 8] one row an irrep, the characters χ(g) and then the entries ρ_ij(g), all 0, 1 or −1.
VECTORS, PRODUCT, CHARACTERS = _tables()
INVERSE = (PRODUCT == 0).long().argmax(1)
CHANGE = CHARACTERS.double() / torch.tensor([8.0] * 4 + [4.0] * 4).double().sqrt()[:, None]


def orbit(maps: Tensor) -> Tensor:
    """Square maps [..., h, w] → [8, ..., h, w], their images under each element: out[g](x) = maps(g⁻¹x)."""
    return torch.stack(d4(maps))


def act(g: int, frames: Tensor) -> Tensor:
    """(g·F)(n, k) = F(g⁻¹n, g⁻¹k) of regular features [8, ..., h, w]."""
    return d4(frames[PRODUCT[INVERSE[g]]])[g]


def to_irreps(x: Tensor) -> Tensor:
    """Frames [8, ...] → irreps [8, ...]."""
    return _mix(CHANGE, x)


def to_frames(x: Tensor) -> Tensor:
    """Irreps [8, ...] → frames [8, ...]."""
    return _mix(CHANGE.T, x)


def _mix(change: Tensor, x: Tensor) -> Tensor:
    return (change.to(x.device, x.dtype) @ x.reshape(ORDER, -1)).view_as(x)
