"""Streamed or resident: the same rows, pixels and numbers; the order of a large set, and what it costs to hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zwicky.data import store as store_module
from zwicky.data import stored_images
from zwicky.data.parts import Parts
from zwicky.data.store import StoreWriter, open_store
from zwicky.data.stored_images import StoredImages
from zwicky.evaluation.evaluate import evaluate
from zwicky.evaluation.results import read_table
from zwicky.rng import torch_rng
from zwicky.training import batches as batches_module
from zwicky.training import loader as source_module
from zwicky.training import state
from zwicky.training.batches import Batches
from zwicky.training.finetune import finetune
from zwicky.training.loader import BatchLoader, Source
from zwicky.training.pretrain import pretrain

CPU = torch.device("cpu")


@pytest.fixture
def small_pieces(monkeypatch):
    """small_pieces(bytes an image, rows a group, rows mixed): row groups and the mixing of so many images."""

    def make(image_bytes, group=5, mixed=15):
        monkeypatch.setattr(store_module, "ROW_GROUP_BYTES", group * image_bytes)
        monkeypatch.setattr(batches_module, "MIXED_BYTES", mixed * image_bytes)

    return make


@pytest.fixture
def stored(tmp_path):
    """stored(cutouts, name) → path of a store of them."""

    def make(cutouts, name="store"):
        with StoreWriter(tmp_path / name, cutouts.bands, cutouts.size, cutouts.images.dtype) as writer:
            writer.append(cutouts.images, cutouts.table)
        return tmp_path / name

    return make


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("mixed", [15, 1000])
def test_a_feed_gives_the_same_however_the_pixels_come(make_blobs, small_pieces, stored, dtype, mixed):
    cutouts, _ = make_blobs(60)
    object.__setattr__(cutouts, "images", (cutouts.images * 100 + 1000).clip(0, 255 if dtype == "uint8" else 40_000))
    object.__setattr__(cutouts, "images", cutouts.images.astype(dtype))
    small_pieces(cutouts.images[0].nbytes, mixed=mixed)
    path = stored(cutouts)
    rows = np.random.default_rng(0).permutation(60)[:47]
    targets = torch.arange(60)
    few, all_but_few = 47 * cutouts.images[0].nbytes / 1e9, 46 * cutouts.images[0].nbytes / 1e9
    whole, chosen, streamed = (
        BatchLoader(Source(open_store(path, memory).images, rows, targets), 8, seed=3, device=CPU)
        for memory in (None, few, all_but_few)
    )
    assert (whole._place is None, chosen._place is None) == (True, False)
    assert (whole._stored, chosen._stored) == (None, None)
    assert isinstance(streamed._stored, StoredImages)
    steps = [*range(12), 3, 4, 11, 9]  # on over the end of epochs, and to and fro as when a fit goes on
    for step in steps:
        for part in (slice(0, 8), slice(0, 4), slice(4, 8)):
            expected = whole(step, part)
            assert torch.equal(expected[0], whole.batches(step)[part])
            assert np.array_equal(expected[1].numpy(), cutouts.images[expected[0]])
            for feed in (chosen, streamed):
                assert all(torch.equal(a, b) for a, b in zip(expected, feed(step, part), strict=True))


def test_a_stream_is_one_pass_an_epoch_and_starts_in_the_middle(make_blobs, small_pieces, stored, monkeypatch):
    cutouts, _ = make_blobs(60)
    small_pieces(cutouts.images[0].nbytes)
    calls, passage = [], source_module.in_batches
    monkeypatch.setattr(source_module, "in_batches", lambda *given: calls.append(given[2]) or passage(*given))
    feed = BatchLoader(Source(open_store(stored(cutouts), 0.0).images, np.arange(60)), 10, seed=0, device=CPU)
    for step in range(9, 18):  # from the middle of the second epoch to the end of the third
        feed(step, slice(0, 10))
    assert [len(order) for order in calls] == [30, 60]
    assert calls[0].tolist() == torch.cat([feed.batches(step) for step in range(9, 12)]).tolist()


@pytest.mark.parametrize(("images", "group", "reach"), [(500, 7, 60), (1000, 50, 120), (301, 1, 40), (90, 200, 30)])
def test_a_large_set_is_mixed_group_by_group(small_pieces, images, group, reach):
    small_pieces(4, group, 0)
    rows = torch.arange(10, 10 + images)
    sequence = Batches(rows, 1, seed=2, image_bytes=4).epoch(3).flatten()  # nothing moves: groups in a random order
    small_pieces(4, group, reach)
    batches = Batches(rows, 1, seed=2, image_bytes=4)
    order = batches.epoch(3).flatten()
    for found in (sequence, order):
        assert sorted(found.tolist()) == rows.tolist()
    # In the sequence each group stands together, its rows in their order.
    blocks = np.split(sequence.numpy(), np.flatnonzero(np.diff(sequence.numpy() // group)) + 1)
    assert len(blocks) == len({row // group for row in rows.tolist()})
    assert all((np.diff(block) == 1).all() for block in blocks)
    # No image moves by more than the reach, and they move: for the greater part of the set, by half of it on average.
    moved = np.argsort(order.numpy()) - np.argsort(sequence.numpy())
    assert np.abs(moved).max() <= reach
    assert np.abs(moved).mean() > reach / 8
    # So the groups begun and not finished are few at any time.
    where = {number: np.flatnonzero(order.numpy() // group == number) for number in set((order // group).tolist())}
    begun = np.zeros(images, int)
    for places in where.values():
        begun[places.min() : places.max() + 1] += 1
    assert begun.max() <= 2 * reach // group + 3
    # A function of seed and epoch, in whatever order they are asked for.
    assert torch.equal(batches.epoch(0), Batches(rows, 1, seed=2, image_bytes=4).epoch(0))
    assert torch.equal(batches.epoch(3).flatten(), order)
    assert not torch.equal(batches.epoch(0), batches.epoch(3))
    assert not torch.equal(Batches(rows, 1, seed=1, image_bytes=4).epoch(3).flatten(), order)


def test_a_set_that_is_mixed_as_a_whole_is_a_permutation(small_pieces):
    small_pieces(4, 5, 100)
    rows = torch.arange(100)
    whole = Batches(rows, 100, seed=7, image_bytes=4).epoch(2).flatten()
    expected = torch.randperm(100, generator=torch_rng(7, 2))
    assert torch.equal(whole, expected)


@pytest.fixture
def in_store(make_blobs, small_pieces, stored):
    """(path of a store of 120 blobs in groups of 5, mixed within 40; labels)."""
    cutouts, labels = make_blobs(120)
    small_pieces(cutouts.images[0].nbytes, 5, 40)
    return stored(cutouts), labels


def test_a_store_larger_than_memory_gives_the_same_runs(in_store, data, pretrain_config, finetune_config, tmp_path):
    """Pretrained on, fine-tuned on and tested: every number of the runs, bit for bit."""
    path, labels = in_store
    split = data[2]
    for name, memory in (("held", None), ("stored", 0.0)):
        cutouts = open_store(path, memory)
        assert isinstance(cutouts.images, np.ndarray) == (memory is None)
        rows = cutouts.rows_of(split.ids("train"))
        config = pretrain_config(steps=12)
        pretrain(config, cutouts, rows, tmp_path / name, labels=labels.of(split.ids("train")), quiet=True)
        evaluate(tmp_path / name, cutouts, labels, split, replicates=20)
        start = tmp_path / "held"  # the path is one of the settings
        finetune(finetune_config(labels=50), start, cutouts, labels, split, tmp_path / f"{name}-50", quiet=True)
        evaluate(tmp_path / f"{name}-50", cutouts, labels, split, replicates=20)
    for run in ("", "-50"):
        first, second = tmp_path / f"held{run}", tmp_path / f"stored{run}"
        for file in ("network.safetensors", "network.json", "seen.parquet", "config.yaml"):
            assert (first / file).read_bytes() == (second / file).read_bytes(), file
        for table in ("metrics.csv", "results.csv"):
            assert read_table(first / table).equals(read_table(second / table)), table


@pytest.mark.parametrize("method", ["beit", "mae"])
def test_methods_that_look_first_do_so_from_a_store(in_store, data, pretrain_config, tmp_path, method):
    path, _ = in_store
    config = pretrain_config(steps=4)
    config.method.name, config.method.options = method, {"tokens": 8, "components": 4} if method == "beit" else {}
    for name, memory in (("held", None), ("stored", 0.0)):
        cutouts = open_store(path, memory)
        pretrain(config, cutouts, cutouts.rows_of(data[2].ids("train")), tmp_path / name, quiet=True)
    first, second = (tmp_path / name / "network.safetensors" for name in ("held", "stored"))
    assert first.read_bytes() == second.read_bytes()


def test_a_streamed_run_that_was_stopped_ends_as_if_not(in_store, data, pretrain_config, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    cutouts = open_store(in_store[0], 0.0)
    rows, config = cutouts.rows_of(data[2].ids("train")), pretrain_config(steps=14)  # five steps make an epoch
    pretrain(config, cutouts, rows, tmp_path / "whole", quiet=True)
    feed, loads = BatchLoader.__call__, []
    load = Parts.read
    for stop in (3, 8, None):

        def stopping(self, step, part, stop=stop):
            if step == stop:
                raise KeyboardInterrupt
            return feed(self, step, part)

        monkeypatch.setattr(BatchLoader, "__call__", stopping)
        monkeypatch.setattr(Parts, "read", lambda *given: loads.append(given[1]) or load(*given))
        loads.clear()
        if stop is None:
            pretrain(config, cutouts, rows, tmp_path / "parts", quiet=True)
        else:
            with pytest.raises(KeyboardInterrupt):
                pretrain(config, cutouts, rows, tmp_path / "parts", quiet=True)
    first, second = (tmp_path / name / "network.safetensors" for name in ("whole", "parts"))
    assert first.read_bytes() == second.read_bytes()
    assert read_table(tmp_path / "whole" / "metrics.csv").equals(read_table(tmp_path / "parts" / "metrics.csv"))
    # It went on at step 8 of 14, in the middle of an epoch, and did not read the groups of the first eight again.
    batches = Batches(torch.from_numpy(rows), 16, config.seed, cutouts.images.nbytes // 120)
    rest = [torch.cat([batches(step) for step in some]) // 5 for some in (range(8, 10), range(10, 14))]
    needed = [len(set(groups.tolist())) for groups in rest]
    looked_at = len(set((rows // 5).tolist()))  # by the statistics and by the gauges, once each
    assert needed[0] < looked_at
    assert 0 <= len(loads) - 2 * looked_at - sum(needed) <= stored_images.AHEAD
