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
) -> NDArray[np.float32]:
    """The watched values of `n` rows.

    Args:
        features: float32[n, len(task.features)], the model's second output; NaN is missing.
        predictions: int32[n], index of the predicted class.
        confidence, ood: float32[n].

    Returns:
        float32[n, S] in the order of `task.streams`, each column in one piece. Numbers are clamped
        to the task's public bounds, categories and classes are indices, and NaN stands for missing
        or non-finite. Bounds that float32 cannot hold are taken as the next numbers outside them,
        so that a clamped value still lies below, or above, every edge inside the bounds.

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
    columns = np.empty((len(task.streams), n), dtype=np.float32)
    columns[:-3] = features.T
    columns[-3] = predictions
    columns[-2] = confidence
    columns[-1] = ood
    finite = np.isfinite(columns)
    if not finite.all():
        columns[~finite] = np.nan
    numeric = [isinstance(feature, NumericFeature) for feature in task.features]
    bounds = [_outside(f.low, f.high) for f in task.features if isinstance(f, NumericFeature)]
    low, high = np.array(bounds, dtype=np.float32).reshape(-1, 2).T[..., None]
    if all(numeric):
        np.clip(columns[:-3], low, high, out=columns[:-3])
    else:
        chosen = np.flatnonzero(numeric)
        columns[chosen] = np.clip(columns[chosen], low, high)
    return columns.T


def _outside(low: float, high: float) -> tuple[np.float32, np.float32]:
    """The float32 numbers next to the bounds, on their outer side where they are not exact."""
    with np.errstate(over="ignore"):
        below, above = np.float32(low), np.float32(high)
    if below > low:
        below = np.nextafter(below, np.float32(-np.inf))
    if above < high:
        above = np.nextafter(above, np.float32(np.inf))
    return below, above
