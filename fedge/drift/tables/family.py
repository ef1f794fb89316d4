"""One chance of a false alarm shared by all tests of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedge.drift.tables.trials import Trial


@dataclass(frozen=True, slots=True)
class Unit:
    """Tests that count as one: those of a column, of all pairs, or one beyond columns.

    Attributes:
        trials: those that may be significant, the one of the smallest p-value among them.
        tests: how many were made.
    """

    trials: tuple[Trial, ...]
    tests: int


@dataclass(frozen=True, slots=True)
class Family:
    """The tests of U units.

    Within a unit p-values are multiplied by the number of its tests (Bonferroni); over units by
    Holm's factors, which hold however the tests depend on each other. Benjamini and Hochberg's
    q-values rank, and decide nothing.

    Attributes:
        adjusted: for each unit the adjusted p-value of its smallest.
        factors: by what each p-value of a unit is multiplied.
        ranks: q-values of the units.
    """

    adjusted: tuple[float, ...]
    factors: tuple[float, ...]
    ranks: tuple[float, ...]

    @classmethod
    def of(cls, units: Sequence[Unit]) -> Family:
        """From units that hold at least one test each."""
        sizes = np.array([unit.tests for unit in units], dtype=np.float64)
        own = sizes * np.array([min(t.p_value for t in unit.trials) for unit in units])
        number = len(units)
        order = np.argsort(own, kind="stable")
        left = number - np.arange(number, dtype=np.float64)
        adjusted, factors, ranks = np.empty(number), np.empty(number), np.empty(number)
        factors[order] = left
        adjusted[order] = np.minimum(1.0, np.maximum.accumulate(own[order] * left))
        growing = own[order] * number / (np.arange(number) + 1)
        ranks[order] = np.minimum(1.0, np.minimum.accumulate(growing[::-1])[::-1])
        return cls(
            tuple(adjusted.tolist()), tuple((factors * sizes).tolist()), tuple(ranks.tolist())
        )

    def rejected(self, unit: int, trial: Trial, false_alarms: float) -> bool:
        """Whether a test of a unit is significant."""
        own = trial.p_value * self.factors[unit]
        return self.adjusted[unit] <= false_alarms and own <= false_alarms
