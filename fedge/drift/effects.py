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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.distances import Effect, Steps, Z, distances, named, padded
from fedge.errors import NonFiniteValueError

Floats = NDArray[np.float64]


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

    def psi(self) -> Effect:
        """Population stability index, the symmetrised Kullback-Leibler divergence in nats."""
        return divergences([self])[0][0]

    def jensen_shannon(self) -> Effect:
        """Jensen-Shannon distance: root of the divergence in bits, 0 to 1."""
        return divergences([self])[0][1]

    def hellinger(self) -> Effect:
        """Hellinger distance, 0 to 1."""
        return divergences([self])[0][2]

    def wasserstein(self, positions: Floats, unit: float = 1.0) -> Effect:
        """Wasserstein distance of first order: how far a row has to be moved on average.

        The interval takes the expected size of a folded normal off each step of the distribution
        functions (Leone, Nelson and Nottingham, Technometrics 1961).

        Args:
            positions: float64[B], increasing: where the rows of each cell lie.
            unit: one reference standard deviation, in which the distance is told.
        """
        below = np.cumsum(self.reference)[:-1], np.cumsum(self.current)[:-1]
        return distances([Steps(below, self.rows, np.diff(positions) / unit)])[0]

    def all(self, positions: Floats | None = None, unit: float = 1.0) -> tuple[Effect, ...]:
        """Every effect size; the Wasserstein distance where cells have positions."""
        found = divergences([self])[0]
        if positions is None:
            return found
        return (*found, self.wasserstein(positions, unit))


def divergences(histograms: Sequence[Histograms]) -> list[tuple[Effect, Effect, Effect]]:
    """PSI, Jensen-Shannon and Hellinger distance of each pair of histograms, at once."""
    if not histograms:
        return []
    both = _Pairs(
        padded([one.reference for one in histograms], 0.0),
        padded([one.current for one in histograms], 0.0),
        np.array([one.rows for one in histograms], dtype=np.float64).T,
    )
    found = (both.psi(), both.jensen_shannon(), both.hellinger())
    return list(zip(*found, strict=True))


@dataclass(frozen=True, slots=True)
class _Pairs:
    """C pairs of histograms; cells that both of a pair lack change nothing.

    Attributes:
        reference, current: float64[C, B] shares.
        rows: float64[2, C], independent rows behind both.
    """

    reference: Floats
    current: Floats
    rows: Floats

    @property
    def _freedom(self) -> Floats:
        """float64[C], cells that any row is in, less one."""
        occupied = (self.reference + self.current) > 0
        freedom: Floats = np.maximum(0.0, occupied.sum(axis=1) - 1.0)
        return freedom

    def psi(self) -> list[Effect]:
        """See `Histograms.psi`, C of them: half a row is added to each cell that any row is in."""
        occupied = (self.reference + self.current) > 0
        number = occupied.sum(axis=1, keepdims=True)
        p, q = (
            (share + occupied * (0.5 / rows)) / (1 + 0.5 * number / rows)
            for share, rows in zip(
                (self.reference, self.current), self.rows[:, :, None], strict=True
            )
        )
        ratio = np.divide(q, p, out=np.ones_like(p), where=occupied)
        log = np.log(ratio)
        value = ((q - p) * log).sum(axis=1)
        slope = self._slope(p, 1 - ratio - log, q, 1 - 1 / ratio + log)
        # Near the pole the half rows take off what the second order would add.
        lift = self._freedom * (1 / self.rows).sum(axis=0)
        return named("psi", *self._interval(value, slope, lift, 1.0))

    def jensen_shannon(self) -> list[Effect]:
        """See `Histograms.jensen_shannon`, C of them: intervals of the divergence, then roots."""
        p, q = self.reference, self.current
        with np.errstate(divide="ignore", invalid="ignore"):
            to_p = np.where(p > 0, np.log2(2 * p / (p + q)), 0.0)
            to_q = np.where(q > 0, np.log2(2 * q / (p + q)), 0.0)
        value = (p * to_p + q * to_q).sum(axis=1) / 2
        slope = self._slope(p, to_p / 2, q, to_q / 2)
        mixed = np.maximum(p + q, 1e-300) * 2 * math.log(2)
        lift = self._lift(p, q / mixed, q, p / mixed)
        squared = self._interval(value, slope, lift, 1 / (8 * math.log(2)))
        return named("jensen_shannon", *map(_root, squared))

    def hellinger(self) -> list[Effect]:
        """See `Histograms.hellinger`, C of them: intervals of the squared distance, then roots."""
        p, q = self.reference, self.current
        value = np.maximum(0.0, 1 - np.sqrt(p * q).sum(axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            by_p = np.where(p > 0, -np.sqrt(q / p) / 2, 0.0)
            by_q = np.where(q > 0, -np.sqrt(p / q) / 2, 0.0)
        # A share of less than a row has no curvature worth the name.
        near_p, near_q = (
            np.maximum(share, 1 / rows)
            for share, rows in zip((p, q), self.rows[:, :, None], strict=True)
        )
        lift = self._lift(p, np.sqrt(q / near_p) / 4, q, np.sqrt(p / near_q) / 4)
        squared = self._interval(value, self._slope(p, by_p, q, by_q), lift, 1 / 8)
        return named("hellinger", *map(_root, squared))

    def _slope(self, p: Floats, by_p: Floats, q: Floats, by_q: Floats) -> Floats:
        """float64[C], variance of a function of shares with derivatives `by_p` and `by_q`."""
        sides = ((p, by_p), (q, by_q))
        spread = [(s * by**2).sum(axis=1) - (s * by).sum(axis=1) ** 2 for s, by in sides]
        slope: Floats = np.maximum(0.0, (np.array(spread) / self.rows).sum(axis=0))
        return slope

    def _lift(self, p: Floats, by_p: Floats, q: Floats, by_q: Floats) -> Floats:
        """Second-order bias of a function with second derivatives `by_p / p` and `by_q / q`."""
        curved = [(by * (1 - s)).sum(axis=1) for s, by in ((p, by_p), (q, by_q))]
        lift: Floats = (np.array(curved) / self.rows).sum(axis=0) / 2
        return lift

    def _interval(
        self, value: Floats, slope: Floats, lift: Floats, scale: float
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Value, low, high and chance, if without a change it is `scale` times the chi-square."""
        over_rows = (1 / self.rows).sum(axis=0)
        chance = scale * self._freedom * over_rows
        margin = Z * np.sqrt(slope + 2 * scale**2 * self._freedom * over_rows**2)
        low, high = (np.maximum(0.0, value - lift + way * margin) for way in (-1, 1))
        return value, low, high, chance


def _root(squared: Floats) -> Floats:
    root: Floats = np.sqrt(np.maximum(0.0, squared))
    return root
