"""Settings for all tests, and the small networks they share."""

import pytest
import torch
from hypothesis import settings

from zwicky.errors import UserError

# A busy machine is no failure: examples are bounded by number, not by time.
settings.register_profile("zwicky", deadline=None)
settings.load_profile("zwicky")


def _one_line(error, message):
    """Every mistake that any test provokes is reported in one line."""
    assert "\n" not in str(message), message
    Exception.__init__(error, message)


UserError.__init__ = _one_line

SMALL_STAGES = {"patch_size": 4, "window": 2, "width": 16, "depths": (2, 2), "heads": (1, 2)}
SMALL_VIT = {"patch_size": 8, "width": 32, "depth": 2, "heads": 2}
SMALL_POLAR = {"width": 32, "depth": 2, "heads": 2, "radii": 8, "angles": 32, "stem": (8, 16, 16)}


def small_options(name):
    """Options that make the backbone `name` small; 16, 32 and 48 px fit all of them."""
    if name == "resnet18":
        return {}
    return dict(SMALL_STAGES if "swin" in name else SMALL_POLAR if "polar" in name else SMALL_VIT)


@pytest.fixture
def small_backbone():
    """A function that builds any backbone small, with the same weights each time."""
    from zwicky import backbones

    def make(name="vit_tiny", bands=3, image_size=32, **options):
        torch.manual_seed(0)
        return backbones.create(name, bands=bands, image_size=image_size, **{**small_options(name), **options})

    return make


DISTILLED = {"prototypes": 16, "hidden": 16, "bottleneck": 8}
SMALL_METHODS = {
    **dict.fromkeys(("dino", "ibot", "esvit"), DISTILLED),
    "supervised": {"classes": 3},
    "beit": {"tokens": 4},
    "simsiam": {"width": 16, "bottleneck": 8},
    "byol": {"width": 16, "hidden": 16},
}


@pytest.fixture
def small_method():
    """A function that builds any method small around a backbone."""
    from zwicky import methods

    def make(name, backbone, **options):
        return methods.create(name, backbone, **{**SMALL_METHODS.get(name, {}), **options})

    return make
