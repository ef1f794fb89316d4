"""Counts are exact, hide null records, and cost what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedge.errors import NonFiniteValueError, RecordError, SettingError, TaskError
from fedge.profiles.build import build_reference
from fedge.profiles.counts import (
    count_window,
    feature_counts,
    join,
    sensitivity2,
    split,
    window_event,
)
from fedge.profiles.streams import stream_values
from fedge.profiles.table import profile_window
from fedge.records import (
    NUMERIC_BINS,
    CategoricalStream,
    NumericFeature,
    NumericStream,
    Reference,
    TaskSchema,
)

CELL = st.one_of(
    st.floats(-20, 20), st.sampled_from([0.0, 1.0, 2.0, -1.0, np.nan, np.inf, -np.inf, 1e300])
)
ROWS = st.integers(0, 30).flatmap(lambda n: arrays(np.float64, (n, 6), elements=CELL))


def test_dyadic_counts_by_hand(reference: Reference) -> None:
    """Values in bins 0, 15, 15 and one missing: root +1, then each half, and one missing."""
    rows = np.zeros((4, 6))
    rows[:, 0] = [-9.0, 9.0, 9.0, np.nan]
    counts = count_window(reference, rows)[0]

    assert counts[0] == 1
    assert counts[1:3].tolist() == [-1, 2]
    assert counts[3:7].tolist() == [-1, 0, 0, 2]
    assert counts[7:15].tolist() == [-1, 0, 0, 0, 0, 0, 0, 2]
    assert counts[15] == 1


def test_cells_by_hand(reference: Reference) -> None:
    """Declared classes have a cell; another index, a fraction or a missing one are `others`."""
    rows = np.zeros((5, 6))
    rows[:, 3] = [0, 2, 3, 1.5, np.nan]

    assert count_window(reference, rows)[3].tolist() == [1, 0, 1, 3]


@settings(max_examples=100, deadline=None, suppress_health_check=[])
@given(rows=ROWS, data=st.data())
def test_one_record_stays_within_the_sensitivity(rows: np.ndarray, data: st.DataObject) -> None:
    """Nulling any one record moves no stream by more than its stated L2 sensitivity."""
    if not len(rows):
        return
    index = data.draw(st.integers(0, len(rows) - 1))
    before, after = (
        count_window(REFERENCE, rows),
        count_window(REFERENCE, np.delete(rows, index, axis=0)),
    )
    for stream, a, b in zip(REFERENCE.streams, before, after, strict=True):
        assert int(((a - b) ** 2).sum()) <= sensitivity2(stream)


@settings(max_examples=100, deadline=None)
@given(a=ROWS, b=ROWS)
def test_counts_add_up(a: np.ndarray, b: np.ndarray) -> None:
    """Counting two pieces and adding is counting the whole; none at all counts zero."""
    whole = join(count_window(REFERENCE, np.concatenate([a, b])))

    assert np.array_equal(
        whole, join(count_window(REFERENCE, a)) + join(count_window(REFERENCE, b))
    )
    assert not join(count_window(REFERENCE, a[:0])).any()


@settings(max_examples=200, deadline=None)
@given(rho=st.floats(1e-9, 50))
def test_the_event_never_costs_more(rho: float) -> None:
    """The charge is at most rho, and one unit less noise would cost more."""
    event = window_event(REFERENCE, rho)

    assert event.sensitivity2 == 4 * 4 + 2
    assert event.sensitivity2 <= 2 * rho * event.sigma2 * (1 + 1e-15)
    assert event.sigma2 == 1 or event.sensitivity2 > 2 * rho * (event.sigma2 - 1) * (1 - 1e-15)


@pytest.mark.parametrize("rho", [0.0, -1.0, float("nan"), float("inf")])
def test_no_event_without_a_charge(reference: Reference, rho: float) -> None:
    """A charge that is no positive number is refused."""
    with pytest.raises(SettingError):
        window_event(reference, rho)


def test_split_undoes_join(reference: Reference, values: np.ndarray) -> None:
    """The noised vector becomes the report's features, stream by stream; lengths are checked."""
    counts = count_window(reference, values)
    vector = join(counts)
    event = window_event(reference, 0.0281)
    features = feature_counts(reference, vector, event)

    assert all(np.array_equal(a, b) for a, b in zip(split(reference, vector), counts, strict=True))
    assert [f.name for f in features] == [s.name for s in reference.streams]
    assert np.array_equal(np.concatenate([f.counts for f in features]), vector)
    assert event.dimension == len(vector)
    with pytest.raises(RecordError):
        split(reference, vector[1:])
    with pytest.raises(NonFiniteValueError):
        feature_counts(reference, vector.astype(float), event)


