"""How far each stream of a gateway moved, with what is known about the error.

Everything is linear in the released counts, so the noise of a difference follows
from the reports. Windows of one site may be alike: the error is widened by the
long-run variance of the windows before. What a movement means is said in `cause`,
and whether other gateways moved the same way in `scope`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.fleet.scores import ScoreSheet, score_sheet
from fedge.profiles.counts import dyadic
from fedge.records import (
    CLASS_STREAM,
    CONFIDENCE_STREAM,
    NUMERIC_BINS,
    OOD_STREAM,
    Reference,
    WindowReport,
)

MOVED_Z = 4.0
"""Standard errors from which a stream that raised no alarm by itself counts as moved, too."""

OUTPUTS = (CLASS_STREAM, CONFIDENCE_STREAM, OOD_STREAM)
"""The streams that are no features but the model's own answers."""

MAX_LAGS = 12
_LEAST_WINDOWS = 4

_HAAR = np.stack([dyadic(row) for row in np.eye(NUMERIC_BINS, dtype=np.int64)], axis=1)
_TO_BINS = np.linalg.inv(np.vstack([np.ones(NUMERIC_BINS), _HAAR]))
"""From the number of rows and the 15 dyadic sums of a stream to its 16 bins."""

_NODE = np.abs(_HAAR).sum(axis=1) / NUMERIC_BINS
"""Share of evenly spread rows that reach each node."""


@dataclass(frozen=True, slots=True)
class Piled:
    """The windows of one period, added up.

    Attributes:
        windows, rows: how many windows, and rows in them.
        counts: for each stream, float64[its counts]: the sum of the noised counts.
        noise: for each stream, noise variance of each of these sums.
    """

    windows: int
    rows: float
    counts: tuple[NDArray[np.float64], ...]
    noise: NDArray[np.float64]

    def shares(self, column: int, numeric: bool) -> NDArray[np.float64]:
        """Estimated share of the rows in each cell, the last one of a number being `missing`.

        Not clipped: an estimate may be a little below zero.
        """
        counts = self.counts[column]
        if not numeric:
            shares: NDArray[np.float64] = counts / self.rows
            return shares
        present = self.rows - counts[-1]
        cells = _TO_BINS @ np.concatenate([[present], counts[:-1]])
        return np.append(cells, counts[-1]) / self.rows

    def share_error(self, column: int, numeric: bool) -> float:
        """Noise standard deviation of one of `shares`."""
        gain = (_TO_BINS[0, 1:] ** 2).sum() if numeric else 1.0
        return float(np.sqrt(gain * self.noise[column])) / self.rows


