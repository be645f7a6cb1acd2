"""A second image of the same lens, from the store to the methods."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from zwicky.augment.augment import Augment
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.data.store import StoreWriter, open_store
from zwicky.methods import MethodConfig
from zwicky.methods.base import Method, ViewsNeeded
from zwicky.simulate.api import simulate_population
from zwicky.training.config import TrainConfig
from zwicky.training.loader import BatchLoader, Source, partners_of
from zwicky.training.loop import fit
from zwicky.training.pretrain import pretrain

CPU = torch.device("cpu")
DISTILLED = {"prototypes": 16, "hidden": 16, "bottleneck": 8}
OPTIONS = {
    **dict.fromkeys(("dino", "ibot", "esvit"), DISTILLED),
    "simsiam": {"width": 16, "bottleneck": 8},
    "byol": {"width": 16, "hidden": 16},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """64 images of 32 lenses."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.yaml"
    path.write_text(yaml.safe_dump({"base": "lensiam-pairs", "size": 16, "supersampling": 1}))
    return simulate_population(str(path), 64)[0]


def test_partners_are_of_the_same_pair_and_used(pairs, make_blobs):
    rows = np.array([5, 0, 1, 8, 4, 63])
    partners = partners_of(pairs, rows)
    assert partners[rows].tolist() == [4, 1, 0, 8, 5, 63]  # 9 and 62 are not used
    assert partners_of(make_blobs(4)[0], np.arange(4)) is None
    unknown = pa.array(["a", None, "a", None, "a"])
    table = pairs.table.slice(0, 5).drop_columns("pair_id").append_column("pair_id", unknown)
    three = replace(pairs, images=pairs.images[:5], table=table)
    assert sorted(partners_of(three, np.arange(5)).tolist()) == [0, 1, 2, 3, 4]
    assert partners_of(three, np.arange(5))[[1, 3]].tolist() == [1, 3]  # nothing is known of them: no pair


@pytest.mark.parametrize("memory", [None, 0.0])
def test_a_feed_gives_partners_resident_or_streamed(pairs, tmp_path, memory):
    with StoreWriter(tmp_path / "store", pairs.bands, pairs.size, "float32", pairs.truth) as writer:
        writer.append(pairs.images, pairs.table)
    cutouts = open_store(tmp_path / "store", memory)
    rows = np.arange(2, 50)
    feed = BatchLoader(Source(cutouts.images, rows, partners=partners_of(cutouts, rows)), 8, 0, CPU)
    for step, part in [(0, slice(0, 8)), (1, slice(0, 8)), (7, slice(4, 8))]:
        found, pixels, _ = feed(step, part)
        half = len(found) // 2
        assert torch.equal(found[:half], feed.batches(step)[part])
        assert torch.equal(found[half:], found[:half] ^ 1)  # 2k and 2k + 1
        assert np.array_equal(pixels.numpy(), pairs.images[found])


class Watching(Method):
    """Keeps what it is shown."""

    needs = ViewsNeeded(global_crops=2, local_crops=True)

    def __init__(self, backbone):
        super().__init__()
        self.network, self.shown = backbone, []
        backbone.set_trainable()

    @property
    def backbone(self):
        return self.network

    def forward(self, views):
        self.shown.append(views)
        return {"loss": self.network(views.interleave_partner().crops[1]).pooled.square().mean()}


def test_crops_alternate_between_the_two_images(pairs, small_backbone, tmp_path):
    views = ViewsConfig(crop=16, local_crops=2, local_size=8, noise=0.0)
    augment = Augment(
        views, Normalisation.fit(pairs.images, pairs.bands, NormalisationConfig()), pairs.size, pairs.bands, 2, True
    )
    rows = np.arange(64)
    source = Source(pairs.images, rows, partners=partners_of(pairs, rows))
    method = Watching(small_backbone(image_size=16))
    config = TrainConfig(batch_size=8, max_steps=2, precision="float32")
    fit(method, source, augment, config, seed=3, folder=tmp_path, title="t", quiet=True)
    assert len(method.shown) == 2
    for step, seen in enumerate(method.shown):
        assert torch.equal(seen.partner.rows, seen.rows ^ 1)
        own, other = (
            augment(torch.from_numpy(pairs.images[some]), some, seed=3, step=step)
            for some in (seen.rows, seen.rows ^ 1)
        )
        mixed = seen.interleave_partner()
        for place in range(4):
            expected = (own, other)[place % 2]
            assert torch.equal(mixed.crops[place], expected.crops[place])
            assert torch.equal(mixed.valid[place], expected.valid[place])
            assert torch.equal(mixed.to_source[place], expected.to_source[place])
            assert not torch.equal(own.crops[place], other.crops[place])
        assert (mixed.partner, mixed.global_count) == (None, 2)
        assert own.interleave_partner() is own


@pytest.mark.parametrize("name", ["dino", "ibot", "esvit", "simsiam", "byol", "lejepa", "simmim"])
def test_methods_learn_from_pairs(pairs, name, pretrain_config, tmp_path, monkeypatch):
    """The loss is that of the mixed crops; masked pictures alone know no second image."""
    losses = {}
    for paired in (True, False):
        if not paired:
            monkeypatch.setattr("zwicky.training.pretrain.partners_of", lambda *_: None)
        config = replace(pretrain_config(steps=2), method=MethodConfig(name, OPTIONS.get(name, {})))
        pretrain(config, pairs, np.arange(64), tmp_path / str(paired), quiet=True)
        lines = (tmp_path / str(paired) / "metrics.csv").read_text().splitlines()
        losses[paired] = lines[1].split(",")[lines[0].split(",").index("loss")]
    assert (losses[True] == losses[False]) == (name == "simmim")
