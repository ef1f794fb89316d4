"""What of a ring may be believed: only a damaged file, or another one, holds the rest. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedge.errors import StateError
from fedge.serving.ring import OBSERVATION
from fedge.serving.ring_file import Records
from fedge.serving.ring_reader import RingReader


def credible(rows: Records, *, known: int, next_slot: int) -> tuple[npt.NDArray[np.int64], int]:
    """Indices of the observations, without what only a damaged ring could hold; and how many
    such there are.

    Args:
        known: slots before it were taken in already.
        next_slot: no slot from there on was given out.
    """
    slots = rows["slot"]
    observed = rows["kind"] == OBSERVATION
    sound = observed & (slots >= known) & (slots < next_slot)
    sound &= (rows["block"] >= 0) & (rows["release"] >= 1)
    sound &= np.isfinite(rows["time"]) & (rows["time"] >= 0) & np.isfinite(rows["steady"])
    at = np.flatnonzero(sound)
    if len(at):
        before = np.maximum.accumulate(slots[at])[:-1]
        at = at[np.concatenate([[True], slots[at][1:] > before])]
    return at, int(np.count_nonzero(observed)) - len(at)


def is_another(reader: RingReader, position: int, first_open: int) -> bool:
    """Whether a ring is not the one in which a position was noted.

    Args:
        first_open: no slot before it is in an open window.
    """
    released = position - reader.position
    try:
        reader.read(position, 0)
        # A kill may have come between the note and the release; those windows are final.
        rows, _ = reader.read(reader.position, max(released, 0))
    except StateError:
        return True
    return bool(((rows["kind"] == OBSERVATION) & (rows["slot"] >= first_open)).any())
