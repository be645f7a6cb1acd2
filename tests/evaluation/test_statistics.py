import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from zwicky.errors import UserError
from zwicky.evaluation.results import BenchmarkResult, cell_key
from zwicky.evaluation.statistics import summarise
from zwicky.io import write_csv

CLASSES = ("nonlens", "lens")


def write_cell(path, arm, labels, draw, probability, truth, ids, groups=None, pretrain_seed=None):
    folder = path / "cells" / cell_key(arm, labels, draw)
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"id": list(ids), "group": list(groups if groups is not None else ids)}
    columns["label"] = [CLASSES[index] for index in truth]
    columns |= {"p_nonlens": 1 - probability, "p_lens": probability}
    pq.write_table(pa.table(columns), folder / "predictions.parquet")
    return {"arm": arm, "labels": labels, "draw": draw, "pretrain_seed": pretrain_seed, "test_objects": len(truth)}


@pytest.fixture
def benchmark(tmp_path):
    """Three arms at two numbers of labels, three draws: `good` is far better than `weak`, `same` equals `weak`."""
    random = np.random.default_rng(0)
    truth = np.arange(120) % 2
    ids = [f"o{n}" for n in range(120)]
    rows = []
    for labels in (300, 40):
        for draw in range(3):
            weak = 1 / (1 + np.exp(-(0.3 * (truth - 0.5) + random.normal(size=120))))
            good = 1 / (1 + np.exp(-(5 * (truth - 0.5) + random.normal(size=120))))
            for arm, probability in (("good", good), ("weak", weak), ("same", weak)):
                seed = 0 if arm == "good" else None
                rows.append(write_cell(tmp_path, arm, labels, draw, probability, truth, ids, pretrain_seed=seed))
    write_csv(tmp_path / "results.csv", rows)
    return BenchmarkResult(tmp_path)


def pick(rows, **wanted):
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def test_summary_and_comparisons(benchmark):
    summary, comparisons = summarise(benchmark, [("good", "weak"), ("same", "weak")], replicates=200)
    assert len(summary) == 2 * 3 * 4
    assert len(comparisons) == 2 * 2 * 4
    assert list(summary[0]) == [
        "arm",
        "labels",
        "metric",
        "value",
        "low",
        "high",
        "draws",
        "pretrain_seeds",
        "test_objects",
    ]
    assert list(comparisons[0]) == [
        *("labels", "metric", "arm", "reference", "difference", "low", "high", "p", "p_holm", "significant")
    ]
    row = pick(summary, arm="good", labels=300, metric="auc")
    found = [benchmark.predictions("good", 300, draw) for draw in range(3)]
    assert row["value"] == pytest.approx(np.mean([roc_auc_score(one.truth, one.probabilities[:, 1]) for one in found]))
    assert row["low"] < row["value"] < row["high"]
    assert (row["draws"], row["pretrain_seeds"], row["test_objects"]) == (3, 1, 120)
    assert pick(summary, arm="weak", labels=40, metric="auc")["pretrain_seeds"] == 0
    for labels in (40, 300):
        better = pick(comparisons, labels=labels, metric="auc", arm="good")
        assert better["significant"] is True
        assert better["p"] <= better["p_holm"] < 0.05
        assert better["difference"] == pytest.approx(
            pick(summary, arm="good", labels=labels, metric="auc")["value"]
            - pick(summary, arm="weak", labels=labels, metric="auc")["value"]
        )
        equal = pick(comparisons, labels=labels, metric="auc", arm="same")
        assert (equal["difference"], equal["low"], equal["high"], equal["p"]) == (0, 0, 0, 1)
        assert equal["significant"] is False


def test_it_repeats_and_the_order_of_rows_does_not_matter(benchmark):
    pairs = [("good", "weak")]
    first = summarise(benchmark, pairs, replicates=100)
    write_csv(benchmark.path / "results.csv", benchmark.results[::-1])
    again = summarise(BenchmarkResult(benchmark.path), pairs, replicates=100)
    for mine, theirs in zip(first, again, strict=True):
        for row in mine:
            wanted = {name: row[name] for name in ("arm", "labels", "metric")}
            assert pick(theirs, **wanted) == pytest.approx(row)


