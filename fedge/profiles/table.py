"""Profiling many rows in one pass: a sketch and exact counts on bins of every column.

One sort of each column serves both. A window of a gateway's stream goes this way
(`WindowProfile`), and so does any table that a data scientist has at hand
(`profile_table`). What may be shown or released of it is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedge.errors import RecordError, SettingError, TaskError
from fedge.profiles.counts import (
    Values,
    count_cells,
    dyadic_sums,
    edges_of,
    in_order,
    reaching,
    width,
)
from fedge.profiles.sketches import KllProfile
from fedge.records import NUMERIC_BINS, CategoricalStream, NumericStream, Reference

CHUNK_ROWS = 2048
"""Rows of a table that are sorted at a time: they stay in the processor's cache."""
PIECE_BYTES = 224 * 1024
"""Values of a window that are taken in at a time: below what an allocator maps anew each time."""
FIRST_ROWS = 8192
"""Rows that a table's bins are frozen from where none are given."""


def profile_window(
    reference: Reference, values: Values, *, k: int = 200
) -> tuple[tuple[NDArray[np.int64], ...], KllProfile]:
    """`counts.count_window` and the sketch of the same rows, for the price of one sort.

    Args:
        values: float32 or float64[n, S] from `stream_values`.
        k: accuracy of the sketch.
    """
    profile = WindowProfile(reference, k=k)
    profile.update(values)
    return profile.counts, profile.sketch


