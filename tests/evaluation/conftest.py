"""A small store, and a benchmark of it that takes seconds."""

import numpy as np
import pytest

from zwicky.augment.config import ViewsConfig
from zwicky.backbones import BackboneConfig
from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels
from zwicky.data.store import write_store
from zwicky.evaluation.config import BenchmarkConfig, DesignConfig, SelfSupervision
from zwicky.methods import MethodConfig
from zwicky.training.config import FitConfig, TrainConfig

from ..conftest import DISTILLED, SMALL_VIT, galaxies

TRAIN = {"max_steps": 3, "batch_size": 16, "precision": "float32", "evaluations": 2, "checkpoint_seconds": 0.0}


def make_blobs(count=80, unlabelled=10, seed=0):
    """Narrow galaxies (lens) and broad ones, with the width as a column; two are duplicates, the last unlabelled."""
    rng, images = np.random.default_rng(seed), galaxies(count + unlabelled, seed=seed)
    lens = np.arange(len(images)) % 2 == 1
    images[2] = images[0]
    ids = [f"o{row:03d}" for row in range(len(lens))]
    objects = [f"lens{row // 2}" for row in range(len(lens))]
    columns = {"object": objects, "width": np.where(lens, 2.0, 4.0), "pixel_scale": [0.2] * len(ids)}
    columns |= {"e1": rng.normal(size=len(ids)), "e2": rng.normal(size=len(ids))}
    cutouts = make_cutouts(images, ("g", "r"), ids, **columns)
    labels = Labels({i: "lens" if one else "nonlens" for i, one in zip(ids[:count], lens, strict=False)}, "made")
    return cutouts, labels


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    (cutouts, labels), path = make_blobs(), tmp_path_factory.mktemp("data") / "store"
    write_store(cutouts.images, cutouts.table, path, bands=cutouts.bands, labels=labels)
    return path


def small_config(**changes):
    train = TrainConfig(**TRAIN, weight_ema=0.5)
    views, pretrain = ViewsConfig(local_crops=1, local_size=8), TrainConfig(**TRAIN)
    dino = SelfSupervision(MethodConfig("dino", dict(DISTILLED)), views, pretrain)
    settings = {
        "design": DesignConfig(fractions=(0.7, 0.0, 0.3)),
        "labels": [20, 40],
        "draws": 2,
        "backbones": {"vit": small_vit()},
        "methods": {"dino": dino},
        "finetune": FitConfig(train=train, head="probe"),
        "scratch": FitConfig(train=train),
        "replicates": 50,
        "baselines": ["pca_linear"],
    }
    return BenchmarkConfig(**settings | changes)


def small_vit(width=32):
    return BackboneConfig("vit_tiny", SMALL_VIT | {"width": width, "depth": 1, "drop_path": 0.1})