def test_many_comparisons_can_still_be_significant(tmp_path):
    """With 60 comparisons and 1000 replicates the smallest p after Holm would be .12; replicates must follow."""
    random = np.random.default_rng(0)
    truth, ids, rows = np.arange(40) % 2, [f"o{n}" for n in range(40)], []
    for arm in [f"a{n}" for n in range(60)]:
        rows.append(write_cell(tmp_path, arm, 10, 0, 0.4 * truth + 0.5 * random.random(40), truth, ids))
    rows.append(write_cell(tmp_path, "chance", 10, 0, random.random(40), truth, ids))
    write_csv(tmp_path / "results.csv", rows)
    _, comparisons = summarise(BenchmarkResult(tmp_path), [(f"a{n}", "chance") for n in range(60)], replicates=100)
    assert sum(row["significant"] for row in comparisons if row["metric"] == "auc") > 30


def test_folds_are_resampled_by_repeat(tmp_path):
    random = np.random.default_rng(0)
    truth, rows, units = random.integers(0, 2, 60), [], {}
    for draw in range(6):  # two repeats of three folds
        if draw % 3 == 0:
            folds = np.array_split(random.permutation(60), 3)
        fold = folds[draw % 3]
        rows.append(write_cell(tmp_path, "a", 40, draw, random.random(20), truth[fold], [f"o{n}" for n in fold]))
        units[draw] = f"r{draw // 3}"
    write_csv(tmp_path / "results.csv", rows)
    result = BenchmarkResult(tmp_path)
    by_repeat, _ = summarise(result, [], replicates=200, units=units)
    by_fold, _ = summarise(result, [], replicates=200)
    row = pick(by_repeat, metric="auc")
    assert (row["draws"], row["test_objects"]) == (6, 60)
    assert row["value"] == pick(by_fold, metric="auc")["value"]
    assert (row["low"], row["high"]) != (pick(by_fold, metric="auc")["low"], pick(by_fold, metric="auc")["high"])


def test_objects_without_a_group_are_their_own(tmp_path):
    random = np.random.default_rng(0)
    truth, ids, probability = np.arange(80) % 2, [f"o{n}" for n in range(80)], random.random(80)
    intervals = []
    for name, groups in (("own", ids), ("blank", [""] * 80), ("none", [None] * 80)):
        path = tmp_path / name
        write_csv(
            path / "results.csv", [write_cell(path, "a", 10, 0, probability, truth, ids, pa.array(groups, pa.string()))]
        )
        intervals.append(summarise(BenchmarkResult(path), [], replicates=100)[0])
    assert intervals[0] == intervals[1] == intervals[2]
    assert pick(intervals[0], metric="auc")["high"] > pick(intervals[0], metric="auc")["low"]


def test_a_pair_is_compared_only_where_both_ran(benchmark):
    rows = [row for row in benchmark.results if not (row["arm"] == "weak" and row["labels"] == 40)]
    write_csv(benchmark.path / "results.csv", rows)
    _, comparisons = summarise(BenchmarkResult(benchmark.path), [("good", "weak")], replicates=50)
    assert {row["labels"] for row in comparisons} == {300}


def test_bad_benchmarks_are_refused(benchmark):
    with pytest.raises(UserError, match="no arm 'dino'"):
        summarise(benchmark, [("dino", "weak")])
    write_csv(benchmark.path / "results.csv", [*benchmark.results, benchmark.results[0]])
    with pytest.raises(UserError, match="twice"):
        summarise(BenchmarkResult(benchmark.path), [])


@pytest.mark.parametrize(("column", "value"), [("arm", ""), ("labels", "many"), ("draw", "")])
def test_damaged_rows_are_refused_by_line(benchmark, column, value):
    rows = benchmark.results
    write_csv(benchmark.path / "results.csv", [rows[0], rows[1] | {column: value}, *rows[2:]])
    with pytest.raises(UserError, match=f"line 3: no usable '{column}'"):
        summarise(BenchmarkResult(benchmark.path), [])


@pytest.mark.parametrize("damage", ["missing", "cut", "nan"])
def test_damaged_predictions_are_refused_in_one_line(benchmark, damage):
    path = benchmark.cell("good", 40, 1) / "predictions.parquet"
    table = pq.read_table(path)
    path.unlink()
    if damage == "cut":
        path.write_bytes(b"PAR1 not a table")
    if damage == "nan":
        bad = np.full(table.num_rows, np.nan)
        pq.write_table(table.set_column(table.column_names.index("p_lens"), "p_lens", pa.array(bad)), path)
    with pytest.raises(UserError, match=r"good-n40-d1.*delete ") as caught:
        summarise(benchmark, [])
    assert "\n" not in str(caught.value)
