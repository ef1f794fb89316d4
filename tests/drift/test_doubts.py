"""Slow waves are looked for with a known chance to be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedge.drift.tables.doubts import TURNS, Doubt, chance_of_slow_waves

Floats = NDArray[np.float64]

COLUMNS = 1_000
SURE = np.full(COLUMNS, 1e6)
PLAIN = np.ones(COLUMNS)
WHITE = np.ones((len(TURNS), COLUMNS))


def noise(rows: int, seed: int = 0) -> Floats:
    values = np.random.default_rng(seed).normal(size=(rows, COLUMNS))
    unit: Floats = (values - values.mean(axis=0)) / values.std(axis=0)
    return unit


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_noise_is_found_slow_as_often_as_said(level: float) -> None:
    share = float((chance_of_slow_waves(noise(2_000), WHITE, SURE) <= level).mean())

    assert 0.5 * level <= share <= 1.5 * level


def test_power_that_is_hardly_known_is_little_evidence() -> None:
    """The same rows against an expectation of four degrees of freedom."""
    chance = chance_of_slow_waves(noise(2_000), WHITE, np.full(COLUMNS, 4.0))

    assert (chance <= 0.01).mean() <= 0.005


@pytest.mark.parametrize("turns", [1, 3, 12])
def test_a_wave_is_found_however_slow(turns: int) -> None:
    """It has a quarter of the amplitude of noise: a power of thirty beside one."""
    time = np.arange(2_000)[:, None] / 2_000
    wave = 0.25 * np.sin(2 * np.pi * (turns * time + np.linspace(0, 1, COLUMNS)))

    chance = chance_of_slow_waves(noise(2_000) + wave, WHITE, SURE)

    assert (chance <= 0.01).mean() >= 0.9


def test_few_rows_and_persistent_rows_clear_no_column() -> None:
    few = Doubt.of(noise(500), PLAIN, WHITE, SURE)
    alike = Doubt.of(noise(2_000), 3 * PLAIN, WHITE, SURE)

    assert few.power.all() and few.degrees.all()
    assert alike.power.all() and alike.degrees.all()


def test_more_rows_clear_more_columns() -> None:
    doubted = [Doubt.of(noise(rows), PLAIN, WHITE, SURE) for rows in (1_000, 2_000, 5_000)]
    power, degrees = ([float(getattr(d, n).mean()) for d in doubted] for n in ("power", "degrees"))

    assert power == sorted(power, reverse=True) and power[-1] < 0.15
    assert degrees == sorted(degrees, reverse=True) and degrees[-1] < 0.03
    assert all((d.power >= d.degrees).all() for d in doubted)
