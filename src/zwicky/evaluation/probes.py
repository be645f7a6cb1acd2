"""Classifiers on frozen features: k nearest neighbours and a linear probe. The backbone is not touched.

Both learn from the labelled features they are given and nothing else; what they choose (the strength of the
regularisation), they choose by cross-validation inside those labels.
"""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import StandardScaler

from zwicky.errors import UserError
from zwicky.metrics.embeddings import knn_probabilities
from zwicky.metrics.logistic import fit_logistic


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
    for name, features in (("training", train_x), ("test", test_x)):
        if not np.isfinite(features).all():
            raise UserError(f"the {name} features hold NaN or infinity; look for a diverged training or bad pixels")
    train_x, test_x = np.asarray(train_x, dtype=np.float64), np.asarray(test_x, dtype=np.float64)
    scaler = StandardScaler().fit(train_x)
    return logistic(scaler.transform(train_x), train_y, scaler.transform(test_x), classes, seed)[0]


def logistic(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, classes: int, seed: int
) -> tuple[np.ndarray, float]:
    """(probabilities [M, classes], cross-validated NLL) of a logistic regression, see `metrics.logistic`."""
    model, found = fit_logistic(train_x, train_y, seed)
    return spread(model.predict_proba(test_x), model.classes_, classes), found


def spread(probabilities: np.ndarray, present: np.ndarray, classes: int) -> np.ndarray:
    """[M, classes] from the columns of the classes `present` in the labels; 0 for the others."""
    full = np.zeros((len(probabilities), classes))
    full[:, present] = probabilities
    return full


def check_labels(labels: np.ndarray, count: int, classes: int) -> np.ndarray:
    """Labels [N] as int64, or UserError: not one an object, out of range, only one class."""
    labels = np.asarray(labels).astype(np.int64)
    if labels.shape != (count,):
        raise UserError(f"{count} training objects but labels of shape {list(labels.shape)}; give one label each")
    found = np.unique(labels)
    if len(found) < 2:
        raise UserError(f"the {count} labels hold {len(found)} class; draw labels from at least two classes")
    if found[0] < 0 or found[-1] >= classes:
        raise UserError(f"a training label lies outside 0 … {classes - 1}; give the number of classes")
    return labels
