"""Which arrival slots may be in use already: a note beside the ring, for when the ring is lost.

A record id must never name two rows, not even where the ring that counted its slots is
damaged, gone, or fell back in a power failure. So whoever appends notes now and then a
number that it will not have reached by the next note (`RingKeeper`), and a ring that
takes a lost one's place starts there. Slots between are skipped, and count as dropped.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from fedge.durable import write_file
from fedge.errors import StateError

log = logging.getLogger(__name__)

FILE = "slots.floor"
LARGEST_SLOT = 10**15
"""Beyond what any gateway gives out: such a number is damage."""


@dataclass(frozen=True, slots=True)
class SlotFloor:
    """What was noted last.

    Attributes:
        given_out: all slots below were given out by then.
        reserved: none from here on was, then and until the next note.
    """

    given_out: int = 0
    reserved: int = 0


def unobserved_slot(now: float) -> int:
    """The first slot of rows that nobody observes: beyond those of all that somebody does.

    They are counted in memory alone; from another start on they are others, as long as less than
    a million rows a second are served.

    Args:
        now: seconds since the epoch.
    """
    return LARGEST_SLOT + int(1e6 * now)


def read_floor(ring: Path) -> SlotFloor:
    """The note beside a ring; zeros where there is none, or none that can be read."""
    path = ring.with_name(FILE)
    try:
        found = json.loads(path.read_bytes())
        floor = SlotFloor(int(found["given_out"]), int(found["reserved"]))
        if not 0 <= floor.given_out <= floor.reserved < LARGEST_SLOT:
            raise ValueError(f"{floor} is out of range")
    except FileNotFoundError:
        return SlotFloor()
    except (OSError, ValueError, LookupError, TypeError) as error:
        log.error("%s cannot be read: %s", path, error)
        return SlotFloor()
    return floor


def raise_floor(ring: Path, floor: SlotFloor) -> None:
    """Note a floor unless a higher one is noted; on disk when it returns.

    Of two processes that note at the same time one may win over the other, by what its own
    next note makes good.

    Raises:
        StateError: the disk refused.
    """
    path, before = ring.with_name(FILE), read_floor(ring)
    if floor.reserved <= before.reserved:
        return
    noted = {
        "given_out": max(floor.given_out, before.given_out),
        "reserved": floor.reserved,
    }
    try:
        write_file(path, json.dumps(noted).encode() + b"\n")
    except OSError as error:
        raise StateError(f"cannot write {path}: {error}") from error
