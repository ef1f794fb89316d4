"""The scale of a column that wanders."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from fedge.drift.tables.baselines import Baseline
from fedge.drift.tables.carried import allowance, beyond
from fedge.drift.tables.encoding import RowStatistic

STATISTICS = tuple(RowStatistic(("x",), name, "feature") for name in ("location", "scale"))


def baseline(memory: float, rows: int = 2_000) -> Baseline:
    rng = np.random.default_rng(3)
    level = np.zeros(rows)
    for row in range(1, rows):
        level[row] = memory * level[row - 1] + rng.normal() * np.sqrt(1 - memory**2)
    scores = np.column_stack([level, np.abs(level)])
    return Baseline.fit(scores, scores.std(axis=0))


def test_a_slow_column_is_allowed_more_than_a_fast_one() -> None:
    fast, slow = (allowance(STATISTICS, baseline(memory), 100)[1] for memory in (0.0, 0.95))

    assert fast < 0.06 < 0.2 < slow


def test_the_allowance_is_what_a_strayed_level_does_to_distances() -> None:
    """Against the mean distance of many numbers around the level that is allowed for."""
    found = baseline(0.9)
    strayed = 3 * np.sqrt((found.of_mean(100) + found.of_mean(found.rows))[0])
    numbers = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    expected = np.abs(numbers + strayed).mean() - np.abs(numbers).mean()

    assert allowance(STATISTICS, found, 100)[1] == pytest.approx(expected, abs=1e-3)


def test_other_statistics_are_allowed_nothing() -> None:
    assert allowance(STATISTICS, baseline(0.9), 100)[0] == 0.0


def test_what_exceeds_the_allowance_keeps_its_sign_and_unknown_stays_unknown() -> None:
    left = beyond(np.array([0.5, -0.5, 0.1, np.nan]), np.full(4, 0.2))

    assert left[:3] == pytest.approx([0.3, -0.3, 0.0])
    assert np.isnan(left[3])
