"""Effect sizes between two histograms, with intervals: how big a change is, never whether it is.

All work on counts in the same cells, so that they serve rows and fleets alike. What
other tools print as drift (PSI above 0.1 and the like) grows when rows are few, change
or no change; so each figure comes with what chance alone makes of it, and an interval
for the true figure from which that is taken off:

    (figure - lift) +- 1.96 sqrt(slope + spread)

`slope` is the first-order variance (delta method: van der Vaart, "Asymptotic
Statistics", 1998, ch. 3), which vanishes where nothing changed, and `lift` the bias of
second order. Where nothing changed all the divergences are one chi-square over cells in
different scales, whose mean is `chance` (there the same as `lift`) and whose variance is
`spread` (Menendez et al., "Asymptotic behaviour and statistical applications of
divergence measures", 1997; for PSI Yurdakul and Naranjo, "Statistical properties of the
population stability index", Journal of Risk Model Validation, 2020).

Rows that resemble their neighbours are worth fewer independent ones: callers say how many.
Empty cells need no rule but in PSI, which has a pole there: half a row is added to each
cell of both histograms (Krichevsky and Trofimov, 1981).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.errors import NonFiniteValueError

Floats = NDArray[np.float64]

_Z = 1.959964
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


@dataclass(frozen=True, slots=True)
class Histograms:
    """Two histograms in the same B cells.

    Attributes:
        reference, current: float64[B] shares, each adding up to 1.
        rows: independent rows behind both, as far as chance is concerned.
    """

    reference: Floats
    current: Floats
    rows: tuple[float, float]

    @classmethod
    def of(
        cls,
        reference: Floats,
        current: Floats,
        *,
        reference_rows: float | None = None,
        current_rows: float | None = None,
    ) -> Histograms:
        """From counts, at least one row in each.

        Args:
            reference_rows, current_rows: how many independent rows the counts are worth; their
                sums if not given.

        Raises:
            NonFiniteValueError: counts are negative, not finite, or all zero.
        """
        sums = []
        for counts in (reference, current):
            total = float(np.sum(counts))
            if not (math.isfinite(total) and total > 0 and (np.asarray(counts) >= 0).all()):
                raise NonFiniteValueError("a histogram needs finite counts that are not all zero")
            sums.append(total)
        rows = (reference_rows or sums[0], current_rows or sums[1])
        return cls(np.asarray(reference) / sums[0], np.asarray(current) / sums[1], rows)

    @property
    def _chance(self) -> float:
        """Sum of the inverse numbers of rows."""
        return 1 / self.rows[0] + 1 / self.rows[1]

    @property
    def _freedom(self) -> int:
        """Cells that any row is in, less one."""
        return max(0, int(((self.reference + self.current) > 0).sum()) - 1)

    def psi(self) -> Effect:
        """Population stability index, the symmetrised Kullback-Leibler divergence in nats."""
        occupied = (self.reference + self.current) > 0
        p, q = (
            (share[occupied] + 0.5 / rows) / (1 + 0.5 * occupied.sum() / rows)
            for share, rows in zip((self.reference, self.current), self.rows, strict=True)
        )
        value = float(((q - p) * np.log(q / p)).sum())
        slope = self._slope(p, np.log(p / q) + 1 - q / p, q, np.log(q / p) + 1 - p / q)
        # Near the pole the half rows take off what the second order would add.
        return self._interval("psi", value, slope, self._freedom * self._chance, 1.0)

    def jensen_shannon(self) -> Effect:
        """Jensen-Shannon distance: root of the divergence in bits, 0 to 1."""
        p, q = self.reference, self.current
        with np.errstate(divide="ignore", invalid="ignore"):
            to_p = np.where(p > 0, np.log2(2 * p / (p + q)), 0.0)
            to_q = np.where(q > 0, np.log2(2 * q / (p + q)), 0.0)
        value = float((p * to_p + q * to_q).sum()) / 2
        slope = self._slope(p, to_p / 2, q, to_q / 2)
        mixed = np.maximum(p + q, 1e-300) * 2 * math.log(2)
        lift = self._lift(p, q / mixed, q, p / mixed)
        return _root(self._interval("jensen_shannon", value, slope, lift, 1 / (8 * math.log(2))))

    def hellinger(self) -> Effect:
        """Hellinger distance, 0 to 1."""
        p, q = self.reference, self.current
        value = max(0.0, 1 - float(np.sqrt(p * q).sum()))
        with np.errstate(divide="ignore", invalid="ignore"):
            by_p = np.where(p > 0, -np.sqrt(q / p) / 2, 0.0)
            by_q = np.where(q > 0, -np.sqrt(p / q) / 2, 0.0)
        # A share of less than a row has no curvature worth the name.
        near_p, near_q = (np.maximum(s, 1 / n) for s, n in zip((p, q), self.rows, strict=True))
        curved_p, curved_q = np.sqrt(q / near_p) / 4, np.sqrt(p / near_q) / 4
        lift = self._lift(p, curved_p, q, curved_q)
        return _root(self._interval("hellinger", value, self._slope(p, by_p, q, by_q), lift, 1 / 8))

    def wasserstein(self, positions: Floats, unit: float = 1.0) -> Effect:
        """Wasserstein distance of first order: how far a row has to be moved on average.

        The interval takes the expected size of a folded normal off each step of the distribution
        functions (Leone, Nelson and Nottingham, Technometrics 1961).

        Args:
            positions: float64[B], increasing: where the rows of each cell lie.
            unit: one reference standard deviation, in which the distance is told.
        """
        gaps = np.diff(positions) / unit
        below = np.cumsum(self.reference)[:-1], np.cumsum(self.current)[:-1]
        return _of_steps(below, self.rows, gaps)

    def all(self, positions: Floats | None = None, unit: float = 1.0) -> tuple[Effect, ...]:
        """Every effect size; the Wasserstein distance where cells have positions."""
        divergences = (self.psi(), self.jensen_shannon(), self.hellinger())
        if positions is None:
            return divergences
        return (*divergences, self.wasserstein(positions, unit))

    def _slope(self, p: Floats, by_p: Floats, q: Floats, by_q: Floats) -> float:
        """Variance of a function of shares with derivatives `by_p` and `by_q`."""
        first = float(p @ by_p**2 - (p @ by_p) ** 2) / self.rows[0]
        second = float(q @ by_q**2 - (q @ by_q) ** 2) / self.rows[1]
        return max(0.0, first + second)

    def _lift(self, p: Floats, by_p: Floats, q: Floats, by_q: Floats) -> float:
        """Second-order bias of a function with second derivatives `by_p / p` and `by_q / q`."""
        first, second = float((by_p * (1 - p)).sum()), float((by_q * (1 - q)).sum())
        return (first / self.rows[0] + second / self.rows[1]) / 2

    def _interval(self, name: str, value: float, slope: float, lift: float, scale: float) -> Effect:
        """The effect, if without a change it is `scale` times the chi-square over cells."""
        chance = scale * self._freedom * self._chance
        spread = 2 * scale**2 * self._freedom * self._chance**2
        margin = _Z * math.sqrt(slope + spread)
        centre = value - lift
        return Effect(name, value, max(0.0, centre - margin), max(0.0, centre + margin), chance)


def wasserstein_of_rows(
    reference: Floats,
    current: Floats,
    *,
    unit: float = 1.0,
    reference_rows: float | None = None,
    current_rows: float | None = None,
    grid: int = 100,
) -> Effect:
    """Wasserstein distance between finite values themselves, on quantiles of both.

    Args:
        reference, current: float64[n] and float64[m] in increasing order, at least one each.
        unit, reference_rows, current_rows: as for `Histograms`.
        grid: quantiles of each on which the distribution functions are compared.
    """
    picks = [
        values[np.linspace(0, len(values) - 1, min(grid, len(values))).astype(np.int64)]
        for values in (reference, current)
    ]
    points = np.unique(np.concatenate(picks))
    rows = (reference_rows or len(reference), current_rows or len(current))
    if len(points) < 2:
        return Effect("wasserstein", 0.0, 0.0, 0.0)
    # Between two points the functions are taken at their mean over both ends.
    below = [
        (values.searchsorted(points[:-1], "right") + values.searchsorted(points[1:], "left"))
        / (2 * len(values))
        for values in (reference, current)
    ]
    return _of_steps((below[0], below[1]), rows, np.diff(points) / unit)


def _of_steps(below: tuple[Floats, Floats], rows: tuple[float, float], gaps: Floats) -> Effect:
    """Sum of |difference of two distribution functions| x gap.

    Args:
        below: float64[K] each, values of both functions, growing.
    """
    from scipy.special import ndtr

    difference = below[1] - below[0]
    single = sum(f * (1 - f) / n for f, n in zip(below, rows, strict=True))
    spread = np.sqrt(np.maximum(single, 1e-300))
    value = float(np.abs(difference) @ gaps)
    chance = float(spread @ gaps) * math.sqrt(2 / math.pi)
    size = np.abs(difference) / spread
    # Seen differences are larger than true ones: by how much lies between these two.
    most, least = (_folded(s) for s in (np.sqrt(np.maximum(0.0, size**2 - 1)), size))
    sure = np.sign(difference) * (2 * ndtr(size) - 1)
    slopes, rest = gaps * sure, gaps * np.sqrt(1 - sure**2)
    both = list(zip(below, rows, strict=True))
    variance = sum(
        _variance(slopes, f, n) + (1 - 2 / math.pi) * _variance(rest, f, n) for f, n in both
    )
    margin = _Z * math.sqrt(max(0.0, variance))
    low = value - float(most * spread @ gaps) - margin
    high = value - float(least * spread @ gaps) + margin
    return Effect("wasserstein", value, max(0.0, low), max(0.0, high), chance)


def _variance(weights: Floats, below: Floats, rows: float) -> float:
    """Variance of a weighted sum of values of an empirical distribution function."""
    # One row adds the weights of all points that it lies below.
    adds = np.cumsum(weights[::-1])[::-1]
    second = float(np.diff(below, prepend=0.0) @ adds**2)
    return (second - float(weights @ below) ** 2) / rows


def _folded(size: Floats) -> Floats:
    """E|size + N| - size of a standard normal N."""
    from scipy.special import ndtr

    tail: Floats = math.sqrt(2 / math.pi) * np.exp(-(size**2) / 2) - 2 * size * ndtr(-size)
    return tail


def _root(effect: Effect) -> Effect:
    """The distance whose square an effect is."""
    low, high, chance = (math.sqrt(max(0.0, x)) for x in (effect.low, effect.high, effect.chance))
    return Effect(effect.name, math.sqrt(max(0.0, effect.value)), low, high, chance)
