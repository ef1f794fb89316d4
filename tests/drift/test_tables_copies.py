"""A column that repeats another one is judged as one with it, and watched for parting from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.drift import compare, read, replay
from fedge.drift.tables.copies import copies_in
from fedge.drift.tables.table import Column, Table

ROWS = 2_000
Columns = dict[str, Any]


def plant(seed: int = 0, rows: int = ROWS) -> Columns:
    rng = np.random.default_rng(seed)
    columns: Columns = {f"x{i}": rng.normal(size=rows) for i in range(4)}
    columns["kind"] = rng.choice(np.array(["a", "b", "c"], dtype=object), rows)
    return columns


def with_copies(columns: Columns) -> Columns:
    """Degrees Fahrenheit beside Celsius, a complement, other names for the same categories."""
    said = {"a": "A", "b": "B", "c": "C"}
    return {
        **columns,
        "fahrenheit": 1.8 * columns["x1"] + 32,
        "mirrored": -columns["x1"],
        "KIND": np.array([said[text] for text in columns["kind"]], dtype=object),
    }


ORIGINAL = {"fahrenheit": "x1", "mirrored": "x1", "KIND": "kind"}


def run(columns: Columns, **settings: Any) -> Any:
    return replay(columns, reference_rows=800, window=100, **settings)


@pytest.mark.parametrize("epsilon", [None, 5.0])
def test_a_copy_adds_one_statistic_and_takes_no_certainty(epsilon: float | None) -> None:
    """Whether it still is one; no shape, no relation, no budget of its own."""
    alone, beside = run(plant(), epsilon=epsilon), run(with_copies(plant()), epsilon=epsilon)
    added = set(beside.statistics) - set(alone.statistics)

    assert {(s.columns, s.name) for s in added} == {
        ((copy, original), "copy") for copy, original in ORIGINAL.items()
    }
    before, after = (found.reference.certified_false_alarms for found in (alone, beside))
    assert after == pytest.approx(before, rel=0.02)


def test_copies_are_named_and_still_listed() -> None:
    found = run(with_copies(plant()))
    notes = {c.name: c.note for c in found.columns}

    assert {name: notes[name] for name in ORIGINAL} == {
        name: f"copy of {original!r}" for name, original in ORIGINAL.items()
    }
    assert any("'fahrenheit' is a copy of 'x1'" in note for note in found.reference.notes)
    told = {f.column: f.words for f in found.findings if f.kind == "duplicate-content"}
    assert "copy of 'x1'" in told["fahrenheit"] and "copy of 'kind'" in told["KIND"]


def test_an_alarm_lists_the_copies_with_their_original() -> None:
    columns = plant()
    columns["x1"][1_400:] += 1.5

    alarm = run(with_copies(columns)).alarms[0]

    assert alarm.features[:3] == ("x1", "fahrenheit", "mirrored")


@pytest.mark.parametrize("epsilon", [None, 5.0])
@pytest.mark.parametrize("name", ["fahrenheit", "KIND"])
def test_a_copy_that_parts_is_found_though_nothing_else_moves(
    name: str, epsilon: float | None
) -> None:
    """It holds the same values as ever, in another order: no statistic of its own would move."""
    columns = with_copies(plant())
    columns[name] = columns[name].copy()
    np.random.default_rng(1).shuffle(columns[name][1_400:])

    found = run(columns, epsilon=epsilon)

    assert 1_400 <= found.alarms[0].row < 1_600
    assert found.alarms[0].features[:2] == (name, ORIGINAL[name])


def test_a_few_rows_that_differ_are_no_alarm() -> None:
    columns = with_copies(plant())
    columns["fahrenheit"][[1_450, 1_700]] += 1.0

    assert not run(columns).alarms


def test_compare_judges_a_copy_as_its_original() -> None:
    """The same verdict and evidence, in one test: the others are tested as without it."""
    moved = plant(1)
    moved["x1"] += 1.0
    alone = compare(plant(), moved)
    beside = compare(with_copies(plant()), with_copies(moved))
    plain = {c.name: c for c in alone.columns}
    own = {c.name: c for c in beside.columns}

    assert all(own[name].p_value == plain[name].p_value for name in plain)
    for copy, original in ORIGINAL.items():
        assert own[copy].state == own[original].state
        assert own[copy].p_value == own[original].p_value
        assert own[copy].words.startswith(f"copy of {original!r}")
    assert "higher" in own["fahrenheit"].words and "lower" in own["mirrored"].words
    assert beside.features[:3] == ("x1", "fahrenheit", "mirrored")
    assert any("'mirrored' is a copy of 'x1'" in note for note in beside.notes)


def test_compare_tests_a_copy_that_is_none_any_more() -> None:
    old, new = with_copies(plant()), with_copies(plant(1))
    new["fahrenheit"] = new["fahrenheit"] + 5.0

    found = compare(old, new)

    assert found.drifted is True
    assert found.features[0] == "fahrenheit"
    assert {c.name: c.state for c in found.columns}["x1"] == "no drift"


def test_what_only_comes_together_is_no_copy() -> None:
    """Two rare events in the same rows, a noisy twin, a constant."""
    columns = plant()
    rare = np.zeros(ROWS)
    rare[[100, 500, 900]] = 1.0
    columns |= {
        "leak": rare,
        "bell": 2 * rare,
        "twin": columns["x1"] + 1e-3 * columns["x2"],
        "one": np.ones(ROWS),
        "two": np.full(ROWS, 2.0),
    }

    assert copies_in(read(columns).table) == ()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6),
    st.floats(-1e6, 1e6),
    st.booleans(),
)
def test_any_other_scale_of_a_column_is_its_copy(
    seed: int, factor: float, offset: float, gaps: bool
) -> None:
    """And stays so in later rows; the same with one value changed is not."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=300)
    if gaps:
        values[rng.random(300) < 0.2] = np.nan
    # What the offset swallows of the factor is lost, in any unit.
    scaled = factor * values + (offset if abs(offset) < 1e5 * abs(factor) else 0.0)
    table = Table((Column("x", "number", values), Column("y", "number", scaled)))
    (copy,) = copies_in(table[:200])
    broken = scaled.copy()
    row = 200 + int(np.flatnonzero(~np.isnan(values[200:]))[0])
    broken[row] += 0.01 * abs(factor)

    assert (copy.name, copy.original) == ("y", "x")
    assert not copy.parted(table[200:]).any()
    other = Table((table.columns[0], Column("y", "number", broken)))
    assert np.flatnonzero(copy.parted(other)).tolist() == [row]


def test_a_copy_parts_for_sure_where_columns_wander() -> None:
    """A row that differs is an event, and no event comes by chance: two windows suffice."""
    rng = np.random.default_rng(0)
    slow = np.zeros((900, 3))
    for row in range(1, 900):
        slow[row] = 0.98 * slow[row - 1] + rng.normal(size=3)
    columns: Columns = {f"x{i}": slow[:, i] for i in range(3)}
    columns["y"] = 1.8 * slow[:, 1] + 32
    columns["y"][600:][rng.random(300) < 0.3] += 0.01

    found = replay(columns, reference_rows=300, window=20)

    assert 600 <= found.alarms[0].row < 640
    assert found.alarms[0].features[:2] == ("y", "x1")
