"""Watching windows of rows against one baseline: sums of scores in, deviations out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.baselines import LENGTHS, Baseline, limits
from fedge.drift.tables.bursts import SLOWER, Bursts, judgeable
from fedge.drift.tables.carried import allowance, beyond
from fedge.drift.tables.copies import PARTED, Copy, copies_in, fit_copies, without
from fedge.drift.tables.encoding import Encoder, Fit, RowStatistic
from fedge.drift.tables.features import fit_features
from fedge.drift.tables.gross import GROSS, GrossEncoder, fit_gross
from fedge.drift.tables.released import Release, fit_release
from fedge.drift.tables.structure import fit_structure
from fedge.drift.tables.sums import Sums, summed
from fedge.drift.tables.table import Table

Floats = NDArray[np.float64]

LEAST_SHARE = 0.05
"""A mean over fewer of its rows than this is no mean of the window."""


_MARGIN = 1.25
"""How much farther than ever within the reference a mean must be."""

ROW_FITS: tuple[Fit, ...] = (fit_features, fit_gross, fit_structure)
"""What is watched in the rows themselves; other fits watch a model's outputs."""

_ERROR_PART = 0.5
"""A model's error that shifts by a tenth of its deviation is worth an alarm: a concept that changed
for one row in twenty shifts it no farther."""

_ERROR_SHARE = 4.0
"""How much more of the budget than any other a model's error gets: concept drift has no other
mark, where inputs that moved have many."""

_RUNS = 20
"""Runs of rows in a window (or half a reference) as which events that fill it are counted."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Deviations of W windows; NaN where there is nothing to compare.

    Attributes:
        z, strength, effect: float64[W, L, T], of the latest `LENGTHS[l]` windows that end with
            each; strength is |z| over its limit.
        part: float64[T], part of the smallest effect that a statistic needs.
    """

    z: Floats
    strength: Floats
    effect: Floats
    part: Floats

    def large(self, min_effect: float) -> NDArray[np.bool_]:
        """bool[W, L, T], whether a shift is worth an alarm. NaN compares false."""
        enough: NDArray[np.bool_] = np.abs(self.effect) >= min_effect * self.part
        return enough

    def alarms(self, min_effect: float) -> NDArray[np.bool_]:
        """bool[W, L, T]. NaN compares false: what was not tested raises no alarm."""
        return (self.strength > 1.0) & self.large(min_effect)


