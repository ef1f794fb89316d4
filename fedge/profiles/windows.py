"""Cutting a gateway's stream into tumbling windows.

A window is a run of arrival slots that belongs to one block and one release: it
is cut at full length, when its time is over, at a block's end and where another
release answers. What is in a slot never matters: a dropped one is a null record
that is covered like any other. Time is a steady clock's, which no correction of
the wall clock moves. Counting, charging and sending a window belong to the agent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedge.errors import SettingError

Owner = tuple[int, int]
"""The block and the release that a window belongs to."""


@dataclass(frozen=True, slots=True)
class Edge:
    """The end of a closed window: all that a cutter needs to go on after it.

    Attributes:
        window, slot: index and first slot of the next window.
        opened: when the next window opened, in seconds of the steady clock.
        block, release: those of the window that ended, None where that is not known any more.
    """

    window: int
    slot: int
    opened: float = -math.inf
    block: int | None = None
    release: int | None = None


@dataclass(frozen=True, slots=True)
class WindowSpan:
    """One complete window.

    Attributes:
        window: this gateway's window index, never used twice.
        block, release: those of its first present record; the last ones known when it holds none.
        first_slot, slots: the arrival slots it covers, `first_slot` up to `end` excluded; a
            window whose time ended without a request covers none.
        rows: records present in it; the other slots were dropped.
        opened, closed: seconds of the steady clock; `closed` is when the next window opened.
        timed: its time was over: it is as long as it was planned, however few slots it covers.
    """

    window: int
    block: int
    release: int
    first_slot: int
    slots: int
    rows: int
    opened: float
    closed: float
    timed: bool = False

    @property
    def end(self) -> int:
        """First slot after the window."""
        return self.first_slot + self.slots

    @property
    def dropped(self) -> int:
        """Slots without a record (a public fact: the ring was full)."""
        return self.slots - self.rows

    @property
    def edge(self) -> Edge:
        """Where the next window begins."""
        return Edge(self.window + 1, self.end, self.closed, self.block, self.release)


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """The window that is being filled. `block` and `release` are None until a record arrived."""

    window: int
    first_slot: int
    rows: int
    opened: float
    block: int | None
    release: int | None


Closed = list[tuple[WindowSpan, slice]]


class WindowCutter:
    """Answers which windows are complete, and which rows belong to each.

    Args:
        planned_slots: arrival slots of a full window.
        window_s: seconds after which a window closes also when it is not full; 0: only when
            full. Then a window in which nothing arrived closes at its time like any other.
        after: the end of the last window that was ever closed; None starts at the first record
            that is fed.

    The same records give the same windows, however they are split over calls and however late
    they are fed: windows follow from slots, owners and arrival times alone.

    >>> cutter = WindowCutter(4)
    >>> zeros = np.zeros(3, dtype=np.int64)
    >>> cutter.feed(np.array([0, 1, 2]), zeros, zeros + 1, next_slot=3)
    []
    >>> [(span, rows)] = cutter.feed(np.array([3, 4, 5]), zeros, zeros + 1, next_slot=6)
    >>> span.window, span.first_slot, span.slots, rows   # rows: of the 3 held ones and the 3 new
    (0, 0, 4, slice(0, 4, None))
    >>> cutter.open.first_slot, cutter.open.rows
    (4, 2)
    """

    def __init__(
        self, planned_slots: int, *, window_s: float = 0.0, after: Edge | None = None
    ) -> None:
        if planned_slots < 1 or not 0 <= window_s < math.inf:
            raise SettingError(f"need {planned_slots=} >= 1 and a finite {window_s=} >= 0")
        self.planned_slots, self.window_s = planned_slots, window_s
        self._window = 0 if after is None else after.window
        self._start = None if after is None else after.slot
        self._opened = -math.inf if after is None else after.opened
        self._rows = 0
        self._owner: Owner | None = None  # of the open window
        self._previous: Owner | None = None  # of the last record seen
        if after is not None and after.block is not None and after.release is not None:
            self._previous = (after.block, after.release)
        self._seen = self._start or 0  # one more than the last record's slot
        self._latest = self._opened  # when that record arrived
        self._known = self._seen  # every slot below was fed, or was dropped
        self._taken = 0  # rows of the present call's buffer that belong to complete windows

    @property
    def open(self) -> OpenWindow | None:
        """The window being filled; None before the first record."""
        if self._start is None:
            return None
        block, release = self._owner if self._owner is not None else (None, None)
        return OpenWindow(self._window, self._start, self._rows, self._opened, block, release)

    @property
    def deadline(self) -> float:
        """When the open window closes though it is not full, by the steady clock; else infinity."""
        timed = self.window_s > 0 and self._previous is not None and self._opened > -math.inf
        return self._opened + self.window_s if timed else math.inf

    @property
    def known(self) -> int:
        """Every slot below was fed, or was dropped: the next record's slot is not less."""
        return self._known

    def cut(self) -> Closed:
        """Close the open window behind its last record, if it holds one.

        The slice counts rows as in `feed`: all that were still open.
        """
        done: Closed = []
        self._taken = 0
        if self._owner is not None:
            self._close(self._seen, self._latest, done)
        return done

    def feed(
        self,
        slots: NDArray[np.int64],
        blocks: NDArray[np.int64],
        releases: NDArray[np.int64],
        *,
        next_slot: int,
        times: NDArray[np.float64] | None = None,
        now: float = -math.inf,
    ) -> Closed:
        """Take in records and answer the windows that are complete now.

        Args:
            slots, blocks, releases: int64[n], one record each, slots strictly increasing.
            next_slot: every slot before it has been fed, now or earlier, or was dropped. After a
                partial read of the ring this is the last slot read plus one, not the ring's own.
            times: float64[n], arrival times by the steady clock; needed where windows close by
                time. One before the last record's counts as that, so that none goes backwards.
            now: every record that arrived before this time of the steady clock has been fed.

        Returns:
            Complete windows in order. Each slice counts rows from the oldest one that was still
            open before this call; afterwards the last `open.rows` rows stay with the caller.

        Raises:
            RuntimeError: slots are out of order, or `next_slot` lies before the last of them.
        """
        n = len(slots)
        if n and (slots[0] < self._known or (np.diff(slots) <= 0).any()):
            raise RuntimeError("slots must increase from one record to the next")
        if next_slot < (slots[-1] + 1 if n else self._known):
            raise RuntimeError(f"{next_slot=} lies before a slot that was already fed")
        if times is None:
            times = np.full(n, self._latest)
        done: Closed = []
        self._taken = 0
        steady = np.maximum.accumulate(np.maximum(times, self._latest))
        changes = np.flatnonzero((np.diff(blocks) != 0) | (np.diff(releases) != 0)) + 1
        bounds = [0, *changes.tolist(), n] if n else []
        for first, end in pairwise(bounds):
            owner = (int(blocks[first]), int(releases[first]))
            self._run(slots[first:end], steady[first:end], owner, done)
        if self._start is not None:
            self._known = next_slot
            if self.window_s > 0:
                # Dropped slots have no arrival time: the next record says where they belong.
                self._expire(now, done)
            else:
                self._fill(next_slot, done)
        return done

    def _run(
        self,
        slots: NDArray[np.int64],
        times: NDArray[np.float64],
        owner: Owner,
        done: Closed,
    ) -> None:
        """Take in records of one owner."""
        if self._start is None:
            self._start = self._seen = int(slots[0])
        if self._opened == -math.inf:
            self._opened = self._latest = float(times[0])
        if self._previous is None:
            self._previous = owner
        position = 0
        while position < len(slots):
            slot, time = int(slots[position]), float(times[position])
            self._expire(time, done)
            self._fill(slot, done)
            if self._owner is not None and self._owner != owner:
                self._close(slot, time, done)
            end = int(np.searchsorted(slots, self._start + self.planned_slots))
            end = min(end, int(np.searchsorted(times, self.deadline)))
            self._rows += end - position
            self._owner = self._previous = owner
            self._seen, self._latest = int(slots[end - 1]) + 1, float(times[end - 1])
            self._fill(self._seen, done)
            position = end

    def _expire(self, time: float, done: Closed) -> None:
        """Close every window whose time is over at `time`."""
        while self.deadline <= time:
            # Up to the last record: slots dropped after it go with the record that follows.
            self._close(max(self._start or 0, self._seen), self.deadline, done, timed=True)

    def _fill(self, slot: int, done: Closed) -> None:
        """Close every window that is full when all slots before `slot` are known."""
        while self._start is not None and self._start + self.planned_slots <= slot:
            if self._previous is None:
                return  # nothing is known yet about whose slots these are
            self._close(self._start + self.planned_slots, self._latest, done)

    def _close(self, end: int, time: float, done: Closed, *, timed: bool = False) -> None:
        owner = self._owner or self._previous
        if owner is None or self._start is None:
            raise RuntimeError("no window is open")
        slots = end - self._start
        done.append(
            (
                WindowSpan(
                    self._window, *owner, self._start, slots, self._rows, self._opened, time, timed
                ),
                slice(self._taken, self._taken + self._rows),
            )
        )
        self._taken += self._rows
        self._window, self._start, self._rows, self._owner = self._window + 1, end, 0, None
        self._opened = self._latest = time
