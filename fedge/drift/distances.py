"""Distances between two distribution functions, with intervals; see `effects`.

Many pairs are worked on at once: a table's columns are many and each is small work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Z = 1.959964
"""Two-sided 95 % of a normal variable."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect size.

    Attributes:
        name: `psi`, `jensen_shannon`, `hellinger`, `wasserstein`, `shift`, ...
        value: the figure itself, as other tools print it; NaN where it is not defined.
        low, high: 95 % interval for the true figure, after what chance alone adds is taken off;
            `value` itself may lie above it.
        chance: what `value` comes to on average without any change.
    """

    name: str
    value: float
    low: float
    high: float
    chance: float = 0.0


def padded(rows: Sequence[Floats], value: float) -> Floats:
    """float64[C, K] from C arrays of up to K numbers, `value` beyond their ends."""
    padded = np.full((len(rows), max(map(len, rows))), value)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded


def named(name: str, *parts: Floats) -> list[Effect]:
    """Effects of one name, from value, low, high and chance of each."""
    return [Effect(name, *numbers) for numbers in zip(*(p.tolist() for p in parts), strict=True)]


@dataclass(frozen=True, slots=True)
class Steps:
    """Two distribution functions between the same points.

    Attributes:
        below: float64[K] each, their values from point to point, growing.
        rows: independent rows behind them.
        gaps: float64[K], from each point to the next.
    """

    below: tuple[Floats, Floats]
    rows: tuple[float, float]
    gaps: Floats

    @classmethod
    def of_rows(
        cls,
        reference: Floats,
        current: Floats,
        *,
        unit: float = 1.0,
        reference_rows: float | None = None,
        current_rows: float | None = None,
        grid: int = 100,
    ) -> Steps:
        """Of finite values themselves, on quantiles of both.

        Args:
            reference, current: float64[n] and float64[m] in increasing order, at least one each.
            unit: one reference standard deviation, in which distances are told.
            reference_rows, current_rows: how many independent rows they are worth; all if None.
            grid: quantiles of each on which the distribution functions are compared, two or more.
        """
        picks = [
            values[np.arange(min(grid, len(values))) * (len(values) - 1) // (grid - 1)]
            if len(values) > grid
            else values
            for values in (reference, current)
        ]
        points = np.unique(np.concatenate(picks))
        # Between two points the functions are taken at their mean over both ends.
        below = [
            (values.searchsorted(points[:-1], "right") + values.searchsorted(points[1:], "left"))
            / (2 * len(values))
            for values in (reference, current)
        ]
        rows = (reference_rows or len(reference), current_rows or len(current))
        return cls((below[0], below[1]), rows, np.diff(points) / unit)


def distances(steps: Sequence[Steps]) -> list[Effect]:
    """Wasserstein distance of each pair: the sum of |difference of both functions| x gap."""
    if not steps:
        return []
    below = [padded([one.below[side] for one in steps], 1.0) for side in (0, 1)]
    gaps = padded([one.gaps for one in steps], 0.0)
    rows = np.array([one.rows for one in steps], dtype=np.float64).T[:, :, None]
    return named("wasserstein", *_of_steps((below[0], below[1]), rows, gaps))


def _of_steps(
    below: tuple[Floats, Floats], rows: Floats, gaps: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Value, low, high and chance of C distances.

    Args:
        below: float64[C, K] each.
        rows: float64[2, C, 1].
        gaps: float64[C, K].
    """
    from scipy.special import ndtr

    difference = below[1] - below[0]
    single = sum(f * (1 - f) / n for f, n in zip(below, rows, strict=True))
    spread = np.sqrt(np.maximum(single, 1e-300))
    value = (np.abs(difference) * gaps).sum(axis=1)
    chance = (spread * gaps).sum(axis=1) * math.sqrt(2 / math.pi)
    size = np.abs(difference) / spread
    # Seen differences are larger than true ones: by how much lies between these two.
    most, least = (_folded(s) for s in (np.sqrt(np.maximum(0.0, size**2 - 1)), size))
    sure = np.sign(difference) * (2 * ndtr(size) - 1)
    slopes, rest = gaps * sure, gaps * np.sqrt(1 - sure**2)
    variance = sum(
        _variance(slopes, f, n) + (1 - 2 / math.pi) * _variance(rest, f, n)
        for f, n in zip(below, rows[:, :, 0], strict=True)
    )
    margin = Z * np.sqrt(np.maximum(0.0, variance))
    low = value - (most * spread * gaps).sum(axis=1) - margin
    high = value - (least * spread * gaps).sum(axis=1) + margin
    return value, np.maximum(0.0, low), np.maximum(0.0, high), chance


def _variance(weights: Floats, below: Floats, rows: Floats) -> Floats:
    """float64[C], variance of weighted sums of values of empirical distribution functions."""
    # One row adds the weights of all points that it lies below.
    adds = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    second = (np.diff(below, prepend=0.0, axis=1) * adds**2).sum(axis=1)
    variance: Floats = (second - (weights * below).sum(axis=1) ** 2) / rows
    return variance


def _folded(size: Floats) -> Floats:
    """E|size + N| - size of a standard normal N."""
    from scipy.special import ndtr

    tail: Floats = math.sqrt(2 / math.pi) * np.exp(-(size**2) / 2) - 2 * size * ndtr(-size)
    return tail