@dataclass(frozen=True, slots=True)
class StreamMove:
    """One stream, before and after.

    Attributes:
        statistics: names, as in findings.
        change: float64[T], change of one row's score.
        shift: float64[T], the same as far as it is possible: noise knows no bounds.
        error: float64[T], its standard error.
        unit: float64[T], standard deviation of one row's score in the reference.
        before, after: shares of the cells.
        share_error: noise standard deviation of one share after.
    """

    name: str
    numeric: bool
    statistics: tuple[str, ...]
    change: NDArray[np.float64]
    shift: NDArray[np.float64]
    error: NDArray[np.float64]
    unit: NDArray[np.float64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    share_error: float

    @property
    def z(self) -> float:
        """Largest deviation of a statistic in standard errors."""
        return float(np.abs(self.change / self.error).max())

    @property
    def effect(self) -> float:
        """Largest change of a statistic in reference standard deviations, less its likely error.

        Two standard errors are taken off, because the largest of several estimates is too large.
        """
        sure = np.maximum(0.0, np.abs(self.shift) - 2 * self.error)
        return float((sure / self.unit).max())

    def effect_of(self, statistic: str) -> float:
        """Signed change of one statistic in reference standard deviations; 0 if it has none."""
        if statistic not in self.statistics:
            return 0.0
        index = self.statistics.index(statistic)
        return float(self.shift[index] / self.unit[index])

    def moved(self, min_effect: float) -> bool:
        """Whether it moved beyond doubt and by at least `min_effect`."""
        return self.z >= MOVED_Z and self.effect >= min_effect


@dataclass(frozen=True, slots=True)
class Movement:
    """All streams of one gateway: `before` and `after` piled up, and how each moved."""

    before: Piled
    after: Piled
    streams: tuple[StreamMove, ...]

    def stream(self, name: str) -> StreamMove | None:
        """The stream of this name, if it is watched."""
        return next((stream for stream in self.streams if stream.name == name), None)


@dataclass(frozen=True, slots=True)
class Counted:
    """A gateway's reports on one reference as arrays, read once for all comparisons.

    Attributes:
        rows: float64[W], slots of each window whose observation was not lost.
        counts: for each stream, float64[W, its counts].
        sigma2: for each stream, float64[W], noise variance of each count.
    """

    reference: Reference
    sheet: ScoreSheet
    place: Mapping[int, int]
    rows: NDArray[np.float64]
    counts: tuple[NDArray[np.float64], ...]
    sigma2: tuple[NDArray[np.float64], ...]

    @classmethod
    def of(cls, reference: Reference, reports: Sequence[WindowReport]) -> Counted:
        """Read reports that fit the reference, in order of windows."""
        streams = range(len(reference.streams))
        return cls(
            reference=reference,
            sheet=score_sheet(reference),
            place={report.window: number for number, report in enumerate(reports)},
            rows=np.array([max(r.slots - r.dropped, 0) for r in reports], dtype=np.float64),
            counts=tuple(
                np.array([r.features[s].counts for r in reports], dtype=np.float64) for s in streams
            ),
            sigma2=tuple(
                np.array([r.features[s].sigma2 for r in reports], dtype=np.float64) for s in streams
            ),
        )

    def pile(self, windows: Sequence[int]) -> Piled | None:
        """Add windows up; None where they hold no row."""
        at = self.at(windows)
        rows = float(self.rows[at].sum())
        if rows <= 0:
            return None
        return Piled(
            windows=len(at),
            rows=rows,
            counts=tuple(counts[at].sum(axis=0) for counts in self.counts),
            noise=np.array([sigma2[at].sum() for sigma2 in self.sigma2]),
        )

    def at(self, windows: Sequence[int]) -> NDArray[np.int64]:
        """Places of windows in the arrays."""
        return np.array([self.place[window] for window in windows], dtype=np.int64)


def movement(
    counted: Counted,
    before: Sequence[int],
    after: Sequence[int],
    streams: Sequence[str] = (),
) -> Movement | None:
    """How the streams moved from some windows to others; None where either holds no row.

    Args:
        before, after: indices of windows, in order.
        streams: only these; all where none of them is watched.
    """
    old, new = counted.pile(before), counted.pile(after)
    if old is None or new is None:
        return None
    names = [stream.name for stream in counted.reference.streams]
    chosen = [n for n, name in enumerate(names) if name in streams] or list(range(len(names)))
    inflation = _inflation(counted, counted.at(before), old, chosen)
    moves = [
        _move(counted, column, old, new, own) for column, own in zip(chosen, inflation, strict=True)
    ]
    return Movement(old, new, tuple(moves))


def _move(
    counted: Counted, column: int, old: Piled, new: Piled, inflation: NDArray[np.float64]
) -> StreamMove:
    sheet, stream = counted.sheet, counted.reference.streams[column]
    own, weights = sheet.stream == column, sheet.weights[column]
    noise = (weights**2).sum(axis=1)
    variance = sum(
        noise * one.noise[column] / one.rows**2 + sheet.row_variance[own] / one.rows
        for one in (old, new)
    )
    numeric = stream.kind == "numeric"
    rates = [weights @ (one.counts[column] / one.rows) for one in (old, new)]
    possible = [np.clip(rate, *sheet.bounds[:, own]) for rate in rates]
    return StreamMove(
        name=stream.name,
        numeric=numeric,
        statistics=tuple(s.name for s, mine in zip(sheet.statistics, own, strict=True) if mine),
        change=rates[1] - rates[0],
        shift=possible[1] - possible[0],
        error=np.sqrt(inflation * np.maximum(variance, 1e-12)),
        unit=sheet.unit[own],
        before=old.shares(column, numeric),
        after=new.shares(column, numeric),
        share_error=new.share_error(column, numeric),
    )


def node_shares(numeric: bool, cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least variance per row of each released count: the share of rows that touch it."""
    return np.append(_NODE, 0.0) if numeric else cells


def _inflation(
    counted: Counted, at: NDArray[np.int64], piled: Piled, columns: Sequence[int]
) -> list[NDArray[np.float64]]:
    """How much more each statistic varies between windows than noise and counting alone, >= 1.

    A long-run variance with Bartlett weights (Newey and West 1987), halfway to the mean of all
    statistics asked for, because one short series says little. One array for each column.
    """
    sheet, windows = counted.sheet, len(at)
    if windows < _LEAST_WINDOWS:
        return [np.ones(len(sheet.weights[column])) for column in columns]
    lags = np.abs(np.subtract.outer(np.arange(windows), np.arange(windows)))
    kernel = np.maximum(0.0, 1 - lags / (min(MAX_LAGS, windows // 4) + 1))
    centre = np.eye(windows) - 1 / windows
    form = centre @ kernel @ centre
    rows, found = counted.rows[at][:, None], []
    for column in columns:
        weights = sheet.weights[column]
        scores = counted.counts[column][at] @ weights.T
        noise = np.outer(counted.sigma2[column][at], (weights**2).sum(axis=1))
        residual = scores - rows * (scores.sum(axis=0) / piled.rows)
        nominal = noise + rows * sheet.row_variance[sheet.stream == column]
        residual = residual / np.sqrt(np.maximum(nominal, 1e-12))
        found.append((residual * (form @ residual)).sum(axis=0) / np.trace(form))
    mean = float(np.concatenate(found).mean())
    return [np.maximum(1.0, (own + mean) / 2) for own in found]
