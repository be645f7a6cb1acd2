"""How batches are made: a full shuffle of each epoch, the same from arrays and stores, sliced by process, in pairs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Augment, ViewsNeeded
from zwicky.data import store as store_module
from zwicky.data.store import open_store, write_store
from zwicky.methods import MethodConfig
from zwicky.rng import torch_rng
from zwicky.simulate.simulation import simulate_population
from zwicky.training.loader import BatchLoader, TrainingSet, find_partners
from zwicky.training.pretrain import pretrain

from ..conftest import SMALL_METHODS

CPU = torch.device("cpu")


def given(images, rows, **options):
    """In place of views: what the augmentation is given."""
    return SimpleNamespace(images=images, rows=rows, **options)


def loader(images, rows, augment=given, **more):
    return BatchLoader(TrainingSet(images, rows, **more), augment, 8, 3, CPU, 0, 1)


def test_every_epoch_is_a_full_shuffle_without_the_incomplete_batch():
    rows = np.arange(10, 57)
    batches = loader(np.zeros((60, 1, 2, 2), np.float32), rows)
    assert (batches.batch_size, batches.steps_per_epoch) == (8, 5)
    for epoch in (0, 3, 1):  # in any order
        order = torch.cat([batches.rows(step) for step in range(5 * epoch, 5 * epoch + 5)])
        assert torch.equal(order, torch.from_numpy(rows)[torch.randperm(47, generator=torch_rng(3, epoch))][:40])
    small = loader(np.zeros((60, 1, 2, 2), np.float32), rows[:5])
    assert (small.batch_size, small.steps_per_epoch) == (5, 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
def test_a_step_has_the_pixels_and_targets_of_its_rows(make_blobs, tmp_path, monkeypatch, dtype):
    """From a store of shards of seven images."""
    cutouts, _ = make_blobs(60)
    cutouts = replace(cutouts, images=(cutouts.images * 5 + 50).clip(0, 255).astype(dtype))
    rows = np.random.default_rng(0).permutation(60)[:47]
    monkeypatch.setattr(store_module, "SHARD_BYTES", 7 * cutouts.images[0].nbytes)
    write_store(cutouts.images, cutouts.table, tmp_path / "store", bands=cutouts.bands)
    batches = loader(open_store(tmp_path / "store").images, rows, targets=torch.arange(60) * 2)
    for step in [0, 4, 5, 11, 3]:  # on over the end of an epoch, and back as when a fit resumes
        views = batches.views(step)
        assert torch.equal(views.rows, loader(cutouts.images, rows).rows(step))
        assert torch.equal(views.targets, 2 * views.rows)
        assert np.array_equal(views.images.numpy(), cutouts.images[views.rows])
        assert (views.seed, views.step, views.global_batch) == (3, step, 8)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """64 images of 32 lenses."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.yaml"
    path.write_text(yaml.safe_dump({"base": "lensiam-pairs", "size": 16, "supersampling": 1}))
    return simulate_population(str(path), 64)[0]


def test_partners_are_images_of_the_same_lens(pairs, make_blobs):
    rows = np.array([5, 0, 1, 8, 4, 63])
    assert find_partners(pairs, rows)[rows].tolist() == [4, 1, 0, 8, 5, 63]  # 9 and 62 are not used
    assert find_partners(make_blobs(4)[0], np.arange(4)) is None
    five = pairs.take(range(5))
    five = replace(five, table=five.table.assign(pair_id=["a", None, "a", None, "a"]))
    partners = find_partners(five, np.arange(5))
    assert sorted(partners.tolist()) == [0, 1, 2, 3, 4]
    assert partners[[1, 3]].tolist() == [1, 3]  # unknown pairs are no pair


def test_crops_alternate_between_the_two_images(pairs):
    holed = np.array(pairs.images)
    holed[::2, :, 6:10, 6:10] = np.nan
    pairs = replace(pairs, images=holed)
    views, needs = ViewsConfig(crop=16, local_crops=2, local_size=8, noise=0.0), ViewsNeeded(2, True)
    augment = Augment(views, Normalisation.fit(pairs.images, pairs.bands), pairs.size, pairs.bands, needs)
    batches = loader(pairs.images, np.arange(64), augment=augment, partners=find_partners(pairs, np.arange(64)))
    for step in range(2):
        rows, mixed = batches.rows(step), batches.views(step)
        images = [augment(torch.from_numpy(pairs.images[k]), k, seed=3, step=step) for k in (rows, rows ^ 1)]
        for index in range(4):
            for name in ("crops", "valid", "to_source"):
                expected = getattr(images[index % 2], name)[index]
                assert torch.equal(getattr(mixed, name)[index], expected)
            for name in ("crops", "valid"):
                assert not torch.equal(getattr(images[0], name)[index], getattr(images[1], name)[index])
        assert mixed.global_count == 2


@pytest.mark.parametrize("name", ["dino", "ibot", "esvit", "simsiam", "byol", "lejepa", "simmim"])
def test_methods_learn_from_pairs(pairs, name, pretrain_config, tmp_path):
    """The loss is that of the mixed crops; masked image modelling uses no second image."""
    losses, config = [], replace(pretrain_config(steps=2), method=MethodConfig(name, SMALL_METHODS.get(name, {})))
    for cutouts in (pairs, replace(pairs, table=pairs.table.drop(columns="pair_id"))):
        pretrain(config, cutouts, np.arange(64), tmp_path / str(len(losses)), quiet=True)
        losses.append(pd.read_csv(tmp_path / str(len(losses)) / "metrics.csv")["loss"][0])
    assert (losses[0] == losses[1]) == (name == "simmim")
