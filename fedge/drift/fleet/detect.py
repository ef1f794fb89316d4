"""Alarms: when is a gateway too far from its own baseline, since when, and in what.

The scores of the latest 1, 2, 3, ... windows are summed, so that a small shift
adds up. One threshold follows from one setting, the false alarms that the fleet
may raise in 30 days, shared out evenly over every test that is made. An alarm
is over the threshold *and* a shift of at least the smallest effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.config import DriftSettings
from fedge.drift.fleet.baseline import Baseline, Track
from fedge.drift.fleet.dependence import wander_ratio
from fedge.drift.fleet.sums import Sums


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


def limits(settings: DriftSettings, statistics: int, baseline: Baseline) -> NDArray[np.float64]:
    """`threshold` for each length and statistic of a baseline, float64[L, T].

    Args:
        statistics: how many tests share the budget at each length; more than the baseline's own
            where other tests are made beside them.
    """
    degrees = np.stack([baseline.at(length).degrees for length in settings.lengths])
    # Rounded down to three digits, which errs on the quiet side: few different values are left.
    unit = 10.0 ** np.floor(np.log10(degrees) - 2)
    different, place = np.unique(np.floor(degrees / unit) * unit, return_inverse=True)
    found = np.array([threshold(settings, statistics, float(one)) for one in different])
    return found[place].reshape(degrees.shape)


def certifiable(
    settings: DriftSettings,
    statistics: int,
    baseline: Baseline,
    limit: float | NDArray[np.float64],
) -> float:
    """False alarms per fleet and 30 days that this baseline can vouch for, never below the setting.

    A site may wander slowly (`dependence.WANDER`), and a short baseline sees little of that. This
    is the rate at `limit` if the wander were as strong as the baseline, with 95 % confidence,
    cannot rule out.

    Args:
        limit: of all tests, or float64[L, T] from `limits`.
    """
    from scipy.stats import chi2, norm

    windows, count = baseline.windows, len(baseline.rate)
    limit = np.broadcast_to(np.asarray(limit, dtype=np.float64), (len(settings.lengths), count))
    rate = 0.0
    for row, length in zip(limit, settings.lengths, strict=True):
        known = baseline.at(length)
        upper = known.pooled * known.pooled_degrees / chi2.ppf(0.05, known.pooled_degrees)
        hidden = np.maximum(0.0, upper - 1.0) / known.wander_seen
        unseen = 0.0 if known.hidden is None else known.hidden
        ratio = (1.0 + hidden * wander_ratio(length, windows)) / np.maximum(
            1.0, known.pooled + unseen
        )
        rate += float((2 * norm.sf(row / np.sqrt(np.maximum(1.0, ratio)))).mean())
    per_length = month_of_tests(settings, statistics) / len(settings.lengths)
    return max(settings.false_alarms_per_month, rate * per_length)


def scan(
    track: Track,
    baseline: Baseline,
    unit: NDArray[np.float64],
    settings: DriftSettings,
    limit: float | NDArray[np.float64],
    bounds: NDArray[np.float64],
) -> Scan:
    """Test every window of `track` (those after the baseline, in order).

    Args:
        unit, bounds: of the score sheet.
        limit: from `threshold`, or float64[L, T] from `limits`.
    """
    sums = Sums.of(track, baseline)
    windows, statistics = track.scores.shape
    z = np.full((windows, len(settings.lengths), statistics), np.nan)
    effect = np.full_like(z, np.nan)
    for column, length in enumerate(settings.lengths):
        if length <= windows:
            z[length - 1 :, column], effect[length - 1 :, column] = sums.over(length, unit)
    effect = np.clip(effect, *_possible(baseline, bounds, unit))
    # NaN compares false: what could not be tested raises no alarm, and `monitor` calls it unknown.
    alarms = (np.abs(z) > limit) & (np.abs(effect) >= settings.min_effect)
    return Scan(z, effect, settings.lengths, alarms)


def _possible(
    baseline: Baseline, bounds: NDArray[np.float64], unit: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and largest effect that a change from the baseline can have, float64[T] each.

    Noise knows no bounds: it makes a share that was nearly zero fall by half of all rows.
    """
    rates = np.clip(
        baseline.rate[None, :] if baseline.cell_rate is None else baseline.cell_rate, *bounds
    )
    return (bounds[0] - rates.max(axis=0)) / unit, (bounds[1] - rates.min(axis=0)) / unit


def onset(track: Track, baseline: Baseline, statistics: NDArray[np.bool_]) -> int:
    """Index of the first drifted window of a track that ends with the window that alarmed.

    The start of the run of latest windows whose summed evidence in the statistics that alarmed is
    largest: the maximum-likelihood change point.
    """
    z = Sums.of(track, baseline).suffixes()[0][:, statistics]
    evidence = np.where(np.isnan(z).any(axis=1), -np.inf, (z**2).sum(axis=1))
    return int(np.argmax(evidence))
