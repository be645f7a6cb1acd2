"""Tiny cutouts with something to learn in them, and settings that train in a second."""

import numpy as np
import pytest
import torch

from zwicky import backbones, methods
from zwicky.augment.augment import Augment
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.backbones import BackboneConfig
from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import holdout_split
from zwicky.methods import MethodConfig
from zwicky.training.config import FinetuneConfig, FitConfig, PretrainConfig, TrainConfig
from zwicky.training.loader import TrainingSet
from zwicky.training.loop import fit

DISTILLED = {"prototypes": 16, "hidden": 16, "bottleneck": 8}
METHODS = {"dino": DISTILLED, "ibot": DISTILLED, "simmim": {}, "supervised": {"classes": 2}}


def blobs(count, seed=0, bands=2, size=16):
    """Gaussian blobs (negatives) and the same elongated (lenses), with offsets, fluxes and shapes as columns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2.0
    lens = np.arange(count) % 2 == 1
    dx, dy = rng.uniform(-3, 3, (2, count))
    angle = rng.uniform(0, np.pi, count)
    ratio = np.where(lens, 0.4, 1.0)
    flux = rng.uniform(1, 3, count)
    u = (x - dx[:, None, None]) * np.cos(angle)[:, None, None] + (y - dy[:, None, None]) * np.sin(angle)[:, None, None]
    v = -(x - dx[:, None, None]) * np.sin(angle)[:, None, None] + (y - dy[:, None, None]) * np.cos(angle)[:, None, None]
    image = 10 * flux[:, None, None] * np.exp(-(u**2 + (v / ratio[:, None, None]) ** 2) / 12)
    images = image[:, None] + rng.normal(0, 0.3, (count, bands, size, size))
    shape = (1 - ratio) / (1 + ratio)
    cutouts = make_cutouts(
        images.astype(np.float32),
        [f"b{band}" for band in range(bands)],
        ids=[f"s{seed}-{row:04d}" for row in range(count)],
        pixel_scale=[0.2] * count,
        flux=flux,
        dx=dx,
        dy=dy,
        e1=shape * np.cos(2 * angle),
        e2=shape * np.sin(2 * angle),
    )
    labels = Labels({i: "lens" if a else "nonlens" for i, a in zip(cutouts.ids, lens, strict=True)}, "made")
    return cutouts, labels


@pytest.fixture(scope="session")
def make_blobs():
    return blobs


@pytest.fixture(scope="session")
def data():
    """(cutouts, labels, split) of 120 objects."""
    cutouts, labels = blobs(120)
    return cutouts, labels, holdout_split(cutouts, labels, fractions=(0.7, 0.0, 0.3), seed=0)


@pytest.fixture(scope="session")
def pretrain_config():
    def make(steps=6, drop_path=0.2, **train):
        return PretrainConfig(
            method=MethodConfig("dino", dict(DISTILLED)),
            backbone=BackboneConfig(
                "vit_tiny", {"patch_size": 8, "width": 32, "depth": 2, "heads": 2, "drop_path": drop_path}
            ),
            views=ViewsConfig(local_crops=2, local_size=8),
            train=TrainConfig(
                **{"max_steps": steps, "batch_size": 16, "precision": "float32", "evaluations": 3, "lr": 1e-2} | train
            ),
        )

    return make


@pytest.fixture(scope="session")
def finetune_config():
    def make(steps=8, targets=(), labels=40, **train):
        loop = {"epochs": 1, "min_steps": steps, "max_steps": steps, "batch_size": 16, "precision": "float32"}
        loop |= {"evaluations": 4, "weight_ema": 0.9, "layer_decay": 0.8, "lr": 1e-2}
        return FinetuneConfig(fit=FitConfig(train=TrainConfig(**loop | train)), labels=labels, targets=list(targets))

    return make


@pytest.fixture
def trial(make_blobs, tmp_path):
    """trial(folder, method name, …) → (method, FitResult) of a small fit."""
    cutouts, _ = make_blobs(50)
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands)

    def run(folder, name="dino", rows=50, after_step=None, evaluate=None, keep_lowest=None, noise=0.3, **train):
        torch.manual_seed(3)
        options = {"patch_size": 8, "width": 32, "depth": 2, "heads": 2, "drop_path": 0.3 if noise else 0.0}
        method = methods.create(name, backbones.create("vit_tiny", bands=2, image_size=16, **options), **METHODS[name])
        if after_step is not None:
            method.after_step = lambda progress: (after_step(method), type(method).after_step(method, progress))
        views = ViewsConfig(local_crops=2, local_size=8, noise=noise)
        augment = Augment.for_method(method.needs, views, normalisation, cutouts.size, cutouts.bands)
        loop = {"max_steps": 9, "batch_size": 16, "precision": "float32", "lr": 1e-2, "evaluations": 3}
        data = TrainingSet(cutouts.images, np.arange(rows), torch.arange(50) % 2 if method.needs.targets else None)
        options = {"seed": 5, "folder": tmp_path / folder, "title": "trial", "quiet": True}
        options |= {"evaluate": evaluate, "keep_lowest": keep_lowest}
        return method, fit(method, data, augment, TrainConfig(**loop | train), **options)

    return run
