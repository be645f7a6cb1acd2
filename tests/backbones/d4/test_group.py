"""The action of D4 on features and its irreps, against 2 × 2 matrices."""

from __future__ import annotations

import pytest
import torch

from zwicky import d4
from zwicky.backbones.d4 import group


def act(g, frames):
    """(g·F)(n, k) = F(g⁻¹n, g⁻¹k) of regular features [8, ..., h, w]."""
    return d4.apply(frames[d4.PRODUCT[d4.INVERSE[g]]])[g]


def test_acting_twice_is_acting_with_the_product():
    frames = torch.randn(8, 3, 5, 5)
    for g in range(8):
        for h in range(8):
            both = act(int(d4.PRODUCT[g, h]), frames)
            assert torch.equal(act(g, act(h, frames)), both)


def test_the_irreps_are_orthonormal_and_turn_among_themselves():
    assert torch.allclose(group.CHANGE @ group.CHANGE.T, torch.eye(8, dtype=torch.float64), atol=1e-14)
    x = torch.randn(8, 4, 1, 1, dtype=torch.float64)
    assert torch.allclose(group.to_frames(group.to_irreps(x)), x, atol=1e-12)
    for g in range(8):
        before, after = group.to_irreps(x), group.to_irreps(act(g, x))
        assert torch.allclose(after[:4, :, 0, 0], group.CHARACTERS[:4, g, None] * before[:4, :, 0, 0], atol=1e-12)
        pairs = torch.einsum("ab,bjc->ajc", d4.VECTORS[g].double(), before[4:, :, 0, 0].view(2, 2, -1))
        assert torch.allclose(after[4:, :, 0, 0].view(2, 2, -1), pairs, atol=1e-12)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_an_orbit_of_a_map_is_regular(side):
    """P(n, g) = p(g⁻¹n) is what every element leaves as it is."""
    made = group.orbit(torch.randn(3, side, side))
    for g in range(8):
        assert torch.equal(act(g, made), made)
