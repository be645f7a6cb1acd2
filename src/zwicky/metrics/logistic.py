"""Logistic regression whose strength is chosen inside the labels it is given."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

STRENGTHS = np.logspace(-5, 1, 7)  # inverse regularisation C that are tried
FOLDS = 5


def fit_logistic(
    x: np.ndarray, y: np.ndarray, seed: int, weights: np.ndarray | None = None, groups: np.ndarray | None = None
) -> tuple[LogisticRegression, float]:
    """(model, cross-validated NLL) for standardised features x [N, D] and labels y [N] int of at least two classes.

    weights: [N], of each object in the fits; all alike unless given. groups: [N], rows of one object have the same and
    are in one fold; each its own unless given.

    C has the lowest cross-validated NLL. With a class of one object nothing can be cross-validated: then C = 0.01 and
    the NLL is NaN.
    """
    model = LogisticRegression(C=0.01, max_iter=300, tol=1e-3)
    count = fold_count(y if groups is None else y[np.unique(groups, return_index=True)[1]])
    with warnings.catch_warnings():
        # A fit stopped early at the weakest regularisation is one more candidate, not worth a line to the user.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if count < 2:
            return model.fit(x, y, weights), float("nan")
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        folds = kind(count, shuffle=True, random_state=seed)
        search = GridSearchCV(model, {"C": STRENGTHS}, scoring="neg_log_loss", cv=folds, error_score="raise")
        search.fit(x, y, groups=groups, sample_weight=weights)
    return search.best_estimator_, -float(search.best_score_)


def linear_classifier(
    x: np.ndarray, y: np.ndarray, classes: int, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(weight [classes, D], bias [classes]) of the logistic regression, for features x [N, D] as they come.

    Logits are x·weightᵀ + bias. groups: as in `fit_logistic`. A class without a label gets a logit that is ln N below
    the others' mean.
    """
    x = np.asarray(x, dtype=np.float64)
    scaler = StandardScaler().fit(x)
    model, _ = fit_logistic(scaler.transform(x), y, seed, groups=groups)
    coefficients, intercept = model.coef_, model.intercept_
    if len(coefficients) == 1:  # two classes have one logit, the difference of ours
        coefficients, intercept = np.concatenate([-coefficients, coefficients]) / 2, np.repeat(intercept / 2, 2)
        intercept[0] *= -1
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, -np.log(len(x)))
    weight[model.classes_] = coefficients / scaler.scale_
    bias[model.classes_] = intercept - weight[model.classes_] @ scaler.mean_
    return weight, bias


def fold_count(labels: np.ndarray) -> int:
    """Folds of a cross-validation inside these labels: 5, or fewer where the rarest class has fewer objects."""
    return int(min(FOLDS, np.unique(labels, return_counts=True)[1].min()))
