"""Agreement and reliability against published values, formulas in loops and simulated graders."""

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from zwicky.evaluation import bootstrap
from zwicky.grading.agreement import Reliability, krippendorff_alpha
from zwicky.rng import numpy_rng

N = np.nan
# Krippendorff 2011, "Computing Krippendorff's alpha-reliability": four observers, twelve units
OBSERVERS = "123321412... 1233224125.3 .3332342251. 12332441251.".split()
PUBLISHED = np.array([[N if grade == "." else float(grade) for grade in grades] for grades in OBSERVERS]).T


def test_alpha_of_the_published_example():
    alpha = krippendorff_alpha(PUBLISHED)
    assert alpha.value == pytest.approx(0.815, abs=5e-4)
    assert alpha.low < alpha.value < alpha.high <= 1


def test_alpha_by_its_definition_in_loops():
    grades = numpy_rng(0).integers(0, 4, (30, 5)).astype(float)
    grades[numpy_rng(1).random(grades.shape) < 0.4] = np.nan
    units = [row[~np.isnan(row)] for row in grades]
    units = [row for row in units if len(row) > 1]
    pooled = np.concatenate(units)
    count = {level: (pooled == level).sum() for level in np.unique(pooled)}

    def distance(a, b):
        low, high = sorted((a, b))
        return (sum(n for level, n in count.items() if low <= level <= high) - (count[a] + count[b]) / 2) ** 2

    observed = sum(sum(distance(a, b) for a, b in itertools.permutations(row, 2)) / (len(row) - 1) for row in units)
    expected = sum(distance(a, b) for a, b in itertools.permutations(pooled, 2)) / (len(pooled) - 1)
    assert krippendorff_alpha(grades).value == pytest.approx(1 - observed / expected)


def test_replicates_are_drawn_in_blocks(monkeypatch):
    grades = numpy_rng(0).integers(0, 4, (10_000, 2)).astype(float)
    tracemalloc.start()
    try:
        whole = krippendorff_alpha(grades)
        assert tracemalloc.get_traced_memory()[1] < 100e6  # 1000 replicates of 10,000 objects take 80 MB an array
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(bootstrap, "BLOCK", 70_001)
    blocks = krippendorff_alpha(grades)
    assert (blocks.low, blocks.high) == pytest.approx((whole.low, whole.high), abs=1e-12)


def test_alpha_at_the_extremes():
    same = np.repeat(np.arange(4.0)[:, None], 3, axis=1)
    assert krippendorff_alpha(same).value == 1
    random = numpy_rng(1).integers(0, 4, (4000, 3)).astype(float)
    alpha = krippendorff_alpha(random)
    assert alpha.low < 0 < alpha.high
    assert alpha.high - alpha.low < 0.1
    for undefined in (np.full((5, 2), 1.0), np.array([[1, N], [N, 2]]), np.full((3, 2), N)):
        assert np.isnan(krippendorff_alpha(undefined).value)


def simulated_votes(rng, truth, right_on_lenses, right_on_others):
    right = np.where(truth[:, None], right_on_lenses, right_on_others)
    return np.where(rng.random(right.shape) < right, truth[:, None], ~truth[:, None]).astype(float)


def test_swap_recovers_graders_and_calibrated_probabilities():
    rng = numpy_rng(0)
    on_lenses, on_others = np.array([0.95, 0.8, 0.5]), np.array([0.9, 0.7, 0.5])  # the third one guesses
    truth = np.arange(2000) % 2 == 0
    reliable = Reliability.measure(simulated_votes(rng, truth, on_lenses, on_others), truth)
    np.testing.assert_allclose(reliable.on_lenses, on_lenses, atol=0.03)
    np.testing.assert_allclose(reliable.on_others, on_others, atol=0.03)

    is_lens = rng.random(20_000) < 0.1
    votes = simulated_votes(rng, is_lens, on_lenses, on_others)
    votes[rng.random(votes.shape) < 0.3] = np.nan
    probability = reliable.probability(votes)
    assert probability.mean() == pytest.approx(0.1, abs=0.015)
    for low, high in [(0, 0.05), (0.05, 0.3), (0.3, 1)]:
        inside = (probability >= low) & (probability < high)
        assert is_lens[inside].mean() == pytest.approx(probability[inside].mean(), abs=0.04)


def test_swap_by_bayes_theorem_in_loops():
    rng, on_lenses, on_others = numpy_rng(3), np.array([0.95, 0.8, 0.6]), np.array([0.9, 0.7, 0.7])
    votes = simulated_votes(rng, rng.random(300) < 0.2, on_lenses, on_others)
    votes[rng.random(votes.shape) < 0.3] = np.nan

    def likelihoods(row):
        of_lens = of_other = 1.0
        for vote, p, q in zip(row, on_lenses, on_others, strict=True):
            if not np.isnan(vote):
                of_lens *= p if vote else 1 - p
                of_other *= 1 - q if vote else q
        return of_lens, of_other

    pairs = [likelihoods(row) for row in votes]
    cost = lambda prior: -sum(np.log(prior * a + (1 - prior) * b) for a, b in pairs)  # noqa: E731
    prior = minimize_scalar(cost, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x
    expected = [prior * a / (prior * a + (1 - prior) * b) for a, b in pairs]
    np.testing.assert_allclose(Reliability(on_lenses, on_others).probability(votes), expected, rtol=1e-4)


def test_a_grader_without_calibration_carries_no_information():
    reliable = Reliability.measure(np.full((4, 2), np.nan), np.array([True, True, False, False]))
    assert (reliable.on_lenses == 0.5).all()
    probability = reliable.probability(np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert probability[0] == probability[1]
