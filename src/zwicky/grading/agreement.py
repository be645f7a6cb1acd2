"""How far graders agree, and what their votes mean: Krippendorff's alpha, and SWAP's probability of a lens."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.special import expit, logit

from zwicky.evaluation.bootstrap import Bootstrap, Cell, Interval


def krippendorff_alpha(grades: np.ndarray) -> Interval:
    """Return Krippendorff's ordinal alpha of graders, 1 for perfect agreement and 0 for chance, with its interval.

    alpha = 1 − D_o / D_e from the coincidences of grades (Krippendorff 2004, Content Analysis, ch. 11). The ordinal
    distance of two grades is that of their mean ranks. The interval resamples objects.

    Args:
        grades: [objects, graders], NaN where a grader did not grade an object.

    Returns:
        The interval; NaN without two graders of one object, or if all grades are equal.
    """
    grades = grades[(~np.isnan(grades)).sum(1) > 1]
    levels = np.unique(grades[~np.isnan(grades)])
    if len(levels) < 2:
        return Interval(np.nan, np.nan, np.nan)
    counts = np.stack([(grades == level).sum(1) for level in levels], axis=1).astype(float)  # [objects, levels]
    pairs = counts[:, :, None] * counts[:, None] - counts[:, :, None] * np.eye(len(levels))
    coincidences = (pairs / (counts.sum(1) - 1)[:, None, None]).reshape(len(counts), -1)
    rows = np.arange(len(counts))
    cell = Cell(ids=rows, groups=rows, truth=rows, predicted=coincidences)
    replicates = Bootstrap({"": [cell]}).apply(lambda _, pairs, weights: _alpha(weights @ pairs, len(levels)))
    return replicates.interval("")


def _alpha(coincidences: np.ndarray, levels: int) -> np.ndarray:
    """[R] alpha of coincidence matrices [R, levels²]."""
    matrix = coincidences.reshape(-1, levels, levels)
    marginal = matrix.sum(2)
    total = marginal.sum(1)
    rank = np.cumsum(marginal, axis=1) - marginal / 2
    distance = (rank[:, :, None] - rank[:, None]) ** 2
    observed = (matrix * distance).sum((1, 2)) / total
    expected = (marginal[:, :, None] * marginal[:, None] * distance).sum((1, 2)) / (total * (total - 1))
    return 1 - np.divide(observed, expected, out=np.full(len(matrix), np.nan), where=expected > 0)


@dataclass(frozen=True)
class Reliability:
    """The 2 × 2 confusion matrix of each grader: P(votes lens | lens) and P(votes no lens | no lens), [graders].

    It is measured on images whose class is known (SWAP, Marshall et al. 2016, arXiv:1504.06148): (k + 1) / (n + 2) of
    n images, so 1/2, which carries no information, for a grader who was shown none.
    """

    on_lenses: np.ndarray
    on_others: np.ndarray

    @classmethod
    def measure(cls, votes: np.ndarray, truth: np.ndarray) -> Self:
        """Measure graders on calibration images.

        Args:
            votes: [images, graders], 1 for lens, 0 for none, NaN where not graded.
            truth: [images] bool.
        """

        def share(kind: int) -> np.ndarray:
            of_kind = votes[truth == kind]
            return ((of_kind == kind).sum(0) + 1) / ((~np.isnan(of_kind)).sum(0) + 2)

        return cls(share(1), share(0))

    def probability(self, votes: np.ndarray) -> np.ndarray:
        """Return the probability [objects] that each is a lens given all its votes, [objects, graders] as of `measure`.

        Bayes' theorem for independent votes, as in SWAP. The prior is the share of lenses that is most likely
        given the votes (expectation maximisation).
        """
        says_lens = np.log(self.on_lenses / (1 - self.on_others))
        says_none = np.log((1 - self.on_lenses) / self.on_others)
        evidence = np.where(np.isnan(votes), 0.0, np.where(votes == 1, says_lens, says_none)).sum(1)
        prior = 0.5
        for _ in range(200):
            prior = float(np.clip(expit(logit(prior) + evidence).mean(), 1e-6, 1 - 1e-6))
        return expit(logit(prior) + evidence)
