"""Testing one network: probes before fine-tuning, probabilities after, and what cannot be scored."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import r2_score, roc_auc_score
from torch import nn

from zwicky import backbones
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Target
from zwicky.data.contract import make_cutouts
from zwicky.data.splits import holdout_split
from zwicky.data.tables import Labels
from zwicky.errors import UserError
from zwicky.evaluation.evaluate import evaluate
from zwicky.evaluation.results import read_table
from zwicky.methods.supervised import TargetScaler
from zwicky.training.network import Network, load_network, save_network


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16] - 7.5
    lens = np.arange(100) % 2 == 1
    width = np.where(lens, 1.0, 2.5)[:, None, None]
    images = 10 * np.exp(-(x**2 + y**2) / (2 * width**2))[:, None] + rng.normal(0, 1.0, (100, 1, 16, 16))
    cutouts = make_cutouts(images.astype(np.float32), ("g",), flux=images.sum((1, 2, 3)), pixel_scale=[0.2] * 100)
    labels = Labels({i: "lens" if a else "nonlens" for i, a in zip(cutouts.ids, lens, strict=True)})
    return cutouts, labels, holdout_split(cutouts, labels, fractions=(0.6, 0.0, 0.4), seed=0)


@pytest.fixture
def network(data, tmp_path):
    """network(kind) → directory with a network that never learnt: no head, a head of classes, or of flux."""
    cutouts, _, _ = data

    def make(kind):
        torch.manual_seed(0)
        options = {"patch_size": 8, "width": 32, "depth": 1, "heads": 2}
        backbone = backbones.create("vit_tiny", bands=1, image_size=16, **options)
        normalisation = Normalisation.fit(cutouts.images, cutouts.bands, NormalisationConfig())
        made = Network(backbone, normalisation, ViewsConfig(crop=16, image_size=16), cutouts.bands, 0.2)
        if kind == "classes":
            made.head, made.classes = nn.Linear(32, 2), ("nonlens", "lens")
        elif kind == "flux":
            made.head, made.targets = nn.Linear(32, 1), (Target(("flux",)),)
            made.scaler = TargetScaler((100.0,), (10.0,))
        save_network(tmp_path, made)
        return tmp_path

    return make


def test_a_network_without_a_head_is_probed(data, network):
    run = network("none")
    rows = evaluate(run, *data, replicates=50)
    assert {row["of"] for row in rows} == {"linear", "knn"}
    value = {(row["of"], row["metric"]): row["value"] for row in rows}
    # Round blobs of two sizes: even random features tell them apart.
    assert value["linear", "auc"] > 0.9
    for name in ("linear", "knn"):
        table = pq.read_table(run / f"predictions-{name}.parquet")
        truth = np.array(table["label"].to_pylist()) == "lens"
        assert value[name, "auc"] == pytest.approx(roc_auc_score(truth, table["p_lens"].to_numpy()), abs=1e-9)
        assert table["id"].to_pylist() == list(data[2].ids("test"))


def test_results_stand_on_what_they_say(data, network):
    cutouts, _, split = data
    run = network("classes")
    rows = evaluate(run, *data, replicates=50)
    stored = read_table(run / "results.csv")
    assert [row["value"] for row in stored] == pytest.approx([row["value"] for row in rows])
    assert {row["test_objects"] for row in rows} == {len(split.ids("test"))}
    assert {(row["positive"], row["negatives"]) for row in rows} == {("lens", 20)}
    for row in rows:
        if row.get("low") is not None:
            assert row["low"] <= row["value"] <= row["high"]
    probabilities = load_network(run).probabilities(cutouts.images[cutouts.rows_of(split.ids("test"))])
    table = pq.read_table(run / "predictions-network.parquet")
    assert np.allclose(table["p_lens"].to_numpy(), probabilities[:, 1])


def test_regression_is_scored_in_its_own_units(data, network):
    cutouts, _, split = data
    run = network("flux")
    rows = evaluate(run, *data)
    found = {row["metric"]: row["value"] for row in rows}
    assert all(row["low"] < row["value"] < row["high"] for row in rows)
    test = cutouts.rows_of(split.ids("test"))
    predicted = load_network(run).outputs(cutouts.images[test])[:, 0]
    truth = cutouts.column("flux")[test]
    assert found["mae"] == pytest.approx(np.abs(predicted - truth).mean(), rel=1e-6)
    assert found["r2"] == pytest.approx(r2_score(truth, predicted), rel=1e-6)


def test_what_cannot_be_scored_is_one_line(data, network):
    cutouts, labels, split = data
    run = network("classes")
    first = split.ids("test")[0]
    without = Labels({i: label for i, label in labels.values.items() if i != first})
    renamed = Labels({**labels.values, first: "arc"})
    other = make_cutouts(cutouts.images, ("r",), cutouts.ids)
    untested = holdout_split(cutouts, labels, fractions=(1.0, 0.0, 0.0), seed=0)
    for arguments, words in (
        ((cutouts, without, split), "no label"),
        ((cutouts, renamed, split), "arc"),
        ((other, labels, split), "bands"),
        ((cutouts, labels, untested), "no test objects"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            evaluate(run, *arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="flux"):
        evaluate(network("flux"), make_cutouts(cutouts.images, ("g",), cutouts.ids), labels, split)
