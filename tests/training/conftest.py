"""Tiny cutouts with something to learn in them, and settings that train in a second."""

import numpy as np
import pytest
import torch

from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Augment
from zwicky.backbones import BackboneConfig
from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import holdout_split
from zwicky.data.store import write_store
from zwicky.methods import MethodConfig
from zwicky.training.config import FinetuneConfig, FitConfig, PretrainConfig, TrainConfig
from zwicky.training.loader import TrainingSet
from zwicky.training.loop import fit

from ..conftest import DISTILLED, SMALL_VIT

STILL = ViewsConfig(rotation="none", flip=False, shift=0.0, global_scale=(1.0, 1.0), brightness=0.0, contrast=0.0,
                    blur=0.0, noise=0.0, local_crops=0)  # fmt: skip
LOOP = {"batch_size": 16, "precision": "float32", "evaluations": 3, "lr": 1e-2}


def blobs(count, seed=0, bands=2, size=16):
    """Gaussian blobs (negatives) and the same elongated (lenses), with offsets, fluxes and shapes as columns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2.0
    lens = np.arange(count) % 2 == 1
    dx, dy = rng.uniform(-3, 3, (2, count))
    angle, flux = rng.uniform(0, np.pi, count), rng.uniform(1, 3, count)
    ratio = np.where(lens, 0.4, 1.0)
    turn, flux_, ratio_ = (np.exp(1j * angle)[:, None, None], flux[:, None, None], ratio[:, None, None])
    z = ((x - dx[:, None, None]) + 1j * (y - dy[:, None, None])) / turn  # along and across the blob
    images = 10 * flux_ * np.exp(-(z.real**2 + (z.imag / ratio_) ** 2) / 12)
    images = images[:, None] + rng.normal(0, 0.3, (count, bands, size, size))
    shape, ids = (1 - ratio) / (1 + ratio), [f"s{seed}-{row:04d}" for row in range(count)]
    columns = {"flux": flux, "dx": dx, "dy": dy, "e1": shape * np.cos(2 * angle), "e2": shape * np.sin(2 * angle)}
    bands, columns["pixel_scale"] = [f"b{band}" for band in range(bands)], [0.2] * count
    cutouts = make_cutouts(images.astype(np.float32), bands, ids=ids, **columns)
    return cutouts, Labels({i: "lens" if a else "nonlens" for i, a in zip(ids, lens, strict=True)}, "made")


@pytest.fixture(scope="session")
def make_blobs():
    return blobs


@pytest.fixture(scope="session")
def store_of_blobs(tmp_path_factory):
    """A function that writes blobs into a store and returns its path."""

    def make(count, **options):
        (cutouts, labels), path = blobs(count, **options), tmp_path_factory.mktemp("data") / "store"
        write_store(cutouts.images, cutouts.table, path, bands=cutouts.bands, labels=labels)
        return path

    return make


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
            backbone=BackboneConfig("vit_tiny", SMALL_VIT | {"drop_path": drop_path}),
            views=ViewsConfig(local_crops=2, local_size=8),
            train=TrainConfig(**LOOP | {"max_steps": steps} | train),
        )

    return make


@pytest.fixture(scope="session")
def finetune_config():
    def make(steps=8, targets=(), labels=40, **train):
        loop = LOOP | {"epochs": 1, "min_steps": steps, "max_steps": steps, "evaluations": 4}
        loop |= {"weight_ema": 0.9, "layer_decay": 0.8}
        return FinetuneConfig(fit=FitConfig(train=TrainConfig(**loop | train)), labels=labels, targets=list(targets))

    return make


@pytest.fixture
def trial(small_backbone, small_method, tmp_path):
    """trial(folder, method name, …) → (method, FitResult) of a small fit."""
    cutouts, _ = blobs(50)
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands)

    def run(folder, name="dino", rows=50, after_step=None, evaluate=None, keep_lowest=None, noise=0.3, **train):
        torch.manual_seed(3)
        backbone = small_backbone(bands=2, image_size=16, drop_path=0.3 if noise else 0.0)
        method = small_method(name, backbone, **({"classes": 2} if name == "supervised" else {}))
        if after_step is not None:
            method.after_step = lambda progress: (after_step(method), type(method).after_step(method, progress))
        views = ViewsConfig(local_crops=2, local_size=8, noise=noise)
        augment = Augment(views, normalisation, cutouts.size, cutouts.bands, method.needs)
        data = TrainingSet(cutouts.images, np.arange(rows), torch.arange(50) % 2 if method.needs.targets else None)
        options = {"seed": 5, "folder": tmp_path / folder, "title": "trial", "quiet": True}
        options |= {"evaluate": evaluate, "keep_lowest": keep_lowest}
        return method, fit(method, data, augment, TrainConfig(**LOOP | {"max_steps": 9} | train), **options)

    return run
