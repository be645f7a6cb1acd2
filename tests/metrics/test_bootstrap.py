from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm
from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score

from zwicky.errors import UserError
from zwicky.metrics import bootstrap as b
from zwicky.metrics import classification


@st.composite
def weighted_case(draw, classes=2):
    count = draw(st.integers(3, 25))
    truth = draw(hnp.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    scores = draw(hnp.arrays(np.int64, (count, classes), elements=st.integers(0, 5))).astype(float)
    weights = draw(hnp.arrays(np.int64, (4, count), elements=st.integers(0, 3))).astype(float)
    return truth, scores, weights


@settings(deadline=None, max_examples=50)
@given(weighted_case())
def test_a_weight_is_a_number_of_copies(case):
    """Each weighted metric equals the plain one on objects written out as often as they weigh."""
    truth, scores, weights = case
    plain = {
        "accuracy": classification.accuracy,
        "auc": classification.auc,
        "tpr0": lambda t, p: classification.recall_at_false_positives(t, p[:, 1], 0),
        "tpr10": lambda t, p: classification.recall_at_false_positives(t, p[:, 1], 10),
    }
    for name, metric in b.METRICS.items():
        for row, found in zip(weights, metric(truth, scores, weights), strict=True):
            copies = np.repeat(np.arange(len(truth)), row.astype(int))
            defined = len(copies) and (name == "accuracy" or len(set(truth[copies])) == 2)
            expected = plain[name](truth[copies], scores[copies]) if defined else np.nan
            assert found == pytest.approx(expected, nan_ok=True), name


@settings(deadline=None, max_examples=50)
@given(weighted_case(classes=3))
def test_weighted_macro_auc_matches_sklearn(case):
    truth, scores, weights = case
    for row, found in zip(weights, b.METRICS["auc"](truth, scores, weights), strict=True):
        present = [set(truth[row > 0] == k) for k in range(3)]
        if any(len(sides) < 2 for sides in present):
            assert np.isnan(found)
            continue
        each = [roc_auc_score(truth == k, scores[:, k], sample_weight=row) for k in range(3)]
        assert found == pytest.approx(np.mean(each))


@settings(deadline=None, max_examples=50)
@given(weighted_case(), st.sampled_from([1e-23, 1.0, 1e9]))
def test_weighted_errors_of_numbers_match_sklearn(case, unit):
    _, scores, weights = case
    truth, predicted = unit * (scores + 20).T
    for row, mae, r2 in zip(weights, *(m(truth, predicted, weights) for m in b.NUMBER_METRICS.values()), strict=True):
        if not row.any():
            assert np.isnan(mae)
            assert np.isnan(r2)
            continue
        assert mae == pytest.approx(mean_absolute_error(truth, predicted, sample_weight=row), abs=1e-9 * unit)
        if np.ptp(truth[row > 0]) == 0:
            assert np.isnan(r2)
        else:
            assert r2 == pytest.approx(r2_score(truth / unit, predicted / unit, sample_weight=row), rel=1e-6, abs=1e-6)


def test_the_interval_of_an_error_is_that_of_its_mean():
    """The mean absolute error is a mean: its interval is ±1.96 standard errors."""
    random = np.random.default_rng(0)
    ids = np.array([f"o{n}" for n in range(400)], dtype=object)
    truth = random.normal(size=400)
    cell = b.Cell(0, 0, None, ids, ids, truth, truth + random.normal(size=400))
    found = b.Bootstrap({"a": [cell]}, ["mae", "r2"], replicates=4000).interval("a", "mae")
    missed = np.abs(cell.predicted - truth)
    half = 1.96 * missed.std() / np.sqrt(400)
    assert (found.low, found.value, found.high) == pytest.approx(
        (missed.mean() - half, missed.mean(), missed.mean() + half), abs=0.1 * half
    )


def make_cells(random, draws=3, objects=60, seeds=(None,), signal=1.0, unit=lambda draw: draw, truth=None):
    """Cells that share test objects, two to a group; scores are the truth plus noise of their own."""
    truth = random.integers(0, 2, objects) if truth is None else truth
    cells = []
    for draw in range(draws):
        lens = 1 / (1 + np.exp(-(signal * (truth - 0.5) + random.normal(size=objects))))
        ids = np.array([f"o{n}" for n in range(objects)], dtype=object)
        groups = np.array([f"g{n // 2}" for n in range(objects)], dtype=object)
        own = seeds[draw % len(seeds)]
        cells.append(b.Cell(draw, unit(draw), own, ids, groups, truth, np.stack([1 - lens, lens], 1)))
    return cells


def literal(cells, metric, replicates, seed):
    """The same bootstrap in words: lists of objects, one replicate at a time, seeds crossed with units."""
    random = np.random.default_rng(seed)
    units = sorted({cell.unit for cell in cells})
    seeds = sorted({str(cell.pretrain_seed) for cell in cells})
    groups = sorted({group for cell in cells for group in cell.groups})
    samples = []
    for _ in range(replicates):
        chosen_groups = random.choice(groups, max(1, len(groups) - 1))
        chosen_seeds = random.choice(seeds, max(1, len(seeds) - 1))
        values = []
        for unit in random.choice(len(units), max(1, len(units) - 1)):
            for own in chosen_seeds:
                for cell in cells:
                    if cell.unit == units[unit] and str(cell.pretrain_seed) == own:
                        rows = np.concatenate([np.flatnonzero(cell.groups == group) for group in chosen_groups])
                        values.append(metric(cell.truth[rows], cell.predicted[rows]))
        if values:
            samples.append(np.mean(values))
    return np.array(samples)


@pytest.mark.parametrize("metric", ["accuracy", "auc"])
@pytest.mark.parametrize("seeds", [(None,), (0, 1)])
def test_interval_matches_a_literal_bootstrap(metric, seeds):
    random = np.random.default_rng(0)
    # four draws of two units by two seeds: seeds and units are crossed
    cells = make_cells(random, draws=4, objects=40, seeds=seeds, unit=lambda draw: draw // 2)
    found = b.Bootstrap({"a": cells}, [metric], replicates=4000, seed=1).interval("a", metric)
    plain = {"accuracy": classification.accuracy, "auc": classification.auc}[metric]
    samples = literal(cells, plain, 1500, 2)
    assert found.value == pytest.approx(np.mean([plain(cell.truth, cell.predicted) for cell in cells]))
    spread = samples.std()
    np.testing.assert_allclose([found.low, found.high], np.quantile(samples, [0.025, 0.975]), atol=0.25 * spread)


def test_variance_of_few_draws_is_that_of_their_mean():
    """Drawing n − 1 of n things gives s²/n, with s² the unbiased variance."""
    for count in (2, 3, 7):
        values = np.random.default_rng(count).normal(size=count)
        drawn = b._draw(np.random.default_rng(0), count, 200_000)
        means = drawn @ values / drawn.sum(axis=1)
        assert means.var() == pytest.approx(values.var(ddof=1) / count, rel=0.02)


def test_a_single_draw_seed_and_group_leave_no_width():
    random = np.random.default_rng(0)
    cell = make_cells(random, draws=1, seeds=(7,))[0]
    cell = replace(cell, groups=np.full(60, "one", dtype=object))
    interval = b.Bootstrap({"a": [cell]}, replicates=50).interval("a", "auc")
    assert (
        interval.low == interval.value == interval.high == pytest.approx(classification.auc(cell.truth, cell.predicted))
    )


def test_an_arm_against_itself_differs_by_exactly_nothing():
    cells = make_cells(np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(60)
    shuffled = [
        replace(cell, **{name: getattr(cell, name)[order] for name in ("ids", "groups", "truth", "predicted")})
        for cell in cells
    ]
    bootstrap = b.Bootstrap({"a": cells, "b": list(cells), "c": shuffled[::-1]}, replicates=200)
    for metric in b.METRICS:
        found = bootstrap.difference("a", "b", metric)
        assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
        found = bootstrap.difference("a", "c", metric)
        assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_a_difference_is_paired_by_object_and_draw():
    """Two arms that share most of their noise differ much more surely than two that do not."""
    random = np.random.default_rng(0)
    cells = make_cells(random, objects=200)
    better = [replace(cell, predicted=cell.predicted + np.outer(cell.truth - 0.5, [-0.1, 0.1])) for cell in cells]
    bootstrap = b.Bootstrap({"a": cells, "b": better}, ["auc"], replicates=500)
    found = bootstrap.difference("b", "a", "auc")
    alone = bootstrap.interval("a", "auc")
    assert 0 < found.low < found.value < found.high
    assert found.high - found.low < 0.5 * (alone.high - alone.low)
    assert found.p == pytest.approx(2 / 501)
    mirrored = bootstrap.difference("a", "b", "auc")
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert mirrored.p == found.p


def test_the_same_seed_gives_the_same_numbers_whatever_the_order_and_the_blocks(monkeypatch):
    random = np.random.default_rng(0)
    arms = {"a": make_cells(random, seeds=(0, 1, 2)), "b": make_cells(random)}
    arms["b"] = [
        replace(mine, truth=other.truth, predicted=other.predicted[::-1])
        for mine, other in zip(arms["b"], arms["a"], strict=True)
    ]
    first = b.Bootstrap(arms, replicates=100, seed=3)
    again = b.Bootstrap({"b": arms["b"][::-1], "a": arms["a"][::-1]}, replicates=100, seed=3)
    monkeypatch.setattr(b, "BLOCK", 60 * 7)
    blocks = b.Bootstrap(arms, replicates=100, seed=3)
    other = b.Bootstrap(arms, replicates=100, seed=4)
    for metric in b.METRICS:
        known = first.interval("a", metric)
        assert (known.low, known.high) == pytest.approx(
            [getattr(again.interval("a", metric), end) for end in ("low", "high")]
        )
        assert blocks.interval("a", metric) == known
    assert other.interval("a", "auc") != first.interval("a", "auc")
    assert again.difference("a", "b", "auc").p == first.difference("a", "b", "auc").p


def test_groups_are_resampled_whole():
    """Copies of an object in one group add nothing; the same rows as separate objects narrow the interval."""
    random = np.random.default_rng(0)
    cell = make_cells(random, draws=1, objects=50)[0]
    tenfold = {name: np.repeat(getattr(cell, name), 10, axis=0) for name in ("groups", "truth", "predicted")}
    many = replace(cell, ids=np.array([f"r{n}" for n in range(500)], dtype=object), **tenfold)
    width = {}
    for name, one in {"once": cell, "grouped": many, "apart": replace(many, groups=many.ids)}.items():
        interval = b.Bootstrap({"a": [one]}, ["accuracy"], replicates=2000).interval("a", "accuracy")
        width[name] = interval.high - interval.low
    assert width["grouped"] == pytest.approx(width["once"], rel=1e-9)
    assert width["apart"] < 0.6 * width["once"]


def fold_cells(random, repeats=3, folds=5, objects=100, signal=1.0):
    truth = random.integers(0, 2, objects)
    ids = np.array([f"o{n}" for n in range(objects)], dtype=object)
    cells = []
    for repeat in range(repeats):
        scores = signal * truth + random.normal(size=objects)
        for fold, rows in enumerate(np.array_split(random.permutation(objects), folds)):
            probabilities = np.stack([-scores[rows], scores[rows]], 1)
            cells.append(b.Cell((repeat, fold), f"r{repeat}", 0, ids[rows], ids[rows], truth[rows], probabilities))
    return cells


def test_folds_are_averaged_and_their_repeats_stay_whole():
    cells = fold_cells(np.random.default_rng(0))
    bootstrap = b.Bootstrap({"a": cells}, ["auc"], replicates=300)
    interval = bootstrap.interval("a", "auc")
    assert interval.value == pytest.approx(np.mean([roc_auc_score(c.truth, c.predicted[:, 1]) for c in cells]))
    assert interval.low < interval.value < interval.high
    weights = b._cell_weights(cells, b._unit_weights(b._clusters(cells), 300, 0), 300, 0)
    for repeat in range(3):
        assert (np.ptp(weights[5 * repeat : 5 * repeat + 5], axis=0) == 0).all()
    assert (weights.sum(axis=0) == weights[:, 0].sum()).all()


def test_nested_seeds_take_their_draws_along():
    cells = make_cells(np.random.default_rng(0), draws=4, seeds=(0, 1))
    units = b._unit_weights(b._clusters(cells), 500, 0)
    of_seed = [units[0] + units[2], units[1] + units[3]]
    np.testing.assert_allclose(np.sort(of_seed, axis=0), np.tile([[0.0], [2.0]], 500))  # one of two seeds is drawn
    one_each = make_cells(np.random.default_rng(0), draws=3, seeds=(0, 1, 2))
    plain = make_cells(np.random.default_rng(0), draws=3)
    mine, theirs = (b.Bootstrap({"a": own}, ["auc"], replicates=4000).interval("a", "auc") for own in (one_each, plain))
    # A seed a draw is one level, not two: as wide as without seeds.
    assert mine.high - mine.low == pytest.approx(theirs.high - theirs.low, rel=0.07)


def test_a_fold_without_positives_is_left_out_of_its_replicates():
    cells = fold_cells(np.random.default_rng(0), repeats=1, folds=4, objects=40)
    empty = replace(cells[0], truth=np.zeros_like(cells[0].truth))
    both = b.Bootstrap({"a": [empty, *cells[1:]]}, replicates=100)
    assert both.interval("a", "auc").value == pytest.approx(
        np.mean([classification.auc(c.truth, c.predicted) for c in cells[1:]])
    )
    assert np.isfinite(both.interval("a", "auc").low)
    alone = b.Bootstrap({"a": [empty]}, replicates=100)
    assert np.isnan([alone.interval("a", "auc").value, alone.interval("a", "auc").low]).all()
    assert np.isfinite(alone.interval("a", "accuracy").low)


def test_unpaired_arms_are_refused():
    random = np.random.default_rng(0)
    cells = make_cells(random)
    moved = [replace(cell, draw=cell.draw + 10) for cell in cells]
    others = [replace(cell, ids=np.array([f"x{n}" for n in range(60)], dtype=object)) for cell in cells]
    bootstrap = b.Bootstrap({"a": cells, "moved": moved, "others": others, "two": cells[:2]}, ["auc"], replicates=50)
    with pytest.raises(UserError, match="share no draw"):
        bootstrap.difference("a", "moved", "auc")
    with pytest.raises(UserError, match="different objects"):
        bootstrap.difference("a", "others", "auc")
    relabelled = [replace(cell, truth=1 - cell.truth) for cell in cells]
    with pytest.raises(UserError, match="or labels"):
        b.Bootstrap({"a": cells, "b": relabelled}, ["auc"], replicates=50).difference("a", "b", "auc")
    assert bootstrap.difference("a", "two", "auc").value == 0  # compared on the draws both have


def test_bad_requests_are_refused():
    cells = make_cells(np.random.default_rng(0))
    with pytest.raises(UserError, match="no metric"):
        b.Bootstrap({"a": cells}, ["f1"])
    with pytest.raises(UserError, match="no cell"):
        b.Bootstrap({"a": []})
    with pytest.raises(UserError, match="replicates"):
        b.Bootstrap({"a": cells}, replicates=1)
    with pytest.raises(UserError, match="59 ids"):
        b.Bootstrap({"a": [replace(cells[0], ids=cells[0].ids[1:])]})
    with pytest.raises(UserError, match="NaN"):
        b.Bootstrap({"a": [replace(cells[0], predicted=np.full((60, 2), np.nan))]})


def test_holm_by_hand():
    """Sorted p times the number of hypotheses still standing, never decreasing: Holm's own recipe."""
    np.testing.assert_allclose(b.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(b.holm([0.5, np.nan, 0.9]), [1.0, np.nan, 1.0])
    assert len(b.holm([])) == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(p_values):
    found = b.holm(p_values)
    assert (found >= p_values).all()
    assert (found <= np.minimum(1, len(p_values) * np.array(p_values)) + 1e-12).all()
    assert np.argsort(p_values, kind="stable").tolist() == sorted(
        range(len(p_values)), key=lambda i: (found[i], p_values[i], i)
    )


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """Lenses of N(δ, 1) against N(0, 1), with δ scattered from draw to draw: the true mean AUC is known."""
    random = np.random.default_rng(0)
    draws, objects, delta, scatter = 5, 200, 1.0, 0.15
    shifts = random.normal(delta, scatter, 200_000)
    expected = norm.cdf(shifts / np.sqrt(2)).mean()
    covered, rejected, trials = 0, 0, 300
    for trial in range(trials):
        truth = np.repeat([0, 1], objects // 2)
        ids = np.array([str(n) for n in range(objects)], dtype=object)
        base = random.normal(size=objects)  # shared by the draws: the same objects
        arms = {}
        for arm in "ab":
            cells = []
            for draw in range(draws):
                noise = np.sqrt(0.7) * base + np.sqrt(0.3) * random.normal(size=objects)
                score = truth * random.normal(delta, scatter) + noise
                cells.append(b.Cell(draw, draw, None, ids, ids, truth, np.stack([-score, score], 1)))
            arms[arm] = cells
        bootstrap = b.Bootstrap(arms, ["auc"], replicates=400, seed=trial)
        interval = bootstrap.interval("a", "auc")
        covered += interval.low <= expected <= interval.high
        rejected += bootstrap.difference("a", "b", "auc").p < 0.05
    assert 0.90 <= covered / trials <= 0.99, covered / trials
    assert rejected / trials <= 0.09, rejected / trials
