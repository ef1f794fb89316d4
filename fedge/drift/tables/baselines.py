"""What reference rows promise about later means, and how far a mean is from that promise.

A deviation is measured in standard errors of both means, that of the later rows and
that of the reference, each with the long-run variance of the score (`longrun`), made
symmetric for skewed scores, and compared with Student's t at the degrees of freedom
that the reference leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.longrun import Wander, wander

Floats = NDArray[np.float64]

WINDOWS_PER_MONTH = 720
LENGTHS = (1, 2, 3, 4, 6, 12, 24)
"""Over how many of the latest windows means are taken."""

MAX_LIMIT = 12.0
"""Standard errors that alarm however few degrees of freedom there are: overwhelming evidence. What
this costs in certainty is reported (`Baseline.certified`)."""

SURE_DEGREES = 1e4
"""Degrees of freedom of a variance that is not estimated."""

_TREND_REACH = 2.0
"""A trend within the reference is allowed to go on for this many lengths of the reference."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The promise of n consecutive reference rows.

    Attributes:
        rows: n.
        mean: float64[T]; NaN where no reference row has a score.
        strays: see `longrun`.
        least: float64[T], least variance of one row, so that a score which never moved in n rows is
            not taken for one which never moves.
        skew: float64[T], skewness of one row's score.
        unit: float64[T], reference standard deviations.
    """

    rows: int
    mean: Floats
    strays: Wander
    least: Floats
    skew: Floats
    unit: Floats

    @classmethod
    def fit(cls, scores: Floats, unit: Floats) -> Baseline:
        """From float64[n, T] reference scores in time order; NaN where a row has none."""
        present = np.isfinite(scores)
        rows = present.sum(axis=0)
        with np.errstate(invalid="ignore"):
            mean = np.where(present, scores, 0.0).sum(axis=0) / np.where(rows > 0, rows, np.nan)
        least, share = _least_variance(scores, present, rows, mean)
        return cls(
            rows=len(scores),
            mean=mean,
            strays=wander(scores),
            least=least,
            skew=_skewness(scores, present, mean, share),
            unit=unit,
        )

    def humble(self, degrees: Floats) -> Baseline:
        """This one with at most so many degrees of freedom, float64[T]."""
        strays = replace(self.strays, degrees=np.minimum(self.strays.degrees, degrees))
        return replace(self, strays=strays)

    def counting(self, events: NDArray[np.bool_], run: float) -> Baseline:
        """This one with the scores `events`, 0 or 1, taken for counts of runs of `run` rows.

        A rare event says nothing about its own persistence: its rows are taken to come in runs,
        and its share is half a run more than was seen (Jeffreys' prior).
        """
        share = np.clip((self.mean * self.rows / run + 0.5) / (self.rows / run + 1), 1e-9, 1 - 1e-9)
        variance = share * (1 - share)
        skew = (1 - 2 * share) / np.sqrt(variance) * math.sqrt(run)
        strays = replace(
            self.strays,
            power=np.where(events[:, None], 0.0, self.strays.power),
            degrees=np.where(events, SURE_DEGREES, self.strays.degrees),
            trend=np.where(events, 0.0, self.strays.trend),
        )
        return replace(
            self,
            strays=strays,
            least=np.where(events, variance * run, self.least),
            skew=np.where(events, skew, self.skew),
        )

    def carrying(self, other: Baseline, mine: list[int], others: list[int]) -> Baseline:
        """This one, believing the persistence of `other` where that is stronger.

        For a new baseline of few rows. The statistics numbered `mine` here are `others` there.
        """
        return replace(self, strays=self.strays.carrying(other.strays, mine, others))

    def independent_rows(self) -> Floats:
        """float64[T], how many independent rows would tell a mean as well as the reference does."""
        row = np.maximum(self.strays.variance, self.least)
        return np.maximum(1.0, row / self.of_mean(self.rows))

    def of_mean(self, rows: int) -> Floats:
        """float64[T], variance of the mean over `rows` rows."""
        return np.maximum(self.strays.of_mean(rows), self.least / rows)

    def deviation(
        self, mean: Floats, share: Floats, rows: int, distance: Floats, noise: Floats
    ) -> Floats:
        """Symmetrised standard errors between later means and the reference's.

        Args:
            mean: float64[..., T], means over `rows` rows each.
            share: float64[..., T], which part of these rows had a score.
            distance: float64[..., 1], rows between the middles of reference and later rows.
            noise: float64[..., T], known variance added to the mean of the later rows.
        """
        strayed = self.of_mean(rows) / share
        own = self.of_mean(self.rows) * self.rows / np.maximum(self.strays.rows, 1)
        reach = np.minimum(distance, _TREND_REACH * self.rows)
        variance = strayed + own + noise + self.strays.trend * reach**2
        row = np.sqrt(np.maximum(self.strays.variance, self.least))
        skew = self.skew * (strayed**2 - own**2) / row / variance**1.5
        return symmetric((mean - self.mean) / np.sqrt(variance), skew)


def _least_variance(
    scores: Floats, present: NDArray[np.bool_], rows: NDArray[np.int64], mean: Floats
) -> tuple[Floats, Floats]:
    """Least variance, and the smoothed share of a 0/1 score (NaN for others)."""
    # Half an event more than was seen: Jeffreys' prior for a share.
    event = 0.5 / (rows + 1.0)
    indicator = (np.where(present, scores, 0.0) * np.where(present, scores - 1, 0.0) == 0).all(0)
    share = np.where(indicator, mean * rows / (rows + 1.0) + event, np.nan)
    return np.where(indicator, share * (1 - share), event), share


def _skewness(scores: Floats, present: NDArray[np.bool_], mean: Floats, share: Floats) -> Floats:
    """Skewness of each score; that of a 0/1 score follows from its smoothed share."""
    centred = np.where(present, scores - mean, 0.0)
    rows = np.maximum(present.sum(axis=0), 1)
    second, third = (centred**2).sum(axis=0) / rows, (centred**3).sum(axis=0) / rows
    with np.errstate(invalid="ignore", divide="ignore"):
        skew = np.where(second > 1e-12, third / second**1.5, 0.0)
        of_share = (1 - 2 * share) / np.sqrt(share * (1 - share))
    return np.where(np.isnan(share), skew, of_share)


def symmetric(z: Floats, skew: Floats) -> Floats:
    """Standardised values of a skewed law turned into nearly normal ones.

    The law is taken for a shifted gamma with this skewness, and its cube root for normal (Wilson &
    Hilferty 1931). Without it a count that expects 0.4 and is 5 would look like 7 standard errors,
    where its chance is that of less than 4.
    """
    size = np.maximum(np.abs(skew), 1e-9)
    root = 2 / size  # square root of the gamma's shape
    turned = np.where(skew < 0, -z, z)
    cubic = 3 * root * (np.cbrt(np.maximum(1 + turned / root, 0.0)) - 1 + 1 / (9 * root**2))
    result: Floats = np.where(size < 1e-3, z, np.where(skew < 0, -cubic, cubic))
    return result


def limits(degrees: Floats, false_alarms: float, shares: Floats) -> Floats:
    """float64[L, T], the |z| above which a statistic alarms.

    Args:
        degrees: float64[L, T], of freedom.
        shares: float64[T], of the budget; all lengths of a statistic share alike.
    """
    level = np.minimum(0.5, false_alarms * shares / (WINDOWS_PER_MONTH * len(degrees)) / 2)
    levels = np.broadcast_to(level, degrees.shape)
    known = np.stack([levels, np.round(np.minimum(degrees, SURE_DEGREES), 1)], axis=-1)
    pairs, place = np.unique(known.reshape(-1, 2), axis=0, return_inverse=True)
    limit = np.array([_limit(float(p), float(d)) for p, d in pairs])
    found: Floats = limit[place.reshape(-1)].reshape(degrees.shape)
    return found


@lru_cache(maxsize=4096)
def _limit(level: float, degrees: float) -> float:
    from scipy.special import stdtrit  # heavy, and needed only where a threshold is computed

    return min(MAX_LIMIT, -float(stdtrit(degrees, level)))


def false_alarm_rate(z: Floats, degrees: Floats, statistics: int) -> Floats:
    """False alarms per 720 windows, of all `statistics` alike, at a threshold of |z|."""
    from scipy.special import stdtr

    rate: Floats = 2 * stdtr(degrees, -np.abs(z)) * WINDOWS_PER_MONTH * len(LENGTHS) * statistics
    return rate


def certified(limit: Floats, degrees: Floats, rows: int, window: int, budget: float) -> float:
    """False alarms per 720 windows that a baseline can vouch for; never below the budget.

    `limit` and `degrees` are float64[L, T].

    Infinite where the reference holds fewer than four windows: nothing then says how windows differ
    from each other.
    """
    if rows < 4 * window:
        return math.inf
    return max(budget, float(false_alarm_rate(limit, degrees, 1).sum()) / len(LENGTHS))
