"""How far the agent got with its stream, as rows of the state file.

One row says where the last final window ended and up to which position the ring was
used up by then; it moves in the transaction that makes a window final.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fedge.errors import RecordError
from fedge.profiles.windows import Edge, WindowSpan
from fedge.statefile import StateFile
from fedge_client.agent.window_clock import Moment, WindowClock

NO_POSITION, LEFT_BEHIND = -1, -2
"""No ring holds them: the next one is taken for another than the one read before. That one was
lost with slots that nobody knows, or all of it was read."""

LARGEST_STEP = 2**40
"""More windows than any gateway closes."""

RESUME_S = 1.0
"""Seconds for which a window that outlived a reboot stays open, to take in what waits."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a new process goes on.

    Attributes:
        edge: the end of the last final window; None before the first one.
        position: first position of the ring that is still needed.
        withheld: windows that left no report.
        lost: records that were found damaged, and rings that were given up, so far.
    """

    edge: Edge | None = None
    position: int = 0
    withheld: int = 0
    lost: int = 0

    @property
    def windows(self) -> int:
        return 0 if self.edge is None else self.edge.window


class WatchState:
    """Reads and writes the progress."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        state.ensure(
            "CREATE TABLE IF NOT EXISTS watch (one INTEGER PRIMARY KEY CHECK (one = 1),"
            " window INTEGER NOT NULL, slot INTEGER, position INTEGER NOT NULL,"
            " withheld INTEGER NOT NULL)",
            # Apart from `watch`, which older versions made without these.
            "CREATE TABLE IF NOT EXISTS watch_edge (one INTEGER PRIMARY KEY CHECK (one = 1),"
            " block INTEGER NOT NULL, release INTEGER NOT NULL, wall REAL NOT NULL,"
            " steady REAL NOT NULL, boot TEXT NOT NULL, window_s REAL NOT NULL)",
            "CREATE TABLE IF NOT EXISTS watch_lost (one INTEGER PRIMARY KEY CHECK (one = 1),"
            " lost INTEGER NOT NULL)",
            "INSERT OR IGNORE INTO watch_lost VALUES (1, 0)",
        )

    def read(self, clock: WindowClock, window_s: float) -> Progress:
        """The progress, its times on the present boot's monotonic clock.

        Args:
            window_s: the time of a window; 0 where windows have none.
        """
        ((lost,),) = self._state.rows("SELECT lost FROM watch_lost")
        rows = self._state.rows("SELECT window, slot, position, withheld FROM watch")
        if not rows:
            return Progress(lost=int(lost))
        window, slot, position, withheld = rows[0]
        edge = None if slot is None else Edge(int(window), int(slot))
        known = self._state.rows(
            "SELECT block, release, wall, steady, boot, window_s FROM watch_edge"
        )
        if edge is not None and known:
            block, release, wall, steady, boot, planned = known[0]
            moment = Moment(float(wall), float(steady), str(boot))
            # No windows for the time in which the host was off, or in which none were asked for.
            ran_on = clock.same_boot(moment) and float(planned) == window_s
            opened = clock.steady_of(
                moment, at_most_s=math.inf if ran_on else max(0.0, window_s - RESUME_S)
            )
            edge = replace(edge, opened=opened, block=int(block), release=int(release))
        return Progress(edge, int(position), int(withheld), int(lost))

    def window_closed(
        self, span: WindowSpan, position: int, withheld: int, closed: Moment, window_s: float
    ) -> None:
        """Move on after a window; joins the caller's transaction."""
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO watch VALUES (1, ?, ?, ?, ?)",
                (span.window + 1, span.end, position, withheld),
            )
            db.execute(
                "INSERT OR REPLACE INTO watch_edge VALUES (1, ?, ?, ?, ?, ?, ?)",
                (span.block, span.release, closed.wall, closed.steady, closed.boot, window_s),
            )

    def go_on_from(self, window: int, slot: int) -> None:
        """Go on with numbers not below these, with whatever ring there is; joins the caller's
        transaction.

        Raises:
            RecordError: so many windows can never have been closed.
        """
        with self._state.transaction() as db:
            db.execute("INSERT OR IGNORE INTO watch VALUES (1, 0, NULL, 0, 0)")
            ((known,),) = db.execute("SELECT window FROM watch").fetchall()
            if window > known + LARGEST_STEP:
                raise RecordError(f"window {window} can never have been reported")
            db.execute(
                "UPDATE watch SET window = MAX(window, ?), slot = MAX(COALESCE(slot, 0), ?),"
                " position = ? WHERE one = 1",
                (window, slot, LEFT_BEHIND),
            )

    def position_moved(self, position: int) -> None:
        """Note that the ring is used up to `position` although no window closed."""
        with self._state.transaction() as db:
            db.execute("UPDATE watch SET position = ? WHERE one = 1", (position,))

    def count_lost(self, count: int) -> None:
        """Add to the records and rings that were given up; on disk when it returns."""
        with self._state.transaction() as db:
            db.execute("UPDATE watch_lost SET lost = lost + ? WHERE one = 1", (count,))
