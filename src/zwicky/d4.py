"""D4, the symmetry group of the square: four rotations by 90° and their mirror images.

Element g = 4m + k mirrors left and right m times, then rotates by k quarter turns. It acts on an image by
(g·f)(x) = f(g⁻¹x), with x measured from the centre of the image, x to the right and y downwards.
"""

import torch
from torch import Tensor

ORDER = 8
ELEMENTS = ("as it is", "90°", "180°", "270°", "mirrored", "mirrored, 90°", "mirrored, 180°", "mirrored, 270°")


def apply(images: Tensor) -> list[Tensor]:
    """Transform square images [..., H, W] by each of the eight elements, the identity first."""
    return [mirrored.rot90(k, (-2, -1)) for mirrored in (images, images.flip(-1)) for k in range(4)]


_QUARTER, _MIRROR = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
_ROTATIONS = torch.stack([torch.linalg.matrix_power(_QUARTER, k) for k in range(4)])
VECTORS = torch.cat([_ROTATIONS, _ROTATIONS @ _MIRROR])  # [8, 2, 2]: by which element g acts on a vector (x, y)
PRODUCT = ((VECTORS[:, None] @ VECTORS)[:, :, None] == VECTORS).all((-2, -1)).long().argmax(-1)  # [8, 8]: index of g·h
INVERSE = (PRODUCT == 0).long().argmax(1)  # [8]: the index of g⁻¹


def to_source(g: int) -> Tensor:
    """Return the map [2, 3] from (x, y, 1) in an image transformed by element g to (x, y) in the original.

    It is the map `Views.to_source` describes, up to the shift of the origin, which directions do not depend on.
    """
    return torch.cat([VECTORS[g].T, torch.zeros(2, 1)], 1)
