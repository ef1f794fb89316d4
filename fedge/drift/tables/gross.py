"""Row scores of gross faults: values far outside of all that was seen, values that never change.

A column that wanders is known badly, and a mean of it may stray far by chance. Still it does not
leave its range by a multiple of it, nor stand still for longer than it ever did. Both scores are
0 in every reference row, so what certifies them is the distance kept:

- `range`: 1 where a value lies outside the reference's range by a margin, half the range or
  more: the fewer independent rows the range was learnt from, the wider;
- `frozen`: 1 where the value is the same as in so many rows before that the longest
  run of equal values in the reference was several times shorter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.encoding import RowStatistic
from fedge.drift.tables.longrun import independent_rows
from fedge.drift.tables.table import Column, Table

Floats = NDArray[np.float64]

GROSS = ("range", "frozen")
"""Names of the statistics."""

LEAST_ROWS = 30
MARGIN = 0.5
"""Least margin, in ranges, of a range that many independent rows showed..."""
_FEW, _VERY_FEW = 10.0, 6.0
"""...which grows with one over the independent rows, and at so few with one over their square: a
column that shows a handful is like a random walk, which goes on."""
_ADDED, _STEADY = 2.5, 0.25
"""How the part of the range that one half of the reference did not show counts, and at least."""
_CARRIED = 4.0
"""Most of its own ranges that a new reference takes over as margin from the one before."""
RUN_FACTOR, RUN_GROWTH = 3.0, 16.0
"""A run is too long at so many times the longest one, and the more of the reference that one took,
the longer: three runs show worse than a thousand how long runs may be."""
SHORTEST_RUN = 8
LONGEST_RUN = 1500
"""Runs that would have to be longer are not watched: the column stands still most of the time."""


@dataclass(frozen=True, slots=True)
class GrossEncoder:
    """See `Encoder`; made by `fit_gross`.

    Attributes:
        columns: names, D of them.
        low, high, margin: float64[D].
        run: int64[D], rows of equal values that are too many; 0 where that is not watched.
    """

    columns: tuple[str, ...]
    low: Floats
    high: Floats
    margin: Floats
    run: NDArray[np.int64]
    statistics: tuple[RowStatistic, ...]
    unit: Floats
    reference_scores: Floats

    @property
    def memory(self) -> int:
        """Rows before a row that its scores depend on."""
        return int(self.run.max(initial=1))

    def scores(self, rows: Table) -> Floats:
        """float64[m, T]; NaN where a value is missing."""
        by_name = {column.name: column.values for column in rows.columns}
        values = np.stack([by_name[name] for name in self.columns], axis=1)
        missing = np.isnan(values)
        far = (values > self.high + self.margin) | (values < self.low - self.margin)
        watched = np.flatnonzero(self.run)
        still = [_run_lengths(values[:, i]) >= self.run[i] for i in watched]
        scores = np.column_stack([far, *still]).astype(np.float64)
        scores[np.column_stack([missing, missing[:, watched]])] = np.nan
        return scores

    def wider(self, before: GrossEncoder) -> GrossEncoder:
        """This one with the margins of `before` where these are wider, and its longer runs."""
        known = {name: i for i, name in enumerate(before.columns)}
        margin, run = self.margin.copy(), self.run.copy()
        for own, name in enumerate(self.columns):
            if name not in known:
                continue
            other = known[name]
            most = _CARRIED * (self.high[own] - self.low[own])
            margin[own] = max(margin[own], min(before.margin[other], most))
            if run[own]:
                run[own] = max(run[own], before.run[other])
        return replace(self, margin=margin, run=run)


def fit_gross(reference: Table) -> GrossEncoder | None:
    """Learn the range and the longest run of every numeric column; None where there is none."""
    columns = [c for c in reference.features if c.numeric and _finite(c).sum() >= LEAST_ROWS]
    if not columns:
        return None
    names = tuple(column.name for column in columns)
    values = np.stack([np.where(_finite(c), c.values, np.nan) for c in columns], axis=1)
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    # Halves first: the range of two finite numbers may not be finite.
    half = high / 2 - low / 2
    visits = independent_rows((values / 2 - low / 2) / np.where(half > 0, half, 1.0))
    visits = np.maximum(visits, 1.0)
    ranges = MARGIN * (1 + (_FEW / visits + (_VERY_FEW / visits) ** 2) * _growing(values, half))
    with np.errstate(over="ignore"):
        margin = np.minimum(2 * ranges * half, np.finfo(np.float64).max / 4)
    run = np.array([_too_long(c.values) for c in columns], dtype=np.int64)
    statistics = (
        *(RowStatistic((name,), "range", "feature") for name in names),
        *(RowStatistic((names[i],), "frozen", "feature") for i in np.flatnonzero(run)),
    )
    encoder = GrossEncoder(
        columns=names,
        low=low,
        high=high,
        margin=margin,
        run=run,
        statistics=statistics,
        unit=np.ones(len(statistics)),
        reference_scores=np.empty((0, len(statistics))),
    )
    return replace(encoder, reference_scores=encoder.scores(reference))


def _growing(values: Floats, half: Floats) -> Floats:
    """float64[D], 1 where each half of the reference adds to the range, as a random walk does; less
    where either half showed nearly all of it, as the years of a season do."""
    ranges = []
    for part in np.array_split(values, 2):
        known = np.isfinite(part).any(axis=0)
        part = np.where(known, part, 0.0)
        ranges.append(np.nanmax(part, axis=0) / 2 - np.nanmin(part, axis=0) / 2)
    added = 1 - np.minimum(*ranges) / np.where(half > 0, half, 1.0)
    growing: Floats = np.clip(_ADDED * added, _STEADY, 1.0)
    return growing


def _finite(column: Column) -> NDArray[np.bool_]:
    return np.isfinite(column.values)


def _too_long(values: Floats) -> int:
    lengths = _run_lengths(values)
    longest, rows = int(lengths.max(initial=1)), max(1, int((lengths > 0).sum()))
    run = max(SHORTEST_RUN, math.ceil(longest * (RUN_FACTOR + RUN_GROWTH * longest / rows)))
    return run if run <= min(LONGEST_RUN, rows) else 0


def _run_lengths(values: Floats) -> NDArray[np.int64]:
    """int64[m], how many rows with a value up to this one held the same; 0 where missing."""
    lengths = np.zeros(len(values), dtype=np.int64)
    present = np.flatnonzero(~np.isnan(values))
    known = values[present]
    place = np.arange(len(known))
    begins = np.ones(len(known), dtype=np.bool_)
    begins[1:] = known[1:] != known[:-1]
    lengths[present] = place - np.maximum.accumulate(np.where(begins, place, 0)) + 1
    return lengths
