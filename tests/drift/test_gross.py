"""Gross faults always alarm, also of columns about whose mean the reference knows next to nothing;
and columns that wander, or often stand still, do not alarm for that."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedge.drift.tables.gross import SHORTEST_RUN, fit_gross
from fedge.drift.tables.outcome import Replay
from fedge.drift.tables.replay import replay
from fedge.drift.tables.table import Column, Table

Floats = NDArray[np.float64]

REFERENCE, WINDOW, ONSET = 4000, 100, 5030


def autoregressive(memory: float, rows: int, columns: int, seed: int) -> Floats:
    from scipy.signal import lfilter

    steps = np.random.default_rng(seed).normal(size=(rows + 500, columns))
    return lfilter([1], [1, -memory], steps, axis=0)[500:] * np.sqrt(1 - memory**2)


def table(values: Floats) -> Table:
    return Table(tuple(Column(f"x{i}", "number", values[:, i]) for i in range(values.shape[1])))


def weather(seed: int = 0) -> Floats:
    """Pressure and temperature through three years of 2,000 rows, of which two are reference."""
    rows = 6000
    season = np.sin(2 * np.pi * np.arange(rows) / 2000)
    slow = autoregressive(0.99, rows, 2, seed)
    return np.column_stack([1010 + 10 * season + 6 * slow[:, 0], 12 - 13 * season + 4 * slow[:, 1]])


def replayed(values: Floats) -> Replay:
    return replay(table(values), reference_rows=REFERENCE, window=WINDOW)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(np.zeros_like, id="constant at zero"),
        pytest.param(lambda v: np.full_like(v, v[0]), id="stuck"),
        pytest.param(lambda v: v * 0.75006, id="other unit"),
    ],
)
def test_a_broken_sensor_alarms_however_slowly_its_column_wanders(
    broken: Callable[[Floats], Floats],
) -> None:
    values = weather()
    assert not replayed(values).alarms
    values[ONSET:, 0] = broken(values[ONSET:, 0])

    alarm = replayed(values).alarms[0]

    assert ONSET <= alarm.row < ONSET + 2 * WINDOW
    assert alarm.cause == "sensor" and alarm.features[0] == "x0"


def test_columns_that_wander_hardly_ever_leave_their_range_so_far() -> None:
    """Five streams of four columns, three references long."""
    walks = [autoregressive(0.995, 4000, 4, seed) for seed in range(5)]

    alarms = [a for w in walks for a in replay(table(w), reference_rows=1000, window=50).alarms]

    assert len(alarms) <= 1


def test_a_column_that_often_stands_still_is_not_frozen() -> None:
    """A setpoint held for 20 rows each time, and a rare event."""
    rng = np.random.default_rng(3)
    setpoint = np.repeat(rng.normal(size=200).round(1), 20)
    rare = np.where(autoregressive(0.8, 4000, 1, 4)[:, 0] > 1.6, 1.0, 0.0)

    found = replay(table(np.column_stack([setpoint, rare])), reference_rows=1500, window=50)

    assert not [m for a in found.alarms for m in a.moved if m.statistic.name == "frozen"]


def test_runs_are_counted_across_rows_that_are_missing() -> None:
    values = np.random.default_rng(0).normal(size=(200, 1))
    encoder = fit_gross(table(values))
    assert encoder is not None
    frozen = [s.name for s in encoder.statistics].index("frozen")
    still = np.full((3 * SHORTEST_RUN, 1), 0.5)
    still[5] = np.nan

    scores = encoder.scores(table(still))[:, frozen]

    # The 8th value that is the same stands in row 8, for row 5 has none.
    assert np.isnan(scores[5]) and np.flatnonzero(scores == 1)[0] == SHORTEST_RUN
    assert (scores[SHORTEST_RUN:] == 1).all()


def test_a_constant_column_that_takes_another_value_is_out_of_range() -> None:
    encoder = fit_gross(table(np.zeros((100, 1))))

    assert encoder is not None
    assert encoder.scores(table(np.array([[0.0], [1e-9], [np.inf]])))[:, 0].tolist() == [0, 1, 1]


def test_a_sensor_that_breaks_while_an_alarm_stands_raises_its_own() -> None:
    values = np.random.default_rng(6).normal(size=(3000, 4))
    values[1500:, 0] += 2.0
    values[1620:, 3] = values[1620, 3]

    found = replay(table(values), reference_rows=1000, window=50)

    assert [(a.features[0], a.cause) for a in found.alarms] == [
        ("x0", "covariate"),
        ("x3", "sensor"),
    ]
    assert 1620 <= found.alarms[1].row < 1620 + 2 * 50
    assert len(found.windows) == len(found.strength)


@pytest.mark.parametrize("memory", [0.0, 0.9, 0.99])
def test_a_stream_is_tested_again_soon_after_an_alarm(memory: float) -> None:
    """After five windows or 400 rows at first, however alike neighbours are."""
    values = autoregressive(memory, 4000, 3, 8)
    values[2010:, 1] += 60.0

    found = replay(table(values), reference_rows=1500, window=50)

    assert len(found.alarms) == 1 and found.alarms[0].row < 2100
    assert sum(not window.tested for window in found.windows) <= 10
