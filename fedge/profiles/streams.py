"""From what a model answered to the values that are watched.

A gateway watches a task's features and the model's own outputs. This module
puts them side by side, in the order of `TaskSchema.streams`. Counting them is
`fedge.profiles.counts`; computing them is the exported model's work.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedge.errors import TaskError
from fedge.records import NumericFeature, TaskSchema


class StreamReader:
    """Computes the watched values of one task's rows, piece by piece.

    Args:
        task: its features and classes are watched.
    """

    def __init__(self, task: TaskSchema) -> None:
        self._task, self._width = task.name, len(task.features)
        self._numeric = [n for n, f in enumerate(task.features) if isinstance(f, NumericFeature)]
        self._low, self._high = _outside(f for f in task.features if isinstance(f, NumericFeature))

    def values(
        self,
        features: NDArray[np.float32],
        predictions: NDArray[np.int32],
        confidence: NDArray[np.float32],
        ood: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """The watched values of `n` rows; see `stream_values`."""
        n = len(predictions)
        if features.shape != (n, self._width):
            raise TaskError(
                f"features have shape {features.shape}, task {self._task} needs {(n, self._width)}"
            )
        if confidence.shape != (n,) or ood.shape != (n,) or predictions.shape != (n,):
            raise TaskError("predictions, confidence and ood need one value per row")
        columns = np.empty((self._width + 3, n), dtype=np.float32)
        columns[:-3] = features.T
        columns[-3] = predictions
        columns[-2] = confidence
        columns[-1] = ood
        finite = np.isfinite(columns)
        if not finite.all():
            columns[~finite] = np.nan
        if len(self._numeric) == self._width:
            np.clip(columns[:-3], self._low, self._high, out=columns[:-3])
        else:
            columns[self._numeric] = np.clip(columns[self._numeric], self._low, self._high)
        return columns.T


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
    return StreamReader(task).values(features, predictions, confidence, ood)


def _outside(
    features: Iterable[NumericFeature],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The float32 numbers next to the bounds, on their outer side where they are not exact.

    One row each, for comparing with columns that lie in rows.
    """
    exact = np.array([(f.low, f.high) for f in features], dtype=np.float64).reshape(-1, 2)
    with np.errstate(over="ignore"):
        nearest = exact.astype(np.float32)
        below = np.nextafter(nearest[:, :1], np.float32(-np.inf))
        above = np.nextafter(nearest[:, 1:], np.float32(np.inf))
    return (
        np.where(nearest[:, :1] > exact[:, :1], below, nearest[:, :1]),
        np.where(nearest[:, 1:] < exact[:, 1:], above, nearest[:, 1:]),
    )
