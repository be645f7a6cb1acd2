"""A small store, and a benchmark of it that takes seconds."""

import numpy as np
import pytest

from zwicky.augment.config import ViewsConfig
from zwicky.backbones import BackboneConfig
from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels, write_labels
from zwicky.data.store import StoreWriter
from zwicky.evaluation.config import BenchmarkConfig, DesignConfig, SelfSupervision
from zwicky.methods import MethodConfig
from zwicky.training.config import FitConfig, TrainConfig

TRAIN = {"max_steps": 3, "batch_size": 16, "precision": "float32", "evaluations": 2, "checkpoint_seconds": 0.0}


def make_blobs(count=80, unlabelled=10, seed=0):
    """Narrow blobs (lens) and broad ones, with their width as a column; two are duplicates, the last few unlabelled."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16] - 7.5
    lens = np.arange(count + unlabelled) % 2 == 1
    width = np.where(lens, 1.2, 2.0) * rng.uniform(0.8, 1.2, len(lens))
    images = 10 * np.exp(-(x**2 + y**2) / (2 * width[:, None, None] ** 2))[:, None]
    images = (images + rng.normal(0, 0.5, (len(lens), 2, 16, 16))).astype(np.float32)
    images[2] = images[0]
    ids = [f"o{row:03d}" for row in range(len(lens))]
    objects = [f"lens{row // 2}" for row in range(len(lens))]
    columns = {"object": objects, "width": width, "e1": rng.normal(size=len(ids)), "e2": rng.normal(size=len(ids))}
    cutouts = make_cutouts(images, ("g", "r"), ids, pixel_scale=[0.2] * len(ids), **columns)
    labels = Labels({i: "lens" if one else "nonlens" for i, one in zip(ids[:count], lens, strict=False)}, "made")
    return cutouts, labels


def write_blobs(path, **options):
    cutouts, labels = make_blobs(**options)
    with StoreWriter(path, cutouts.bands, cutouts.size, "float32") as writer:
        writer.append(cutouts.images, cutouts.table)
    write_labels(path, labels)
    return path


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return write_blobs(tmp_path_factory.mktemp("data") / "store")


def small_config(**changes):
    train = TrainConfig(**TRAIN, weight_ema=0.5)
    options = {"prototypes": 16, "hidden": 16, "bottleneck": 8}
    pretrain = TrainConfig(**TRAIN)
    dino = SelfSupervision(MethodConfig("dino", options), ViewsConfig(local_crops=1, local_size=8), pretrain)
    settings = {
        "design": DesignConfig(fractions=(0.7, 0.0, 0.3)),
        "labels": [20, 40],
        "draws": 2,
        "backbones": {"vit": small_vit()},
        "methods": {"dino": dino},
        "finetune": FitConfig(train=train, head="probe"),
        "scratch": FitConfig(train=train),
        "replicates": 50,
    }
    return BenchmarkConfig(**settings | changes)


def small_vit(width=32):
    return BackboneConfig("vit_tiny", {"patch_size": 8, "width": width, "depth": 1, "heads": 2, "drop_path": 0.1})
