"""Windows are cut by slots, blocks and releases, and by nothing else."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import SettingError
from fedge.profiles.windows import Edge, WindowCutter, WindowSpan


def feed(
    cutter: WindowCutter, rows: list[tuple[int, int, int]], next_slot: int
) -> list[tuple[WindowSpan, slice]]:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return cutter.feed(columns[0], columns[1], columns[2], next_slot=next_slot)


def test_full_length() -> None:
    """Windows follow each other without a gap, each of the planned length."""
    done = feed(WindowCutter(10), [(slot, 0, 1) for slot in range(35)], 35)

    assert [(s.window, s.first_slot, s.slots, s.rows) for s, _ in done] == [
        (0, 0, 10, 10),
        (1, 10, 10, 10),
        (2, 20, 10, 10),
    ]


def test_cut_at_block_and_release() -> None:
    """A block's end and another release each end a window early."""
    rows = [(s, 0, 1) for s in range(4)] + [(s, 1, 1) for s in range(4, 7)]
    rows += [(s, 1, 2) for s in range(7, 17)]
    done = feed(WindowCutter(10), rows, 17)

    assert [(s.block, s.release, s.first_slot, s.slots) for s, _ in done] == [
        (0, 1, 0, 4),
        (1, 1, 4, 3),
        (1, 2, 7, 10),
    ]


def test_dropped_slots_count() -> None:
    """Dropped slots fill a window like any other; a window of them alone is still closed."""
    cutter = WindowCutter(10)
    done = feed(cutter, [(0, 0, 1), (5, 0, 1)], 30)

    assert [(s.slots, s.rows, s.dropped) for s, _ in done] == [(10, 2, 8), (10, 0, 10), (10, 0, 10)]
    assert cutter.open is not None and cutter.open.first_slot == 30


def test_goes_on_after_a_restart() -> None:
    """A new cutter that is told where the last window ended cuts what the old one would have."""
    rows = [(slot, 0, 1) for slot in range(40)]
    done = feed(WindowCutter(10), rows, 40)
    again = feed(WindowCutter(10, after=done[1][0].edge), rows[20:], 40)

    assert [span for span, _ in again] == [span for span, _ in done[2:]]


def test_order_is_insisted_on() -> None:
    """A slot fed twice or a `next_slot` in the past is a mistake of the caller, not a window."""
    cutter = WindowCutter(10)
    feed(cutter, [(3, 0, 1)], 4)

    with pytest.raises(RuntimeError):
        feed(cutter, [(3, 0, 1)], 5)
    with pytest.raises(RuntimeError):
        feed(cutter, [(7, 0, 1)], 7)


ROWS = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([0, 0, 0, 1]), st.sampled_from([0, 0, 0, 1])),
    min_size=1,
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps=ROWS, planned=st.integers(1, 12), start=st.booleans(), data=st.data())
def test_calls_do_not_matter(
    steps: list[tuple[int, int, int]], planned: int, start: bool, data: st.DataObject
) -> None:
    """However records are split over calls: same windows, every record in exactly one of them."""
    slot, block, release = -1, 0, 1
    rows = []
    for gap, next_block, next_release in steps:
        slot, block, release = slot + gap, block + next_block, release + next_release
        rows.append((slot, block, release))
    end = slot + 1 + data.draw(st.integers(0, 30))
    first = Edge(0, 0) if start else None
    whole = feed(WindowCutter(planned, after=first), rows, end)

    cutter, held, got = WindowCutter(planned, after=first), [], []
    bounds = sorted({0, len(rows), *data.draw(st.lists(st.integers(0, len(rows)), max_size=5))})
    for a, b in pairwise(bounds):
        known = rows[b][0] if b < len(rows) and data.draw(st.booleans()) else rows[b - 1][0] + 1
        last = end if b == len(rows) else known
        done = feed(cutter, rows[a:b], last)
        held += rows[a:b]
        for span, part in done:
            got.append(span)
            assert len(held[part]) == span.rows
            for s, bl, re in held[part]:
                assert span.first_slot <= s < span.end
                assert (bl, re) == (span.block, span.release)
        assert cutter.open is not None
        held = held[len(held) - cutter.open.rows :]

    assert got == [span for span, _ in whole]
    assert sum(span.rows for span in got) + len(held) == len(rows)
    assert all(span.slots <= planned for span in got)
    assert all(a.end == b.first_slot for a, b in pairwise(got))


# --- windows that also close by time ----------------------------------------------------------

Row = tuple[int, int, int, float]
"""Slot, block, release, arrival time."""


def feed_timed(
    cutter: WindowCutter, rows: list[Row], now: float = -math.inf, next_slot: int = 0
) -> list[tuple[WindowSpan, slice]]:
    columns = [np.array(column) for column in zip(*rows, strict=True)] or [np.empty(0)] * 4
    slots, blocks, releases = (column.astype(np.int64) for column in columns[:3])
    return cutter.feed(
        slots,
        blocks,
        releases,
        next_slot=rows[-1][0] + 1 if rows else next_slot,
        times=columns[3].astype(np.float64),
        now=now,
    )


def test_time_closes_a_window_that_is_not_full() -> None:
    """After `window_s` a window ends where the first later record begins; the next goes on."""
    done = feed_timed(
        WindowCutter(10, window_s=60), [(0, 0, 1, 5.0), (1, 0, 1, 64.9), (2, 0, 1, 65.0)], now=125
    )

    assert [(s.first_slot, s.slots, s.rows, s.opened, s.closed) for s, _ in done] == [
        (0, 2, 2, 5.0, 65.0),
        (2, 1, 1, 65.0, 125.0),
    ]


