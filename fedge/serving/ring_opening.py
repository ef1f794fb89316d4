"""Opening the ring to write, also where the one that lies there cannot be used.

A worker must answer requests whatever became of the ring; and no row may ever get the slot
of another, whatever was lost.
"""

from __future__ import annotations

import logging
import sys
from fcntl import LOCK_EX, LOCK_NB, lockf
from pathlib import Path

from fedge.errors import StateError, TaskError
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import (
    FLOOR,
    GENERATION,
    MAGIC,
    PAGE,
    STATE,
    STATE_PLACES,
    VERSION,
    RingFile,
    RingState,
    RowLayout,
)
from fedge.serving.slot_floor import LARGEST_SLOT, read_floor

log = logging.getLogger(__name__)


def open_writer(path: Path, layout: RowLayout, capacity: int, *, at_least: int = 0) -> RingWriter:
    """The writer of a ring, made anew where the ring there is damaged or is for other rows.

    Requests must be answered; what such a ring held is lost. An agent that reads it sees another
    file in its place and goes over. No slot is given out twice: where the ring does not tell how
    far it came, the new one starts at what was reserved (`slot_floor`).

    Args:
        at_least: where a ring that is missing or damaged starts at the earliest.

    Raises:
        TaskError: another worker serves rows of another layout with the ring.
        StateError: the disk refused.
    """
    floor = read_floor(path)
    reserved = max(floor.reserved, at_least)
    try:
        ring = RingWriter(path, layout, capacity, first_slot=reserved)
    except StateError as error:
        if isinstance(error.__cause__, OSError):  # the disk, not what lies on it
            raise
        if _in_use(path):
            raise TaskError(f"a worker is writing into the ring there: {error}") from error
        log.error("the ring is replaced, and what waited in it is lost: %s", error)
    else:
        if ring.next_slot < floor.given_out:
            log.error("the ring fell back, as after a power failure: slots are skipped")
            ring.never_below(reserved)
        return ring
    first_slot = _slots_given_out(path)
    if first_slot is None:
        first_slot = reserved or _slots_in_head(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"cannot remove the ring {path}: {error}") from error
    return RingWriter(path, layout, capacity, first_slot=first_slot)


def _in_use(path: Path) -> bool:
    """Whether anybody writes into the ring, this process included."""
    try:
        with path.open("r+b") as file:
            lockf(file, LOCK_EX | LOCK_NB, 1)
    except (BlockingIOError, PermissionError):
        return True
    except OSError as error:
        raise StateError(f"cannot open the ring {path}: {error}") from error
    return False


def _slots_given_out(path: Path) -> int | None:
    """The next slot of a ring that is for other rows; None where it is damaged."""
    try:
        ring = RingFile(path)
    except StateError:
        return None
    next_slot = ring.state().next_slot
    ring.close()
    return next_slot if next_slot < LARGEST_SLOT else None


def _slots_in_head(path: Path) -> int:
    """The next slot by the first page of a damaged ring; 0 where that cannot be told, either.

    Only for a ring beside which nothing was noted, because no worker of this version opened it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(PAGE)
    except OSError:
        return 0
    if len(head) < PAGE or not head.startswith(MAGIC + VERSION.to_bytes(4, sys.byteorder)):
        return 0
    words = memoryview(head).cast("Q")
    state = RingState(*STATE.unpack_from(head, STATE_PLACES[words[GENERATION] % 2]))
    next_slot = max(state.next_slot, words[FLOOR])
    return next_slot if next_slot < LARGEST_SLOT else 0
