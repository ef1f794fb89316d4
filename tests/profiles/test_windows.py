"""Windows are cut by slots, blocks and releases, and by nothing else."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.profiles.windows import WindowCutter, WindowSpan


def feed(
    cutter: WindowCutter, rows: list[tuple[int, int, int]], next_slot: int
) -> list[tuple[WindowSpan, slice]]:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return cutter.feed(columns[0], columns[1], columns[2], next_slot)


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
    again = feed(WindowCutter(10, next_window=2, next_slot=20), rows[25:], 40)

    assert [(s.window, s.first_slot, s.slots) for s, _ in again] == [
        (s.window, s.first_slot, s.slots) for s, _ in done[2:]
    ]


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
    first = 0 if start else None
    whole = feed(WindowCutter(planned, next_slot=first), rows, end)

    cutter, held, got = WindowCutter(planned, next_slot=first), [], []
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