def test_a_window_without_traffic_closes_at_its_time() -> None:
    """Silence is reported at fixed times: windows of no slot, of the release known last."""
    cutter = WindowCutter(10, window_s=60)
    feed_timed(cutter, [(0, 3, 7, 0.0)])

    assert feed_timed(cutter, [], 59.9, 1) == []
    done = feed_timed(cutter, [], 185.0, 1)

    assert [(s.window, s.block, s.release, s.slots) for s, _ in done] == [
        (0, 3, 7, 1),
        (1, 3, 7, 0),
        (2, 3, 7, 0),
    ]
    assert cutter.deadline == 240.0


def test_nothing_to_report_before_the_first_record() -> None:
    """Time alone opens no window: nobody knows yet which release it would describe."""
    cutter = WindowCutter(10, window_s=60)

    assert feed_timed(cutter, [], now=1e9) == []
    assert cutter.open is None and cutter.deadline == math.inf


def test_a_full_window_starts_the_next_one_at_once() -> None:
    """The next window's time runs from the record that filled the last one."""
    cutter = WindowCutter(2, window_s=60)
    done = feed_timed(cutter, [(0, 0, 1, 10.0), (1, 0, 1, 30.0)], now=40.0)

    assert [(s.slots, s.closed) for s, _ in done] == [(2, 30.0)]
    assert cutter.deadline == 90.0


def test_arrival_times_never_go_backwards() -> None:
    """A stamp from before the window opened (another boot's, say) counts as its opening."""
    cutter = WindowCutter(10, window_s=60, after=Edge(4, 40, 1000.0, 0, 1))
    done = feed_timed(cutter, [(40, 0, 1, -math.inf), (41, 0, 1, 12.0), (42, 0, 1, 1070.0)])

    assert [(s.window, s.first_slot, s.rows) for s, _ in done] == [(4, 40, 2)]


@pytest.mark.parametrize("window_s", [-1.0, math.nan, math.inf])
def test_a_time_that_never_comes_is_refused(window_s: float) -> None:
    """NaN would silently mean "never"."""
    with pytest.raises(SettingError):
        WindowCutter(10, window_s=window_s)


TIMED = st.lists(
    st.tuples(
        st.integers(1, 9),
        st.sampled_from([0, 0, 0, 1]),
        st.sampled_from([0, 0, 0, 1]),
        st.sampled_from([-50.0, 0.0, 0.25, 1.0, 7.5, 40.0]),
    ),
    min_size=1,
    max_size=50,
)


def timed_rows(steps: list[tuple[int, int, int, float]]) -> list[Row]:
    """Records whose stamps may go backwards."""
    slot, block, release, time = -1, 0, 1, 100.0
    rows = []
    for gap, next_block, next_release, passed in steps:
        slot, block, release = slot + gap, block + next_block, release + next_release
        time += passed
        rows.append((slot, block, release, time))
    return rows


LOOKS = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from([None, 0.0, 0.5, 1.0]), st.booleans()),
    max_size=10,
)
"""Records that came since the last look, how late the look is (None: time is not looked at), and
whether the agent is killed after it."""


@settings(max_examples=300, deadline=None)
@given(steps=TIMED, planned=st.integers(1, 12), looks=LOOKS, silence=st.sampled_from([0, 31, 300]))
def test_neither_calls_nor_delays_nor_kills_matter(
    steps: list[tuple[int, int, int, float]],
    planned: int,
    looks: list[tuple[int, float | None, bool]],
    silence: int,
) -> None:
    """However late records are fed, and wherever the agent is killed: the same windows.

    Every slot lies in exactly one window, and windows are numbered without a gap.
    """
    rows = timed_rows(steps)
    top = [*np.maximum.accumulate([row[3] for row in rows]).tolist()]
    end = top[-1] + silence
    whole = [s for s, _ in feed_timed(WindowCutter(planned, window_s=10.0), rows, now=end)]

    cutter, got, fed, there = WindowCutter(planned, window_s=10.0), [], 0, 0
    for more, late, killed in looks:
        there = min(there + more, len(rows))
        before, after = top[there - 1] if there else 0.0, [*top, end][there]
        known = max(rows[there - 1][0] + 1 if there else 0, got[-1].end if got else 0)
        now = -math.inf if late is None else before + late * (after - before)
        got += [span for span, _ in feed_timed(cutter, rows[fed:there], now, known)]
        fed = there
        if killed and got:
            cutter = WindowCutter(planned, window_s=10.0, after=got[-1].edge)
            fed = sum(row[0] < got[-1].end for row in rows)
        elif killed:
            cutter, fed = WindowCutter(planned, window_s=10.0), 0
    got += [span for span, _ in feed_timed(cutter, rows[fed:], end, rows[-1][0] + 1)]

    assert got == whole
    assert [span.window for span in got] == list(range(len(got)))
    assert all(a.end == b.first_slot and a.closed == b.opened for a, b in pairwise(got))
    assert all(0 <= span.slots <= planned and span.closed - span.opened <= 10.0 for span in got)
    for span in got:
        inside = [row for row in rows if span.first_slot <= row[0] < span.end]
        assert len(inside) == span.rows
        assert {row[1:3] for row in inside} <= {(span.block, span.release)}
