"""Exact counts of one window on a reference's frozen bins, and what releasing them costs.

A numeric stream is counted as 15 dyadic sums over its 16 bins, level by level
from the root: +1 for a value in the right half of a node, -1 for the left. They
carry more evidence about an ordered shift than 16 flat cells at the same charge.
A categorical stream has one cell per declared category and one for all others.

Nothing here draws noise or touches a ledger: exact counts must not leave the
caller before both happened.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fedge.errors import NonFiniteValueError, RecordError, SettingError, TaskError
from fedge.records import (
    NUMERIC_BINS,
    CategoricalStream,
    DiscreteGaussianEvent,
    FeatureCounts,
    NumericStream,
    Reference,
)

LEVELS = NUMERIC_BINS.bit_length() - 1
"""Dyadic levels of a numeric stream: one value adds +1 or -1 once on each."""

Stream = NumericStream | CategoricalStream

_INT32_MAX = 2**31 - 1


def width(stream: Stream) -> int:
    """How many integers a stream's counts hold: 15 dyadic sums and missing, or cells and others."""
    return NUMERIC_BINS if isinstance(stream, NumericStream) else len(stream.categories) + 1


def sensitivity2(stream: Stream) -> int:
    """Squared L2 change of a stream's counts when one record becomes the null record.

    A number moves one sum on each of four levels by one; a missing one moves only the missing
    count, a category moves one cell.
    """
    return LEVELS if isinstance(stream, NumericStream) else 1


def bins(stream: NumericStream, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bin index 0..15 of finite values: bin i holds edges[i-1] <= x < edges[i]."""
    return np.searchsorted(np.asarray(stream.edges), values, side="right").astype(np.int64)


def dyadic(histogram: NDArray[np.int64]) -> NDArray[np.int64]:
    """The 15 sums (right half minus left half) of a 16-bin histogram, root first."""
    levels = []
    for level in range(LEVELS):
        halves = histogram.reshape(2**level, 2, -1).sum(axis=2)
        levels.append(halves[:, 1] - halves[:, 0])
    return np.concatenate(levels)


def count_window(
    reference: Reference, values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], ...]:
    """Count the records of one window, exactly.

    Args:
        values: float64[n, S] from `stream_values`, only records that are present: a null record
            (dropped or erased) has no row and so adds nothing to any cell, missing included.

    Returns:
        One int64 array of `width(stream)` for each stream of the reference. An empty window
        counts as zeros.

    Raises:
        TaskError: `values` does not have one column per stream.
    """
    if values.ndim != 2 or values.shape[1] != len(reference.streams):
        raise TaskError(
            f"values have shape {values.shape}, the reference has {len(reference.streams)} streams"
        )
    return tuple(
        _count_numeric(stream, values[:, column])
        if isinstance(stream, NumericStream)
        else _count_cells(stream, values[:, column])
        for column, stream in enumerate(reference.streams)
    )


def _count_numeric(stream: NumericStream, values: NDArray[np.float64]) -> NDArray[np.int64]:
    finite = values[np.isfinite(values)]
    histogram = np.bincount(bins(stream, finite), minlength=NUMERIC_BINS).astype(np.int64)
    return np.append(dyadic(histogram), len(values) - len(finite))


def _count_cells(stream: CategoricalStream, values: NDArray[np.float64]) -> NDArray[np.int64]:
    others = len(stream.categories)
    # NaN compares false, so missing ones land in `others` with every undeclared index.
    declared = (values >= 0) & (values < others) & (values == np.floor(values))
    cells = np.where(declared, values, others).astype(np.int64)
    return np.bincount(cells, minlength=others + 1).astype(np.int64)


def window_event(reference: Reference, rho: float) -> DiscreteGaussianEvent:
    """The one release that a window's whole vector of counts is, for a charge of at most `rho`.

    The variance is the same for all streams and the smallest integer that keeps
    sensitivity2 / (2 sigma2) <= rho, in exact arithmetic.

    Raises:
        SettingError: `rho` is not a positive number.
    """
    if not (math.isfinite(rho) and rho > 0):
        raise SettingError(f"need rho > 0 for a window's report, got {rho}")
    total = sum(sensitivity2(stream) for stream in reference.streams)
    return DiscreteGaussianEvent(
        sensitivity2=total,
        sigma2=math.ceil(Fraction(total) / (2 * Fraction(rho))),
        count=1,
        dimension=sum(width(stream) for stream in reference.streams),
    )


def join(counts: tuple[NDArray[np.int64], ...]) -> NDArray[np.int64]:
    """One vector of all streams' counts: what noise is added to."""
    return np.concatenate(counts)


def split(reference: Reference, vector: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Undo `join`.

    Raises:
        RecordError: the vector's length does not fit the reference.
    """
    widths = [width(stream) for stream in reference.streams]
    if vector.shape != (sum(widths),):
        raise RecordError(f"counts have shape {vector.shape}, the reference needs {sum(widths)}")
    return tuple(np.split(vector, np.cumsum(widths)[:-1]))


def feature_counts(
    reference: Reference, noised: NDArray[np.int64], event: DiscreteGaussianEvent
) -> tuple[FeatureCounts, ...]:
    """The report's features from the noised vector of one window.

    Values beyond 32 bits are clamped, which is post-processing of what was released.

    Raises:
        RecordError: the vector's length does not fit the reference.
        NonFiniteValueError: the vector does not hold integers.
    """
    if not np.issubdtype(noised.dtype, np.integer):
        raise NonFiniteValueError(f"noised counts are {noised.dtype}, not integers")
    clamped = np.clip(noised, -_INT32_MAX, _INT32_MAX)
    return tuple(
        FeatureCounts(
            name=stream.name,
            kind=stream.kind,
            counts=tuple(part.tolist()),
            sigma2=event.sigma2,
        )
        for stream, part in zip(reference.streams, split(reference, clamped), strict=True)
    )