def test_streams_are_clamped_and_missing_is_kept(task: TaskSchema) -> None:
    """Finite values end at the public bounds; NaN and infinity are missing, never a bin."""
    features = np.array([[99, 0, 1], [np.inf, 1, np.nan]], dtype=np.float32)
    values = stream_values(
        task, features, np.array([2, 0], np.int32), np.float32([0.5, 0.6]), np.float32([-1, np.nan])
    )

    assert values[0].tolist() == [10.0, 0.0, 1.0, 2.0, 0.5, -1.0]
    assert np.isnan(values[1]).tolist() == [True, False, True, False, False, True]
    with pytest.raises(TaskError):
        stream_values(task, features[:, :2], np.zeros(2, np.int32), np.zeros(2), np.zeros(2))


def test_reference_bins_hold_equal_shares(reference: Reference) -> None:
    """Bins of a continuous stream each hold a sixteenth of the public rows."""
    assert np.allclose(reference.streams[0].histogram, 1 / 16, atol=1e-3)
    assert all(abs(sum(stream.histogram) - 1) < 1e-9 for stream in reference.streams)
    assert np.isclose(reference.streams[3].histogram[-1], 0.0)


@settings(max_examples=150, deadline=None)
@given(
    column=arrays(
        np.float64,
        st.integers(1, 40),
        elements=st.one_of(
            st.floats(-12, 12), st.sampled_from([0.5, 0.0, -10.0, 10.0, 5e-324, np.nan])
        ),
    )
)
def test_any_column_gives_bins(column: np.ndarray) -> None:
    """Constant, discrete, saturated or wild: edges increase strictly inside the public bounds."""
    rows = np.zeros((len(column), 6))
    rows[:, 0] = column
    if np.isfinite(column).any():
        stream = build_reference(
            TASK, rows, ood=rows[:, -1], model_sha256="a" * 64, source="x"
        ).streams[0]
        assert all(-10.0 < edge < 10.0 for edge in stream.edges)  # type: ignore[union-attr]
    else:
        with pytest.raises(TaskError):
            build_reference(TASK, rows, ood=rows[:, -1], model_sha256="a" * 64, source="x")


@pytest.mark.parametrize("constant", [0.0, 0.25, -10.0, 10.0])
def test_a_constant_that_moves_is_seen(constant: float) -> None:
    """A column that never varied sits in a bin of its own: one percent of its range leaves it."""
    rows = np.zeros((100, 6))
    rows[:, 0] = constant
    reference = build_reference(TASK, rows, ood=rows[:, -1], model_sha256="a" * 64, source="x")
    home = count_window(reference, rows)[0]

    for move in (-0.2, 0.2):
        moved = rows.copy()
        moved[:, 0] = np.clip(constant + move, -10, 10)
        if moved[0, 0] != constant:
            assert not np.array_equal(count_window(reference, moved)[0], home)


def _task() -> TaskSchema:
    from fedge.records import CategoricalFeature, ModelInput

    return TaskSchema(
        name="pump",
        version=1,
        input=ModelInput(name="x", shape=(3,), low=-10.0, high=10.0),
        classes=("ok", "worn", "broken"),
        features=(
            NumericFeature(name="pressure", type="float32", low=-10.0, high=10.0),
            NumericFeature(name="valve", type="bool", low=0.0, high=1.0),
            CategoricalFeature(name="site", categories=("north", "south")),
        ),
        code="pump.task:code",
    )


