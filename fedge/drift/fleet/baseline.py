"""A gateway's own normal: what its first windows on a release scored, and how they vary.

Sites differ, and difference is not drift; so a gateway is compared with its own
baseline windows, those of the same season where one is set. How they vary is
estimated for each number of windows that will be summed (`dependence`), and never
below what noise and counting alone give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedge.drift.fleet.dependence import WANDER, Dependence, estimate, wander_correlation
from fedge.drift.fleet.season import fitted

__all__ = ["WANDER", "Baseline", "Track", "fit", "join", "wander_correlation"]

LENGTHS = (1, 2, 3, 4, 6, 12, 24)
"""Numbers of windows for which dependence is learnt where the caller names none."""

_SCALE_SLOPE = 0.125
"""How much scale changes per change of location, per bin by which a site's mean lies away from the
middle: of a normal distribution in bins of equal shares, to first order."""


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
        cell: int64[W], season cell of each window; None where there is no season.
    """

    window: NDArray[np.int64]
    rows: NDArray[np.float64]
    planned: NDArray[np.float64]
    full: NDArray[np.bool_]
    scores: NDArray[np.float64]
    noise: NDArray[np.float64]
    cell: NDArray[np.int64] | None = None

    def __getitem__(self, part: slice | NDArray[np.bool_]) -> Track:
        """Some of the windows."""
        return Track(
            self.window[part],
            self.rows[part],
            self.planned[part],
            self.full[part],
            self.scores[part],
            self.noise[part],
            None if self.cell is None else self.cell[part],
        )

    @property
    def cells(self) -> NDArray[np.int64]:
        """int64[W], season cells; all 0 without a season."""
        return np.zeros(len(self.rows), dtype=np.int64) if self.cell is None else self.cell


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
        dependence: the same for each number of windows that is summed; where it is empty, the
            four above hold for every length.
        cells: int64[C], season cells that have a rate of their own; empty without a season.
        cell_rate, cell_variance: float64[C, T], as `rate` and `rate_variance`.
        kinds: int64[T], statistics that vary alike have the same number; None: all do.
    """

    windows: int
    rate: NDArray[np.float64]
    rate_variance: NDArray[np.float64]
    row_variance: NDArray[np.float64]
    inflation: NDArray[np.float64]
    degrees: float
    pooled_inflation: float
    wander_seen: float
    dependence: tuple[Dependence, ...] = ()
    cells: NDArray[np.int64] | None = None
    cell_rate: NDArray[np.float64] | None = None
    cell_variance: NDArray[np.float64] | None = None
    kinds: NDArray[np.int64] | None = None

    def at(self, length: int) -> Dependence:
        """Dependence of sums over `length` windows: of the longest known length up to it."""
        if not self.dependence:
            size = np.ones(len(self.rate))
            pooled = self.pooled_inflation * size
            degrees = self.degrees * size
            return Dependence(
                length, self.inflation, degrees, pooled, degrees, degrees, self.wander_seen
            )
        known = [one for one in self.dependence if one.length <= length]
        return known[-1] if known else self.dependence[0]

    def expected(self, track: Track) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Where each window's rate stands, int64[W], and the rates, float64[C, T].

        -1 where the baseline knows no window of that season cell: there is nothing to compare
        such a window with.
        """
        if self.cells is None or self.cell_rate is None:
            return np.zeros(len(track.rows), dtype=np.int64), self.rate[None, :]
        place = np.searchsorted(self.cells, track.cells).clip(max=len(self.cells) - 1)
        return np.where(self.cells[place] == track.cells, place, -1), self.cell_rate

    def part(self, count: int) -> Baseline:
        """The baseline of the first `count` statistics."""

        def cut(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
            return None if values is None else values[:, :count]

        return replace(
            self,
            rate=self.rate[:count],
            rate_variance=self.rate_variance[:count],
            row_variance=self.row_variance[:count],
            inflation=self.inflation[:count],
            dependence=tuple(one.part(count) for one in self.dependence),
            cell_rate=cut(self.cell_rate),
            cell_variance=cut(self.cell_variance),
            kinds=None if self.kinds is None else self.kinds[:count],
        )

    @property
    def rate_variances(self) -> NDArray[np.float64]:
        """float64[C, T], variance of each rate of `expected`, before inflation."""
        return self.rate_variance[None, :] if self.cell_variance is None else self.cell_variance


def fit(
    track: Track,
    row_variance: NDArray[np.float64],
    share: NDArray[np.bool_],
    streams: int,
    *,
    kinds: NDArray[np.int64] | None = None,
    lengths: Sequence[int] = LENGTHS,
) -> Baseline:
    """Learn a baseline from a gateway's baseline windows (at least 4, all of them `full`).

    Args:
        row_variance, share: of the score sheet.
        streams: number of streams that the statistics belong to; together they are never worth
            more degrees of freedom than as many independent ones.
        kinds: int64[T], statistics that vary alike have the same number; None: all do.
        lengths: numbers of windows that will be summed.
    """
    windows, lengths = len(track.window), sorted(set(lengths))
    if windows < 4 or not track.full.all():
        raise RuntimeError(f"a baseline needs at least 4 full windows, got {windows}")
    rows = track.rows.sum()
    rate = track.scores.sum(axis=0) / rows
    row_variance = _row_variance(rate, row_variance, share, rows)
    nominal = track.noise + track.rows[:, None] * row_variance
    cells, place = np.unique(track.cells, return_inverse=True)
    cell_rate, cell_variance = _by_cell(track, nominal, place, len(cells))
    deviation = track.scores - track.rows[:, None] * cell_rate[place]
    with np.errstate(invalid="ignore", divide="ignore"):
        residuals = np.where(nominal > 0, deviation / np.sqrt(nominal), 0.0)
    kinds = np.zeros(len(rate), dtype=np.int64) if kinds is None else kinds
    taken = fitted(track.cells, track.rows)
    dependence = estimate(residuals, taken, lengths, kinds)
    longest = dependence[-1]
    seasonal = track.cell is not None
    return Baseline(
        windows=windows,
        rate=rate,
        rate_variance=nominal.sum(axis=0) / rows**2,
        row_variance=row_variance,
        inflation=longest.inflation,
        degrees=min(float(np.median(longest.degrees)), (windows - 1.0) * streams),
        pooled_inflation=float(longest.pooled.mean()),
        wander_seen=longest.wander_seen,
        dependence=dependence,
        cells=cells if seasonal else None,
        cell_rate=cell_rate if seasonal else None,
        cell_variance=cell_variance if seasonal else None,
        kinds=kinds,
    )


def carried(
    baseline: Baseline, locations: NDArray[np.int64], scales: NDArray[np.int64]
) -> Baseline:
    """The baseline with what wander of the locations does to the scales of the same streams.

    A distribution that lies away from the middle comes nearer or moves farther as it shifts. How
    much of that a scale has follows from where its site lies: its kind's mean would hide it.

    Args:
        locations, scales: int64[K], statistics of the same K streams.
    """
    slope = np.clip(_SCALE_SLOPE * baseline.rate[locations], -1, 1)
    part = slope**2 * baseline.rate_variance[locations] / baseline.rate_variance[scales]

    def one(known: Dependence) -> Dependence:
        inflation = known.inflation.copy()
        least = 1.0 + part * (inflation[locations] - 1.0)
        inflation[scales] = np.maximum(inflation[scales], least)
        return replace(known, inflation=inflation)

    dependence = tuple(one(known) for known in baseline.dependence)
    return replace(baseline, inflation=dependence[-1].inflation, dependence=dependence)


def join(track: Track, scores: NDArray[np.float64], noise: NDArray[np.float64]) -> Track:
    """The same windows with more columns of scores, float64[W, P], and their noise variances."""
    return Track(
        track.window,
        track.rows,
        track.planned,
        track.full,
        np.concatenate([track.scores, scores], axis=1),
        np.concatenate([track.noise, noise], axis=1),
        track.cell,
    )


def _by_cell(
    track: Track, nominal: NDArray[np.float64], place: NDArray[np.int64], cells: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rate and its variance in each cell, float64[C, T]."""
    member = np.zeros((cells, len(track.rows)))
    member[place, np.arange(len(track.rows))] = 1.0
    rows = (member @ track.rows)[:, None]
    return member @ track.scores / rows, member @ nominal / rows**2


def _row_variance(
    rate: NDArray[np.float64],
    least: NDArray[np.float64],
    share: NDArray[np.bool_],
    rows: float,
) -> NDArray[np.float64]:
    """Row variances with those of cells as this site fills them, if that is more.

    A cell that held nothing so far may yet hold one record in as many as were seen.
    """
    filled = np.clip(rate, 1 / rows, 0.5)
    return np.maximum(least, np.where(share, filled * (1 - filled), 0.0))
