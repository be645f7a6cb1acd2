"""Agreement and reliability against published values, formulas in loops and simulated graders."""

import itertools

import numpy as np
import pytest

from zwicky.grading.agreement import Reliability, krippendorff_alpha
from zwicky.rng import numpy_rng

N = np.nan
PUBLISHED = np.array(  # Krippendorff 2011, "Computing Krippendorff's alpha-reliability": four observers, twelve units
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ]
).T


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

    one = np.array([[1.0, 0.0, N]])
    prior = 0.1
    posterior = prior * 0.95 * 0.2 / (prior * 0.95 * 0.2 + (1 - prior) * 0.1 * 0.7)  # Bayes by hand
    both = Reliability(on_lenses, on_others).probability(np.concatenate([one, votes]))[0]
    assert both == pytest.approx(posterior, abs=0.06)


def test_a_grader_without_calibration_carries_no_information():
    reliable = Reliability.measure(np.full((4, 2), np.nan), np.array([True, True, False, False]))
    assert (reliable.on_lenses == 0.5).all()
    probability = reliable.probability(np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert probability[0] == probability[1]
