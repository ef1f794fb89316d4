"""What public rows with labels add to a reference: what the model's answers are worth.

From these counts the centre later explains what moved: predicted shares by the
confusion matrix (label shift), histograms by class, expected accuracy by how
right the model was where it was this sure, strangeness by quantiles of OOD
scores. All of it is measured on the outputs of the model that will serve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedge.errors import NonFiniteValueError, TaskError
from fedge.profiles.counts import Stream, bins
from fedge.records import (
    MAX_CLASS_CELLS,
    MAX_CONFUSION_CLASSES,
    NUMERIC_BINS,
    OOD_LEVELS,
    ConfidenceBin,
    NumericStream,
    OodCalibration,
)

_LEAST_BLOCKS = 8
"""Blocks of consecutive rows from which a variance between blocks is worth estimating."""


def check_labels(labels: NDArray[np.integer], rows: int, classes: int) -> NDArray[np.int64]:
    """Class indices of `rows` rows.

    Raises:
        TaskError: not one integer per row, or a number that is no class.
    """
    if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
        raise TaskError(f"labels need one class index per row: {labels.dtype}{labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise TaskError(f"labels lie outside the task's {classes} classes")
    return labels.astype(np.int64)


def confusion(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> tuple[tuple[int, ...], ...] | None:
    """Rows by label (outer) and predicted class (inner); None for too many classes."""
    if classes > MAX_CONFUSION_CLASSES:
        return None
    joint = np.bincount(labels * classes + predicted, minlength=classes**2)
    return tuple(map(tuple, joint.reshape(classes, classes).tolist()))


def class_histograms(
    streams: Sequence[Stream],
    values: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: int,
) -> tuple[tuple[tuple[int, ...], ...], ...] | None:
    """For each stream and label, rows in each bin or cell; None where that is too much to send.

    Args:
        values: float64[n, S], watched values; a missing number is in no bin.
    """
    if classes * sum(len(stream.histogram) for stream in streams) > MAX_CLASS_CELLS:
        return None
    found = []
    for column, stream in enumerate(streams):
        width = len(stream.histogram)
        cell = cell_of(stream, values[:, column])
        known = cell >= 0
        joint = np.bincount(labels[known] * width + cell[known], minlength=classes * width)
        found.append(tuple(map(tuple, joint.reshape(classes, width).tolist())))
    return tuple(found)


def cell_of(stream: Stream, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bin or cell of each value, int64[n]; -1 for a missing number."""
    finite = np.isfinite(values)
    if isinstance(stream, NumericStream):
        return np.where(finite, bins(stream, values), -1)
    others = len(stream.categories)
    declared = finite & (values >= 0) & (values < others)
    return np.where(declared, np.where(declared, values, 0.0), others).astype(np.int64)


def confidence_bins(
    stream: NumericStream, confidence: NDArray[np.float64], right: NDArray[np.bool_] | None
) -> tuple[ConfidenceBin, ...]:
    """How sure the model was and how often right, by the bins on which gateways count.

    Args:
        confidence: float64[n], finite, 0 to 1.
        right: bool[n], whether the predicted class is the label; None without labels.
    """
    cell = bins(stream, confidence)
    rows = np.bincount(cell, minlength=NUMERIC_BINS)
    total = np.bincount(cell, weights=confidence, minlength=NUMERIC_BINS)
    mean = np.clip(total / np.maximum(rows, 1), 0.0, 1.0)
    hits = None if right is None else np.bincount(cell[right], minlength=NUMERIC_BINS)
    return tuple(
        ConfidenceBin(
            rows=int(rows[k]), right=None if hits is None else int(hits[k]), mean=float(mean[k])
        )
        for k in range(NUMERIC_BINS)
    )


def ood_calibration(scores: Mapping[str, NDArray[np.floating]]) -> tuple[OodCalibration, ...]:
    """Quantiles of each kind of score on the public rows, larger meaning stranger.

    Raises:
        NonFiniteValueError: a score is empty, NaN or infinite. Names the kind.
    """
    found = []
    for name, values in sorted(scores.items()):
        if values.size == 0 or not np.isfinite(values).all():
            raise NonFiniteValueError(f"OOD score {name!r} needs finite values")
        quantiles = np.quantile(values.astype(np.float64), OOD_LEVELS)
        found.append(OodCalibration(score=name, quantiles=tuple(quantiles.tolist())))
    return tuple(found)


def row_inflation(
    streams: Sequence[Stream], values: NDArray[np.float64]
) -> tuple[float, ...] | None:
    """For each stream, how much more means of consecutive rows vary than of independent ones.

    By batch means: blocks of about sqrt(n) rows, the variance between their means times their
    length over the variance of rows. 1 for a constant stream; None for too few rows.

    Args:
        values: float64[n, S], in order of time.
    """
    length = math.isqrt(len(values))
    blocks = len(values) // length if length else 0
    if blocks < _LEAST_BLOCKS:
        return None
    return tuple(
        _batch_means(_scores(stream, values[: blocks * length, column]), length)
        for column, stream in enumerate(streams)
    )


def _scores(stream: Stream, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The bin of a number, or one column for each cell of a category, centred; missing as mean."""
    cell = cell_of(stream, values)
    if not isinstance(stream, NumericStream):
        shares = np.eye(len(stream.histogram))[cell]
        return np.asarray(shares - shares.mean(axis=0), dtype=np.float64)
    known = cell >= 0
    centre = cell[known].mean() if known.any() else 0.0
    return np.where(known, cell - centre, 0.0)[:, None]


def _batch_means(scores: NDArray[np.float64], length: int) -> float:
    within = float((scores**2).mean(axis=0).sum())
    if within == 0.0:
        return 1.0
    means = scores.reshape(-1, length, scores.shape[1]).mean(axis=1)
    between = float(means.var(axis=0, ddof=1).sum())
    # A negative dependence is no less a fact, but zero is only what few blocks can show.
    return max(length * between / within, 1.0 / length)
