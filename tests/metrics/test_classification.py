import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from zwicky.errors import UserError
from zwicky.metrics import classification as c


@st.composite
def ranked(draw):
    """Binary truth with both classes and scores with many ties."""
    count = draw(st.integers(2, 40))
    truth = draw(hnp.arrays(np.int64, count, elements=st.integers(0, 1)))
    truth[0], truth[-1] = 0, 1
    return truth, draw(hnp.arrays(np.int64, count, elements=st.integers(-3, 6))).astype(float)


@settings(deadline=None, max_examples=50)
@given(ranked())
def test_auc_is_the_share_of_pairs_won(case):
    truth, score = case
    wins = [(p > q) + 0.5 * (p == q) for p in score[truth == 1] for q in score[truth == 0]]
    assert c.auc(truth, score) == pytest.approx(np.mean(wins))
    assert c.auc(truth, score) == pytest.approx(oracle.roc_auc_score(truth, score))
    assert c.auc(truth, -score) == pytest.approx(1 - c.auc(truth, score))
    assert c.auc(truth, np.exp(score)) == c.auc(truth, score)


def test_auc_macro_matches_sklearn():
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 200)
    probabilities = random.dirichlet(np.ones(4), 200).round(1)
    expected = np.mean([oracle.roc_auc_score(truth == k, probabilities[:, k]) for k in range(4)])
    assert c.auc(truth, probabilities) == pytest.approx(expected)
    assert c.auc(truth % 2, probabilities[:, :2]) == pytest.approx(oracle.roc_auc_score(truth % 2, probabilities[:, 1]))


@settings(deadline=None, max_examples=50)
@given(ranked())
def test_roc_matches_sklearn(case):
    for mine, theirs in zip(c.roc(*case), oracle.roc_curve(*case, drop_intermediate=False), strict=True):
        np.testing.assert_allclose(mine, theirs)


def test_roc_keeps_infinite_scores_tied():
    fpr, tpr, _ = c.roc(np.array([0, 1, 0, 1]), np.array([-np.inf, -np.inf, -np.inf, 2.0]))
    assert fpr.tolist() == [0, 0, 1]
    assert tpr.tolist() == [0, 0.5, 1]


@settings(deadline=None, max_examples=50)
@given(ranked(), st.integers(0, 6))
def test_recall_at_false_positives_is_the_best_threshold(case, k):
    truth, score = case
    recall = c.recall_at_false_positives(truth, score, k)
    if np.sum(truth == 0) <= k:
        assert np.isnan(recall)
        return
    allowed = [np.mean(score[truth == 1] >= cut) for cut in [*score, np.inf] if np.sum(score[truth == 0] >= cut) <= k]
    assert recall == pytest.approx(max(allowed))


def test_recall_at_fpr_counts_whole_negatives():
    truth = np.repeat([0, 1], [3000, 4])
    score = np.concatenate([np.arange(3000.0), [2996.0, 2997.0, 2998.5, 5000.0]])
    assert c.recall_at_fpr(truth, score, 1e-3) == 0.75  # three false positives allowed: above the negative at 2996
    assert c.recall_at_fpr(truth, score, 1e-4) == c.recall_at_false_positives(truth, score, 0) == 0.25
    with pytest.raises(UserError, match="rate"):
        c.recall_at_fpr(truth, score, 1.0)


def test_expected_purity_of_known_cases():
    """Recall .46 at FPR 1e-3 is 4 % purity at prevalence 1e-4; .75 at 1e-4 is 43 %."""
    assert c.expected_purity(0.46, 1e-3, 1e-4) == pytest.approx(0.044, abs=5e-4)
    assert c.expected_purity(0.75, 1e-4, 1e-4) == pytest.approx(0.43, abs=5e-3)
    assert np.isnan(c.expected_purity(0.0, 0.0, 1e-4))
    with pytest.raises(UserError, match="prevalence"):
        c.expected_purity(0.5, 0.1, 1.0)


@settings(deadline=None, max_examples=50)
@given(ranked())
def test_purity_at_the_sample_prevalence_is_precision(case):
    truth, score = case
    curve = c.purity_completeness(truth, score, truth.mean())
    for cut, purity, completeness, wrong in zip(
        curve.thresholds, curve.purity, curve.completeness, curve.false_positives, strict=True
    ):
        called = score >= cut
        assert purity == pytest.approx(truth[called].mean())
        assert completeness == pytest.approx(called[truth == 1].mean())
        assert wrong == np.sum(called & (truth == 0))
    assert curve.negatives == np.sum(truth == 0)


def test_found_per_inspected_is_the_mean_over_orders_of_ties():
    truth = np.array([1, 0, 1, 0, 0, 1, 0, 0])
    score = np.array([9, 5, 5, 5, 4, 4, 1, 0.0])
    random = np.random.default_rng(0)
    total = np.zeros(9)
    for _ in range(4000):
        order = np.lexsort([random.random(8), -score])
        total += np.concatenate([[0], np.cumsum(truth[order])])
    np.testing.assert_allclose(c.found_per_inspected(truth, score, np.arange(9)), total / 4000, atol=0.05)
    assert c.found_per_inspected(truth, score, np.array([100])) == 3


def test_confusion_and_accuracy_match_sklearn():
    random = np.random.default_rng(0)
    truth, probabilities = random.integers(0, 3, 50), random.dirichlet(np.ones(4), 50)
    predicted = probabilities.argmax(axis=1)
    np.testing.assert_array_equal(
        c.confusion(truth, predicted, 4), oracle.confusion_matrix(truth, predicted, labels=range(4))
    )
    assert c.accuracy(truth, probabilities) == oracle.accuracy_score(truth, predicted)
    with pytest.raises(UserError, match="0 … 2"):
        c.confusion(truth, np.full(50, 3), 3)
    with pytest.raises(UserError, match="one of each"):
        c.confusion(truth, predicted[:-1], 4)


@pytest.mark.parametrize(
    ("truth", "score", "words"),
    [
        ([0, 1, 1], [0.1, np.nan, 0.2], "1 of 3 scores are NaN"),
        ([1, 1], [0.1, 0.2], "one class"),
        ([0, 2], [0.1, 0.2], "0 .negative. or 1"),
        ([0, 1], [0.1], "one of each"),
        ([], [], "one class"),
    ],
)
@pytest.mark.parametrize("metric", [c.auc, c.roc, lambda t, s: c.recall_at_false_positives(t, s, 0)])
def test_bad_scores_are_refused(metric, truth, score, words):
    with pytest.raises(UserError, match=words):
        metric(np.array(truth), np.array(score))


@pytest.mark.parametrize(
    ("truth", "probabilities", "words"),
    [
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], "1 of 2 rows"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "outside"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], "one row"),
        ([0, 1], [[1.0], [1.0]], "two classes"),
    ],
)
def test_bad_probabilities_are_refused(truth, probabilities, words):
    with pytest.raises(UserError, match=words):
        c.accuracy(np.array(truth), np.array(probabilities))


def test_no_objects_are_refused():
    with pytest.raises(UserError, match="no object"):
        c.accuracy(np.zeros(0, dtype=int), np.zeros((0, 2)))
