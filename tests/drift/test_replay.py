"""Replay finds what changed, when, and in which column; and leaves quiet streams alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedge.drift.tables.outcome import Replay
from fedge.drift.tables.replay import replay
from fedge.drift.tables.table import Column, Roles, Table
from fedge.errors import TableError

Floats = NDArray[np.float64]


def table(**columns: NDArray[Any]) -> Table:
    """Numbers, or texts as categories."""
    made = []
    for name, values in columns.items():
        if values.dtype.kind in "OU":
            texts, index = np.unique(values.astype(str), return_inverse=True)
            made.append(Column(name, "category", index.astype(np.float64), tuple(texts.tolist())))
        else:
            made.append(Column(name, "number", values.astype(np.float64)))
    return Table(tuple(made))


def normal(rows: int, columns: int, seed: int = 0) -> dict[str, Floats]:
    values = np.random.default_rng(seed).normal(size=(rows, columns))
    return {f"x{i}": values[:, i].copy() for i in range(columns)}


def autoregressive(memory: float, rows: int, columns: int, seed: int) -> Floats:
    from scipy.signal import lfilter

    steps = np.random.default_rng(seed).normal(size=(rows + 500, columns))
    return lfilter([1], [1, -memory], steps, axis=0)[500:] * np.sqrt(1 - memory**2)


def first(found: Replay) -> tuple[int, str]:
    """Row of the only alarm and its leading column."""
    assert len(found.alarms) == 1, [(a.row, a.features) for a in found.alarms]
    return found.alarms[0].row, found.alarms[0].features[0]


@pytest.mark.parametrize(
    ("rows", "columns", "window"), [(400, 20, 20), (400, 5, 100), (2_000, 8, 50)]
)
def test_quiet_streams_stay_quiet(rows: int, columns: int, window: int) -> None:
    """Independent rows: hardly an alarm in 10 streams of 2,000 rows."""
    alarms = [
        replay(table(**normal(rows + 2_000, columns, s)), reference_rows=rows, window=window).alarms
        for s in range(10)
    ]

    assert sum(map(len, alarms)) <= 1


@pytest.mark.parametrize("memory", [0.5, 0.9, 0.98, 1.0])
def test_rows_with_memory_stay_quiet(memory: float) -> None:
    """From short memory to a random walk, on 400 reference rows."""
    raised = 0
    for seed in range(8):
        if memory == 1.0:
            values = np.cumsum(np.random.default_rng(seed).normal(size=(1_400, 6)), axis=0)
        else:
            values = autoregressive(memory, 1_400, 6, seed)
        columns = {f"x{i}": values[:, i] for i in range(6)}
        raised += len(replay(table(**columns), reference_rows=400, window=50).alarms)

    assert raised <= 1


def test_a_moved_column_is_found_and_named() -> None:
    """One standard deviation, one of six columns, within three windows."""
    columns = normal(3_000, 6)
    columns["x3"][2_000:] += 1.0

    row, name = first(replay(table(**columns), reference_rows=1_000, window=100))

    assert 2_000 <= row < 2_300
    assert name == "x3"


def test_a_wider_column_is_found_and_named() -> None:
    columns = normal(3_000, 6)
    columns["x2"][2_000:] *= 2.0

    row, name = first(replay(table(**columns), reference_rows=1_000, window=100))

    assert 2_000 <= row < 2_200
    assert name == "x2"


def test_a_relation_that_turns_is_found_though_no_column_moves() -> None:
    """Correlation 0.8 becomes -0.8; all margins stay."""
    columns = normal(3_000, 6)
    sign = np.where(np.arange(3_000) < 2_000, 0.8, -0.8)
    columns["x1"] = sign * columns["x0"] + 0.6 * columns["x1"]

    found = replay(table(**columns), reference_rows=1_000, window=100)

    assert 2_000 <= found.alarms[0].row < 2_300
    assert set(found.alarms[0].features[:2]) == {"x0", "x1"}


def test_a_relation_that_appears_is_found() -> None:
    columns = normal(3_000, 20)
    columns["x1"][2_000:] = 0.8 * columns["x0"][2_000:] + 0.6 * columns["x1"][2_000:]

    found = replay(table(**columns), reference_rows=1_000, window=100)

    assert 2_000 <= found.alarms[0].row < 2_500
    assert set(found.alarms[0].features[:2]) == {"x0", "x1"}


def test_a_frozen_sensor_is_found_where_its_values_are_normal() -> None:
    """A value that repeats is no shift of any histogram worth speaking of for long memory."""
    values = autoregressive(0.9, 2_000, 5, 3)
    values[1_200:, 2] = values[1_199, 2]
    columns = {f"x{i}": values[:, i] for i in range(5)}

    found = replay(table(**columns), reference_rows=800, window=50)

    assert 1_200 <= found.alarms[0].row < 1_350
    assert found.alarms[0].features[0] == "x2"


def test_a_slow_change_is_one_alarm_before_it_ends() -> None:
    """Two standard deviations over 1,000 rows: no burst of alarms on the way."""
    columns = normal(5_000, 5)
    columns["x0"] += 2 * np.clip((np.arange(5_000) - 2_000) / 1_000, 0, 1)

    row, name = first(replay(table(**columns), reference_rows=1_000, window=100))

    assert 2_000 <= row < 3_000
    assert name == "x0"


def test_a_change_and_the_way_back_are_two_alarms() -> None:
    """The rows after the first are the new normal."""
    columns = normal(5_000, 5)
    columns["x4"][2_000:3_500] += 1.5

    alarms = replay(table(**columns), reference_rows=1_000, window=100).alarms

    assert len(alarms) == 2
    assert 2_000 <= alarms[0].row < 2_300
    assert 3_500 <= alarms[1].row < 3_800
    assert [a.features[0] for a in alarms] == ["x4", "x4"]


def test_a_fault_that_passes_soon_is_one_alarm_that_ends() -> None:
    """Too short for a new normal: the old one is taken up again, and finds the next fault."""
    columns = normal(4_000, 5)
    columns["x4"][2_000:2_400] += 2.0
    columns["x4"][3_200:] += 2.0

    found = replay(table(**columns), reference_rows=1_000, window=100)
    drifted = {w.start_row for w in found.windows if w.drifted}

    assert [2_000 <= a.row < 2_200 or 3_200 <= a.row < 3_400 for a in found.alarms] == [True, True]
    assert not drifted & set(range(2_800, 3_200))


def test_a_prediction_that_stops_coming_ends_no_replay() -> None:
    """The rows after it are no new reference for the prediction; the alarm stands."""
    columns = normal(3_000, 3)
    columns["x0"][1_500:] += 2
    columns["answer"] = (columns["x1"] > 0).astype(np.float64)
    columns["answer"][1_500:] = np.nan
    whole = table(**columns)

    found = replay(
        Table(whole.columns, Roles(prediction="answer")), reference_rows=1_000, window=100
    )

    assert 1_500 <= found.alarms[0].row < 1_800
    assert found.windows[-1].end_row == 3_000


def test_a_constant_that_starts_to_move_is_found() -> None:
    columns = normal(2_000, 3)
    columns["x1"] = np.zeros(2_000)
    columns["x1"][1_000:] = np.random.default_rng(1).normal(size=1_000) * 1e-6

    row, name = first(replay(table(**columns), reference_rows=500, window=50))

    assert 1_000 <= row < 1_100
    assert name == "x1"


def test_missing_values_and_values_that_appear_are_found() -> None:
    """A tenth goes missing in one column; in another, missing throughout, values appear."""
    rng = np.random.default_rng(2)
    holes, empty = normal(2_000, 4), normal(2_000, 4)
    holes["x0"][1_000:][rng.random(1_000) < 0.15] = np.nan
    empty["x2"][:1_000] = np.nan

    gaps = replay(table(**holes), reference_rows=500, window=50)
    values = replay(table(**empty), reference_rows=500, window=50)

    assert gaps.alarms[0].features[0] == "x0"
    assert 1_000 <= gaps.alarms[0].row < 1_200
    assert values.alarms[0].features[0] == "x2"


def test_a_category_never_seen_is_found() -> None:
    rng = np.random.default_rng(3)
    kind = rng.choice(np.array(["a", "b", "c"]), 2_000)
    kind[1_000:][rng.random(1_000) < 0.2] = "new"

    row, name = first(replay(table(kind=kind, **normal(2_000, 2)), reference_rows=500, window=50))

    assert 1_000 <= row < 1_150
    assert name == "kind"


@pytest.mark.parametrize("epsilon", [None, 4.0])
@pytest.mark.parametrize("number", [100, 600])
def test_categories_met_for_the_first_time_are_no_drift_where_they_are_many(
    number: int, epsilon: float | None
) -> None:
    """The reference, too, met most of its rare ones but once; others than ever are drift."""
    alarms, seen = 0, 0
    for seed in range(5):
        codes = np.random.default_rng(seed).integers(0, number, 2_000).astype(float)
        names = tuple(f"k{i}" for i in range(2 * number))
        quiet = Table((Column("kind", "category", codes, names),))
        codes = codes + number * (np.arange(2_000) >= 1_500)
        moved = Table((Column("kind", "category", codes, names),))
        alarms += len(replay(quiet, reference_rows=1_000, window=100, epsilon=epsilon).alarms)
        seen += replay(moved, reference_rows=1_000, window=100, epsilon=epsilon).drifted is True

    assert (alarms, seen) == (0, 5)


def test_one_odd_value_is_no_drift() -> None:
    """Not in a constant column, not as a category, not in a window of 20 rows."""
    columns = normal(1_000, 3)
    columns["x1"] = np.zeros(1_000)
    columns["x1"][700], columns["x0"][800] = 5.0, 1e300
    kind = np.full(1_000, "a", dtype=object)
    kind[750] = "b"

    assert not replay(table(kind=kind, **columns), reference_rows=400, window=20).alarms


def test_every_row_after_the_reference_is_in_one_window_and_json_has_no_nan() -> None:
    """A last window of 30 rows is judged too."""
    columns = normal(1_030, 3)
    columns["x0"][800:] += 4

    found = replay(table(**columns), reference_rows=400, window=100)
    answer = json.loads(json.dumps(found.to_json(), allow_nan=False))

    edges = [(w["start_row"], w["end_row"]) for w in answer["windows"]]
    assert edges == [(s, min(s + 100, 1_030)) for s in range(400, 1_030, 100)]
    assert (answer["rows"], answer["window"]) == (1_030, 100)
    assert [w["drifted"] for w in answer["windows"]] == [False] * 4 + [True] * 3
    assert [w["tested"] for w in answer["windows"]] == [w.tested for w in found.windows]
    assert answer["windows"][0]["tested"] is True
    assert set(answer["alarms"][0]) >= {"row", "cause", "scope", "features", "confidence"}
    assert found.z.shape == (7, len(found.statistics))


def test_a_short_reference_says_what_it_cannot_promise() -> None:
    """Fewer than four windows certify nothing; slow columns are named."""
    columns = normal(2_000, 2)
    columns["slow"] = np.cumsum(np.random.default_rng(5).normal(size=2_000))

    large = replay(table(**columns), reference_rows=400, window=200).reference
    small = replay(table(**columns), reference_rows=400, window=20).reference
    plain = replay(table(**normal(3_000, 2)), reference_rows=2_000, window=20).reference

    assert large.certified_false_alarms == float("inf")
    assert any("fewer than four windows" in note for note in large.notes)
    assert small.certified_false_alarms > 0.5
    assert any("slow" in note for note in small.notes)
    assert plain.certified_false_alarms == pytest.approx(0.5, abs=0.3)


def test_the_same_rows_give_the_same_answer() -> None:
    columns = normal(1_500, 4)
    columns["x0"][900:] += 2

    once, again = (replay(table(**columns), reference_rows=500, window=50) for _ in range(2))

    assert once.to_json() == again.to_json()


@pytest.mark.parametrize(
    ("reference_rows", "window", "says"),
    [(500, 50, "none is left"), (600, 50, "none is left"), (10, 5, "too few"), (100, 0, "window")],
)
def test_impossible_requests_say_what_to_do(reference_rows: int, window: int, says: str) -> None:
    with pytest.raises(TableError, match=says):
        replay(table(**normal(500, 2)), reference_rows=reference_rows, window=window)


def test_a_table_without_features_is_refused() -> None:
    only = Column("id", "excluded", np.arange(500.0))

    with pytest.raises(TableError, match="no column"):
        replay(Table((only,)), reference_rows=100, window=50)


def test_a_window_larger_than_the_reference_is_judged() -> None:
    columns = normal(3_000, 3)
    columns["x1"][1_500:] += 1

    found = replay(table(**columns), reference_rows=400, window=500)

    assert found.alarms[0].features[0] == "x1"


def test_a_replay_carries_its_settings_and_names_itself_shortly() -> None:
    found = replay(
        table(**normal(600, 2)),
        reference_rows=400,
        window=50,
        epsilon=2.0,
        false_alarms=0.1,
        min_effect=0.3,
        seed=7,
    )

    settings = (found.false_alarms, found.min_effect, found.epsilon, found.seed)
    assert settings == (0.1, 0.3, 2.0, 7)
    assert repr(found) == "Replay(600 rows, 4 windows of 50, no alarm)"


def test_a_label_that_cannot_be_used_is_told() -> None:
    rows = table(**normal(600, 2), y=np.full(600, np.nan))

    found = replay(Table(rows.columns, Roles(label="y")), reference_rows=400, window=50)

    assert any("label is not watched" in note for note in found.reference.notes)


def test_labels_that_stop_coming_are_told() -> None:
    """Quiet windows without labels are no proof that the concept stayed."""
    columns = normal(900, 2)
    label = (columns["x0"] > 0).astype(float)
    label[650:] = np.nan

    found = replay(
        Table(table(y=label, **columns).columns, Roles(label="y")), reference_rows=400, window=50
    )

    assert "no row from 650 on has a label: concept drift is unknown from there on" in (
        found.reference.notes
    )


def test_windows_say_whether_concept_drift_was_tested() -> None:
    """Not without labels in the window; None where no label was asked for."""
    columns = normal(1_400, 2)
    label = (columns["x0"] > 0).astype(float)
    label[650:800] = np.nan
    rows = table(y=label, **columns)

    asked = replay(Table(rows.columns, Roles(label="y")), reference_rows=400, window=50)
    unasked = replay(table(**columns), reference_rows=400, window=50)

    untested = {w.start_row for w in asked.windows if not w.concept_tested}
    assert untested == {650, 700, 750}
    assert all(w.tested for w in asked.windows)
    assert asked.unlabelled_from is None
    assert {w.concept_tested for w in unasked.windows} == {None}


def test_whether_a_stream_drifted_is_not_known_where_windows_were_not_tested() -> None:
    """No alarm is no drift only where all was tested."""
    quiet = replay(table(**normal(900, 2)), reference_rows=400, window=50)
    moved = normal(900, 2)
    moved["x0"][600:] += 3
    windows = (replace(quiet.windows[0], tested=False), *quiet.windows[1:])

    assert quiet.drifted is False
    assert replace(quiet, windows=windows).drifted is None
    assert replace(quiet, windows=windows).unknown == ("1 of 10 windows could not be tested",)
    assert replace(quiet, windows=()).drifted is None
    assert replay(table(**moved), reference_rows=400, window=50).drifted is True


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("what", ["shift", "gaps"])
def test_one_change_is_one_alarm_however_short_the_windows(window: int, what: str) -> None:
    """A few rows that look as before by chance do not end it."""
    columns = normal(2_000, 3)
    if what == "shift":
        columns["x0"][1_000:] += 1.0
    else:
        columns["x0"][1_000:][np.random.default_rng(1).random(1_000) < 0.5] = np.nan

    row, name = first(replay(table(**columns), reference_rows=500, window=window))

    assert 1_000 <= row < 1_100
    assert name == "x0"


def test_a_fault_that_passes_is_over_also_in_windows_of_one_row() -> None:
    columns = normal(2_000, 3)
    columns["x0"][1_000:1_100] += 3.0

    found = replay(table(**columns), reference_rows=500, window=1)

    assert 1_000 <= first(found)[0] < 1_020
    assert not any(w.drifted for w in found.windows if w.start_row >= 1_300)


def test_times_are_no_feature() -> None:
    """Neither the column that orders rows nor another one that holds times: gaps in it are told
    when it is read, and are no drift."""
    rng = np.random.default_rng(0)
    clock = Column("clock", "time", np.where(rng.random(1_200) < 0.5, np.nan, np.arange(1_200.0)))
    clock.values[:600] = np.arange(600.0)
    rows = (clock, *table(**normal(1_200, 2)).columns)

    for roles in (Roles(), Roles(time="clock")):
        found = replay(Table(rows, roles), reference_rows=500, window=50)
        assert "clock" not in {name for s in found.statistics for name in s.columns}
        assert not found.alarms
        assert found.columns[0].name == "clock"


def test_progress_counts_every_window_once() -> None:
    """Also where alarms stand, and end on the last one."""
    columns = normal(1_500, 3)
    columns["x0"][900:] += 2
    told: list[tuple[int, int]] = []

    replay(
        table(**columns),
        reference_rows=500,
        window=50,
        progress=lambda done, windows: told.append((done, windows)),
    )

    assert told == [(done, 20) for done in range(1, 21)]


def test_the_cause_has_a_confidence_of_its_own() -> None:
    """That something moved may be certain, and why not."""
    columns = normal(1_000, 3)
    columns["x1"][700:] += 2

    found = replay(table(**columns), reference_rows=500, window=50)
    alarm = found.alarms[0]

    assert alarm.confidence > 0.95
    assert alarm.cause_confidence < 0.8
    told = json.loads(json.dumps(found.to_json()))["alarms"][0]
    assert told["cause_confidence"] == alarm.cause_confidence


def test_without_a_label_no_sentence_speaks_of_one() -> None:
    rows = normal(1_000, 3)
    rows["x1"][700:] += 2

    alarm = replay(table(**rows), reference_rows=500, window=50).alarms[0]

    assert alarm.cause == "covariate" and "label" not in alarm.sentence
    assert alarm.expected is None


def test_with_a_label_the_alarm_tells_what_accuracy_to_expect() -> None:
    rng = np.random.default_rng(0)
    rows = normal(1_600, 3)
    rows["x1"][1_000:] += 2
    label = (rows["x0"] + rows["x1"] + rng.normal(size=1_600) > 0).astype(np.float64)
    stream = table(**rows, y=label)

    found = replay(Table(stream.columns, Roles(label="y")), reference_rows=800, window=50)

    alarm = found.alarms[0]
    assert alarm.expected is not None and alarm.expected.low < alarm.expected.value <= 1
    told = json.loads(json.dumps(found.to_json()))["alarms"][0]["expected_accuracy"]
    assert told["value"] == alarm.expected.value
