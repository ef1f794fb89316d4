"""Did a mean move between two tables whose rows resemble their neighbours?

The variance of each mean is a long-run variance, estimated in both tables from means of
blocks of rows in order (`longrun`), never below that of independent rows; the reference
is Student's t with Welch's degrees of freedom (Welch, "The generalization of Student's
problem", Biometrika 1947). Shapes are tested by a chi-square over cells whose mean and
variance come from the cells' estimated covariance, with an F reference (Rao and Scott,
"On chi-squared tests for multiway contingency tables", Annals of Statistics 1984; Thomas
and Rao, JASA 1987).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.cells import Blocks, CellCounts, merged
from fedge.drift.tables.longrun import Wander, wander

Floats = NDArray[np.float64]

LEAST_UNIT = 0.1
"""Smallest unit in which a shift is measured, for columns that hardly ever move."""

_POWER_Z = 0.8416
"""Standard errors beyond the threshold at which a shift is seen four times in five."""


@dataclass(frozen=True, slots=True)
class Means:
    """T means in both tables, and how far chance lets them stray.

    Attributes:
        difference: float64[T], current less reference.
        variance: float64[T], of `difference`, without any drift.
        degrees: float64[T].
        unit: float64[T], one reference standard deviation.
        inflation: float64[2, T], variance of the mean over that of independent rows, in reference
            and current.
        beyond: float64[2, T], the same over what independent blocks would have.
    """

    difference: Floats
    variance: Floats
    degrees: Floats
    unit: Floats
    inflation: Floats
    beyond: Floats

    @property
    def z(self) -> Floats:
        """float64[T], `difference` in standard errors."""
        return self.difference / np.sqrt(self.variance)

    @property
    def effect(self) -> Floats:
        """float64[T], `difference` in reference standard deviations."""
        return self.difference / self.unit

    def p_values(self) -> Floats:
        """float64[T], two-sided."""
        from scipy.special import stdtr

        p: Floats = 2 * stdtr(self.degrees, -np.abs(self.z))
        return p

    def detectable(self, level: float) -> Floats:
        """float64[T], the effect that a test at `level` sees four times in five."""
        from scipy.special import stdtrit

        limit = -stdtrit(self.degrees, np.full(len(self.degrees), level / 2))
        found: Floats = (limit + _POWER_Z) * np.sqrt(self.variance) / self.unit
        return found


@dataclass(frozen=True, slots=True)
class Shape:
    """A chi-square over cells: `statistic` over `mean` is F with `first` and `second` degrees."""

    statistic: float
    mean: float
    first: float
    second: float

    @property
    def p_value(self) -> float:
        from scipy.special import fdtrc

        return float(fdtrc(self.first, self.second, self.statistic / self.mean))

    def detectable(self, level: float) -> float:
        """The effect that a test at `level` sees about four times in five."""
        from scipy.special import fdtri

        limit = float(fdtri(self.first, self.second, 1 - level))
        beyond = (
            limit - 1 + _POWER_Z * np.sqrt(2 / self.first + 4 * max(0.0, limit - 1) / self.first)
        )
        return float(np.sqrt(max(0.0, self.mean * beyond)))

    @property
    def effect(self) -> float:
        """Cohen's w of the change beyond chance: for a shifted normal about its shift."""
        return float(np.sqrt(max(0.0, self.statistic - self.mean)))


@dataclass(frozen=True, slots=True)
class Side:
    """What one weighting of cells, or one row score, gives in one table.

    Attributes:
        blocks: float64[G], deviations of blocks from the table's own mean, scaled so that their
            mean's variance is that of the table's mean.
        mean, variance: of one row's score.
        rows: rows that have a score, at least 1.
    """

    blocks: Floats
    mean: float
    variance: float
    rows: float


@dataclass(frozen=True, slots=True)
class Series:
    """The same score in both tables; `unit` is one reference standard deviation."""

    reference: Side
    current: Side
    unit: float


def weighted(cells: CellCounts, weights: Floats) -> Series:
    """The series of a score that each cell has.

    Args:
        weights: float64[B + 1], NaN for cells whose rows have no score.
    """
    sides = (
        _of_cells(cells.reference, cells.totals[0], weights),
        _of_cells(cells.current, cells.totals[1], weights),
    )
    return Series(*sides, max(LEAST_UNIT, math.sqrt(sides[0].variance)))


def _of_cells(counts: Floats, total: Floats, weights: Floats) -> Side:
    known = np.isfinite(weights)
    score = np.where(known, weights, 0.0)
    rows = max(1.0, float(total[known].sum()))
    mean = float(total @ score) / rows
    deviation = np.where(known, score - mean, 0.0)
    blocks: Floats = counts @ deviation * (len(counts) / rows)
    return Side(blocks, mean, float(total @ deviation**2) / rows, rows)


