"""Watching windows of rows against one baseline: sums of scores in, deviations out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.baselines import LENGTHS, Baseline, limits
from fedge.drift.tables.encoding import Encoder, Fit, RowStatistic
from fedge.drift.tables.features import fit_features
from fedge.drift.tables.released import Release, fit_release
from fedge.drift.tables.structure import fit_structure
from fedge.drift.tables.table import Table

Floats = NDArray[np.float64]

_LEAST_SHARE = 0.05
"""A mean over fewer of its rows than this is no mean of the window."""


_MARGIN = 1.25
"""How much farther than ever within the reference a mean must be."""

ROW_FITS: tuple[Fit, ...] = (fit_features, fit_structure)
"""What is watched in the rows themselves; other fits watch a model's outputs."""

_SLOWER = 0.25
"""Quantile of the columns' independent rows that stands for the pace of the whole."""

_CURVED = ("scale", "skew", "tails", "pair")
_SKEWED = (*_CURVED, "T2", "Q", "relation spread")
_LEAST_MEAN = 8.0
"""Independent rows below which the mean of such a score is too far from normal to be judged."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Consecutive windows.

    Attributes:
        start, end: int64[W], rows.
        total: float64[W, T], sums of scores.
        count: float64[W, T], rows that had a score.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    total: Floats
    count: Floats

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, windows: slice) -> Sums:
        return Sums(
            self.start[windows], self.end[windows], self.total[windows], self.count[windows]
        )

    def then(self, later: Sums) -> Sums:
        """These and the windows right after them."""
        return Sums(
            np.concatenate([self.start, later.start]),
            np.concatenate([self.end, later.end]),
            np.concatenate([self.total, later.total]),
            np.concatenate([self.count, later.count]),
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """Deviations of W windows; NaN where there is nothing to compare.

    Attributes:
        z, strength, effect: float64[W, L, T], of the latest `LENGTHS[l]` windows that end with
            each; strength is |z| over its limit.
    """

    z: Floats
    strength: Floats
    effect: Floats

    def alarms(self, min_effect: float) -> NDArray[np.bool_]:
        """bool[W, L, T]. NaN compares false: what was not tested raises no alarm."""
        return (self.strength > 1.0) & (np.abs(self.effect) >= min_effect)


@dataclass(frozen=True)
class Watch:
    """Encoders and their baseline, fitted on rows `start` to `end` of a stream.

    Attributes:
        limit: float64[T], the |z| that alarms.
        noise: float64[T], variance that a release adds to each window's sums; 0 without one.
        seed: of that noise.
    """

    encoders: tuple[Encoder, ...]
    statistics: tuple[RowStatistic, ...]
    baseline: Baseline
    start: int
    end: int
    limit: Floats
    noise: Floats
    seed: int

    @classmethod
    def fit(
        cls,
        stream: Table,
        start: int,
        end: int,
        fits: Sequence[Fit],
        window: int,
        false_alarms: float,
        before: Watch | None = None,
        epsilon: float | None = None,
        seed: int = 0,
    ) -> Watch | None:
        """Learn from rows `start` to `end`; None if no column can be watched.

        `before` lends the persistence of its statistics to this baseline.
        """
        reference = stream[start:end]
        encoders = _encoders(reference, fits, epsilon)
        if not encoders:
            return None
        scores = np.concatenate([e.reference_scores for e in encoders], axis=1)
        unit = np.concatenate([e.unit for e in encoders])
        statistics = tuple(s for e in encoders for s in e.statistics)
        baseline = Baseline.fit(scores, unit)
        baseline = baseline.humble(_visits(statistics, baseline) / 2)
        if before is not None:
            baseline = baseline.carrying(before.baseline, *_shared(statistics, before.statistics))
        limit = limits(baseline.strays.degrees, false_alarms)
        noise = np.concatenate([_noise(e) for e in encoders])
        watch = cls(encoders, statistics, baseline, start, end, limit, noise, seed)
        return replace(watch, limit=np.maximum(limit, watch._seen(scores, window)))

    def _seen(self, scores: Floats, window: int) -> Floats:
        """float64[T], limits at which the reference itself would have been quiet, with a margin.

        Scores that come in bursts stray farther than their autocorrelation tells.
        """
        starts = np.arange(self.start, self.end - window + 1, window)
        if len(starts) < 2:
            return np.zeros(len(self.statistics))
        windows = _summed(scores[: len(starts) * window], starts, starts + window)
        z = np.abs(self.judge(windows, 0).z)
        own = np.nan_to_num(z[:, [LENGTHS[i] <= len(starts) // 2 for i in range(len(LENGTHS))]])
        seen: Floats = _MARGIN * own.max(axis=(0, 1))
        return seen

    def rows_per_visit(self) -> float:
        """How many rows make one independent one, in the slower columns; 1 where rows are."""
        return float(
            np.quantile(self.baseline.rows / self.baseline.independent_rows(), 1 - _SLOWER)
        )

    def scores(self, stream: Table, start: int, end: int) -> Floats:
        """float64[end - start, T]; the row before, where there is one, is known to all scores."""
        context = min(start, 1)
        rows = stream[start - context : end]
        return np.concatenate([e.scores(rows)[context:] for e in self.encoders], axis=1)

    def sums(self, stream: Table, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Sums:
        """Of consecutive windows."""
        sums = _summed(self.scores(stream, int(starts[0]), int(ends[-1])), starts, ends)
        return replace(sums, total=sums.total + self._noised(starts))

    def _noised(self, starts: NDArray[np.int64]) -> Floats | float:
        release = next((e for e in self.encoders if isinstance(e, Release)), None)
        if release is None:
            return 0.0
        # A window's release is drawn once, and the same whenever it is looked at again.
        return np.array([release.noised(self.seed, int(start)) for start in starts])

    def judge(self, windows: Sums, first: int) -> Judged:
        """Deviations of the windows from index `first` on; earlier ones only help to fill sums."""
        shape = (len(windows) - first, len(LENGTHS), len(self.statistics))
        z, effect = np.full(shape, np.nan), np.full(shape, np.nan)
        total, count = _running(windows.total), _running(windows.count)
        for column, length in enumerate(LENGTHS):
            at = max(first, length - 1)
            if at >= len(windows):
                break
            sums, counts = (
                part[at + 1 :] - part[at + 1 - length : -length] for part in (total, count)
            )
            starts = windows.start[at + 1 - length : len(windows) + 1 - length]
            rows = windows.end[at:] - starts
            for size in np.unique(rows):
                some = rows == size
                z[at - first :, column][some], effect[at - first :, column][some] = self._deviation(
                    sums[some], counts[some], int(size), starts[some], length
                )
        return Judged(z, np.abs(z) / self.limit, effect)

    @cached_property
    def _skewed(self) -> NDArray[np.bool_]:
        return np.array([s.name in _SKEWED for s in self.statistics])

    def _deviation(
        self,
        sums: Floats,
        counts: Floats,
        rows: int,
        starts: NDArray[np.int64],
        length: int,
    ) -> tuple[Floats, Floats]:
        enough = counts >= max(1.0, _LEAST_SHARE * rows)
        share = np.where(enough, counts, np.nan) / rows
        mean = sums / np.where(enough, counts, np.nan)
        middle = (self.start + self.end) / 2
        distance = np.abs(starts + rows / 2 - middle)[:, None]
        independent = np.maximum(self.baseline.strays.variance, self.baseline.least)
        independent = independent / self.baseline.of_mean(rows)
        mean = np.where(self._skewed & (independent < _LEAST_MEAN), np.nan, mean)
        noise = length * self.noise / rows**2
        z = self.baseline.deviation(mean, share, rows, distance, noise)
        return z, (mean - self.baseline.mean) / self.baseline.unit


def _encoders(reference: Table, fits: Sequence[Fit], epsilon: float | None) -> tuple[Encoder, ...]:
    if epsilon is None:
        return tuple(e for e in (fit(reference) for fit in fits) if e is not None)
    release = fit_release(reference, epsilon, [fit for fit in fits if fit not in ROW_FITS])
    return () if release is None else (release,)


def _noise(encoder: Encoder) -> Floats:
    return encoder.noise if isinstance(encoder, Release) else np.zeros(len(encoder.statistics))


def _visits(statistics: tuple[RowStatistic, ...], baseline: Baseline) -> Floats:
    """float64[T], independent rows behind what a statistic depends on beside itself.

    The shape of a column that wanders, and its product with another, come in bursts which no
    autoregression of these scores sees: they cannot be known better than how often the column went
    through its range. Relations, categories and gaps depend in the same way on a state of the whole
    (the weather, the load), whose pace the slower columns show.
    """
    rows = baseline.independent_rows()
    of = {s.columns[0]: r for s, r in zip(statistics, rows, strict=True) if s.name == "location"}
    whole = float(np.quantile(list(of.values()), _SLOWER)) if of else math.inf
    visits = np.full(len(statistics), math.inf)
    for index, statistic in enumerate(statistics):
        if statistic.name in _CURVED:
            visits[index] = min(of.get(column, math.inf) for column in statistic.columns)
        if statistic.group in ("structure", "missing") or statistic.name.startswith("cell "):
            visits[index] = min(visits[index], whole)
    return visits


def _summed(scores: Floats, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Sums:
    """Sums over consecutive windows of scores that begin where the first window does."""
    present = np.isfinite(scores)
    cuts = starts - starts[0]
    return Sums(
        starts,
        ends,
        np.add.reduceat(np.where(present, scores, 0.0), cuts, axis=0),
        np.add.reduceat(present, cuts, axis=0, dtype=np.float64),
    )


def _running(values: Floats) -> Floats:
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])


def _shared(
    mine: tuple[RowStatistic, ...], others: tuple[RowStatistic, ...]
) -> tuple[list[int], list[int]]:
    known = {statistic: index for index, statistic in enumerate(others)}
    pairs = [(index, known[s]) for index, s in enumerate(mine) if s in known]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
