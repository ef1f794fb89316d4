"""The spread of means is not underestimated, whatever the rows are like."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedge.drift.tables.longrun import independent_rows, wander

Floats = NDArray[np.float64]


def autoregressive(memory: float, rows: int, columns: int, seed: int = 0) -> Floats:
    from scipy.signal import lfilter

    steps = np.random.default_rng(seed).normal(size=(rows + 500, columns))
    return lfilter([1], [1, -memory], steps, axis=0)[500:]


def rejected(rows: Floats, reference: int, level: float) -> float:
    """Share of columns whose rows after the reference look as if they had moved."""
    from scipy.stats import t

    strays = wander(rows[:reference])
    later = rows[reference:]
    variance = strays.of_mean(len(later)) + strays.of_mean(reference)
    z = np.abs(later.mean(axis=0) - rows[:reference].mean(axis=0)) / np.sqrt(variance)
    return float((z > t.isf(level / 2, strays.degrees)).mean())


@pytest.mark.parametrize("reference", [400, 1_000, 5_000])
@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, 0.97])
def test_rows_with_memory_are_rejected_no_more_often_than_promised(
    memory: float, reference: int
) -> None:
    """Nominal 1 % within what 400 columns can tell."""
    rows = autoregressive(memory, reference + 200, 400)

    assert rejected(rows, reference, 0.01) <= 0.025


def test_independent_rows_are_not_judged_too_kindly() -> None:
    """Nominal 5 %: the safety margins do not cost the power of plain streams."""
    rows = autoregressive(0.0, 1_200, 1_000)

    assert 0.025 <= rejected(rows, 1_000, 0.05) <= 0.07


def test_columns_that_do_not_wander_are_seldom_taken_to() -> None:
    """Means of a few blocks suggest a slow wave in one of fourteen; the slow frequencies do not."""
    degrees = wander(autoregressive(0.0, 2_000, 1_000)).degrees

    assert (degrees < 30).mean() <= 0.045


@pytest.mark.parametrize("rows", [500, 1_000, 2_000, 5_000])
def test_a_weak_slow_wave_is_still_doubted(rows: int) -> None:
    """It hides in a fifth of the noise's spread, and has a hundred rows of memory."""
    wave = autoregressive(0.99, rows + 300, 300, seed=2) * np.sqrt(1 - 0.99**2) * 0.2
    noise = np.random.default_rng(1).normal(size=wave.shape)

    assert rejected(wave + noise, rows, 0.001) <= (0.1 if rows == 500 else 0.03)


def test_a_random_walk_certifies_nothing() -> None:
    """Its spread is out of all proportion to the reference, its degrees few."""
    rows = np.cumsum(autoregressive(0.0, 600, 300), axis=0)

    assert rejected(rows, 400, 1e-4) <= 0.02
    assert np.median(wander(rows[:400]).degrees) <= 4
    assert np.median(independent_rows(rows[:400])) < 5


def test_a_slow_wave_under_noise_is_seen_by_means_of_blocks() -> None:
    """An autoregression of a dozen rows takes it for noise."""
    rng = np.random.default_rng(1)
    slow = autoregressive(0.98, 1_300, 300, seed=2) * 0.3
    rows = slow + rng.normal(size=slow.shape)

    assert rejected(rows, 1_000, 0.01) <= 0.03


def test_a_season_leaves_the_mean_over_whole_days() -> None:
    """Hours of the day average out over 24 of them; over 6 they do not."""
    hours = np.arange(2_400)
    rng = np.random.default_rng(3)
    rows = np.sin(2 * np.pi * hours / 24)[:, None] + 0.3 * rng.normal(size=(2_400, 5))
    strays = wander(rows)

    quarter, day = strays.of_mean(6), strays.of_mean(24)

    assert (quarter > 0.3).all()
    assert (day < 0.05).all()
    assert (strays.variance < 3 * rows.var(axis=0)).all()
    assert (strays.variance > 0.8 * rows.var(axis=0)).all()


def test_a_trend_in_the_reference_is_expected_to_go_on() -> None:
    """The warm-up of a machine is no surprise in the next hour."""
    rng = np.random.default_rng(4)
    time = np.arange(5_000)[:, None] / 5_000
    strays = wander(rng.normal(size=(5_000, 20)) + 4 * time)

    assert (strays.of_mean(1_000) > 0.2).all()


def test_gaps_do_not_feign_independence() -> None:
    """Half of the rows missing at random: rows with memory keep it."""
    rows = autoregressive(0.9, 2_000, 50)
    gaps = rows.copy()
    gaps[np.random.default_rng(5).random(rows.shape) < 0.5] = np.nan

    whole, holed = wander(rows).of_mean(500), wander(gaps).of_mean(500)

    assert (holed > 0.5 * whole).all()
    assert (wander(gaps).rows < 1_200).all()


def test_a_column_without_a_score_or_a_change_has_no_spread_of_its_own() -> None:
    """Zero, not NaN: the caller says what such a column may do."""
    rows = np.stack([np.full(400, np.nan), np.full(400, 3.0)], axis=1)

    assert wander(rows).of_mean(50).tolist() == [0.0, 0.0]
