"""Settings for all tests, and the small galaxies, networks, methods and recipes they share."""

import numpy as np
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
    if name == "hybrid_vit":
        return SMALL_VIT | {"stem": (8, 8, 16)}
    if name == "polar_swin":
        return {"width": 16, "depths": (2, 2), "heads": (1, 2), "window": 2, "radii": 8, "angles": 32, "stem": (8, 16)}
    return dict(SMALL_STAGES if "swin" in name else SMALL_POLAR if "polar" in name else SMALL_VIT)


@pytest.fixture(scope="session")
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


# Recipes of commands that take a second, for images of 16 px.
LOOP = {"max_steps": 6, "min_steps": 0, "batch_size": 16, "precision": "float32", "evaluations": 3}
VIT = {"name": "vit_tiny", "options": SMALL_VIT | {"depth": 1}}
DINO = {"method": {"name": "dino", "options": DISTILLED}, "train": LOOP}
DINO |= {"views": {"crop": 16, "local_crops": 1, "local_size": 8}}
PRETRAIN = DINO | {"backbone": VIT}
BENCHMARK = {
    **{"labels": [20], "draws": 1, "backbones": {"vit": VIT}, "methods": {"dino": DINO}, "probes": ["knn"]},
    **{"label_views": {"crop": 16, "global_scale": [1.0, 1.0], "blur": 0.0, "noise": 0.0}, "replicates": 20},
    **{"finetune": {"train": LOOP}, "scratch": {"train": LOOP}, "baselines": ["pca_linear"]},
}


def galaxies(count=60, bands=2, size=16, seed=0):
    """Images [count, bands, size, size] of broad (even rows) and narrow (odd rows) round galaxies in noise of 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    width = np.where(np.arange(count) % 2, 2.0, 4.0)[:, None, None]
    light = 10 * np.exp(-(x**2 + y**2) / (2 * width**2))[:, None]
    return (light + rng.normal(0, 1, (count, bands, size, size))).astype(np.float32)


def write_galaxies(folder, labelled=60, **options):
    """Write the galaxies as .npy files and, beside the folder, catalog.csv: lens (narrow) and nonlens, some unknown."""
    folder.mkdir(parents=True)
    lines = ["file,label,ra,dec"]
    for row, image in enumerate(galaxies(**options)):
        np.save(folder / f"{row:03d}.npy", image)
        lines.append(f"{row:03d}.npy,{('nonlens', 'lens')[row % 2] if row < labelled else ''},{10 + row},-5.0")
    (folder.parent / "catalog.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def small_network(small_backbone):
    """A function that wraps a small backbone for these images, with a head for two classes, for targets, or none."""
    from zwicky.augment.config import ViewsConfig
    from zwicky.augment.normalise import Normalisation
    from zwicky.methods.supervised import TargetScaler
    from zwicky.training.network import Network

    def make(images, head="classes", name="vit_tiny", bands=("g", "r"), size=16, **options):
        backbone = small_backbone(name, bands=len(bands), image_size=size, **options)
        views = ViewsConfig(crop=size, image_size=size)
        network = Network(backbone, Normalisation.fit(images, bands), views, tuple(bands), 0.2)
        if head == "classes":
            network.head, network.classes, network.temperature = backbone.prediction_head(2), ("nonlens", "lens"), 1.7
        elif head:
            outputs = sum(len(target.columns) for target in head)
            network.head, network.targets = backbone.prediction_head(outputs, head), head
            network.scaler = TargetScaler((3.0,) + (0.0,) * (outputs - 1), (2.0,) + (0.5,) * (outputs - 1))
        return network

    return make
