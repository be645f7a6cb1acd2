"""Tables of a benchmark from the predictions of its cells."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from zwicky.errors import UserError
from zwicky.evaluation.results import BenchmarkResult, cell_key, summarise
from zwicky.io import write_json

CLASSES = ("nonlens", "lens")


def write_cell(path, arm, labels, draw, lens, truth, ids, groups=None, pretrain_seed=None, unit=None):
    columns = {"id": list(ids), "group": list(ids if groups is None else groups)}
    columns |= {"label": [CLASSES[index] for index in truth], "p_nonlens": 1 - lens, "p_lens": lens}
    folder = path / "cells" / cell_key(arm, labels, draw)
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_parquet(folder / "predictions.parquet")
    row = {"arm": arm, "labels": labels, "draw": draw, "unit": draw if unit is None else unit}
    return row | {"pretrain_seed": pretrain_seed}


def write_results(path, rows):
    pd.DataFrame(rows).to_csv(path / "results.csv", index=False)
    write_json(path / "data.json", {"classes": CLASSES, "columns": []})
    return BenchmarkResult(path)


@pytest.fixture
def benchmark(tmp_path):
    """Three arms at two numbers of labels, three draws: `good` is far better than `weak`, `same` equals `weak`."""
    random = np.random.default_rng(0)
    truth = np.arange(120) % 2
    ids = [f"o{n}" for n in range(120)]
    rows = []
    for labels in (300, 40):
        for draw in range(3):
            weak, good = (1 / (1 + np.exp(-(signal * (truth - 0.5) + random.normal(size=120)))) for signal in (0.3, 5))
            for arm, lens in (("good", good), ("weak", weak), ("same", weak)):
                rows.append(
                    write_cell(tmp_path, arm, labels, draw, lens, truth, ids, None, 0 if arm == "good" else None)
                )
    return write_results(tmp_path, rows)


def pick(table, **values):
    """The one row with these values."""
    (row,) = table[np.logical_and.reduce([table[name] == value for name, value in values.items()])].to_dict("records")
    return row


def test_summary_and_comparisons(benchmark):
    summary, comparisons = summarise(benchmark, [("good", "weak"), ("same", "weak")], replicates=200)
    assert len(summary) == 2 * 3 * 4
    assert len(comparisons) == 2 * 2 * 4
    names = ["arm", "labels", "metric", "value", "low", "high", "draws", "pretrain_seeds", "test_objects"]
    assert list(summary) == names
    names = ["labels", "metric", "arm", "reference", "difference", "low", "high", "p", "p_holm", "significant"]
    assert list(comparisons) == names
    row = pick(summary, arm="good", labels=300, metric="auc")
    tables = [benchmark.predictions("good", 300, draw) for draw in range(3)]
    assert row["value"] == pytest.approx(np.mean([roc_auc_score(t["label"] == "lens", t["p_lens"]) for t in tables]))
    assert row["low"] < row["value"] < row["high"]
    assert (row["draws"], row["pretrain_seeds"], row["test_objects"]) == (3, 1, 120)
    weak = pick(summary, arm="weak", labels=300, metric="auc")
    assert weak["pretrain_seeds"] == 0
    better = pick(comparisons, labels=300, metric="auc", arm="good")
    assert better["significant"]
    assert better["p"] <= better["p_holm"] < 0.05
    assert better["difference"] == pytest.approx(row["value"] - weak["value"])
    equal = pick(comparisons, labels=300, metric="auc", arm="same")
    assert (equal["difference"], equal["low"], equal["high"], equal["p"], equal["significant"]) == (0, 0, 0, 1, False)


def test_the_order_of_rows_does_not_matter(benchmark):
    first = summarise(benchmark, [("good", "weak")], replicates=100)
    again = summarise(write_results(benchmark.path, benchmark.results[::-1]), [("good", "weak")], replicates=100)
    for one, other, keys in zip(first, again, (["arm", "labels", "metric"], ["labels", "metric"]), strict=True):
        one, other = (table.sort_values(keys).reset_index(drop=True) for table in (one, other))
        pd.testing.assert_frame_equal(one, other)


def test_many_comparisons_can_still_be_significant(tmp_path):
    """With 60 comparisons and 1000 replicates the smallest p after Holm would be .12; replicates must follow."""
    random = np.random.default_rng(0)
    truth, ids = np.arange(40) % 2, [f"o{n}" for n in range(40)]
    names = [f"a{n}" for n in range(60)]
    rows = [write_cell(tmp_path, n, 10, 0, 0.4 * truth + 0.5 * random.random(40), truth, ids) for n in names]
    rows.append(write_cell(tmp_path, "chance", 10, 0, random.random(40), truth, ids))
    _, comparisons = summarise(write_results(tmp_path, rows), [(name, "chance") for name in names], replicates=100)
    assert comparisons[comparisons["metric"] == "auc"]["significant"].sum() > 30


def test_a_pair_is_compared_only_where_both_ran(benchmark):
    table = benchmark.results
    result = write_results(benchmark.path, table[(table["arm"] != "weak") | (table["labels"] != 40)])
    assert set(summarise(result, [("good", "weak")], replicates=50)[1]["labels"]) == {300}


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_predictions_are_one_line(benchmark, damage):
    path = benchmark.cell("good", 40, 1) / "predictions.parquet"
    path.unlink()
    if damage == "cut":
        path.write_bytes(b"PAR1 not a table")
    with pytest.raises(UserError, match=r"good-n40-d1.*delete "):
        summarise(benchmark, [])
