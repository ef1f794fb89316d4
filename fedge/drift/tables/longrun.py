"""How far the mean of consecutive rows strays by chance, when rows are like their neighbours.

Rows of a machine are no independent draws: the mean of 100 rows may know no more
than that of 3. Each score column gets an autoregression (Burg's method, order by
AIC), whose spectral density gives the variance of the mean over any number of
rows; how uncertain its persistence is gives degrees of freedom (delta method).

Three things make an estimate from few rows too small, and each is countered:
fitted persistence is biased downwards by the estimated mean (corrected to first
order, Marriott & Pope 1954); slow waves hide from a short autoregression (means
of blocks raise it, where `doubts` lets them); and a trend inside the rows is likely
to go on (`trend`). A column that wanders like a random walk so ends with a huge
variance and hardly any degrees of freedom: nothing can be certified about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.doubts import TURNS, Doubt

Floats = NDArray[np.float64]

MAX_ORDER = 12
ROWS_PER_ORDER = 25
_BLOCKS = 40
_BLOCK_SLACK = 1.6
_BATCHES = 8
_BATCH_SLACK = 1.5
"""Factor that eight batch means exceed their expectation by now and then (one time in six)."""
_TREND_Z = 3.0
_LEAST_DEGREES = 3.0
_STRIPE = 64  # columns at a time: bounds memory
_EDGES = np.concatenate([[0.0], np.geomspace(1e-5, np.pi, 480)])
"""Frequencies in radians per row, dense towards zero where persistence lives."""
_MIDDLE = np.sqrt(np.maximum(_EDGES[:-1], 1e-6) * _EDGES[1:])
_STEP = np.diff(_EDGES)


@dataclass(frozen=True, slots=True)
class Wander:
    """What n rows of T scores say about the spread of means.

    Attributes:
        rows: float64[T], rows that had a score.
        power: float64[T, G], variance of one row by frequency.
        floor: float64[T], factor >= 1 by which batch means exceed what `power` explains.
        degrees: float64[T], degrees of freedom behind the variance of a long mean.
        trend: float64[T], squared slope per row beyond what chance explains; mostly 0.
    """

    rows: Floats
    power: Floats
    floor: Floats
    degrees: Floats
    trend: Floats

    @property
    def variance(self) -> Floats:
        """float64[T], variance of one row."""
        total: Floats = self.floor * self.power.sum(axis=1)
        return total

    def of_mean(self, rows: int) -> Floats:
        """float64[T], variance of the mean over `rows` consecutive rows."""
        mean: Floats = self.floor * (self.power @ _fejer(rows))
        return mean

    def carrying(self, other: Wander, mine: list[int], others: list[int]) -> Wander:
        """These with the power by frequency of `other` where that is more of the variance.

        Scores numbered `mine` here are `others` there.
        """
        power, floor, degrees = self.power.copy(), self.floor.copy(), self.degrees.copy()
        total = other.power[others].sum(axis=1)
        scale = power[mine].sum(axis=1) / np.where(total > 0, total, np.inf)
        power[mine] = np.maximum(power[mine], other.power[others] * scale[:, None])
        floor[mine] = np.maximum(floor[mine], other.floor[others])
        degrees[mine] = np.maximum(degrees[mine], other.degrees[others])
        return Wander(self.rows, power, floor, degrees, self.trend)


def independent_rows(scores: Floats) -> Floats:
    """float64[T], how many independent rows would tell a mean as well as these n rows do."""
    strays = wander(scores)
    rows: Floats = strays.variance / np.maximum(strays.of_mean(len(scores)), 1e-300)
    return rows


def wander(scores: Floats) -> Wander:
    """Learn from float64[n, T] scores in time order; NaN where a row has none.

    A gap is bridged by the last score before it, which errs towards more persistence. A column
    that never moves has power 0: what it may do is for the caller to say.
    """
    starts = range(0, max(1, scores.shape[1]), _STRIPE)
    parts = [_wander(scores[:, start : start + _STRIPE]) for start in starts]
    return Wander(
        rows=np.concatenate([p.rows for p in parts]),
        power=np.concatenate([p.power for p in parts]),
        floor=np.concatenate([p.floor for p in parts]),
        degrees=np.concatenate([p.degrees for p in parts]),
        trend=np.concatenate([p.trend for p in parts]),
    )


def _wander(scores: Floats) -> Wander:
    present = np.isfinite(scores)
    rows = present.sum(axis=0).astype(np.float64)
    known = np.maximum(rows, 1.0)
    centred = _bridged(scores, present, known)
    spread = np.sqrt((centred**2).mean(axis=0))
    still = spread <= 1e-12
    spread = np.where(still, 1.0, spread)
    unit = centred / spread
    power, degrees = _spectrum(unit, known, 1)
    doubt = _doubt(unit, power, degrees)
    power, degrees = _slow_too(unit, power, degrees, doubt)
    power = _observed(power, len(scores)) * np.where(still, 0.0, spread**2)[:, None]
    floor = np.where(doubt.power, _batch_floor(centred, power), 1.0)
    few = np.full(len(rows), _BATCHES - 1.0)
    degrees = _mixed(degrees, few, np.where(doubt.degrees, floor, 1.0))
    wide = Wander(rows, power, floor, np.maximum(degrees, _LEAST_DEGREES), np.zeros(len(rows)))
    return Wander(rows, power, floor, wide.degrees, _trend(centred, wide.of_mean(len(scores))))


def _bridged(scores: Floats, present: NDArray[np.bool_], known: Floats) -> Floats:
    """Scores around their means with gaps filled by the last score before; 0 where none was."""
    mean = np.where(present, scores, 0.0).sum(axis=0) / known
    latest = np.where(present, np.arange(len(scores))[:, None], -1)
    latest = np.maximum.accumulate(latest, axis=0)
    filled = np.take_along_axis(scores, np.maximum(latest, 0), axis=0)
    return np.where(latest >= 0, filled - mean, 0.0)


def _spectrum(unit: Floats, rows: Floats, size: int) -> tuple[Floats, Floats]:
    """Power of rows whose means over blocks of `size` rows are `unit`, and degrees of freedom."""
    weights, innovation, order = _autoregression(unit)
    weights, degrees = _unbiased(weights, order, rows)
    return _power(weights, innovation, size), degrees


def _doubt(unit: Floats, power: Floats, degrees: Floats) -> Doubt:
    rows = len(unit)
    swollen = power @ _fejer(rows) * rows
    # Of few rows, which clear no column, the higher ones lie beyond the last cell.
    cell = np.minimum(np.searchsorted(_EDGES, 2 * np.pi * TURNS / rows), len(_STEP)) - 1
    expected = (power[:, cell] * np.pi / _STEP[cell]).T
    return Doubt.of(unit, swollen, expected, degrees)


def _slow_too(unit: Floats, power: Floats, degrees: Floats, doubt: Doubt) -> tuple[Floats, Floats]:
    """Power and degrees with the slow waves that only means of blocks show.

    Under much noise a short autoregression of rows takes a slow wave for noise; one of block
    means does not. It counts where it finds clearly more.
    """
    size = len(unit) // _BLOCKS
    if size < 4:
        return power, degrees
    means = unit[: size * _BLOCKS].reshape(_BLOCKS, size, -1).mean(axis=1)
    means = means - means.mean(axis=0)
    means = np.where(np.abs(means).max(axis=0) > 1e-9, means, 1e-9)
    slow, slow_degrees = _spectrum(means, np.full(unit.shape[1], float(_BLOCKS)), size)
    whole = _fejer(len(unit))
    excess = (slow @ whole) / np.maximum(_BLOCK_SLACK * (power @ whole), 1e-300)
    raised = (excess > 1.0) & doubt.power
    power = np.where(raised[:, None], np.maximum(power, slow), power)
    return power, _mixed(degrees, slow_degrees, np.where(doubt.degrees, excess, 1.0))


def _mixed(degrees: Floats, few: Floats, excess: Floats) -> Floats:
    """Degrees of freedom that go over to `few` as what these say exceeds the rest by half."""
    weight = np.clip((excess - 1.0) / 0.5, 0.0, 1.0)
    mixed: Floats = 1 / ((1 - weight) ** 2 / degrees + weight**2 / np.minimum(few, degrees))
    return mixed


def _autoregression(unit: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Burg's method for every column at once, order 1 to the most by AIC.

    Returns:
        Weights float64[P, T] of the previous rows (0 beyond the order), innovation variances
        float64[T], and orders int64[T].
    """
    rows, columns = unit.shape
    most = int(np.clip(rows // ROWS_PER_ORDER, 1, MAX_ORDER))
    weights, best = np.zeros((most, columns)), np.zeros((most, columns))
    innovation = np.maximum((unit**2).mean(axis=0), 1e-12)
    score, chosen = np.full(columns, np.inf), np.ones(columns, dtype=np.int64)
    chosen_innovation = innovation.copy()
    forward, backward = unit[1:].copy(), unit[:-1].copy()
    work = np.empty((2, *forward.shape))
    for order in range(1, most + 1):
        norm = _dot(forward, forward) + _dot(backward, backward)
        reflection = 2 * _dot(forward, backward) / np.maximum(norm, 1e-300)
        previous = weights[: order - 1].copy()
        weights[: order - 1] = previous - reflection * previous[::-1]
        weights[order - 1] = reflection
        innovation = innovation * np.maximum(1 - reflection**2, 1e-12)
        # In place: new memory for each order costs more than the arithmetic.
        np.multiply(backward, reflection, out=work[0, : len(forward)])
        np.multiply(forward, reflection, out=work[1, : len(forward)])
        forward -= work[0, : len(forward)]
        backward -= work[1, : len(backward)]
        forward, backward = forward[1:], backward[:-1]
        criterion = rows * np.log(innovation) + 2 * order
        better = criterion < score
        score = np.where(better, criterion, score)
        chosen = np.where(better, order, chosen)
        chosen_innovation = np.where(better, innovation, chosen_innovation)
        best = np.where(better, weights, best)
    return best, chosen_innovation * rows / np.maximum(rows - chosen - 1, 1), chosen


def _dot(first: Floats, second: Floats) -> Floats:
    """float64[T], sums over rows of the products of float64[n, T]."""
    total: Floats = np.einsum("ij,ij->j", first, second)
    return total


def _unbiased(weights: Floats, order: NDArray[np.int64], rows: Floats) -> tuple[Floats, Floats]:
    """Persistence corrected for the estimated mean, and degrees of freedom of the variance.

    Persistence is the sum s of the weights; the variance of a long mean is proportional to
    1 / (1 - s)^2. With s alone moved (the differences' weights stay, as in an augmented
    Dickey-Fuller regression), only the first weight changes.
    """
    persistence = weights.sum(axis=0)
    most = 1 - 1 / np.maximum(rows, 2.0)
    corrected = np.minimum(persistence + (1 + 3 * persistence) / rows, most)
    corrected = np.maximum(corrected, persistence.clip(max=most))
    moved = weights.copy()
    moved[0] += corrected - persistence
    # Variance of s by the Gohberg-Semencul form of the inverse covariance of p rows.
    index = np.arange(len(weights))[:, None]
    inside = index < order
    leading = np.vstack([np.ones(len(order)), -weights[:-1]])
    trailing = -np.take_along_axis(weights, np.clip(order - 1 - index, 0, None), axis=0)
    variance = (
        np.where(inside, np.cumsum(leading, axis=0), 0.0) ** 2
        - np.where(inside, np.cumsum(np.where(inside, trailing, 0.0), axis=0), 0.0) ** 2
    ).sum(axis=0) / rows
    relative = 4 * np.maximum(variance, 0.0) / (1 - corrected) ** 2 + 2 / rows
    return moved, 2 / relative


def _power(weights: Floats, innovation: Floats, size: int) -> Floats:
    """float64[T, G], variance of one row by frequency cell, from a model of means of `size`."""
    lags = np.arange(1, len(weights) + 1)
    response = 1 - weights.T @ np.exp(-1j * np.outer(lags, size * _MIDDLE))
    density = size * innovation[:, None] / (np.abs(response) ** 2 + 1e-12)
    power: Floats = np.where(size * _EDGES[1:] <= np.pi + 1e-9, density * _STEP / np.pi, 0.0)
    return power


def _observed(power: Floats, rows: int) -> Floats:
    """Power of unit-variance rows, made to fit the variance that was seen.

    A sharp season can fall between two frequencies or stand far out at one; `rows` rows show what
    turns several times within them, so there the sum must be 1. Slower power is left as fitted.
    """
    fast = _EDGES[1:] > 8 * np.pi / rows
    total = power[:, fast].sum(axis=1)
    tamed = np.where(fast, power * np.minimum(1.0, 1.0 / np.maximum(total, 1e-300))[:, None], power)
    whole = tamed.sum(axis=1, keepdims=True)
    scaled: Floats = tamed * np.maximum(1.0, 1.0 / np.maximum(whole, 1e-300))
    return scaled


def _fejer(rows: int) -> Floats:
    """float64[G], how much of each frequency is left in a mean over `rows` rows."""
    low, high = _EDGES[:-1], _EDGES[1:]
    # sin^2(rows w / 2) averaged over the cell: beyond the first lobe it turns many times in one.
    wave = 0.5 - (np.sin(rows * high) - np.sin(rows * low)) / (2 * rows * _STEP)
    wave = np.where(rows * high < 0.3, np.sin(rows * _MIDDLE / 2) ** 2, wave)
    left: Floats = np.minimum(1.0, wave / (rows * np.sin(_MIDDLE / 2)) ** 2)
    return left


def _batch_floor(centred: Floats, power: Floats) -> Floats:
    """Factor by which means of long batches vary more than the autoregression explains."""
    size = len(centred) // _BATCHES
    if size < 2:
        return np.ones(centred.shape[1])
    means = centred[: size * _BATCHES].reshape(_BATCHES, size, -1).mean(axis=1)
    explained = power @ (_fejer(size) - _fejer(size * _BATCHES))
    explained = explained * _BATCHES / (_BATCHES - 1)
    ratio = means.var(axis=0, ddof=1) / np.maximum(explained, 1e-300)
    floor: Floats = np.where(explained > 0, np.maximum(1.0, ratio / _BATCH_SLACK), 1.0)
    return floor


def _trend(centred: Floats, of_mean: Floats) -> Floats:
    """Squared slope per row, less what chance explains."""
    rows = len(centred)
    time = np.arange(rows) - (rows - 1) / 2
    slope = time @ centred / (time @ time)
    chance = 12 * of_mean / rows**2
    trend: Floats = np.maximum(0.0, slope**2 - _TREND_Z**2 * chance)
    return trend
