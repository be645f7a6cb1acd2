"""How batches are made: a full shuffle of each epoch, the same from arrays and stores, sliced by process, in pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import yaml

from zwicky.augment.augment import Augment
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.data import store as store_module
from zwicky.data.store import open_store, write_store
from zwicky.evaluation.evaluate import evaluate
from zwicky.methods import MethodConfig
from zwicky.methods.base import Method, ViewsNeeded
from zwicky.rng import torch_rng
from zwicky.simulate.simulation import simulate_population
from zwicky.training.config import TrainConfig
from zwicky.training.finetune import finetune
from zwicky.training.loader import BatchLoader, TrainingSet, find_partners
from zwicky.training.loop import fit
from zwicky.training.pretrain import pretrain

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shown:
    """In place of views: what the augmentation is given."""

    images: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor | None = None
    seed: int = 0
    step: int = 0
    part: slice | None = None
    global_batch: int = 0
    partner: Shown | None = None


def loader(images, rows, batch_size=8, seed=3, device=CPU, rank=0, world_size=1, **more):
    return BatchLoader(TrainingSet(images, rows, **more), Shown, batch_size, seed, device, rank, world_size)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """stored(cutouts) → the same cutouts, opened from a store of shards of seven images."""

    def make(cutouts):
        monkeypatch.setattr(store_module, "SHARD_BYTES", 7 * cutouts.images[0].nbytes)
        write_store(cutouts.images, cutouts.table, tmp_path / "store", bands=cutouts.bands, truth=cutouts.truth)
        return open_store(tmp_path / "store")

    return make


def test_every_epoch_is_a_full_shuffle_without_the_incomplete_batch():
    rows = np.arange(10, 57)
    batches = loader(np.zeros((60, 1, 2, 2), np.float32), rows)
    assert (batches.batch_size, batches.steps_per_epoch) == (8, 5)
    for epoch in (0, 3, 1):  # in whatever order they are asked for
        order = torch.cat([batches.rows(step) for step in range(5 * epoch, 5 * epoch + 5)])
        shuffle = torch.randperm(47, generator=torch_rng(3, epoch))
        assert torch.equal(order, torch.from_numpy(rows)[shuffle][:40])
    small = loader(np.zeros((60, 1, 2, 2), np.float32), rows[:5])
    assert (small.batch_size, small.steps_per_epoch) == (5, 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
def test_a_step_has_the_pixels_and_targets_of_its_rows(make_blobs, stored, dtype):
    cutouts, _ = make_blobs(60)
    cutouts = replace(cutouts, images=(cutouts.images * 5 + 50).clip(0, 255).astype(dtype))
    rows = np.random.default_rng(0).permutation(60)[:47]
    targets = torch.arange(60) * 2
    held, mapped = (loader(images, rows, targets=targets) for images in (cutouts.images, stored(cutouts).images))
    for step in [0, 4, 5, 11, 3]:  # on over the end of an epoch, and back as when a fit resumes
        expected, views = held.views(step), mapped.views(step)
        assert torch.equal(views.rows, held.rows(step))
        assert torch.equal(views.targets, 2 * views.rows)
        assert np.array_equal(views.images.numpy(), cutouts.images[views.rows])
        assert torch.equal(expected.images.float(), views.images.float())
        assert (views.seed, views.step, views.global_batch) == (3, step, 8)


def test_processes_share_the_global_batch():
    images = np.arange(60, dtype=np.float32).reshape(60, 1, 1, 1)
    whole = loader(images, np.arange(60))
    ranks = [loader(images, np.arange(60), rank=rank, world_size=4) for rank in range(4)]
    for step in (0, 9):
        views = [batches.views(step) for batches in ranks]
        assert [view.part for view in views] == [slice(2 * rank, 2 * rank + 2) for rank in range(4)]
        assert torch.equal(torch.cat([view.rows for view in views]), whole.rows(step))
        assert torch.equal(torch.cat([view.images for view in views]), whole.views(step).images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("free", [10**9, 0])
def test_on_a_gpu_pixels_are_resident_where_they_fit(monkeypatch, dtype, free):
    images = np.random.default_rng(0).integers(0, 99, (60, 2, 4, 4)).astype(dtype)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    rows = np.arange(5, 50)
    batches = loader(images, rows, device=torch.device("cuda"), targets=torch.arange(60))
    assert (batches._resident is None) == (free == 0)
    views = batches.views(7)
    assert views.images.device.type == views.targets.device.type == "cuda"
    assert np.array_equal(views.images.cpu().numpy(), images[batches.rows(7)])


def test_runs_on_a_store_equal_those_in_memory(data, stored, pretrain_config, finetune_config, tmp_path):
    """Pretrained, fine-tuned and tested: every number of the runs, bit for bit."""
    cutouts, labels, split = data
    for name, opened in (("held", cutouts), ("stored", stored(cutouts))):
        rows = opened.rows_of(split.ids("train"))
        pretrain(pretrain_config(), opened, rows, tmp_path / name, labels=labels.of(split.ids("train")), quiet=True)
        start = tmp_path / "held"  # the path is one of the settings
        finetune(finetune_config(labels=50), start, opened, labels, split, tmp_path / f"{name}-50", quiet=True)
        evaluate(tmp_path / f"{name}-50", opened, labels, split, replicates=20)
    for run, files in (("", ["metrics.csv", "network.safetensors"]), ("-50", ["network.safetensors", "results.csv"])):
        for file in files:
            first, second = (tmp_path / f"{name}{run}" / file for name in ("held", "stored"))
            assert first.read_bytes() == second.read_bytes(), file


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """64 images of 32 lenses."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.yaml"
    path.write_text(yaml.safe_dump({"base": "lensiam-pairs", "size": 16, "supersampling": 1}))
    return simulate_population(str(path), 64)[0]


