"""A fault that began among the baseline windows: no baseline may hold one.

Slow wander belongs to a baseline, a jump does not. What tells them apart is what is
left once the jump is taken out: around a fault little, under weather as much as before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.config import DriftSettings
from fedge.drift.fleet.baseline import Baseline, Track
from fedge.drift.fleet.dependence import bandwidth, estimate
from fedge.drift.fleet.detect import threshold
from fedge.drift.fleet.season import fitted

Floats = NDArray[np.float64]

JUMP_EFFECTS = 5.0
"""A baseline that holds a jump of this many smallest effects is no baseline. Small wander of a
site stays below it and belongs to the baseline."""

BEYOND_WANDER = 5.5
"""Least jump in standard errors of the windows around it as they wander. Two summers of weather
reach 3.9 and a station that was moved between them 5.1, a camera's fault in one of twelve windows
6.2 or more. What wanders by far more than noise and has few windows may pass it."""

JUMP_BUDGET = 0.05
"""Part of a test's false-alarm budget that a test for such a jump gets: the search is a safety net
for strong faults, and must not make a new baseline the likeliest moment of a false alarm."""

_MEDIAN_CHI2 = 0.4549
"""Median of the square of a standard normal number."""

_NO_STEP = 1e-3
"""Part of a step that must be left once the season's cells have been fitted."""

_OWN_MEDIAN = 48
"""Differences of windows from which one statistic's own median is worth something."""


@dataclass(frozen=True, slots=True)
class Jump:
    """A jump: the first window after it as an index into the track, and per-statistic evidence."""

    index: int
    z: Floats
    effect: Floats
    alarms: NDArray[np.bool_]


def baseline_jump(
    track: Track,
    baseline: Baseline,
    unit: Floats,
    settings: DriftSettings,
    bounds: Floats,
) -> Jump | None:
    """The jump inside the baseline windows or at their end; None if there is none.

    Compares the windows before with those after each point. The variance is that between
    neighbouring windows, of which a jump spoils one pair: a long-run variance of windows around a
    jump would hold the jump, and hide it. Slow wander passes that test, too, so that what is found
    must also stand out from the long-run variance without it. A jump that is clearest at a later
    point is no matter of the baseline.

    Args:
        track: the baseline windows, and any that came right after them.
        unit, bounds: of the score sheet.
    """
    level, scores = _without_season(track, baseline)
    nominal = track.noise + track.rows[:, None] * baseline.row_variance
    variance = nominal * _between_neighbours(level, nominal, baseline)
    z, change = _changes(track.rows, scores, variance, bounds)
    effect = change / unit
    limit = threshold(settings, len(unit), math.inf, part=JUMP_BUDGET)
    alarms = (np.abs(z) > limit) & (np.abs(effect) >= JUMP_EFFECTS * settings.min_effect)
    if not alarms.any():
        return None
    point = int((z[:, alarms.any(axis=0)] ** 2).sum(axis=1).argmax())
    if point + 1 > baseline.windows:
        return None
    beyond = _beyond_wander(track, level, nominal, baseline, point + 1) >= BEYOND_WANDER
    sure = alarms[point] & beyond
    return Jump(point + 1, z[point], effect[point], sure) if sure.any() else None


def _changes(
    rows: Floats, scores: Floats, variance: Floats, bounds: Floats
) -> tuple[Floats, Floats]:
    """z of the change at each point between two windows, and the change as far as it is possible:
    float64[W - 1, T] each."""
    rows, scores, variance = (np.cumsum(part, axis=0) for part in (rows[:, None], scores, variance))
    before, after = np.s_[:-1], np.s_[-1:]
    rows_after = np.maximum(rows[after] - rows[before], 1.0)
    old, new = scores[before] / rows[before], (scores[after] - scores[before]) / rows_after
    spread = (variance[after] - variance[before]) / rows_after**2
    z = (new - old) / np.sqrt(spread + variance[before] / rows[before] ** 2)
    return z, np.clip(new, *bounds) - np.clip(old, *bounds)


def _beyond_wander(
    track: Track, level: Floats, nominal: Floats, baseline: Baseline, first: int
) -> Floats:
    """A step at window `first` in standard errors of sums as long as can be judged, float64[T].

    The dependence is that of the windows with the step fitted and taken out.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        residuals = np.where(nominal > 0, level / np.sqrt(nominal), 0.0)
    windows = len(residuals)
    place, _ = baseline.expected(track)
    usual = fitted(place, track.rows)
    step = np.where(np.arange(windows) >= first, np.sqrt(track.rows), 0.0)
    step -= usual @ (usual.T @ step)
    size = float(np.linalg.norm(step))
    if size < _NO_STEP * math.sqrt(float(track.rows.sum())):
        return np.zeros(residuals.shape[1])  # the season's own cells explain any such step
    step /= size
    taken = np.column_stack([usual, step])
    left = residuals - taken @ (taken.T @ residuals)
    kinds = np.zeros(residuals.shape[1], np.int64) if baseline.kinds is None else baseline.kinds
    lengths = sorted({1, bandwidth(windows, windows)})
    inflation = estimate(left, taken, lengths, kinds)[-1].inflation
    beyond: Floats = np.abs(step @ residuals) / np.sqrt(inflation)
    return beyond


def _without_season(track: Track, baseline: Baseline) -> tuple[Floats, Floats]:
    """Deviations from the rates of the windows' cells, and scores as if all cells had one rate."""
    place, rates = baseline.expected(track)
    own = np.where((place >= 0)[:, None], rates[place], baseline.rate)
    level = track.scores - track.rows[:, None] * own
    return level, level + track.rows[:, None] * baseline.rate


def _between_neighbours(level: Floats, nominal: Floats, baseline: Baseline) -> Floats:
    """How much more neighbouring windows differ than noise and counting explain, float64[T], >= 1.

    From the median of squared differences, over all statistics of a kind and, once there are
    enough windows, of the statistic itself.
    """
    spread = nominal[1:] + nominal[:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        squared = np.where(spread > 0, np.diff(level, axis=0) ** 2 / spread, 0.0)
    kinds = np.zeros(len(baseline.rate)) if baseline.kinds is None else baseline.kinds
    inflation = np.ones(squared.shape[1])
    for kind in np.unique(kinds):
        members = kinds == kind
        inflation[members] = np.median(squared[:, members]) / _MEDIAN_CHI2
    if len(squared) >= _OWN_MEDIAN:
        inflation = np.maximum(inflation, np.median(squared, axis=0) / _MEDIAN_CHI2)
    return np.maximum(1.0, inflation)
