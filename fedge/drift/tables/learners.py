"""The kinds of small models, each as a function from rows of numbers to answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Predict = Callable[[Floats], Floats]
"""A fitted model: from float64[m, D] to class probabilities float64[m, K], or numbers (K = 1)."""

LEAST_PROBABILITY = 1e-3
"""No answer is surer than this: a block may lack a class that others have."""

_SEED = 20


def fit_one(kind: str, classes: int, matrix: Floats, truth: Floats) -> Predict:
    """Fit one model.

    Args:
        kind: `constant`, `linear`, `forest` or `boosting`.
        classes: K; 0 for a number.
        matrix: float64[n, D], finite.
        truth: float64[n], indices of classes, some of which may be absent; or numbers.
    """
    if classes == 0:
        return _fit_number(kind, matrix, truth)
    codes = truth.astype(np.int64)
    shares = (np.bincount(codes, minlength=classes) + 0.5) / (len(codes) + 0.5 * classes)
    present = np.unique(codes)
    if kind == "constant" or len(present) == 1:
        return lambda rows: np.tile(shares, (len(rows), 1))
    estimator = _classifier(kind, len(codes)).fit(matrix, codes)

    def predict(rows: Floats) -> Floats:
        answers = np.full((len(rows), classes), LEAST_PROBABILITY)
        if len(rows):
            answers[:, present] = np.maximum(estimator.predict_proba(rows), LEAST_PROBABILITY)
        normed: Floats = answers / answers.sum(axis=1, keepdims=True)
        return normed

    return predict


def _fit_number(kind: str, matrix: Floats, truth: Floats) -> Predict:
    centre, spread = float(truth.mean()), float(truth.std()) or 1.0
    if kind == "constant":
        return lambda rows: np.full((len(rows), 1), centre)
    estimator = _regressor(kind, len(truth)).fit(matrix, (truth - centre) / spread)

    def predict(rows: Floats) -> Floats:
        if len(rows) == 0:
            return np.empty((0, 1))
        return np.asarray(centre + spread * estimator.predict(rows), np.float64).reshape(-1, 1)

    return predict


def _classifier(kind: str, rows: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    if kind == "linear":
        return LogisticRegression(C=1.0, max_iter=200)
    if kind == "forest":
        return RandomForestClassifier(**_forest(rows))
    return HistGradientBoostingClassifier(**_boosting(rows))


def _regressor(kind: str, rows: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
    from sklearn.linear_model import Ridge

    if kind == "linear":
        return Ridge(alpha=1.0)
    if kind == "forest":
        return RandomForestRegressor(**_forest(rows), max_features=0.4)
    return HistGradientBoostingRegressor(**_boosting(rows))


def _forest(rows: int) -> dict[str, Any]:
    return {
        "n_estimators": 60,
        "min_samples_leaf": 3,
        "max_samples": min(rows, 2000),
        "random_state": _SEED,
        "n_jobs": 1,
    }


def _boosting(rows: int) -> dict[str, Any]:
    return {
        "max_iter": 60,
        "learning_rate": 0.12,
        "max_leaf_nodes": 12,
        "min_samples_leaf": 10 if rows < 1500 else 20,
        "early_stopping": False,
        "random_state": _SEED,
    }
