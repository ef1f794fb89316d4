"""A gateway's own normal: what its first windows on a release scored, and how they vary.

Sites differ, and difference is not drift; so a gateway is compared with its own
baseline windows. Their variance is a long-run variance (consecutive windows may
be alike), shrunk towards the gateway's other streams because one short series
says little, and never below what noise and counting alone give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_LAGS = 24
"""Windows over which dependence is looked for at most."""

WANDER = 0.9
"""Correlation of neighbouring windows in the slow wander that a certified rate must survive: hourly
windows of a site that warms up and cools down over a day."""


@dataclass(frozen=True, slots=True)
class Track:
    """One gateway's windows on one release, in order.

    Attributes:
        window: int64[W], window indices.
        rows: float64[W], slots that held a record (dropped ones left out).
        planned: float64[W], slots of a full window: one number for all, by which windows are
            weighed against each other.
        full: bool[W], whether the window was not cut and lost less than half of its slots.
        scores, noise: float64[W, T], from `ScoreSheet.scores`.
    """

    window: NDArray[np.int64]
    rows: NDArray[np.float64]
    planned: NDArray[np.float64]
    full: NDArray[np.bool_]
    scores: NDArray[np.float64]
    noise: NDArray[np.float64]

    def __getitem__(self, part: slice | NDArray[np.bool_]) -> Track:
        """Some of the windows."""
        return Track(
            self.window[part],
            self.rows[part],
            self.planned[part],
            self.full[part],
            self.scores[part],
            self.noise[part],
        )


@dataclass(frozen=True, slots=True)
class Baseline:
    """What later windows are compared with.

    Attributes:
        rate: float64[T], score per record.
        rate_variance: float64[T], variance of `rate`, before inflation.
        row_variance: float64[T], variance of one record's score.
        inflation: float64[T], long-run variance over the variance of independent windows, >= 1.
        degrees: degrees of freedom behind `inflation`, for the t reference.
        pooled_inflation: what all streams together say, not floored.
        wander_seen: how much `pooled_inflation` rises per unit of slow wander (its variance over
            that of independent windows): small where a baseline is too short to see it.
    """

    windows: int
    rate: NDArray[np.float64]
    rate_variance: NDArray[np.float64]
    row_variance: NDArray[np.float64]
    inflation: NDArray[np.float64]
    degrees: float
    pooled_inflation: float
    wander_seen: float


def fit(
    track: Track, row_variance: NDArray[np.float64], share: NDArray[np.bool_], streams: int
) -> Baseline:
    """Learn a baseline from a gateway's baseline windows (at least 4, all of them `full`).

    Args:
        row_variance, share: of the score sheet.
        streams: number of streams that the statistics belong to.
    """
    windows = len(track.window)
    if windows < 4 or not track.full.all():
        raise RuntimeError(f"a baseline needs at least 4 full windows, got {windows}")
    rows = track.rows.sum()
    rate = track.scores.sum(axis=0) / rows
    row_variance = _row_variance(rate, row_variance, share)
    nominal = track.noise + track.rows[:, None] * row_variance
    residuals = (track.scores - track.rows[:, None] * rate) / np.sqrt(nominal)
    memory = min(MAX_LAGS, windows // 4)
    form = _long_run_form(windows, memory)
    inflation, pooled, degrees = _long_run(residuals, form, streams)
    return Baseline(
        windows=windows,
        rate=rate,
        rate_variance=nominal.sum(axis=0) / rows**2,
        row_variance=row_variance,
        inflation=inflation,
        degrees=degrees,
        pooled_inflation=pooled,
        wander_seen=float((form * wander_correlation(windows)).sum() / np.trace(form)),
    )


def _row_variance(
    rate: NDArray[np.float64], least: NDArray[np.float64], share: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Row variances with those of cells as this site fills them, if that is more."""
    filled = np.clip(rate, 0.0, 0.5)
    return np.maximum(least, np.where(share, filled * (1 - filled), 0.0))


def wander_correlation(windows: int) -> NDArray[np.float64]:
    """Correlation of the wander in consecutive windows, float64[windows, windows]."""
    correlation: NDArray[np.float64] = np.power(WANDER, _lags(windows), dtype=np.float64)
    return correlation


def _lags(windows: int) -> NDArray[np.int64]:
    return np.abs(np.subtract.outer(np.arange(windows), np.arange(windows)))


def _long_run_form(windows: int, memory: int) -> NDArray[np.float64]:
    """The matrix A by which residuals' A residuals estimates a long-run variance, up to scale.

    Bartlett weights to lag `memory` around the mean. Dividing by its trace makes the estimate
    unbiased for independent windows however few they are; trace(A)^2 / trace(A^2) are its degrees
    of freedom.
    """
    kernel = np.maximum(0.0, 1 - _lags(windows) / (memory + 1))
    centre = np.eye(windows) - 1 / windows
    form: NDArray[np.float64] = centre @ kernel @ centre
    return form


def _long_run(
    residuals: NDArray[np.float64], form: NDArray[np.float64], streams: int
) -> tuple[NDArray[np.float64], float, float]:
    """Inflation of each statistic, the pooled one, and the degrees of freedom behind the first.

    Each statistic's own estimate is shrunk to the mean of all as in Smyth's moderated t (2004),
    with the prior degrees from the estimates' spread: streams that vary alike lend each other
    degrees of freedom, streams that do not leave each with little more than its own.
    """
    trace = float(np.trace(form))
    own_degrees = trace**2 / float((form * form).sum())
    own = (residuals * (form @ residuals)).sum(axis=0) / trace
    pooled = float(own.mean())
    spread = float(own.var()) / pooled**2
    prior = np.inf
    if spread * own_degrees > 2:
        # The spread of F(d, d0) by moments, solved for d0; with few degrees it has no moment.
        excess = 2 * (own_degrees - 2) + 4 * spread * own_degrees
        prior = max(4.0, excess / (spread * own_degrees - 2))
    weight = 1.0 if np.isinf(prior) else prior / (prior + own_degrees)
    shrunk = weight * pooled + (1 - weight) * own
    return np.maximum(1.0, shrunk), pooled, min(own_degrees + prior, own_degrees * streams)
