"""The hierarchical bootstrap against one written as loops, against known variances, and its coverage."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

from zwicky.errors import UserError
from zwicky.evaluation import bootstrap as b
from zwicky.evaluation.bootstrap import Bootstrap, Cell
from zwicky.evaluation.metrics import roc_curve, statistics
from zwicky.evaluation.results import BenchmarkResult, cell_key, prediction_table, summarise
from zwicky.io import write_json, write_table
from zwicky.training.task import Task

STATISTICS = statistics()


def once(metric, truth, predicted):
    """The metric of the objects as they are."""
    return STATISTICS[metric](truth, predicted, np.ones((1, len(truth))))[0]


def applied(arms, metric="auc", replicates=100, seed=0):
    return Bootstrap(arms, replicates, seed).apply(STATISTICS[metric])


def auc(cell):
    return once("auc", cell.truth, cell.predicted)


def make_cells(random, draws=3, objects=60, seeds=(None,), signal=1.0, unit=lambda draw: draw):
    """Cells that share test objects, two to a group; scores are the truth plus noise of their own."""
    truth = random.integers(0, 2, objects)
    cells = []
    for draw in range(draws):
        lens = expit(signal * (truth - 0.5) + random.normal(size=objects))
        ids = np.array([f"o{n}" for n in range(objects)], dtype=object)
        groups = np.array([f"g{n // 2}" for n in range(objects)], dtype=object)
        seed = seeds[draw % len(seeds)]
        cells.append(Cell(ids, groups, truth, np.stack([1 - lens, lens], 1), draw, unit(draw), seed))
    return cells


def fold_cells(random, repeats=3, folds=5, objects=100):
    truth = random.integers(0, 2, objects)
    ids = np.array([f"o{n}" for n in range(objects)], dtype=object)
    cells = []
    for repeat in range(repeats):
        scores = truth + random.normal(size=objects)
        for fold, rows in enumerate(np.array_split(random.permutation(objects), folds)):
            predicted = np.stack([-scores[rows], scores[rows]], 1)
            cells.append(Cell(ids[rows], ids[rows], truth[rows], predicted, (repeat, fold), f"r{repeat}", 0))
    return cells


def literal(cells, metric, replicates, seed):
    """The same bootstrap in loops: lists of objects, one replicate at a time, units within seeds."""
    random = np.random.default_rng(seed)
    groups = sorted({group for cell in cells for group in cell.groups})
    seeds = sorted({str(cell.pretrain_seed) for cell in cells})
    samples = []
    for _ in range(replicates):
        chosen_groups = random.choice(groups, len(groups) - 1)
        values = []
        for chosen in random.choice(seeds, max(1, len(seeds) - 1)):
            units = sorted({cell.unit for cell in cells if str(cell.pretrain_seed) == chosen})
            for unit in random.choice(units, len(units) - 1):
                for cell in (cell for cell in cells if cell.unit == unit):
                    rows = np.concatenate([np.flatnonzero(cell.groups == group) for group in chosen_groups])
                    values.append(once(metric, cell.truth[rows], cell.predicted[rows]))
        samples.append(np.mean(values))
    return np.array(samples)


@pytest.mark.parametrize("metric", ["accuracy", "auc"])
@pytest.mark.parametrize("seeds", [(None,), (0, 1)])
def test_interval_matches_a_literal_bootstrap(metric, seeds):
    # eight draws in four units; two units for each of two seeds
    cells = make_cells(np.random.default_rng(0), draws=8, objects=40, seeds=seeds, unit=lambda draw: draw % 4)
    interval = applied({"a": cells}, metric, 4000, 1).interval("a")
    samples = literal(cells, metric, 1500, 2)
    assert interval.value == pytest.approx(np.mean([once(metric, cell.truth, cell.predicted) for cell in cells]))
    expected = np.quantile(samples, [0.025, 0.975])
    np.testing.assert_allclose([interval.low, interval.high], expected, atol=0.3 * samples.std())


def test_variance_of_few_draws_is_that_of_their_mean():
    """Drawing n − 1 of n things gives s²/n, with s² the unbiased variance."""
    for count in (2, 3, 7):
        values = np.random.default_rng(count).normal(size=count)
        drawn = b.resample(np.random.default_rng(0), count, 200_000)
        means = drawn @ values / drawn.sum(axis=1)
        assert means.var() == pytest.approx(values.var(ddof=1) / count, rel=0.02)


def test_a_difference_is_paired_by_object_and_draw():
    """Two arms that share most of their noise differ much more surely than two that do not."""
    cells = make_cells(np.random.default_rng(0), objects=200)
    better = [replace(cell, predicted=cell.predicted + np.outer(cell.truth - 0.5, [-0.1, 0.1])) for cell in cells]
    replicates = applied({"a": cells, "b": better}, replicates=500)
    gap = replicates.difference("b", "a")
    assert 0 < gap.low < gap.value < gap.high
    alone = replicates.interval("a")
    assert gap.high - gap.low < 0.5 * (alone.high - alone.low)
    assert gap.p == pytest.approx(2 / 501)
    mirrored = replicates.difference("a", "b")
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx((-gap.value, -gap.high, -gap.low))
    assert mirrored.p == gap.p


def test_the_folds_of_a_repeat_are_resampled_together():
    """Whole repeats are drawn, so the scatter between the folds of one repeat is not counted."""
    cells = fold_cells(np.random.default_rng(0))
    # A statistic that differs from fold to fold, the same way in each repeat, whatever objects are drawn.
    number = {cell.draw: float(cell.draw[1]) for cell in cells}
    marked = [replace(cell, predicted=np.full((len(cell.ids), 1), number[cell.draw])) for cell in cells]
    same = Bootstrap({"a": marked}, 100).apply(lambda truth, predicted, w: np.full(len(w), predicted.mean()))
    assert (same.interval("a").low, same.interval("a").high) == pytest.approx((2.0, 2.0))


def test_a_seed_counts_as_much_as_it_has_units():
    """Nine of ten seeds are drawn; one of them has two units, which alone have the value 1."""
    cells = make_cells(np.random.default_rng(0), draws=11, seeds=[*range(10), 9])
    marked = [replace(cell, predicted=np.full((len(cell.ids), 1), float(cell.pretrain_seed == 9))) for cell in cells]
    replicates = Bootstrap({"a": marked}, 1000).apply(lambda truth, predicted, w: np.full(len(w), predicted.mean()))
    most = binom.ppf(0.975, 9, 1 / 10)
    interval = replicates.interval("a")
    assert (interval.value, interval.low) == (pytest.approx(2 / 11), 0)
    assert interval.high == pytest.approx(2 * most / (2 * most + 9 - most))


def test_a_difference_is_over_shared_draws_with_the_seeds_of_the_arm_that_has_them():
    """From an arm whose AUC is always one half and that was not pretrained, it is the interval of the other arm."""
    cells = make_cells(np.random.default_rng(0), draws=8, seeds=(0, 1))
    flat = [replace(cell, predicted=np.full((60, 2), 0.5), pretrain_seed=None) for cell in cells[2:]]
    replicates, alone = applied({"a": cells, "flat": flat}), applied({"a": cells[2:]}).interval("a")
    expected = np.array([alone.low, alone.value, alone.high]) - 0.5
    for gap, sign in ((replicates.difference("a", "flat"), 1), (replicates.difference("flat", "a"), -1)):
        np.testing.assert_allclose([gap.low, gap.value, gap.high][::sign], sign * expected)


def test_cells_that_do_not_define_a_statistic_are_left_out():
    cells = fold_cells(np.random.default_rng(0), repeats=1, folds=4, objects=40)
    empty = replace(cells[0], truth=np.zeros_like(cells[0].truth))
    interval = applied({"a": [empty, *cells[1:]]}).interval("a")
    assert interval.value == pytest.approx(np.mean([auc(cell) for cell in cells[1:]]))
    assert np.isfinite(interval.low)
    alone = applied({"a": [empty]}).interval("a")
    assert np.isnan([alone.value, alone.low, alone.high]).all()
    assert np.isfinite(applied({"a": [empty]}, "accuracy").interval("a").low)


def test_an_undefined_value_has_no_interval():
    """With ten negatives there is no TPR10, although a replicate may draw one of them twice."""
    cell = make_cells(np.random.default_rng(0), draws=1, objects=40)[0]
    cell = replace(cell, truth=(np.arange(40) >= 10).astype(int), groups=cell.ids)
    replicates = applied({"a": [cell]}, "tpr10", 200)
    assert np.isfinite(replicates.samples["a"]).any()
    assert np.isnan([replicates.interval("a").value, replicates.interval("a").low]).all()


def test_a_curve_has_the_interval_of_its_points():
    """The ROC band at no false positive is the interval of TPR0, and its area the AUC."""
    arms = {"a": make_cells(np.random.default_rng(0), seeds=(0, 1, 2)), "b": make_cells(np.random.default_rng(1))}
    bootstrap = Bootstrap(arms, 300)
    fpr = np.linspace(0, 1, 2001)
    band, tpr0, area = (
        bootstrap.apply(s).interval("a") for s in (roc_curve(fpr), STATISTICS["tpr0"], STATISTICS["auc"])
    )
    assert (band.value[0], band.low[0], band.high[0]) == pytest.approx((tpr0.value, tpr0.low, tpr0.high))
    assert np.trapezoid(band.value, fpr) == pytest.approx(area.value, abs=1e-3)
    assert (band.low <= band.high).all()


def test_holm_by_hand():
    """Sorted p times the number of hypotheses not yet rejected, never decreasing: Holm's own recipe."""
    np.testing.assert_allclose(b.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(b.holm([0.5, np.nan, 0.9]), [1.0, np.nan, 1.0])
    assert len(b.holm([])) == 0


def test_intervals_cover_the_truth():
    """Lenses of N(δ, 1) against N(0, 1), with δ scattered from draw to draw: the true mean AUC is known."""
    random = np.random.default_rng(0)
    draws, objects, delta, scatter, trials = 5, 200, 1.0, 0.15, 120
    expected = norm.cdf(random.normal(delta, scatter, 200_000) / np.sqrt(2)).mean()
    truth = np.repeat([0, 1], objects // 2)
    ids = np.array([str(n) for n in range(objects)], dtype=object)
    covered = rejected = 0
    for trial in range(trials):
        base = random.normal(size=objects)  # shared by the draws: the same objects
        arms = {}
        for arm in "ab":
            scores = [
                truth * random.normal(delta, scatter) + np.sqrt(0.7) * base + np.sqrt(0.3) * random.normal(size=objects)
                for _ in range(draws)
            ]
            arms[arm] = [Cell(ids, ids, truth, np.stack([-s, s], 1), d, d) for d, s in enumerate(scores)]
        replicates = applied(arms, replicates=200, seed=trial)
        interval = replicates.interval("a")
        covered += interval.low <= expected <= interval.high
        rejected += replicates.difference("a", "b").p < 0.05
    assert 0.88 <= covered / trials <= 0.99, covered / trials
    assert rejected / trials <= 0.10, rejected / trials


def write_cell(path, arm, labels, draw, lens, truth, pretrain_seed=None):
    """Write the predictions of a cell, of two objects to a group; return its row of results.csv."""
    ids, groups = (np.array([f"o{n // size}" for n in range(len(truth))], dtype=object) for size in (1, 2))
    table = prediction_table(ids, groups, truth, np.stack([1 - lens, lens], 1), Task(truth, ("nonlens", "lens")))
    write_table(path / "cells" / cell_key(arm, labels, draw) / "predictions.parquet", table)
    return {"arm": arm, "labels": labels, "draw": draw, "unit": draw // 2, "pretrain_seed": pretrain_seed}


def write_results(path, rows):
    write_table(path / "results.csv", pd.DataFrame(rows))
    write_json(path / "data.json", {"classes": ["nonlens", "lens"], "columns": []})
    return BenchmarkResult(path)


@pytest.fixture
def benchmark(tmp_path):
    """Three arms at two numbers of labels, three draws: `good` is far better than `weak`, `same` equals `weak`."""
    random, truth, rows = np.random.default_rng(0), np.arange(120) % 2, []
    for labels, draw in product((300, 40), range(3)):
        weak, good = (expit(signal * (truth - 0.5) + random.normal(size=120)) for signal in (0.3, 5))
        for arm, lens, seed in (("good", good, 0), ("weak", weak, None), ("same", weak, None)):
            rows.append(write_cell(tmp_path, arm, labels, draw, lens, truth, seed))
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
    cells = []
    for draw, table in enumerate(tables):
        predicted, truth = table[["p_nonlens", "p_lens"]].to_numpy(), (table["label"] == "lens").to_numpy()
        cells.append(Cell(table["id"].to_numpy(), table["group"].to_numpy(), truth, predicted, draw, draw // 2, 0))
    interval = applied({"good": cells}, replicates=100 * 4).interval("good")  # 100 a comparison
    assert (row["value"], row["low"], row["high"]) == pytest.approx((interval.value, interval.low, interval.high))
    weak = pick(summary, arm="weak", labels=300, metric="auc")
    assert weak["pretrain_seeds"] == 0
    better = pick(comparisons, labels=300, metric="auc", arm="good")
    assert better["significant"]
    assert better["p"] <= better["p_holm"] < 0.05
    assert better["difference"] == pytest.approx(row["value"] - weak["value"])
    equal = pick(comparisons, labels=300, metric="auc", arm="same")
    assert (equal["difference"], equal["low"], equal["high"], equal["p"], equal["significant"]) == (0, 0, 0, 1, False)


@pytest.mark.parametrize("p", [0.049, 0.051])
def test_a_difference_is_significant_after_the_correction(benchmark, monkeypatch, p):
    monkeypatch.setattr("zwicky.evaluation.results.holm", lambda values: np.full(len(values), p))
    comparisons = summarise(benchmark, [("good", "weak")], replicates=50)[1]
    assert pick(comparisons, labels=300, metric="auc")["significant"] == (p < 0.05)


def test_the_order_of_rows_does_not_matter(benchmark):
    first = summarise(benchmark, [("good", "weak")], replicates=100)
    again = summarise(write_results(benchmark.path, benchmark.results[::-1]), [("good", "weak")], replicates=100)
    for one, other, keys in zip(first, again, (["arm", "labels", "metric"], ["labels", "metric"]), strict=True):
        one, other = (table.sort_values(keys).reset_index(drop=True) for table in (one, other))
        pd.testing.assert_frame_equal(one, other)


def test_many_comparisons_can_still_be_significant(tmp_path):
    """With 60 comparisons and 1000 replicates the smallest p after Holm would be .12; replicates must follow."""
    random, truth, names = np.random.default_rng(0), np.arange(40) % 2, [f"a{n}" for n in range(60)]
    rows = [write_cell(tmp_path, n, 10, 0, 0.4 * truth + 0.5 * random.random(40), truth) for n in names]
    rows.append(write_cell(tmp_path, "chance", 10, 0, random.random(40), truth))
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