class WindowProfile:
    """Counts and sketch of one window, taken in piece by piece.

    Pieces of `piece_rows` rows cost least: all that is made of one stays in the processor's
    cache, and in memory that is used again instead of asked from the system anew.

    Args:
        reference: its streams are counted.
        k: accuracy of the sketch.

    Attributes:
        sketch: of the numeric streams.
    """

    def __init__(self, reference: Reference, *, k: int = 200) -> None:
        self._streams = streams = reference.streams
        self._numeric = [n for n, s in enumerate(streams) if isinstance(s, NumericStream)]
        self._edges = edges_of(reference)
        self._reached = np.zeros((len(self._edges), NUMERIC_BINS + 1), dtype=np.int64)
        self._cells = {
            column: np.zeros(width(stream), dtype=np.int64)
            for column, stream in enumerate(streams)
            if isinstance(stream, CategoricalStream)
        }
        self._rows = 0
        self.sketch = KllProfile.of(reference, k=k)
        self.piece_rows = max(64, PIECE_BYTES // (4 * len(reference.streams)))

    def update(self, values: Values) -> None:
        """Take in float32 or float64[n, S] from `stream_values`.

        Raises:
            TaskError: `values` does not have one column per stream.
        """
        if values.ndim != 2 or values.shape[1] != len(self._streams):
            raise TaskError(
                f"values have shape {values.shape}, the reference has {len(self._streams)} streams"
            )
        columns: NDArray[Any] = values.T[self._numeric]
        columns.sort(axis=1)  # a copy already; otherwise as `in_order`
        self.sketch.update_ordered(columns.T)
        self._reached += reaching(self._edges, columns.T)
        self._rows += len(values)
        for column, cells in self._cells.items():
            stream = self._streams[column]
            if isinstance(stream, CategoricalStream):
                cells += count_cells(stream, values[:, column])

    @property
    def counts(self) -> tuple[NDArray[np.int64], ...]:
        """As `counts.count_window` counts all rows."""
        numeric = iter(dyadic_sums(self._reached, self._rows))
        return tuple(
            self._cells[column] if column in self._cells else next(numeric)
            for column in range(len(self._streams))
        )


@dataclass(frozen=True, slots=True)
class TableProfile:
    """What a table's numeric columns look like.

    Attributes:
        names: of the columns, in order.
        rows: rows seen.
        edges: float64[columns, 15], inner edges of each column's 16 bins.
        histogram: int64[columns, 16], values in each bin; bin i holds edges[i-1] <= x < edges[i].
        missing: int64[columns], values that are NaN or infinite.
        sketch: a KLL sketch of each column.
    """

    names: tuple[str, ...]
    rows: int
    edges: NDArray[np.float64]
    histogram: NDArray[np.int64]
    missing: NDArray[np.int64]
    sketch: KllProfile

    def quantiles(self, name: str, ranks: tuple[float, ...]) -> tuple[float, ...] | None:
        """Approximate quantiles of one column; None where it has no value."""
        return self.sketch.quantiles(name, ranks)


class Frame(Protocol):
    """A table with named columns that becomes an array, such as a pandas DataFrame."""

    columns: Any

    def to_numpy(self) -> NDArray[Any]: ...


def profile_table(
    table: NDArray[Any] | Frame,
    *,
    names: Sequence[str] | None = None,
    bins: Reference | TableProfile | NDArray[np.float64] | None = None,
    k: int = 200,
) -> TableProfile:
    """Profile the columns of a table of numbers.

    Args:
        table: rows x columns; an array, or a frame with named columns.
        names: of the columns; by default the frame's, or `c0`, `c1`, ...
        bins: where to count: the numeric streams of a reference, by name; another profile's
            bins; or edges, float64[columns, 15]. By default edges are frozen at sixteenths of
            the first 8,192 rows.
        k: accuracy of the sketches; rank error is about 1.3 % at 200, and smaller here.

    Raises:
        SettingError: the table is not two-dimensional or not of numbers, or `bins` do not fit it.
        RecordError: the reference has no numeric stream of a column's name.

    >>> rows = np.column_stack([np.arange(1000.0), np.arange(1000.0) % 7])
    >>> profile = profile_table(rows, names=("time", "weekday"))
    >>> profile.rows, int(profile.histogram.sum()), profile.missing.tolist()
    (1000, 2000, [0, 0])
    >>> profile_table(rows[:500], names=("time", "weekday"), bins=profile).histogram[0].tolist()[:9]
    [62, 63, 62, 63, 62, 63, 62, 63, 0]
    """
    values, columns = _values(table, names)
    edges = _edges(bins, columns, values)
    sketch = KllProfile(columns, k=k)
    reached = np.zeros((len(columns), NUMERIC_BINS + 1), dtype=np.int64)
    for start in range(0, len(values), CHUNK_ROWS):
        ordered = in_order(values[start : start + CHUNK_ROWS])
        sketch.update_ordered(ordered)
        reached += reaching(edges, ordered)
    return TableProfile(
        names=columns,
        rows=len(values),
        edges=edges,
        histogram=reached[:, :-1] - reached[:, 1:],
        missing=len(values) - reached[:, 0],
        sketch=sketch,
    )


def _values(
    table: NDArray[Any] | Frame, names: Sequence[str] | None
) -> tuple[Values, tuple[str, ...]]:
    """The table as floats, and its columns' names."""
    if isinstance(table, np.ndarray):
        array = table
    else:
        array, names = table.to_numpy(), names or [str(name) for name in table.columns]
    if array.ndim != 2 or array.dtype.kind not in "fiub" or array.shape[1] == 0:
        raise SettingError(
            f"a table of numbers is profiled, not {array.dtype} of shape {array.shape}"
        )
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    columns = tuple(names or (f"c{column}" for column in range(array.shape[1])))
    if len(columns) != array.shape[1] or len(set(columns)) != len(columns):
        raise SettingError(f"{array.shape[1]} columns need as many distinct names: {columns[:8]}")
    return array, columns


def _edges(
    bins: Reference | TableProfile | NDArray[np.float64] | None,
    columns: tuple[str, ...],
    values: Values,
) -> NDArray[np.float64]:
    """float64[columns, 15] of where the bins are wanted."""
    if bins is None:
        return _sixteenths(in_order(values[:FIRST_ROWS]))
    if isinstance(bins, Reference):
        known = {s.name: s.edges for s in bins.streams if isinstance(s, NumericStream)}
        lacking = [name for name in columns if name not in known]
        if lacking:
            raise RecordError(f"the reference has no numeric stream {lacking[:8]}")
        return np.array([known[name] for name in columns])
    if isinstance(bins, TableProfile):
        if bins.names != columns:
            raise SettingError(f"the bins are those of {bins.names[:8]}, not of {columns[:8]}")
        return bins.edges
    if bins.shape != (len(columns), NUMERIC_BINS - 1) or not (np.diff(bins) >= 0).all():
        raise SettingError(f"edges need shape {(len(columns), NUMERIC_BINS - 1)}, increasing")
    return bins.astype(np.float64)


def _sixteenths(ordered: Values) -> NDArray[np.float64]:
    """Values that part each column's finite values into sixteen; zeros where it has none."""
    edges = np.zeros((ordered.shape[1], NUMERIC_BINS - 1))
    for column, all_values in enumerate(ordered.T):
        finite = all_values[np.isfinite(all_values)]
        if len(finite):
            edges[column] = finite[len(finite) * np.arange(1, NUMERIC_BINS) // NUMERIC_BINS]
    return edges
