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
from typing import Any

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

Values = NDArray[np.float32] | NDArray[np.float64]

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


def bins(stream: NumericStream, values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Bin index 0..15 of finite values: bin i holds edges[i-1] <= x < edges[i]."""
    return np.searchsorted(np.asarray(stream.edges), values, side="right").astype(np.int64)


def dyadic(histogram: NDArray[np.int64]) -> NDArray[np.int64]:
    """The 15 sums (right half minus left half) of a 16-bin histogram, root first."""
    levels = []
    for level in range(LEVELS):
        halves = histogram.reshape(2**level, 2, -1).sum(axis=2)
        levels.append(halves[:, 1] - halves[:, 0])
    return np.concatenate(levels)


def count_window(reference: Reference, values: Values) -> tuple[NDArray[np.int64], ...]:
    """Count the records of one window, exactly.

    Args:
        values: float32 or float64[n, S] from `stream_values`, only records that are present: a
            null record (dropped or erased) has no row and so adds nothing to any cell, missing
            included.

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
    ordered = in_order(numeric_columns(reference.streams, values))
    counted = iter(count_numeric(edges_of(reference), ordered))
    return tuple(
        next(counted)
        if isinstance(stream, NumericStream)
        else count_cells(stream, values[:, column])
        for column, stream in enumerate(reference.streams)
    )


def edges_of(reference: Reference) -> NDArray[np.float64]:
    """float64[S, 15]: the edges of the reference's numeric streams."""
    edges = [s.edges for s in reference.streams if isinstance(s, NumericStream)]
    return np.array(edges, dtype=np.float64).reshape(-1, NUMERIC_BINS - 1)


def numeric_columns(streams: tuple[Stream, ...], values: Values) -> Values:
    """The numeric columns of float[n, S] stream values; each column in one piece."""
    return values.T[[isinstance(stream, NumericStream) for stream in streams]].T


def in_order(values: Values) -> Values:
    """Each column of float[n, S] in increasing order, NaN last; each in one piece.

    Bins are then found by a few searches a stream, and a KLL sketch is fed three times faster.
    """
    # A copy with each column in one piece first: sorting across columns costs twice as much.
    columns: NDArray[Any] = np.array(values.T, order="C")
    columns.sort(axis=1)
    return columns.T


def count_numeric(edges: NDArray[np.float64], ordered: Values) -> NDArray[np.int64]:
    """Count numeric streams: int64[S, 16], 15 dyadic sums and missing each.

    Args:
        edges, ordered: as for `reaching`.
    """
    return dyadic_sums(reaching(edges, ordered), len(ordered))


def dyadic_sums(reached: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """int64[S, 16], 15 dyadic sums and missing each, from what `reaching` answered for `rows`."""
    sums = 2 * reached[:, _MIDDLE] - reached[:, _FIRST] - reached[:, _END]
    return np.column_stack([sums, rows - reached[:, 0]])


def reaching(edges: NDArray[np.float64], ordered: Values) -> NDArray[np.int64]:
    """How many finite values lie at or above the first edge of each bin: int64[S, 17].

    The first is all of them, the last none; neighbours differ by what the bin between them holds.

    Args:
        edges: float64[S, 15], increasing along each row.
        ordered: float32 or float64[n, S] from `in_order`.
    """
    dtype = ordered.dtype
    limits = np.empty((len(edges), NUMERIC_BINS + 1), dtype=dtype)
    limits[:, 1:-1] = edges_for(edges, dtype)
    # Between the infinities lie the finite values.
    limits[:, 0], limits[:, -1] = np.finfo(dtype).min, np.inf
    below = np.empty(limits.shape, dtype=np.int64)
    for stream, column in enumerate(ordered.T):
        below[stream] = column.searchsorted(limits[stream])
    return below[:, -1:] - below


def edges_for(edges: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.floating]:
    """Edges in the type of the values, so that no value changes its bin by it.

    A float32 number reaches an edge exactly if it reaches the smallest float32 number that does.
    """
    if dtype != np.float32:
        return edges
    with np.errstate(over="ignore"):
        nearest = edges.astype(np.float32)
        above: NDArray[np.float32] = np.nextafter(nearest, np.float32(np.inf))
    return np.where(nearest < edges, above, nearest)


def _nodes() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """First bin, first bin of the right half, and end of the 15 nodes, root first."""
    first: list[int] = []
    size: list[int] = []
    for level in range(LEVELS):
        extent = NUMERIC_BINS >> level
        first += range(0, NUMERIC_BINS, extent)
        size += [extent] * 2**level
    start, extents = np.array(first), np.array(size)
    return start, start + extents // 2, start + extents


_FIRST, _MIDDLE, _END = _nodes()


def count_cells(stream: CategoricalStream, values: Values) -> NDArray[np.int64]:
    """One cell per declared category, and one for all other values, missing ones included."""
    others = len(stream.categories)
    # NaN compares false, so missing ones land in `others` with every undeclared index.
    declared = (values >= 0) & (values < others) & (values == np.floor(values))
    cells = np.where(declared, values, others).astype(np.int64)
    return np.bincount(cells, minlength=others + 1).astype(np.int64)


def window_event(reference: Reference, rho: float, max_records: int = 1) -> DiscreteGaussianEvent:
    """The one release that a window's whole vector of counts is, for a charge of at most `rho`.

    The variance is the same for all streams and the smallest integer that keeps
    sensitivity2 / (2 sigma2) <= rho, in exact arithmetic.

    Args:
        max_records: records of one subject that count in a block. With k of them in a window
            its vector moves k times as far. A subject's windows together stay within the charge
            of one that holds all m: sum k^2 <= (sum k)^2 <= m^2.

    Raises:
        SettingError: `rho` is not a positive number.
    """
    if not (math.isfinite(rho) and rho > 0):
        raise SettingError(f"need rho > 0 for a window's report, got {rho}")
    total = max_records**2 * sum(sensitivity2(stream) for stream in reference.streams)
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
