"""The linear probe, logistic or ridge regression on frozen features, and temperature scaling of logits."""

import warnings
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from zwicky.errors import UserError
from zwicky.training.task import Task

INVERSE_PENALTIES = np.logspace(-5, 1, 7)  # C of the logistic regression
PENALTIES = np.logspace(-2, 6, 17)  # alpha of the ridge regression
FOLDS = 5
TEMPERATURES = (0.02, 50.0)  # the range searched


@dataclass(frozen=True)
class LinearProbe:
    """A linear model on standardised features, fitted with `LinearProbe.fit`."""

    task: Task
    scaler: StandardScaler
    models: list[LogisticRegression | Ridge]  # one logistic regression, or one ridge regression a regressed column
    cv_loss: float = float("nan")  # log loss, or mean over columns of squared error over variance; NaN without folds

    @classmethod
    def fit(
        cls, features: np.ndarray, truth: np.ndarray, task: Task, groups: np.ndarray | None = None, seed: int = 0
    ) -> Self:
        """Fit to features [n, D]; the penalty has the lowest cross-validated log loss or squared error.

        `truth` has classes [n] int or values [n, columns]; rows with equal `groups` [n] stay in one fold. UserError if
        features are not finite, or all labels are of one class.
        """
        features = check_features(features, "training")
        scaler = StandardScaler().fit(features)
        x = scaler.transform(features)
        if not task.is_regression:
            model, loss = fit_logistic(x, check_labels(truth), seed, groups=groups)
            return cls(task, scaler, [model], loss)
        columns = np.asarray(truth, np.float64).reshape(len(x), -1).T
        fits = [fit_ridge(x, column, seed, groups) for column in columns]
        losses = [loss / max(column.var(), 1e-300) for (_, loss), column in zip(fits, columns, strict=True)]
        return cls(task, scaler, [model for model, _ in fits], float(np.mean(losses)))

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return probabilities [M, classes] (0 for a class without a label) or values [M, columns]."""
        x = self.scaler.transform(check_features(features, "test"))
        if self.task.is_regression:
            return np.stack([model.predict(x) for model in self.models], axis=1)
        probabilities = np.zeros((len(x), self.task.n_outputs))
        probabilities[:, self.models[0].classes_] = self.models[0].predict_proba(x)
        return probabilities

    def to_linear(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (weight [outputs, D], bias [outputs]) of the same model on features that are not standardised.

        The logit of a class without a label is ln n below the others' mean.
        """
        outputs = np.arange(self.task.n_outputs)
        if self.task.is_regression:
            coefficients = np.stack([model.coef_ for model in self.models])
            intercept = np.array([model.intercept_ for model in self.models])
        else:
            coefficients, intercept, outputs = self.models[0].coef_, self.models[0].intercept_, self.models[0].classes_
            if len(coefficients) == 1:  # of two classes scikit-learn has the difference of the logits
                coefficients, intercept = np.concatenate([-coefficients, coefficients]) / 2, intercept * [-0.5, 0.5]
        weight = np.zeros((self.task.n_outputs, self.scaler.n_features_in_))
        bias = np.full(self.task.n_outputs, -np.log(self.scaler.n_samples_seen_))
        weight[outputs] = coefficients / self.scaler.scale_
        bias[outputs] = intercept - weight[outputs] @ self.scaler.mean_
        return weight, bias


def fit_logistic(
    x: np.ndarray, y: np.ndarray, seed: int, groups: np.ndarray | None = None
) -> tuple[LogisticRegression, float]:
    """Fit a logistic regression to standardised features x [n, D] and classes y [n]; rows of a group stay in one fold.

    Returns (model, cross-validated log loss). If a class has one object, nothing can be cross-validated: C = 0.01, NaN.
    """
    model = LogisticRegression(C=0.01, max_iter=300, tol=1e-3)
    objects = y if groups is None else y[np.unique(groups, return_index=True)[1]]
    n_folds = int(min(FOLDS, np.unique(objects, return_counts=True)[1].min()))
    # A fit stopped early at the weakest penalty is one more candidate, not worth a line to the user.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        if n_folds < 2:
            return model.fit(x, y), float("nan")
        splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
        folds = splitter(n_folds, shuffle=True, random_state=seed)
        search = GridSearchCV(model, {"C": INVERSE_PENALTIES}, scoring="neg_log_loss", cv=folds, error_score="raise")
        search.fit(x, y, groups=groups)
    return search.best_estimator_, -float(search.best_score_)


def fit_ridge(x: np.ndarray, y: np.ndarray, seed: int, groups: np.ndarray | None = None) -> tuple[Ridge, float]:
    """Fit a ridge regression of y [n] on standardised features x [n, D]: (model, cross-validated squared error).

    One object gets the strongest penalty, and NaN.
    """
    groups = np.arange(len(x)) if groups is None else groups
    n_folds = min(FOLDS, len(np.unique(groups)))
    if n_folds < 2:
        return Ridge(PENALTIES[-1]).fit(x, y), float("nan")
    folds = GroupKFold(n_folds, shuffle=True, random_state=seed)
    search = GridSearchCV(Ridge(), {"alpha": PENALTIES}, scoring="neg_mean_squared_error", cv=folds)
    search.fit(x, y, groups=groups)
    return search.best_estimator_, -float(search.best_score_)


def check_labels(truth: np.ndarray) -> np.ndarray:
    """Return class numbers as int64; UserError if all are of one class."""
    if len(present := np.unique(truth)) < 2:
        raise UserError(f"the {len(truth)} labels hold {len(present)} class; draw labels from at least two classes")
    return np.asarray(truth, np.int64)


def check_features(features: np.ndarray, role: str) -> np.ndarray:
    """Return features as float64; UserError if they are not finite; `role` is part of the message."""
    if not np.isfinite(features).all():
        raise UserError(f"the {role} features hold NaN or infinity; look for a diverged training or bad pixels")
    return np.asarray(features, dtype=np.float64)


def cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean of −ln softmax(logits)[truth] in nats. logits [N, classes], truth [N] int."""
    log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return -float(log_probabilities[np.arange(len(truth)), truth].mean())


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the T in TEMPERATURES that minimises the cross-entropy of softmax(logits / T), which is convex in 1/T.

    Temperature scaling gives calibrated probabilities (arXiv:1706.04599). Each class has one label more, spread over
    all objects, as in Platt's scaling (1999): without it T would fall to its bound wherever a few labels are all right.
    """
    count, classes = logits.shape

    def loss(log_t: float) -> float:
        scaled = np.asarray(logits, np.float64) / np.exp(log_t)
        return count * cross_entropy(scaled, truth) - classes * log_softmax(scaled, axis=1).mean()

    best = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-5})
    return float(np.exp(best.x))
