"""Effect sizes of the columns of two tables, from their cells and their values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedge.drift.distances import Effect, Steps, Z, distances
from fedge.drift.effects import Histograms, divergences
from fedge.drift.tables.trials import ColumnTrials

Floats = NDArray[np.float64]

_GRID = 50


def effects_of(columns: Sequence[ColumnTrials]) -> list[tuple[Effect, ...]]:
    """PSI, Jensen-Shannon and Hellinger of each column's cells; of numbers also the Wasserstein
    distance and the shift of the mean, both in reference standard deviations. None where a table
    has no value.
    """
    filled = [i for i, column in enumerate(columns) if _filled(column)]
    found: list[tuple[Effect, ...]] = [()] * len(columns)
    for i, three in zip(filled, divergences([_shares(columns[i]) for i in filled]), strict=True):
        found[i] = three
    moves = {i: move for i in filled if (move := _move(columns[i])) is not None}
    far = distances([steps for steps, _ in moves.values()])
    for (i, (_, shift)), distance in zip(moves.items(), far, strict=True):
        found[i] = (*found[i], distance, shift)
    return found


def _filled(column: ColumnTrials) -> bool:
    return min(float(total[:-1].sum()) for total in column.cells.totals) >= 1


def _shares(column: ColumnTrials) -> Histograms:
    counts = column.cells.totals[0][:-1], column.cells.totals[1][:-1]
    rows = column.rows
    return Histograms.of(*counts, reference_rows=rows[0], current_rows=rows[1])


def _move(column: ColumnTrials) -> tuple[Steps, Effect] | None:
    """How far the values of a number moved, and their mean; None where too few are finite."""
    if not column.cells.ordered:
        return None
    finite = [_finite(values) for values in (column.cells.known, np.sort(column.current.values))]
    if min(map(len, finite)) < 2:
        return None
    largest = max(abs(float(values[end])) for values in finite for end in (0, -1))
    # Squares of large numbers are none.
    old, new = (values / largest for values in finite) if largest > 1e150 else finite
    rows = column.rows
    (mean, spread), (mean_now, spread_now) = _moments(old), _moments(new)
    unit = spread or max(1e-12, abs(mean)) * 0.1
    shift = (mean_now - mean) / unit
    margin = Z * math.sqrt(1 / rows[0] + (spread_now / unit) ** 2 / rows[1])
    steps = Steps.of_rows(
        old, new, unit=unit, reference_rows=rows[0], current_rows=rows[1], grid=_GRID
    )
    return steps, Effect("shift", shift, shift - margin, shift + margin)


def _moments(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation."""
    mean = float(values.mean())
    around = values - mean
    return mean, math.sqrt(float(around @ around) / len(values))


def _finite(ordered: Floats) -> Floats:
    """Those of some values in increasing order that are numbers; NaN comes last."""
    first, last = ordered.searchsorted(-np.inf, "right"), ordered.searchsorted(np.inf)
    return ordered[first:last]
