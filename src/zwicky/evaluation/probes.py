"""Classifiers on frozen features: k nearest neighbours and a linear probe. The backbone is not touched.

Both learn from the labelled features they are given and nothing else; what they choose (the strength of the
regularisation), they choose by cross-validation inside those labels.
"""

from __future__ import annotations

import numpy as np

from zwicky.methods.collapse import knn_probabilities
from zwicky.training.linear_probe import LinearProbe, check_labels, fit_logistic
from zwicky.training.task import Task


def knn_probe(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, classes: int) -> np.ndarray:
    """[M, classes] probabilities of test_x [M, D] by the 20 nearest of train_x [N, D] in cosine similarity.

    train_y [N] int in 0 … classes − 1.
    """
    train_y = check_labels(train_y, len(train_x), classes)
    return knn_probabilities(train_x, train_y, test_x, classes)


def linear_probe(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, classes: int, seed: int = 0
) -> np.ndarray:
    """[M, classes] probabilities of test_x [M, D] by logistic regression on train_x [N, D], train_y [N] int.

    Features are standardised by the training ones. C has the lowest cross-validated NLL inside the N labels. A
    class without a label gets probability 0.
    """
    train_y = check_labels(train_y, len(train_x), classes)
    task = Task(train_y, tuple(map(str, range(classes))))
    return LinearProbe.fit(train_x, train_y, task, seed=seed).predict(test_x)


def logistic(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, classes: int, seed: int
) -> tuple[np.ndarray, float]:
    """(probabilities [M, classes], cross-validated log loss) of a logistic regression on standardised features."""
    model, loss = fit_logistic(train_x, train_y, seed)
    return spread(model.predict_proba(test_x), model.classes_, classes), loss


def spread(probabilities: np.ndarray, present: np.ndarray, classes: int) -> np.ndarray:
    """[M, classes] from the columns of the classes `present` in the labels; 0 for the others."""
    full = np.zeros((len(probabilities), classes))
    full[:, present] = probabilities
    return full
