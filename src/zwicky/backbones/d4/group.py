"""How features split into the irreducible representations of D4.

An element acts on features in the regular representation by (h·F)(n, g) = F(h⁻¹n, h⁻¹g); see `zwicky.d4`.

Features are tensors [8, C, …]. Along the first axis they stand either in the eight frames g ("regular"), or in the
orthonormal basis of the irreducible representations

    A1, A2, B1, B2, E00, E01, E10, E11

that `CHANGE` leads to: x̂_χ = 8^(−½) Σ_g χ(g) x(g) and x̂_Eij = ½ Σ_g ρ_ij(g) x(g). There h multiplies x̂_χ by χ(h), and
turns the index i of x̂_Eij as it turns a vector (x, y) of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zwicky import d4
from zwicky.d4 import ORDER


def _characters() -> Tensor:
    k, m = torch.arange(ORDER) % 4, torch.arange(ORDER) // 4
    characters = torch.stack([torch.ones(ORDER), (-1.0) ** m, (-1.0) ** k, (-1.0) ** (k + m)])
    return torch.cat([characters, d4.VECTORS.flatten(1).T])


CHARACTERS = _characters()  # [8, 8]: one row an irrep, the characters χ(g), then the entries ρ_ij(g), all 0, 1 or −1
CHANGE = CHARACTERS.double() / torch.tensor([8.0] * 4 + [4.0] * 4).double().sqrt()[:, None]


def orbit(maps: Tensor) -> Tensor:
    """Square maps [..., h, w] → [8, ..., h, w], their images under each element: out[g](x) = maps(g⁻¹x)."""
    return torch.stack(d4.apply(maps))


def to_irreps(x: Tensor) -> Tensor:
    """Frames [8, ...] → irreps [8, ...]."""
    return _mix(CHANGE, x)


def to_frames(x: Tensor) -> Tensor:
    """Irreps [8, ...] → frames [8, ...]."""
    return _mix(CHANGE.T, x)


def _mix(change: Tensor, x: Tensor) -> Tensor:
    return (change.to(x.device, x.dtype) @ x.reshape(ORDER, -1)).view_as(x)
