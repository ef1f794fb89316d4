"""Seasons: windows are compared with their like only, 3 a.m. with 3 a.m., Monday with Monday.

A cell is an hour of the day or a day of the week, by the middle of a window, in
UTC. Each cell has a rate of its own; how much windows vary around their cells is
learnt from all cells together. A cell counts only once it was met on several
separate occasions: 24 windows of one Monday say nothing about Mondays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.records import Season, WindowReport

ROUNDS = 3
"""Separate occasions (days for an hour, weeks for a weekday) on which a cell must have been met."""

_DAY_S, _HOUR_S = 86_400, 3_600
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True)
class Calendar:
    """Where windows lie in their season.

    Attributes:
        cell: int64[W]; all 0 without a season.
        occasion: int64[W], number of the day or week in which the window lies.
    """

    cell: NDArray[np.int64]
    occasion: NDArray[np.int64]


def calendar(reports: Sequence[WindowReport], season: Season) -> Calendar:
    """Cells and occasions of windows, by the middle of each."""
    middle = np.array([(r.opened_at + r.closed_at) / 2 for r in reports], dtype=np.float64)
    days = np.floor(middle / _DAY_S).astype(np.int64)
    if season == "hour":
        return Calendar(np.floor(middle % _DAY_S / _HOUR_S).astype(np.int64), days)
    if season == "weekday":
        return Calendar((days + _EPOCH_WEEKDAY) % 7, (days + _EPOCH_WEEKDAY) // 7)
    return Calendar(np.zeros(len(reports), dtype=np.int64), np.arange(len(reports)))


def cell_name(season: Season, cell: int) -> str:
    """The cell in words, for people."""
    return _WEEKDAYS[cell] if season == "weekday" else f"{cell:02d}:00 UTC"


def missing(when: Calendar, season: Season) -> dict[int, int]:
    """For each cell that was met too rarely, on how many more occasions it must be.

    Only cells in which there was a window: a site that sleeps at night needs no baseline for it.
    And none that was met so long ago and so rarely that waiting for it would never end.
    """
    if season == "none":
        return {}
    latest = int(when.occasion.max(initial=0))
    short = {}
    for cell in np.unique(when.cell).tolist():
        met = np.unique(when.occasion[when.cell == cell])
        if len(met) < ROUNDS and latest - int(met[0]) < 2 * ROUNDS:
            short[int(cell)] = ROUNDS - len(met)
    return short


def baseline_end(when: Calendar, season: Season, least: int) -> int | None:
    """How many of the windows form the baseline: the first `least`, and on until no cell is short.

    None while there are too few, or while most of them lie in cells that are hardly ever met. A
    cell met for the first time after that has no baseline.
    """
    windows = len(when.cell)
    for end in range(least, windows + 1):
        part = Calendar(when.cell[:end], when.occasion[:end])
        if not missing(part, season) and 2 * well_met(part, season).sum() >= least:
            return end
    return None


def well_met(when: Calendar, season: Season) -> NDArray[np.bool_]:
    """Whether each window lies in a cell that was met on `ROUNDS` occasions; all of them do without
    a season. What was met less often is no baseline of anything."""
    known = np.ones(len(when.cell), dtype=np.bool_)
    if season != "none":
        for cell in np.unique(when.cell):
            own = when.cell == cell
            known[own] = len(np.unique(when.occasion[own])) >= ROUNDS
    return known


def fitted(cell: NDArray[np.int64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal columns of what fitting one rate per cell takes from residuals, float64[W, C].

    Args:
        rows: float64[W], records of each window, by which a rate weighs them.
    """
    cells = np.unique(cell)
    columns = np.where(cell[:, None] == cells, np.sqrt(rows)[:, None], 0.0)
    unit: NDArray[np.float64] = columns / np.sqrt((columns**2).sum(axis=0))
    return unit
