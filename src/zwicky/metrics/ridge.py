"""Ridge regression whose strength is chosen inside the labels it is given."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.preprocessing import StandardScaler

STRENGTHS = np.logspace(-2, 6, 17)  # penalties that are tried
FOLDS = 5


def linear_regressor(
    x: np.ndarray, y: np.ndarray, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(weight [columns, D], bias [columns]) of ridge regressions of y [N, columns] on features x [N, D] as they come.

    Predictions are x·weightᵀ + bias. Each column's penalty, on the weights of standardised features, has the lowest
    cross-validated squared error. groups: [N], rows of one object have the same and are in one fold; each its own
    unless given. A single object has nothing to choose by: the strongest penalty.
    """
    x = np.asarray(x, dtype=np.float64)
    groups = np.arange(len(x)) if groups is None else groups
    scaler = StandardScaler().fit(x)
    standard, folds = scaler.transform(x), min(FOLDS, len(np.unique(groups)))
    weight, bias = np.empty((y.shape[1], x.shape[1])), np.empty(y.shape[1])
    for column, values in enumerate(np.asarray(y, dtype=np.float64).T):
        model = Ridge(STRENGTHS[-1])
        if folds < 2:
            model.fit(standard, values)
        else:
            cuts = GroupKFold(folds, shuffle=True, random_state=seed)
            search = GridSearchCV(model, {"alpha": STRENGTHS}, scoring="neg_mean_squared_error", cv=cuts)
            model = search.fit(standard, values, groups=groups).best_estimator_
        weight[column] = model.coef_ / scaler.scale_
        bias[column] = model.intercept_ - weight[column] @ scaler.mean_
    return weight, bias
