"""What must happen on a gateway though nobody asks: records grow too old, or too many.

Each step deletes the blocks that are past their age, then the oldest windows beyond the
quota, finishes erasures that an error interrupted, and leaves no trace in the state file. The
age limit goes by the wall clock, and a wall clock may jump: a date far ahead must not
delete everything before anyone can correct it. So the wall clock is compared with a
steady one. What it gained or lost beyond `JUMP_S` counts only once it has stood for
`CONFIRM_S`; until then time goes on at the steady clock's pace, and only that is too old
which is so by either clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Protocol

from fedge.config import RetentionSettings
from fedge.data.blocks import BlockStore
from fedge.privacy.ledger import Ledger
from fedge.statefile import StateFile

log = logging.getLogger(__name__)

INTERVAL_S = 60.0
JUMP_S = 86400.0
"""More than any correction of a clock that is looked after; an outage may be longer."""
CONFIRM_S = 3600.0
"""How much longer records may stay after a real jump, such as an outage of days."""


def boot_clock() -> float:
    """Steady seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Unfinished(Protocol):
    """Erasures that an error interrupted."""

    def finish(self) -> int:
        """Carry them out; answers how many there were."""


class TrustedTime:
    """Wall time that follows a jump only after it has stood for a while.

    Args:
        state: remembers the trusted time for the next process.
        wall: seconds since the epoch. steady: seconds that never jump.
    """

    def __init__(
        self, state: StateFile, wall: Callable[[], float], steady: Callable[[], float]
    ) -> None:
        self._state, self._wall, self._steady = state, wall, steady
        state.ensure(
            "CREATE TABLE IF NOT EXISTS trusted_time"
            " (one INTEGER PRIMARY KEY CHECK (one = 1), at REAL NOT NULL)"
        )
        rows = state.rows("SELECT at FROM trusted_time")
        self._at = float(rows[0][0]) if rows else wall()
        self._asked = steady()
        self._jump: tuple[float, float] | None = None  # wall less steady, and since when

    @property
    def settled(self) -> bool:
        """Whether no jump waits to be confirmed, as of the last `now`."""
        return self._jump is None

    def now(self) -> float:
        """Seconds since the epoch; the earlier of two while it is open which of them is right."""
        wall, steady = self._wall(), self._steady()
        expected = self._at + (steady - self._asked)
        self._at = wall if self._confirmed(wall, steady, expected) else expected
        self._asked = steady
        with self._state.transaction() as db:
            db.execute("INSERT OR REPLACE INTO trusted_time VALUES (1, ?)", (self._at,))
        return min(wall, self._at)

    def _confirmed(self, wall: float, steady: float, expected: float) -> bool:
        if abs(wall - expected) <= JUMP_S:
            self._jump = None
            return True
        offset = wall - steady
        if self._jump is None or abs(offset - self._jump[0]) > JUMP_S:
            log.warning("the clock jumped by %.0f days", (wall - expected) / 86400)
            self._jump = (offset, steady)
            return False
        if steady - self._jump[1] < CONFIRM_S:
            return False
        self._jump = None
        return True


class Housekeeper:
    """Keeps the block store within its age and its quota.

    Args:
        reserved: blocks that a running training reads; the quota spares them, their age does not.
        end_training: ends a running trainer, which holds copies of records.
        eraser: finishes what it could not.
    """

    def __init__(
        self,
        *,
        state: StateFile,
        store: BlockStore,
        ledger: Ledger,
        retention: RetentionSettings,
        reserved: Callable[[], Collection[int]],
        end_training: Callable[[], None],
        eraser: Unfinished,
        clock: Callable[[], float],
        steady: Callable[[], float] = boot_clock,
    ) -> None:
        self._state, self._store, self._ledger = state, store, ledger
        self._retention, self._reserved, self._eraser = retention, reserved, eraser
        self._end_training = end_training
        self._time = TrustedTime(state, clock, steady)
        self._interrupted = False

    def step(self) -> float:
        """Do once what is due; answers the seconds until the next step.

        Raises:
            StateError: the disk refused; the next step tries again.
        """
        if self._interrupted:
            # Files that no row names any more: nothing else deletes them before the next start.
            self._store.remove_leftovers()
        self._interrupted = True
        now = self._time.now()
        if self._time.settled:
            self._store.arrived_by(now)
        expired = self._store.expire(
            now - self._retention.max_age_s,
            also=lambda _: self._ledger.note_erasure("retention"),
        )
        if not set(expired.blocks).isdisjoint(self._reserved()):
            self._end_training()
        evicted = self._store.evict(
            self._retention.max_bytes,
            self._reserved(),
            also=lambda _: self._ledger.note_erasure("quota"),
        )
        for windows, why in ((expired.windows, "too old"), (evicted.windows, "over the quota")):
            if windows:
                log.info("deleted %d windows: %s", len(windows), why)
        self._eraser.finish()
        self._state.scrub()
        self._interrupted = False
        return INTERVAL_S