@dataclass(frozen=True)
class Watch:
    """Encoders and their baseline, fitted on rows `start` to `end` of a stream.

    Attributes:
        bursts: see there.
        degrees: float64[L, T], degrees of freedom of z over `LENGTHS` windows.
        limit: float64[L, T], the |z| that alarms.
        noise: float64[T], variance that a release adds to each window's sums; 0 without one.
        seed: of that noise.
        copies: columns that only repeat another one; all that is watched in them is whether they
            still do.
    """

    encoders: tuple[Encoder, ...]
    statistics: tuple[RowStatistic, ...]
    baseline: Baseline
    bursts: Bursts
    start: int
    end: int
    degrees: Floats
    limit: Floats
    noise: Floats
    seed: int
    copies: tuple[Copy, ...] = ()

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
        copies = copies_in(reference)
        several: tuple[Fit, ...] = (*fits, partial(fit_copies, copies=copies))
        encoders = _encoders(without(reference, copies), several, epsilon, before)
        if not encoders:
            return None
        scores = np.concatenate([e.reference_scores for e in encoders], axis=1)
        unit = np.concatenate([e.unit for e in encoders])
        statistics = tuple(s for e in encoders for s in e.statistics)
        baseline = Baseline.fit(scores, unit)
        bursts = Bursts.of(statistics, baseline, scores)
        baseline = baseline.humble(bursts.known / 2)
        if before is not None:
            baseline = baseline.carrying(before.baseline, *_shared(statistics, before.statistics))
        gross = np.array([s.name in (*GROSS, PARTED) for s in statistics])
        baseline = baseline.counting(gross, max(1.0, min(window, (end - start) / 2) / _RUNS))
        tails = np.where(gross, math.inf, bursts.degrees(baseline, window))
        degrees = np.minimum(baseline.strays.degrees, tails)
        limit = limits(degrees, false_alarms, _shares(statistics))
        noise = np.concatenate([_noise(e) for e in encoders])
        watch = cls(
            encoders, statistics, baseline, bursts, start, end, degrees, limit, noise, seed, copies
        )
        return replace(watch, limit=np.maximum(limit, watch._seen(scores, window)))

    def _seen(self, scores: Floats, window: int) -> Floats:
        """float64[T], limits at which the reference itself would have been quiet, with a margin.

        Scores that come in bursts stray farther than their autocorrelation tells.
        """
        starts = np.arange(self.start, self.end - window + 1, window)
        if len(starts) < 2:
            return np.zeros(len(self.statistics))
        windows = summed(scores[: len(starts) * window], starts, starts + window)
        z = np.abs(self.judge(windows, 0).z)
        own = np.nan_to_num(z[:, [LENGTHS[i] <= len(starts) // 2 for i in range(len(LENGTHS))]])
        seen: Floats = _MARGIN * own.max(axis=(0, 1))
        return seen

    def rows_per_visit(self) -> float:
        """How many rows make one independent one, in the slower columns; 1 where rows are."""
        return float(np.quantile(self.baseline.rows / self.baseline.independent_rows(), 1 - SLOWER))

    @property
    def memory(self) -> int:
        """Rows before a row that its scores depend on."""
        return max([1, *(e.memory for e in self.encoders if isinstance(e, GrossEncoder))])

    def scores(self, stream: Table, start: int, end: int) -> Floats:
        """float64[end - start, T]; the rows before are known to all scores."""
        context = min(start, self.memory)
        rows = stream[start - context : end]
        return np.concatenate([e.scores(rows)[context:] for e in self.encoders], axis=1)

    def sums(self, stream: Table, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Sums:
        """Of consecutive windows."""
        sums = summed(self.scores(stream, int(starts[0]), int(ends[-1])), starts, ends)
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
        part = np.where([s.group == "error" for s in self.statistics], _ERROR_PART, 1.0)
        return Judged(z, np.abs(z) / self.limit, effect, part)

    def _deviation(
        self,
        sums: Floats,
        counts: Floats,
        rows: int,
        starts: NDArray[np.int64],
        length: int,
    ) -> tuple[Floats, Floats]:
        enough = counts >= max(1.0, LEAST_SHARE * rows)
        share = np.where(enough, counts, np.nan) / rows
        mean = sums / np.where(enough, counts, np.nan)
        middle = (self.start + self.end) / 2
        distance = np.abs(starts + rows / 2 - middle)[:, None]
        mean[:, ~judgeable(self.statistics, self.bursts, self.baseline, rows)] = np.nan
        noise = length * self.noise / (share * rows) ** 2
        off = mean - self.baseline.mean
        left = beyond(off, allowance(self.statistics, self.baseline, rows))
        z = self.baseline.deviation(self.baseline.mean + left, share, rows, distance, noise)
        return z, off / self.baseline.unit


def _encoders(
    reference: Table, fits: Sequence[Fit], epsilon: float | None, before: Watch | None
) -> tuple[Encoder, ...]:
    if epsilon is None:
        fitted = [e for e in (fit(reference) for fit in fits) if e is not None]
        old = [e for e in before.encoders if isinstance(e, GrossEncoder)] if before else []
        return tuple(e.wider(old[0]) if old and isinstance(e, GrossEncoder) else e for e in fitted)
    release = fit_release(reference, epsilon, [fit for fit in fits if fit not in ROW_FITS])
    return () if release is None else (release,)


def _shares(statistics: tuple[RowStatistic, ...]) -> Floats:
    """float64[T], of the budget, sum 1."""
    weights = [
        _ERROR_SHARE if s.group == "error" and len(s.columns) == 1 else 1.0 for s in statistics
    ]
    return np.array(weights) / sum(weights)


def _noise(encoder: Encoder) -> Floats:
    return encoder.noise if isinstance(encoder, Release) else np.zeros(len(encoder.statistics))


def _running(values: Floats) -> Floats:
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])


def _shared(
    mine: tuple[RowStatistic, ...], others: tuple[RowStatistic, ...]
) -> tuple[list[int], list[int]]:
    known = {statistic: index for index, statistic in enumerate(others)}
    pairs = [(index, known[s]) for index, s in enumerate(mine) if s in known]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
