"""The consumer's side of the observation ring: reading, releasing, wiping, without a lock.

What is in the ring and who may write it is `fedge.serving.ring`'s to say.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedge.errors import StateError
from fedge.serving.ring import CONTENT_START, LABEL, OBSERVATION, Match
from fedge.serving.ring_file import Records, RingFile


class RingReader:
    """The one consumer of a ring; not for use by several threads at once.

    It remembers nothing: positions are the caller's to keep. It takes no lock, so that no
    producer waits for it, whatever becomes of it.

    Raises:
        StateError: there is no ring yet (no worker has served), or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._ring = RingFile(path)
        # The last consumer may have been killed before it wrote it.
        self._ring.released = self._rows_before(self._ring.tail)
        self._next_slot = self._slots_before(self._ring.tail)

    def read(self, position: int, limit: int) -> tuple[Records, int]:
        """Copy up to `limit` records from `position` on.

        Args:
            position: 0 at first, then what the last read answered.

        Returns:
            a structured array (fields as in `ring_file.record_dtype`) and the position after
            it. `next_slot` now speaks of exactly these records and those before.

        Raises:
            StateError: the position was released already, or never written: caller and ring
                do not belong together.
        """
        places, end = self._places(position, limit)
        rows = np.concatenate([self._ring.records[place] for place in places])
        self._next_slot = self._slots_before(end)
        return rows, end

    def read_heads(self, position: int, limit: int) -> tuple[Records, int]:
        """Like `read`, without subject, logits, features and inputs: a tenth of the bytes.

        Returns:
            a structured array (fields as in `ring_file.HEAD_DTYPE`) and the position after it.

        Raises:
            StateError: as `read`.
        """
        places, end = self._places(position, limit)
        heads = np.concatenate([self._ring.heads(place) for place in places])
        self._next_slot = self._slots_before(end)
        return heads, end

    def release(self, position: int) -> None:
        """Give up everything before `position`: it is cleared, then producers may overwrite it.

        Call it when nothing will ask for these records again: a reader that is killed in here
        finds some of them empty.
        """
        tail = self._ring.tail
        if position > tail:
            for place in self._ring.places(tail, position - tail):
                self._ring.clear(place)
            self._ring.tail = position
            # Counted from the head, not added up: a kill in here puts nothing wrong for good.
            self._ring.released = self._rows_before(position)

    def wipe(self, match: Match) -> int:
        """Clear the content of matching observations that wait here, and labels given to them.

        Released places hold nothing (`release`), so afterwards the file holds no byte of what
        matched. A wiped observation keeps slot, block, release and time, and has no purpose.

        Args:
            match: told all waiting records (a view: not to be kept), observations and labels.

        Returns:
            how many observations were wiped.
        """
        tail, head = self._ring.tail, self._ring.state().head
        waiting = [
            (place, match(self._ring.records[place]))
            for place in self._ring.places(tail, head - tail)
        ]
        slots = []
        for place, matched in waiting:
            rows = self._ring.records[place]
            chosen = np.flatnonzero(
                matched & (rows["kind"] == OBSERVATION) & (rows["purposes"] > 0)
            )
            slots.append(rows["slot"][chosen])
            rows["purposes"][chosen] = 0  # first: a half wiped record counts no more
            self._ring.clear(chosen + place.start, start=CONTENT_START)
        gone = np.concatenate(slots)
        for place, matched in waiting:
            rows = self._ring.records[place]
            theirs = matched | np.isin(rows["slot"], gone)
            chosen = np.flatnonzero(theirs & (rows["kind"] == LABEL))
            self._ring.clear(chosen + place.start)
        return len(gone)

    @property
    def position(self) -> int:
        """The oldest position that can still be read."""
        return self._ring.tail

    @property
    def waiting(self) -> int:
        """Records that were not released yet."""
        return self._ring.state().head - self._ring.tail

    @property
    def next_slot(self) -> int:
        """All slots below were given out, and are in the records read so far or were dropped."""
        return self._next_slot

    @property
    def given_out(self) -> int:
        """The slot that the next row gets, whatever was read so far."""
        return self._ring.state().next_slot

    @property
    def dropped(self) -> int:
        """Rows that were served but not handed over, since the ring was made."""
        return self._ring.state().dropped

    @property
    def dropped_labels(self) -> int:
        """Labels that were turned away, since the ring was made."""
        return self._ring.state().dropped_labels

    def never_below(self, slot: int) -> None:
        """Skip slots so that none below `slot` is given out (again); skipped ones are dropped.

        For a consumer that knows later slots than the ring: one that was lost, or fell back
        in a power failure, must not give two rows one id. An append that has begun already may
        still finish with the slot that it drew.
        """
        before = self._ring.state().next_slot
        if slot > self._ring.floor:
            self._ring.floor = slot
        if self._next_slot == before:
            self._next_slot = max(slot, before)

    def close(self) -> None:
        self._ring.close()

    def _places(self, position: int, limit: int) -> tuple[list[slice], int]:
        """Where up to `limit` records from `position` on lie, and the position after them."""
        head, tail = self._ring.state().head, self._ring.tail
        if not tail <= position <= head:
            raise StateError(
                f"{self._ring.path} holds positions {tail} to {head}, not {position}: "
                "it is another ring than the one read before"
            )
        end = min(position + limit, head)
        return self._ring.places(position, end - position), end

    def _rows_before(self, position: int) -> int:
        """How many observations were handed over before `position`, since the ring was made."""
        state = self._ring.state()
        behind = 0
        for place in self._ring.places(position, state.head - position):
            behind += int(np.count_nonzero(self._ring.records["kind"][place] == OBSERVATION))
        return max(0, state.head - state.labels - behind)

    def _slots_before(self, position: int) -> int:
        """The lowest slot that neither a record before `position` holds nor a dropped row had."""
        state = self._ring.state()
        for place in self._ring.places(position, state.head - position):
            rows = self._ring.records[place]
            observations = np.flatnonzero(rows["kind"] == OBSERVATION)
            if len(observations):
                return int(rows["slot"][observations[0]])
        return state.next_slot


def open_reader(path: Path) -> RingReader | None:
    """The reader of a ring, or None before a worker made one."""
    return RingReader(path) if path.exists() else None
