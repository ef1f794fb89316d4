"""A worker's hold on the ring, while disks fill up and rings break.

A ring that the disk refused is tried again, one that was taken away or replaced under the
worker is given up for the one in its place, and slots are noted (`slot_floor`) so that no
lost ring makes two rows share an id. All of it is looked after now and then, off the path
of requests.

Rows that went into a ring after it was taken away are in no window's counts. Their slots
lie below the next ring's first one, so that they count as dropped, together with the
slots that it skips.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from fedge.errors import StateError, TaskError
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import RowLayout
from fedge.serving.ring_opening import open_writer
from fedge.serving.slot_floor import LARGEST_SLOT, SlotFloor, raise_floor

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Seconds between two looks."""

HEADROOM = 4
"""So many times the slots given out since the last look are reserved, and a ringful at least."""


class RingKeeper:
    """Opens a ring, and goes over to another where that is needed.

    Args:
        path, layout, capacity: as for `open_writer`.

    Attributes:
        ring: the one to append to; None where it was never opened.
        use: told by `take` which ring to append to from now on.
    """

    def __init__(self, path: Path, layout: RowLayout, capacity: int) -> None:
        self._path, self._layout, self._capacity = path, layout, capacity
        self.use: Callable[[RingWriter], None] = lambda ring: None
        self.ring: RingWriter | None = None
        self._said = ""
        self._floor = SlotFloor()

    def open(self) -> RingWriter:
        """The ring, at the start.

        Raises:
            TaskError, StateError: as `open_writer`.
        """
        self.ring = ring = open_writer(
            self._path, self._layout, self._capacity, at_least=self._floor.reserved
        )
        self._reserve(ring.next_slot)
        return ring

    def look(self) -> RingWriter | None:
        """See whether the ring is still the one to append to; may wait for the disk.

        One look at a time, in any thread; whatever refuses is said in the log and tried again by
        the next one.

        Returns:
            the ring to `take` instead; None where all is well, or nothing can be done now.
        """
        ring = self.ring
        if ring is not None and ring.in_place:
            self._reserve(ring.next_slot)
            return None
        try:
            found = open_writer(
                self._path, self._layout, self._capacity, at_least=self._floor.reserved
            )
        except (StateError, TaskError) as error:
            self._say(f"nothing is observed: {error}")
            return None
        log.warning("rows are observed in a new ring")
        self._said = ""
        self._reserve(found.next_slot)
        return found

    def take(self, ring: RingWriter) -> None:
        """Append to another ring from now on; to be called where appending is."""
        before, self.ring = self.ring, ring
        self.use(ring)
        if before is not None:
            before.close()

    def _reserve(self, next_slot: int) -> None:
        """Note slots that may be given out until the next look, unless enough are noted."""
        since = next_slot - self._floor.given_out
        if not 0 <= since < LARGEST_SLOT - self._floor.given_out:
            return  # only a damaged ring counts like that
        ahead = max(self._capacity, HEADROOM * since if self._floor.reserved else 0)
        floor = SlotFloor(next_slot, max(self._floor.reserved, next_slot + ahead))
        if next_slot + ahead // 2 <= self._floor.reserved:
            self._floor = SlotFloor(next_slot, self._floor.reserved)
            return
        self._floor = floor  # also where the disk refuses: this process knows
        try:
            raise_floor(self._path, floor)
        except StateError as error:
            self._say(f"slots are not noted: {error}")

    def _say(self, text: str) -> None:
        if text != self._said:
            log.error("%s", text)
        self._said = text
