"""From what a model answered to the values that are watched.

A gateway watches a task's features and the model's own outputs. This module
puts them side by side, in the order of `TaskSchema.streams`. Counting them is
`fedge.profiles.counts`; computing them is the exported model's work.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedge.errors import TaskError
from fedge.records import NumericFeature, TaskSchema


def stream_values(
    task: TaskSchema,
    features: NDArray[np.float32],
    predictions: NDArray[np.int32],
    confidence: NDArray[np.float32],
    ood: NDArray[np.float32],
) -> NDArray[np.float64]:
    """The watched values of `n` rows.

    Args:
        features: float32[n, len(task.features)], the model's second output; NaN is missing.
        predictions: int32[n], index of the predicted class.
        confidence, ood: float32[n].

    Returns:
        float64[n, S] in the order of `task.streams`. Numbers are clamped to the task's public
        bounds, categories and classes are indices, and NaN stands for missing or non-finite.

    Raises:
        TaskError: the arrays do not have the shapes that the task's schema asks for.
    """
    n = len(predictions)
    if features.shape != (n, len(task.features)):
        raise TaskError(
            f"features have shape {features.shape}, "
            f"task {task.name} needs {(n, len(task.features))}"
        )
    if confidence.shape != (n,) or ood.shape != (n,) or predictions.shape != (n,):
        raise TaskError("predictions, confidence and ood need one value per row")
    values = np.empty((n, len(task.streams)), dtype=np.float64)
    values[:, :-3] = features
    values[:, -3] = predictions
    values[:, -2] = confidence
    values[:, -1] = ood
    values[~np.isfinite(values)] = np.nan
    for column, feature in enumerate(task.features):
        if isinstance(feature, NumericFeature):
            np.clip(values[:, column], feature.low, feature.high, out=values[:, column])
    return values
