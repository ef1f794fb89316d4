"""Statistics that come in bursts: how well they can be known, and how normal their means are.

The shape of a column that wanders, and its product with another, come in bursts which no
autoregression of these scores sees: one visit of the column to an end of its range is one event.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.baselines import LENGTHS, Baseline
from fedge.drift.tables.encoding import RowStatistic

Floats = NDArray[np.float64]

SLOWER = 0.25
"""Quantile of the columns' independent rows that stands for the pace of the whole."""

_EXCESS = {"scale": 3.0, "pair": 3.0, "skew": 6.0, "tails": 6.0}
"""Kurtosis beyond a normal law's of the mean over one visit (simulated autoregressions)."""
_LEAST_VISITS = {"scale": 5.0, "pair": 5.0, "skew": 20.0, "tails": 20.0}
"""Visits in a mean below which it is too far from normal to be judged."""
_SKEWED = (*_EXCESS, "T2", "Q", "relation spread")
_LEAST_MEAN = 8.0
"""The same, in independent rows of the score itself."""


@dataclass(frozen=True, slots=True)
class Bursts:
    """What is known of T statistics.

    Attributes:
        known: float64[T], independent rows of the reference behind what a statistic depends on
            beside itself; infinite where it depends on nothing else.
        pace: float64[T], rows of one visit where a statistic comes in bursts, or 1.
        least: float64[T], visits that a mean must rest on.
        excess: float64[T], kurtosis beyond a normal law's of the mean of one visit, less what the
            skewness explains.
    """

    known: Floats
    pace: Floats
    least: Floats
    excess: Floats

    @classmethod
    def of(cls, statistics: tuple[RowStatistic, ...], baseline: Baseline, scores: Floats) -> Bursts:
        """From float64[n, T] reference scores.

        Relations, categories and gaps depend on a state of the whole (the weather, the load), whose
        pace the slower columns show.
        """
        rows = baseline.independent_rows()
        of = {
            s.columns[0]: float(r)
            for s, r in zip(statistics, rows, strict=True)
            if s.name == "location"
        }
        whole = float(np.quantile(list(of.values()), SLOWER)) if of else math.inf
        known = np.full(len(statistics), math.inf)
        pace = np.ones(len(statistics))
        for index, statistic in enumerate(statistics):
            if statistic.name in _EXCESS:
                known[index] = min(of.get(column, math.inf) for column in statistic.columns)
                pace[index] = max(1.0, baseline.rows / known[index])
            if statistic.group in ("structure", "missing") or statistic.name.startswith("cell "):
                known[index] = min(known[index], whole)
        own = _excess_kurtosis(scores, baseline)
        excess = np.array([_EXCESS.get(s.name, 0.0) for s in statistics])
        least = np.array([_LEAST_VISITS.get(s.name, 0.0) for s in statistics])
        return cls(known, pace, least, np.maximum(own, excess))

    def degrees(self, baseline: Baseline, window: int) -> Floats:
        """float64[L, T], most degrees of freedom of means over `LENGTHS` windows.

        A mean whose kurtosis exceeds a normal law's by k has the tails of Student's t with
        4 + 6 / k degrees of freedom.
        """
        degrees = []
        for rows in window * np.array(LENGTHS):
            independent = _independent(baseline, int(rows))
            visits = np.minimum(independent, rows / self.pace)
            degrees.append(4 + 6 * np.maximum(visits, self.least) / np.maximum(self.excess, 1e-9))
        return np.array(degrees)


def judgeable(
    statistics: tuple[RowStatistic, ...], bursts: Bursts, baseline: Baseline, rows: int
) -> NDArray[np.bool_]:
    """bool[T], whether a mean over `rows` rows is near enough to normal."""
    skewed = np.array([s.name in _SKEWED for s in statistics])
    enough = ~skewed | (_independent(baseline, rows) >= _LEAST_MEAN)
    judged: NDArray[np.bool_] = enough & (rows / bursts.pace >= bursts.least)
    return judged


def _independent(baseline: Baseline, rows: int) -> Floats:
    row = np.maximum(baseline.strays.variance, baseline.least)
    return row / baseline.of_mean(rows)


def _excess_kurtosis(scores: Floats, baseline: Baseline) -> Floats:
    """float64[T], of one row, less the 1.5 skewness^2 that a gamma law of it has anyway."""
    centred = np.nan_to_num(scores - baseline.mean)
    rows = np.maximum(np.isfinite(scores).sum(axis=0), 1)
    second, fourth = (centred**2).sum(axis=0) / rows, (centred**4).sum(axis=0) / rows
    with np.errstate(invalid="ignore", divide="ignore"):
        kurtosis = np.where(second > 1e-12, fourth / second**2, 3.0)
    excess: Floats = np.maximum(0.0, kurtosis - 3 - 1.5 * baseline.skew**2)
    return excess
