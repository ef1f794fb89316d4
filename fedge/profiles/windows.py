"""Cutting a gateway's stream into tumbling windows.

A window is a run of arrival slots that belongs to one block and one release: it
is cut at full length, at a block's end and where another release answers. What
is in a slot never matters: a dropped one is a null record that is covered like
any other. Counting, charging and sending a window belong to the agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedge.errors import SettingError


@dataclass(frozen=True, slots=True)
class WindowSpan:
    """One complete window.

    Attributes:
        window: this gateway's window index, never used twice.
        block, release: those of its first present record; the last ones known when it holds none.
        first_slot, slots: the arrival slots it covers, `first_slot` up to `end` excluded.
        rows: records present in it; the other slots were dropped.
    """

    window: int
    block: int
    release: int
    first_slot: int
    slots: int
    rows: int

    @property
    def end(self) -> int:
        """First slot after the window."""
        return self.first_slot + self.slots

    @property
    def dropped(self) -> int:
        """Slots without a record (a public fact: the ring was full)."""
        return self.slots - self.rows


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """The window that is being filled. `block` and `release` are None until a record arrived."""

    window: int
    first_slot: int
    rows: int
    block: int | None
    release: int | None


class WindowCutter:
    """Answers which windows are complete, and which rows belong to each.

    Args:
        planned_slots: arrival slots of a full window.
        next_window: index of the next window, one more than the last one ever closed.
        next_slot: slot at which the next window starts, the `end` of the last one ever closed;
            None starts at the first record that is fed.

    The same records give the same windows, however they are split over calls.

    >>> cutter = WindowCutter(4)
    >>> zeros = np.zeros(3, dtype=np.int64)
    >>> cutter.feed(np.array([0, 1, 2]), zeros, zeros + 1, 3)
    []
    >>> [(span, rows)] = cutter.feed(np.array([3, 4, 5]), zeros, zeros + 1, 6)
    >>> span.window, span.first_slot, span.slots, rows   # rows: of the 3 held ones and the 3 new
    (0, 0, 4, slice(0, 4, None))
    >>> cutter.open.first_slot, cutter.open.rows
    (4, 2)
    """

    def __init__(
        self, planned_slots: int, *, next_window: int = 0, next_slot: int | None = None
    ) -> None:
        if planned_slots < 1 or next_window < 0:
            raise SettingError(f"need {planned_slots=} >= 1 and {next_window=} >= 0")
        self.planned_slots = planned_slots
        self._window = next_window
        self._start = next_slot
        self._rows = 0
        self._owner: tuple[int, int] | None = None  # (block, release) of the open window
        self._previous: tuple[int, int] | None = None  # of the last record seen
        self._last_slot = -1 if next_slot is None else next_slot - 1
        self._taken = 0  # rows of the present call's buffer that belong to complete windows

    @property
    def open(self) -> OpenWindow | None:
        """The window being filled; None before the first record."""
        if self._start is None:
            return None
        block, release = self._owner if self._owner is not None else (None, None)
        return OpenWindow(self._window, self._start, self._rows, block, release)

    def feed(
        self,
        slots: NDArray[np.int64],
        blocks: NDArray[np.int64],
        releases: NDArray[np.int64],
        next_slot: int,
    ) -> list[tuple[WindowSpan, slice]]:
        """Take in records and answer the windows that are complete now.

        Args:
            slots, blocks, releases: int64[n], one record each, slots strictly increasing.
            next_slot: every slot before it has been fed, now or earlier, or was dropped. After a
                partial read of the ring this is the last slot read plus one, not the ring's own.

        Returns:
            Complete windows in order. Each slice counts rows from the oldest one that was still
            open before this call; afterwards the last `open.rows` rows stay with the caller.

        Raises:
            RuntimeError: slots are out of order, or `next_slot` lies before the last of them.
        """
        n = len(slots)
        if n and (slots[0] <= self._last_slot or (np.diff(slots) <= 0).any()):
            raise RuntimeError("slots must increase from one record to the next")
        if next_slot <= (slots[-1] if n else self._last_slot):
            raise RuntimeError(f"{next_slot=} lies before a slot that was already fed")
        done: list[tuple[WindowSpan, slice]] = []
        self._taken = 0
        changes = np.flatnonzero((np.diff(blocks) != 0) | (np.diff(releases) != 0)) + 1
        bounds = [0, *changes.tolist(), n] if n else []
        for first, end in pairwise(bounds):
            owner = (int(blocks[first]), int(releases[first]))
            self._run(slots[first:end], owner, done)
        if self._start is not None:
            self._advance(next_slot, done)
            self._last_slot = next_slot - 1
        return done

    def _run(
        self, slots: NDArray[np.int64], owner: tuple[int, int], done: list[tuple[WindowSpan, slice]]
    ) -> None:
        """Take in records of one owner."""
        head = int(slots[0])
        if self._start is None:
            self._start = head
        if self._previous is None:
            self._previous = owner
        self._advance(head, done)
        if self._owner is not None and self._owner != owner:
            self._close(head, done)
        position = 0
        while position < len(slots):
            self._advance(int(slots[position]), done)
            end = int(np.searchsorted(slots, self._start + self.planned_slots))
            self._rows += end - position
            self._owner = self._previous = owner
            position = end
        self._advance(int(slots[-1]) + 1, done)

    def _advance(self, slot: int, done: list[tuple[WindowSpan, slice]]) -> None:
        """Close every window that is full when all slots before `slot` are known."""
        while self._start is not None and self._start + self.planned_slots <= slot:
            if self._previous is None:
                return  # nothing is known yet about whose slots these are
            self._close(self._start + self.planned_slots, done)

    def _close(self, end: int, done: list[tuple[WindowSpan, slice]]) -> None:
        owner = self._owner or self._previous
        if owner is None or self._start is None:
            raise RuntimeError("no window is open")
        span = WindowSpan(
            self._window, owner[0], owner[1], self._start, end - self._start, self._rows
        )
        done.append((span, slice(self._taken, self._taken + self._rows)))
        self._taken += self._rows
        self._window, self._start, self._rows, self._owner = self._window + 1, end, 0, None
