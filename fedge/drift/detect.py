"""Alarms: when is a gateway too far from its own baseline, since when, and in what.

The scores of the latest 1, 2, 3, ... windows are summed, so that a small shift
adds up. One threshold follows from one setting, the false alarms that the fleet
may raise in 30 days, shared out evenly over every test that is made. An alarm
is over the threshold *and* a shift of at least the smallest effect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.config import DriftSettings
from fedge.drift.baseline import Baseline, Track, wander_correlation

JUMP_EFFECTS = 5.0
"""A baseline that holds a jump of this many smallest effects is no baseline. Slow wander of a
site stays below it and belongs to the baseline."""

JUMP_BUDGET = 0.05
"""Part of a test's false-alarm budget that a test for such a jump gets: the search is a safety net
for strong faults, and must not make a new baseline the likeliest moment of a false alarm."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Every test on the windows after a baseline.

    Attributes:
        z: float64[W, L, T], deviation of the sum over the latest `lengths[l]` windows in standard
            errors; NaN where there is no such sum or no record in it.
        effect: float64[W, L, T], the shift of one record's score in reference standard deviations.
        lengths: the L lengths.
        alarms: bool[W, L, T].
    """

    z: NDArray[np.float64]
    effect: NDArray[np.float64]
    lengths: tuple[int, ...]
    alarms: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Jump:
    """A jump: the first window after it as an index into the track, and per-statistic evidence."""

    index: int
    z: NDArray[np.float64]
    effect: NDArray[np.float64]
    alarms: NDArray[np.bool_]


def month_of_tests(settings: DriftSettings, statistics: int) -> float:
    """How many tests the whole fleet makes in 30 days."""
    tests = settings.windows_per_month * settings.max_fleet * statistics
    return tests * len(settings.lengths)


def threshold(
    settings: DriftSettings, statistics: int, degrees: float, *, part: float = 1.0
) -> float:
    """The |z| above which a test alarms, from Student's t with the baseline's degrees.

    `part` is how much of one test's share of the false-alarm budget it may spend.
    """
    from scipy.stats import t  # heavy, and needed only where a threshold is computed

    level = part * settings.false_alarms_per_month / month_of_tests(settings, statistics)
    return float(t.isf(min(0.5, level / 2), degrees))


def certifiable(
    settings: DriftSettings, statistics: int, baseline: Baseline, limit: float
) -> float:
    """False alarms per fleet and 30 days that this baseline can vouch for, never below the setting.

    A site may wander slowly (`baseline.WANDER`), and a short baseline sees little of that. This is
    the rate at `limit` if the wander were as strong as the baseline, with 95 % confidence, cannot
    rule out.
    """
    from scipy.stats import chi2, norm

    degrees = baseline.degrees
    upper = baseline.pooled_inflation * degrees / float(chi2.ppf(0.05, degrees))
    hidden = max(0.0, upper - 1.0) / baseline.wander_seen
    used = max(1.0, baseline.pooled_inflation)
    over_baseline = float(wander_correlation(baseline.windows).sum()) / baseline.windows**2
    rate = 0.0
    for length in settings.lengths:
        independent = length + length**2 / baseline.windows
        wander = float(wander_correlation(length).sum()) + length**2 * over_baseline
        ratio = (independent + hidden * wander) / (used * independent)
        rate += 2 * float(norm.sf(limit / math.sqrt(max(1.0, ratio))))
    per_length = month_of_tests(settings, statistics) / len(settings.lengths)
    return max(settings.false_alarms_per_month, rate * per_length)


def scan(
    track: Track,
    baseline: Baseline,
    unit: NDArray[np.float64],
    settings: DriftSettings,
    limit: float,
) -> Scan:
    """Test every window of `track` (those after the baseline, in order).

    A window counts by its share of a full one, so that one which was cut short brings as little
    weight as it brings evidence.

    Args:
        unit: of the score sheet.
        limit: from `threshold`.
    """
    sums = _Sums.of(track, baseline)
    windows, statistics = track.scores.shape
    z = np.full((windows, len(settings.lengths), statistics), np.nan)
    effect = np.full_like(z, np.nan)
    for column, length in enumerate(settings.lengths):
        if length <= windows:
            z[length - 1 :, column], effect[length - 1 :, column] = sums.over(length, unit)
    # NaN compares false: what could not be tested raises no alarm, and `monitor` calls it unknown.
    alarms = (np.abs(z) > limit) & (np.abs(effect) >= settings.min_effect)
    return Scan(z, effect, settings.lengths, alarms)


def onset(track: Track, baseline: Baseline, statistics: NDArray[np.bool_]) -> int:
    """Index of the first drifted window of a track that ends with the window that alarmed.

    The start of the run of latest windows whose summed evidence in the statistics that alarmed is
    largest: the maximum-likelihood change point.
    """
    z = _Sums.of(track, baseline).suffixes()[:, statistics]
    evidence = np.where(np.isnan(z).any(axis=1), -np.inf, (z**2).sum(axis=1))
    return int(np.argmax(evidence))


def baseline_jump(
    track: Track,
    baseline: Baseline,
    unit: NDArray[np.float64],
    settings: DriftSettings,
) -> Jump | None:
    """The jump inside the baseline windows or at their end; None if there is none.

    Compares the windows before with those after each point. The variance is that of independent
    windows, for which the threshold needs no degrees of freedom: a long-run variance of windows
    around a jump would hold the jump, and hide it. A jump that is clearest at a later point is no
    matter of the baseline.

    Args:
        track: the baseline windows, and any that came right after them.
    """
    nominal = track.noise + track.rows[:, None] * baseline.row_variance
    rows, scores, variance = (
        np.cumsum(part, axis=0) for part in (track.rows[:, None], track.scores, nominal)
    )
    before, after = np.s_[:-1], np.s_[-1:]
    rows_after = np.maximum(rows[after] - rows[before], 1.0)
    change = (scores[after] - scores[before]) / rows_after - scores[before] / rows[before]
    spread = (variance[after] - variance[before]) / rows_after**2
    z = change / np.sqrt(spread + variance[before] / rows[before] ** 2)
    effect = change / unit
    limit = threshold(settings, len(unit), math.inf, part=JUMP_BUDGET)
    alarms = (np.abs(z) > limit) & (np.abs(effect) >= JUMP_EFFECTS * settings.min_effect)
    if not alarms.any():
        return None
    point = int((z[:, alarms.any(axis=0)] ** 2).sum(axis=1).argmax())
    if point + 1 > baseline.windows or not alarms[point].any():
        return None
    return Jump(point + 1, z[point], effect[point], alarms[point])


@dataclass(frozen=True, slots=True)
class _Sums:
    """Running sums from which a sum over any run of windows is one difference.

    With weight w = rows / planned of each window: deviation = sum w (score - rows rate), and its
    variance = inflation (sum w^2 (noise + rows row_variance) + (sum w rows)^2 rate_variance).
    """

    baseline: Baseline
    deviation: NDArray[np.float64]
    variance: NDArray[np.float64]
    rows: NDArray[np.float64]

    @classmethod
    def of(cls, track: Track, baseline: Baseline) -> _Sums:
        rows = track.rows[:, None]
        weight = rows / track.planned[:, None]
        return cls(
            baseline,
            _running(weight * (track.scores - rows * baseline.rate)),
            _running(weight**2 * (track.noise + rows * baseline.row_variance)),
            _running(weight * rows),
        )

    def over(
        self, length: int, unit: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """z and effect of the sums over `length` windows, for each window that ends such a run."""
        deviation, variance, rows = (
            part[length:] - part[:-length] for part in (self.deviation, self.variance, self.rows)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            effect = np.where(rows > 0, deviation / rows / unit, np.nan)
        return self._z(deviation, variance, rows), effect

    def suffixes(self) -> NDArray[np.float64]:
        """z of the sums from each window to the last one."""
        return self._z(*(p[-1] - p[:-1] for p in (self.deviation, self.variance, self.rows)))

    def _z(
        self,
        deviation: NDArray[np.float64],
        variance: NDArray[np.float64],
        rows: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        error = self.baseline.inflation * (variance + rows**2 * self.baseline.rate_variance)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(rows > 0, deviation / np.sqrt(error), np.nan)


def _running(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
