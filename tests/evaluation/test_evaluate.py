"""Testing one network: probes before fine-tuning, probabilities after, and what cannot be scored."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from zwicky import cli, provenance
from zwicky.augment.views import Target
from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import Split, holdout_split, whole_split
from zwicky.errors import UserError
from zwicky.evaluation.evaluate import evaluate, evaluation_text
from zwicky.training.network import load_network, save_network

from ..conftest import galaxies

FLUX = (Target(("flux",)),)


@pytest.fixture(scope="module")
def data():
    images = galaxies(100, bands=1)
    cutouts = make_cutouts(images, ("g",), flux=images.sum((1, 2, 3)), pixel_scale=[0.2] * 100)
    labels = Labels({i: "lens" if row % 2 else "nonlens" for row, i in enumerate(cutouts.ids)})
    return cutouts, labels, holdout_split(cutouts, labels, fractions=(0.6, 0.0, 0.4), seed=0)


@pytest.fixture
def network(data, tmp_path, small_network):
    """network(head) → directory with a network that never learnt."""

    def make(head):
        save_network(tmp_path, small_network(data[0].images, head, bands=("g",)))
        return tmp_path

    return make


def learnt(run, cutouts, rows):
    """Record that the network of a run was trained on these rows."""
    save_network(run, replace(load_network(run), history=provenance.record(cutouts, {"fit": rows})))


def test_a_network_without_a_head_is_probed(data, network):
    run = network(None)
    table = evaluate(run, *data, replicates=50)
    value = table.set_index(["of", "metric"])["value"]
    assert set(table["of"]) == {"linear", "knn"}
    # Round blobs of two sizes: even random features tell them apart.
    assert value["linear", "auc"] > 0.9
    for name in ("linear", "knn"):
        predictions = pd.read_parquet(run / f"predictions-{name}.parquet")
        auc = roc_auc_score(predictions["label"] == "lens", predictions["p_lens"])
        assert value[name, "auc"] == pytest.approx(auc, abs=1e-9)
        assert list(predictions["id"]) == list(data[2].ids("test"))
    cutouts, labels, split = data
    turned = {i: {"lens": "nonlens"}.get(labels.values[i], "lens") for i in split.ids("test")}
    groups = {name: f"pair {row // 2}" for row, name in enumerate(cutouts.ids)}
    evaluate(run, cutouts, Labels(labels.values | turned), replace(split, groups=groups), replicates=5)
    again = pd.read_parquet(run / "predictions-knn.parquet")
    assert again["p_lens"].equals(predictions["p_lens"])  # no label of the test is learned from
    assert list(again["group"]) == [groups[name] for name in again["id"]]
    some, found = Labels({i: name for i, name in labels.values.items() if i not in split.ids("train")[:9]}), []
    for roles in (split.roles, {i: role for i, role in split.roles.items() if role == "test" or i in some.values}):
        evaluate(run, cutouts, some, replace(split, roles=roles), replicates=5)
        found.append(pd.read_parquet(run / "predictions-linear.parquet")["p_lens"])
    assert found[0].equals(found[1])  # what has no label is not learned from


def test_the_table_and_its_text(data, network):
    cutouts, _, split = data
    run = network("classes")
    table = evaluate(run, *data, replicates=50)
    pd.testing.assert_frame_equal(pd.read_csv(run / "results.csv"), table)
    assert set(table["test_objects"]) == {len(split.ids("test"))}
    assert set(zip(table["positive"], table["negatives"], strict=True)) == {("lens", 20)}
    bounded = table[table["low"].notna()]
    assert list(bounded["metric"]) == ["accuracy", "auc", "tpr0", "tpr10"]
    assert bounded["value"].between(bounded["low"], bounded["high"]).all()
    probabilities = load_network(run).probabilities(cutouts.images[cutouts.rows_of(split.ids("test"))])
    assert np.allclose(pd.read_parquet(run / "predictions-network.parquet")["p_lens"], probabilities[:, 1])
    lines = evaluation_text(table).splitlines()
    value, low, high = (f"{table[name][0]:#.4g}" for name in ("value", "low", "high"))
    assert lines[0] == f"network    accuracy   {value}  [{low}, {high}]"
    assert lines[-2].startswith("on 40 test objects, positive class lens;")
    assert lines[-1].startswith("warning: unknown history: what")  # it was built by hand
    learnt(run, cutouts, cutouts.rows_of(split.ids("train")))
    assert "history" not in evaluate(run, *data, replicates=50)


def test_a_metric_that_is_not_defined_says_why(data, network):
    cutouts, labels, split = data
    test = split.ids("test")
    lenses = [i for i in test if labels.values[i] == "lens"]
    roles = dict.fromkeys([*lenses, *[i for i in test if labels.values[i] != "lens"][:10]], "test")
    table = evaluate(network("classes"), cutouts, labels, Split("few", roles), replicates=50)
    row = table[table["metric"] == "tpr10"].iloc[0]
    assert np.isnan([row["value"], row["low"], row["high"]]).all()
    assert "tpr10      n/a (needs more than 10 negatives)\n" in evaluation_text(table)
    roles = dict.fromkeys([lenses[0], *[i for i in test if labels.values[i] != "lens"]], "test")
    table = evaluate(network("classes"), cutouts, labels, Split("one", roles), replicates=50)
    assert set(table["metric"][table["low"].notna()]) == {"accuracy"}  # one lens has no scatter


def test_regression_is_scored_in_its_own_units(data, network):
    cutouts, _, split = data
    run = network(FLUX)
    table = evaluate(run, *data).set_index("metric")
    assert (table["low"] < table["value"]).all()
    assert (table["value"] < table["high"]).all()
    test = cutouts.rows_of(split.ids("test"))
    predicted = load_network(run).outputs(cutouts.images[test])[:, 0]
    truth = cutouts.column("flux")[test]
    assert table["value"]["mae"] == pytest.approx(np.abs(predicted - truth).mean(), rel=1e-6)
    assert table["value"]["r2"] == pytest.approx(r2_score(truth, predicted), rel=1e-6)


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
        with pytest.raises(UserError, match=words):
            evaluate(run, *arguments)
    with pytest.raises(UserError, match="flux"):
        evaluate(network(FLUX), make_cutouts(cutouts.images, ("g",), cutouts.ids), labels, split)


def test_another_data_set_is_a_test_set_as_a_whole(data, network, tmp_path, capsys):
    """As a folder; results go to --out; an image that was trained on is a leak, whatever its name."""
    run, folder = network("classes"), tmp_path / "other"
    images = galaxies(12, bands=1, seed=7)
    for row, image in enumerate(images):
        (folder / ("lens", "nonlens")[row % 2]).mkdir(parents=True, exist_ok=True)
        np.save(folder / ("lens", "nonlens")[row % 2] / f"{row}.npy", image)
    command = ["evaluate", str(run), "--data", str(folder), "--out", str(tmp_path / "results")]
    cli.run(command)
    assert "on 12 test objects" in capsys.readouterr().out
    assert not (run / "results.csv").exists()
    assert len(pd.read_parquet(tmp_path / "results" / "predictions-network.parquet")) == 12
    trained = make_cutouts(images[3:4], ("g",), ids=["named otherwise"])
    learnt(run, trained, np.array([0]))
    with pytest.raises(UserError, match="trained on 1 objects"):
        cli.run(command)


def test_the_roles_of_a_test_set():
    images = galaxies(6, bands=1)
    images[5] = images[4]
    cutouts = make_cutouts(images, ("g",), flux=[1.0, np.nan, 2.0, 3.0, 4.0, 5.0])
    split = whole_split(cutouts, Labels(dict.fromkeys(cutouts.ids[1:], "lens")))
    assert list(split.ids("test")) == list(cutouts.ids[1:])
    groups = split.groups_of(cutouts.ids)
    assert groups[4] == groups[5] != groups[3]
    assert list(whole_split(cutouts, Labels({}), ["flux"]).ids("test")) == list(cutouts.ids[[0, 2, 3, 4, 5]])
