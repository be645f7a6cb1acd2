"""The group D4 and its action on images, against 2 × 2 matrices."""

import math

import torch

from zwicky import d4
from zwicky.augment.views import Target, transform_targets


def test_products_and_inverses_are_those_of_the_matrices():
    assert len({tuple(matrix.flatten().tolist()) for matrix in d4.VECTORS}) == 8
    for g in range(8):
        for h in range(8):
            assert torch.equal(d4.VECTORS[g] @ d4.VECTORS[h], d4.VECTORS[d4.PRODUCT[g, h]])
        assert d4.PRODUCT[g, d4.INVERSE[g]] == 0
        assert torch.equal(d4.PRODUCT[g].sort().values, torch.arange(8))


def test_elements_move_pixels_as_they_move_vectors():
    """A bright pixel at (x, y) from the centre is found at g(x, y)."""
    image = torch.zeros(7, 7)
    image[1, 5] = 1
    assert len(d4.apply(image)) == 8
    for g, turned in enumerate(d4.apply(image)):
        y, x = (turned == 1).nonzero()[0] - 3
        assert torch.equal(torch.stack([x, y]).float(), d4.VECTORS[g] @ torch.tensor([2.0, -2.0]))


def test_elements_turn_counterclockwise_as_their_names_say():
    for name, matrix in zip(d4.ELEMENTS, d4.VECTORS, strict=True):
        mirrored = name.startswith("mirrored")
        x, y = (matrix @ torch.tensor([-1.0 if mirrored else 1.0, 0.0])).tolist()  # of the right side, then mirrored
        turned = round(math.degrees(math.atan2(-y, x))) % 360
        assert name.removeprefix("mirrored").strip(", ") in ((f"{turned}°",) if turned else ("", "as it is"))
        assert (torch.linalg.det(matrix) < 0) == mirrored


def test_to_source_turns_vectors_with_the_image_and_its_inverse_back():
    vector = torch.tensor([[2.0, -2.0]])
    for g in range(8):
        turned = transform_targets(vector, (Target(("x", "y"), "vector"),), d4.to_source(g)[None])
        assert torch.equal(turned[0], d4.VECTORS[g] @ vector[0])
        back = transform_targets(turned, (Target(("x", "y"), "vector"),), d4.to_source(int(d4.INVERSE[g]))[None])
        assert torch.equal(back, vector)
