"""After an alarm: how long a replay waits, and which rows it takes for the next normal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedge.drift.tables.episode import MIN_EFFECT, Change, back_windows
from fedge.drift.tables.replay import _NEW_WINDOWS, _PATIENCE, DEFAULT_FITS, _Run, silent
from fedge.drift.tables.table import Column, Table
from fedge.drift.tables.watching import Watch

Floats = NDArray[np.float64]

FIRST, WINDOW, ONSET = 1_000, 100, 2_000
"""Rows of the reference and of a window; the row at which something happens."""
AT = (ONSET - FIRST) // WINDOW
"""The window of that row."""
BACK = back_windows(WINDOW)


@dataclass(frozen=True)
class Waited:
    """What the wait after the first alarm came to; `first` is the first window after its onset."""

    run: _Run
    watch: Watch
    found: Change
    alarm: int
    first: int
    following: Watch | None
    resumed: int
    fault: Change | None


def waited(columns: dict[str, Floats], *, known: set[str] | None = None) -> Waited:
    """Follow a stream to its first alarm and through the wait; `known` columns are to blame."""
    table = Table(tuple(Column(name, "number", values) for name, values in columns.items()))
    learn: Any = partial(
        Watch.fit,
        table,
        fits=DEFAULT_FITS,
        window=WINDOW,
        false_alarms=0.5,
        epsilon=None,
        seed=0,
    )
    run = _Run(table, FIRST, WINDOW, 0.5, MIN_EFFECT, learn, silent)
    alarm = run._until_alarm(run._fit(0, FIRST, None), 0)
    assert alarm is not None, "nothing alarmed"
    watch, found, position = alarm
    run._alarm(watch, found, position, 0)
    blamed = {"x0"} if known is None else known
    following, resumed, fault = run._new_reference(watch, found, position, blamed)
    first = int(np.searchsorted(run.starts, found.onset_row)) + 1
    return Waited(run, watch, found, position, first, following, resumed, fault)


def normal(rows: int = 6_000, seed: int = 0) -> dict[str, Floats]:
    values = np.random.default_rng(seed).normal(size=(rows, 3))
    return {f"x{i}": values[:, i].copy() for i in range(3)}


def test_the_next_normal_begins_after_the_change_and_ends_before_it_is_tested() -> None:
    """The window in which something happened may hold rows from before it, wherever in it."""
    for row in (ONSET, ONSET + WINDOW // 2):
        columns = normal()
        columns["x0"][row:] += 2.0
        after = waited(columns)

        assert after.following is not None and after.fault is None
        assert after.following.start >= ONSET + WINDOW
        assert after.following.end == after.run.ends[after.resumed - 1]


def test_the_next_normal_is_the_first_that_is_large_enough() -> None:
    """So that a stream is not left untested for longer than it must be."""
    columns = normal()
    columns["x0"][ONSET:] += 2.0
    after = waited(columns)

    assert after.following is not None
    assert after.following.end - after.following.start == _NEW_WINDOWS * WINDOW
    assert after.resumed == AT + 1 + _NEW_WINDOWS


def test_a_stream_that_comes_back_keeps_the_normal_that_it_had() -> None:
    """As soon as the latest windows are as before; what comes then is an episode of its own."""
    columns = normal()
    columns["x0"][ONSET : ONSET + 2 * WINDOW] += 2.0
    after = waited(columns)

    assert after.following is after.watch is after.run.kept
    assert after.resumed == AT + 2 + BACK
    assert after.run.last is None and after.fault is None


def test_an_alarm_by_chance_gets_time_to_pass() -> None:
    """One odd window: nothing is decided before so many after it that could show its end."""
    columns = normal()
    columns["x0"][ONSET : ONSET + WINDOW] += 2.0
    after = waited(columns)

    assert after.following is after.watch
    assert after.resumed == after.alarm + 1 + BACK


def test_a_change_that_was_found_late_gets_time_to_pass_too() -> None:
    """A small one, whose rows would nearly do at once; then all of them since its onset count."""
    columns = normal(seed=1)
    columns["x0"][ONSET:] += 0.25
    after = waited(columns)

    assert after.alarm >= after.first + BACK and after.following is not None
    assert after.resumed == after.alarm + 1 + BACK
    assert after.following.start == after.run.starts[after.first]
    assert after.following.end - after.following.start > _NEW_WINDOWS * WINDOW


def test_rows_under_way_are_not_the_next_normal() -> None:
    """A second step follows the first: rows from between them are left out."""
    columns = normal()
    columns["x0"][ONSET:] += 1.5
    columns["x0"][ONSET + 4 * WINDOW :] += 1.5
    after = waited(columns)

    assert after.following is not None
    assert after.following.start >= ONSET + 4 * WINDOW


def test_a_stream_that_never_settles_is_taken_as_it_is_in_the_end() -> None:
    """Two columns swing, so that one is always under way; untested, the next change would hide."""
    columns, since = normal(), np.arange(6_000) - ONSET
    columns["x0"][ONSET:] += 2.0
    for name, phase in (("x1", 0), ("x2", 500)):
        swing = np.abs((since + phase) % 2_000 - 1_000) / 1_000
        columns[name] += np.where(since < 0, 0.0, 3.0 * swing - 1.5)
    after = waited(columns)

    assert after.following is not None and after.following is not after.watch
    patience = after.first + _PATIENCE * _NEW_WINDOWS
    assert after.following.start == after.run.starts[patience + 1]


def test_a_sensor_that_breaks_meanwhile_ends_the_wait() -> None:
    """At the window that shows it, and with what broke alone; no rows are taken for normal."""
    columns = normal()
    columns["x0"][ONSET:] += 2.0
    columns["x1"][ONSET + 3 * WINDOW :] = columns["x1"][ONSET + 3 * WINDOW]
    after = waited(columns)

    assert after.following is None and after.fault is not None
    assert {m.statistic.columns for m in after.fault.moved} == {("x1",)}
    assert AT + 3 < after.resumed <= AT + 5


def test_a_sensor_that_is_to_blame_already_ends_nothing() -> None:
    """The same sensor does not alarm again and again while its alarm stands."""
    columns = normal()
    columns["x0"][ONSET:] += 2.0
    columns["x1"][ONSET + 3 * WINDOW :] = columns["x1"][ONSET + 3 * WINDOW]
    after = waited(columns, known={"x0", "x1"})

    assert after.fault is None and after.following is not None
    assert after.following.start >= ONSET + 3 * WINDOW


def test_a_stream_that_ends_first_has_no_next_normal() -> None:
    """The alarm stands to the last window."""
    columns = {name: values[: ONSET + 5 * WINDOW] for name, values in normal().items()}
    columns["x0"][ONSET:] += 2.0
    after = waited(columns)

    assert (after.following, after.fault) == (None, None)
    assert after.resumed == len(after.run.starts)