TASK = _task()
_ROWS = np.column_stack([np.linspace(-5, 5, 64)] * 3 + [np.zeros(64)] + [np.linspace(0, 1, 64)] * 2)
REFERENCE = build_reference(TASK, _ROWS, ood=_ROWS[:, -1], model_sha256="a" * 64, source="x")


def _counted_plainly(stream: object, column: list[float]) -> list[int]:
    """A stream's counts as the definition says them, value by value."""
    if isinstance(stream, CategoricalStream):
        cells = [0] * (len(stream.categories) + 1)
        for value in column:
            declared = math.isfinite(value) and value in range(len(stream.categories))
            cells[int(value) if declared else -1] += 1
        return cells
    assert isinstance(stream, NumericStream)
    sums, missing = [0] * (NUMERIC_BINS - 1), 0
    for value in column:
        if not math.isfinite(value):
            missing += 1
            continue
        place = sum(edge <= value for edge in stream.edges)
        for level in range(4):
            node, half = place >> (4 - level), place >> (3 - level) & 1
            sums[2**level - 1 + node] += 1 if half else -1
    return [*sums, missing]


EDGY = st.sampled_from(
    [
        near
        for stream in REFERENCE.streams
        if isinstance(stream, NumericStream)
        for edge in stream.edges
        for exact in (np.float32(edge),)
        for near in (
            exact,
            np.nextafter(exact, np.float32(9e9)),
            np.nextafter(exact, np.float32(-9e9)),
        )
    ]
)
"""Values on an edge or next to one, where float32 could tip them over."""


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(0, 40).flatmap(
        lambda n: arrays(
            np.float32,
            (n, 6),
            elements=st.one_of(
                EDGY,
                st.integers(-1, 4).map(np.float32),
                st.floats(width=32),
            ),
        )
    )
)
def test_counts_are_those_of_the_definition(rows: np.ndarray) -> None:
    """Sorted, in float32 or float64, in any layout: the integers are those of the plain count."""
    wanted = [
        _counted_plainly(stream, rows[:, column].astype(float).tolist())
        for column, stream in enumerate(REFERENCE.streams)
    ]
    for values in (rows, rows.astype(np.float64), np.asfortranarray(rows)):
        counted = count_window(REFERENCE, values)
        assert [part.tolist() for part in counted] == wanted
        assert all(part.dtype == np.int64 for part in counted)
    shared, sketch = profile_window(REFERENCE, rows)
    assert [part.tolist() for part in shared] == wanted
    finite = [int(np.isfinite(rows[:, column]).sum()) for column in (0, 1, 4, 5)]
    assert [sketch.count(name) for name in sketch.names] == finite


@settings(max_examples=100, deadline=None)
@given(
    low=st.floats(-1e30, 1e30),
    room=st.floats(1e-20, 1e30),
    value=st.floats(width=32),
    at=st.floats(0, 1),
)
def test_clamping_in_float32_never_changes_a_bin(
    low: float, room: float, value: float, at: float
) -> None:
    """A clamped number lies on the same side of every edge inside the bounds as the exact bound."""
    high = low + room
    edge = low + at * room
    if not low < edge < high:
        return
    feature = NumericFeature(name="a", type="float32", low=low, high=high)
    task = TASK.model_copy(update={"features": (feature,)})
    zeros = np.zeros(1, np.float32)
    got = stream_values(task, np.array([[value]], np.float32), zeros.astype(np.int32), zeros, zeros)
    if math.isfinite(value):
        assert (float(got[0, 0]) >= edge) == (min(max(value, low), high) >= edge)
    else:
        assert np.isnan(got[0, 0])
    assert got.dtype == np.float32
