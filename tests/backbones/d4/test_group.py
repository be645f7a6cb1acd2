"""The group, its action and its irreps, against matrices of two by two."""

from __future__ import annotations

import pytest
import torch

from zwicky.augment.augment import d4
from zwicky.backbones.d4 import group


def test_the_table_is_that_of_the_eight_turns_and_mirrors():
    assert len({tuple(matrix.flatten().tolist()) for matrix in group.VECTORS}) == 8
    for g in range(8):
        for h in range(8):
            assert torch.equal(group.VECTORS[g] @ group.VECTORS[h], group.VECTORS[group.PRODUCT[g, h]])
        assert group.PRODUCT[g, group.INVERSE[g]] == 0
        assert torch.equal(group.PRODUCT[g].sort().values, torch.arange(8))


def test_elements_move_pixels_as_they_move_vectors():
    """A bright pixel at (x, y) from the centre is found at g(x, y)."""
    image = torch.zeros(7, 7)
    image[1, 5] = 1
    for g, turned in enumerate(d4(image)):
        y, x = (turned == 1).nonzero()[0] - 3
        assert torch.equal(torch.stack([x, y]).float(), group.VECTORS[g] @ torch.tensor([2.0, -2.0]))


def test_acting_twice_is_acting_with_the_product():
    frames = torch.randn(8, 3, 5, 5)
    for g in range(8):
        for h in range(8):
            both = group.act(int(group.PRODUCT[g, h]), frames)
            assert torch.equal(group.act(g, group.act(h, frames)), both)


def test_the_irreps_are_orthonormal_and_turn_among_themselves():
    assert torch.allclose(group.CHANGE @ group.CHANGE.T, torch.eye(8, dtype=torch.float64), atol=1e-14)
    x = torch.randn(8, 4, 1, 1, dtype=torch.float64)
    assert torch.allclose(group.to_frames(group.to_irreps(x)), x, atol=1e-12)
    for g in range(8):
        before, after = group.to_irreps(x), group.to_irreps(group.act(g, x))
        assert torch.allclose(after[:4, :, 0, 0], group.CHARACTERS[:4, g, None] * before[:4, :, 0, 0], atol=1e-12)
        pairs = torch.einsum("ab,bjc->ajc", group.VECTORS[g].double(), before[4:, :, 0, 0].view(2, 2, -1))
        assert torch.allclose(after[4:, :, 0, 0].view(2, 2, -1), pairs, atol=1e-12)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_an_orbit_of_a_map_is_regular(side):
    """P(n, g) = p(g⁻¹n) is what every element leaves as it is."""
    made = group.orbit(torch.randn(3, side, side))
    for g in range(8):
        assert torch.equal(group.act(g, made), made)
