"""Effect sizes of one column of two tables, from its cells and its values."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedge.drift.effects import Effect, Histograms, wasserstein_of_rows
from fedge.drift.tables.trials import ColumnTrials

Floats = NDArray[np.float64]

_Z = 1.959964
_GRID = 50


def effects_of(column: ColumnTrials) -> tuple[Effect, ...]:
    """PSI, Jensen-Shannon and Hellinger of the cells; of numbers also the Wasserstein distance and
    the shift of the mean, both in reference standard deviations. None where a table has no value.
    """
    counts = column.cells.totals[0][:-1], column.cells.totals[1][:-1]
    if min(counts[0].sum(), counts[1].sum()) < 1:
        return ()
    rows = column.rows
    shares = Histograms.of(*counts, reference_rows=rows[0], current_rows=rows[1])
    if not column.cells.ordered:
        return shares.all()
    return (*shares.all(), *_distances(column, rows))


def _distances(column: ColumnTrials, rows: tuple[float, float]) -> tuple[Effect, ...]:
    finite = [_finite(values) for values in (column.cells.known, np.sort(column.current.values))]
    if min(map(len, finite)) < 2:
        return ()
    largest = max(abs(float(values[end])) for values in finite for end in (0, -1))
    # Squares of large numbers are none.
    old, new = (values / largest for values in finite) if largest > 1e150 else finite
    unit = float(old.std()) or max(1e-12, abs(float(old.mean()))) * 0.1
    shift = (float(new.mean()) - float(old.mean())) / unit
    margin = _Z * math.sqrt(1 / rows[0] + (float(new.std()) / unit) ** 2 / rows[1])
    distance = wasserstein_of_rows(
        old, new, unit=unit, reference_rows=rows[0], current_rows=rows[1], grid=_GRID
    )
    return (distance, Effect("shift", shift, shift - margin, shift + margin))


def _finite(ordered: Floats) -> Floats:
    """Those of some values in increasing order that are numbers; NaN comes last."""
    first, last = ordered.searchsorted(-np.inf, "right"), ordered.searchsorted(np.inf)
    return ordered[first:last]