def scored(
    reference: Floats, current: Floats, blocks: tuple[Blocks, Blocks], unit: float
) -> Series:
    """The series of a row score, float64[n] and float64[m], NaN where a row has none."""
    return Series(_of_scores(reference, blocks[0]), _of_scores(current, blocks[1]), unit)


def _of_scores(scores: Floats, blocks: Blocks) -> Side:
    known = np.isfinite(scores)
    rows = max(1.0, float(known.sum()))
    mean = float(scores[known].sum()) / rows
    deviation = np.where(known, scores - mean, 0.0)
    groups = len(blocks.rows)
    summed: NDArray[Any] = np.bincount(blocks.of_row, weights=deviation, minlength=groups)
    deviations: Floats = summed * (groups / rows)
    return Side(deviations, mean, float(deviation @ deviation) / rows, rows)


def judge_means(series: Sequence[Series]) -> Means:
    """All means at once; at least one."""
    sides = [[s.reference for s in series], [s.current for s in series]]
    stacked = [np.column_stack([side.blocks for side in table]) for table in sides]
    wanders = [wander(blocks) for blocks in stacked]
    rows, own, means = (
        np.array([[getattr(side, name) for side in table] for table in sides])
        for name in ("rows", "variance", "mean")
    )
    unit = np.array([s.unit for s in series])
    # A score that never moved in as many rows may still move once in as many.
    independent = np.maximum(own, unit**2 / (rows + 1)) / rows
    long_run = np.array([w.of_mean(len(b)) for w, b in zip(wanders, stacked, strict=True)])
    parts = np.maximum(long_run, independent)
    of_blocks = np.array([b.var(axis=0) / len(b) for b in stacked])
    degrees = np.array([w.degrees for w in wanders])
    return Means(
        difference=means[1] - means[0],
        variance=parts.sum(axis=0) + _going_on(wanders[0], len(stacked[0]), rows),
        degrees=parts.sum(axis=0) ** 2 / (parts**2 / degrees).sum(axis=0),
        unit=unit,
        inflation=parts / independent,
        beyond=np.maximum(1.0, long_run / np.maximum(of_blocks, 1e-300)),
    )


def _going_on(reference: Wander, blocks: int, rows: Floats) -> Floats:
    """Squared distance that a trend inside the reference covers up to the current rows' middle."""
    ahead = blocks / 2 * (1 + rows[1] / rows[0])
    further: Floats = reference.trend * ahead**2
    return further


def judge_shape(cells: CellCounts, inflation: tuple[float, float], degrees: float) -> Shape | None:
    """Whether the shares of cells moved, missing values left out; None where there is one cell.

    Args:
        inflation: by which rows that resemble their neighbours swell the variance of shares, beyond
            what blocks show, in reference and current.
        degrees: of freedom behind it.
    """
    tables = (cells.reference[:, :-1], cells.current[:, :-1])
    totals = (cells.totals[0][:-1], cells.totals[1][:-1])
    target = merged(*totals)
    number = np.unique(target)
    if len(number) < 2:
        return None
    joined = [_joined(counts, target, number) for counts in tables]
    known = [max(1.0, float(total.sum())) for total in totals]
    shares = [_joined(t[None], target, number)[0] / k for t, k in zip(totals, known, strict=True)]
    middle = (shares[0] + shares[1]) / 2
    covariance = sum(
        _covariance(*side) for side in zip(joined, known, shares, inflation, strict=True)
    )
    scaled = covariance / np.sqrt(np.outer(middle, middle))
    mean = float(np.trace(scaled))
    # The squares of an estimated covariance hold its own error; take its expectation off.
    blocks = min(len(counts) for counts in joined)
    squares = float((scaled**2).sum()) - mean**2 / max(2, blocks)
    first = float(np.clip(mean**2 / max(squares, 1e-300), 1.0, len(number) - 1))
    statistic = float(((shares[1] - shares[0]) ** 2 / middle).sum())
    return Shape(statistic, max(mean, 1e-300), first, degrees)


def _joined(counts: Floats, target: NDArray[np.int64], number: NDArray[np.int64]) -> Floats:
    if len(number) == len(target):
        return counts
    joined: Floats = counts @ (target[:, None] == number).astype(np.float64)
    return joined


def _covariance(counts: Floats, known: float, share: Floats, inflation: float) -> Floats:
    """float64[B, B], of the shares, which are ratios to the `known` rows that have a value."""
    blocks = len(counts)
    deviation = (counts - counts.sum(axis=1, keepdims=True) * share) * (blocks / known)
    within = deviation.T @ deviation / (blocks * max(1, blocks - 1))
    least = np.diag((share + 0.5 / known) / known) - np.outer(share, share) / known
    # Blocks of few rows may chance to vary less than independent rows do; they are not trusted to.
    factor = inflation * max(1.0, float(np.trace(least)) / max(float(np.trace(within)), 1e-300))
    covariance: Floats = within * factor
    return covariance