def test_partners_share_the_pair_and_are_used(pairs, make_blobs):
    rows = np.array([5, 0, 1, 8, 4, 63])
    partners = find_partners(pairs, rows)
    assert partners[rows].tolist() == [4, 1, 0, 8, 5, 63]  # 9 and 62 are not used
    assert find_partners(make_blobs(4)[0], np.arange(4)) is None
    five = pairs.take(range(5))
    five = replace(five, table=five.table.assign(pair_id=["a", None, "a", None, "a"]))
    partners = find_partners(five, np.arange(5))
    assert sorted(partners.tolist()) == [0, 1, 2, 3, 4]
    assert partners[[1, 3]].tolist() == [1, 3]  # unknown pairs are no pair


def test_partners_come_with_each_step(pairs, stored):
    cutouts, rows = stored(pairs), np.arange(2, 50)
    batches = loader(cutouts.images, rows, partners=find_partners(cutouts, rows), rank=1, world_size=2)
    for step in (0, 1, 7):
        views = batches.views(step)
        assert torch.equal(views.partner.rows, views.rows ^ 1)  # 2k and 2k + 1
        assert np.array_equal(views.partner.images.numpy(), pairs.images[views.partner.rows])
        assert (views.partner.step, views.partner.part) == (step, slice(4, 8))


class Recorder(Method):
    """Keeps the views it is given."""

    needs = ViewsNeeded(global_crops=2, local_crops=True)

    def __init__(self, backbone):
        super().__init__()
        self.network, self.views = backbone, []
        backbone.set_trainable()

    @property
    def backbone(self):
        return self.network

    def forward(self, views):
        self.views.append(views)
        return {"loss": self.network(views.interleave_partner().crops[1]).pooled.square().mean()}


def test_crops_alternate_between_the_two_images(pairs, small_backbone, tmp_path):
    views = ViewsConfig(crop=16, local_crops=2, local_size=8, noise=0.0)
    normalisation = Normalisation.fit(pairs.images, pairs.bands, NormalisationConfig())
    augment = Augment(views, normalisation, pairs.size, pairs.bands, 2, True)
    data = TrainingSet(pairs.images, np.arange(64), partners=find_partners(pairs, np.arange(64)))
    method = Recorder(small_backbone(image_size=16))
    config = TrainConfig(batch_size=8, max_steps=2, precision="float32")
    fit(method, data, augment, config, seed=3, folder=tmp_path, title="t", quiet=True)
    assert len(method.views) == 2
    for step, given in enumerate(method.views):
        own, partner = (
            augment(torch.from_numpy(pairs.images[rows]), rows, seed=3, step=step)
            for rows in (given.rows, given.rows ^ 1)
        )
        mixed = given.interleave_partner()
        for index in range(4):
            expected = (own, partner)[index % 2]
            assert torch.equal(mixed.crops[index], expected.crops[index])
            assert torch.equal(mixed.valid[index], expected.valid[index])
            assert torch.equal(mixed.to_source[index], expected.to_source[index])
            assert not torch.equal(own.crops[index], partner.crops[index])
        assert (mixed.partner, mixed.global_count) == (None, 2)
        assert own.interleave_partner() is own


DISTILLED = {"prototypes": 16, "hidden": 16, "bottleneck": 8}
OPTIONS = {
    **dict.fromkeys(("dino", "ibot", "esvit"), DISTILLED),
    "simsiam": {"width": 16, "bottleneck": 8},
    "byol": {"width": 16, "hidden": 16},
}


@pytest.mark.parametrize("name", ["dino", "ibot", "esvit", "simsiam", "byol", "lejepa", "simmim"])
def test_methods_learn_from_pairs(pairs, name, pretrain_config, tmp_path):
    """The loss is that of the mixed crops; masked image modelling uses no second image."""
    losses = {}
    unpaired = replace(pairs, table=pairs.table.drop(columns="pair_id"))
    for paired, cutouts in ((True, pairs), (False, unpaired)):
        config = replace(pretrain_config(steps=2), method=MethodConfig(name, OPTIONS.get(name, {})))
        pretrain(config, cutouts, np.arange(64), tmp_path / str(paired), quiet=True)
        lines = (tmp_path / str(paired) / "metrics.csv").read_text().splitlines()
        losses[paired] = lines[1].split(",")[lines[0].split(",").index("loss")]
    assert (losses[True] == losses[False]) == (name == "simmim")
