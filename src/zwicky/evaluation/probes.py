"""Probes of frozen features: k nearest neighbours and a linear model, trained on the labelled features alone."""

from collections.abc import Callable

import numpy as np

from zwicky.methods.collapse import knn_predict
from zwicky.training.linear_probe import LinearProbe, check_features, check_labels
from zwicky.training.task import Task

Probe = Callable[[np.ndarray, np.ndarray, np.ndarray, Task], np.ndarray]


def knn_probe(features: np.ndarray, truth: np.ndarray, query: np.ndarray, task: Task) -> np.ndarray:
    """Predict by the 20 nearest neighbours in cosine similarity, see `methods.collapse.knn_predict`.

    `features` [n, D] are those of labelled objects, `truth` their classes [n] int or values [n, columns]. Returns
    probabilities [M, classes] or values [M, columns] of the features `query` [M, D].
    """
    classes = task.n_outputs
    values = truth if task.is_regression else np.eye(classes)[check_labels(truth, len(features), classes)]
    return knn_predict(check_features(features, "training"), values, check_features(query, "test"))


def linear_probe(features: np.ndarray, truth: np.ndarray, query: np.ndarray, task: Task) -> np.ndarray:
    """Predict by logistic or ridge regression; arguments and result as for `knn_probe`."""
    return LinearProbe.fit(features, truth, task).predict(query)


PROBES: dict[str, Probe] = {"linear": linear_probe, "blocks": linear_probe, "knn": knn_probe}
