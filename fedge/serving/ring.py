"""The observation ring: from the workers of a model to the agent, without waiting.

Producers (a worker; two of them during a swap) append what they served and the
labels they were given; the one consumer (the agent) reads, and releases what it
no longer needs. A producer never waits for the consumer: when the ring is full
a row still gets its arrival slot, is dropped, and is counted. Killing any side
at any moment loses nothing that was appended.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedge.errors import StateError
from fedge.serving.record_ids import BlockOf, Slots
from fedge.serving.ring_file import Records, RingFile, create_ring

if TYPE_CHECKING:  # the agent reads rings, and needs no ONNX Runtime for it
    from fedge.serving.scoring import Scores

OBSERVATION, LABEL = 0, 1
"""Values of a record's `kind`."""


class RingWriter:
    """Appends to a ring; made by the first producer.

    Args:
        path: the ring file.
        features, inputs: monitored features and input values of one row.
        capacity: records of a new ring; a ring that exists keeps its own.

    Raises:
        StateError: the ring there is damaged, or was made for rows of another size.
    """

    def __init__(self, path: Path, *, features: int, inputs: int, capacity: int) -> None:
        create_ring(path, features=features, inputs=inputs, capacity=capacity)
        self._ring = RingFile(path)
        if (self._ring.features, self._ring.inputs) != (features, inputs):
            made_for = f"{self._ring.features} features and {self._ring.inputs} inputs"
            self._ring.close()
            raise StateError(f"{path} holds rows of {made_for}, not {features} and {inputs}")
        # Made once: looking a field up costs as much as writing a row of it.
        records = self._ring.records
        self._fields = {name: records[name] for name in records.dtype.names or ()}

    def append_batch(
        self,
        block_of: BlockOf,
        release: int,
        now: float,
        inputs: npt.NDArray[np.float32],
        scores: Scores,
    ) -> int:
        """Give n rows their arrival slots and hand them over.

        Args:
            block_of: asked once, with the slots that were drawn.
            release: counter of the release that served.
            now: arrival time, seconds since the epoch.
            inputs: float32, n x any shape with the ring's number of values.

        Returns:
            the first of n consecutive slots. All are consumed, also where the ring is full.
        """
        count = len(inputs)
        with self._ring.locked():
            state = self._ring.state()
            stored = min(count, self._room(state.head))
            slots = np.arange(state.next_slot, state.next_slot + count, dtype=np.int64)
            blocks, flat = block_of(slots, now), inputs.reshape(count, -1)
            fields, done = self._fields, 0
            for place in self._ring.places(state.head, stored):
                part = slice(done, done + place.stop - place.start)
                fields["kind"][place], fields["label"][place] = OBSERVATION, -1
                fields["release"][place], fields["time"][place] = release, now
                fields["slot"][place], fields["block"][place] = slots[part], blocks[part]
                fields["prediction"][place] = scores.predictions[part]
                fields["confidence"][place] = scores.confidence[part]
                fields["ood"][place] = scores.ood[part]
                fields["features"][place] = scores.features[part]
                fields["inputs"][place] = flat[part]
                done = part.stop
            self._ring.publish(
                state._replace(
                    head=state.head + stored,
                    next_slot=state.next_slot + count,
                    dropped=state.dropped + count - stored,
                )
            )
        return state.next_slot

    def append_labels(self, slots: Slots, labels: npt.NDArray[np.int32]) -> bool:
        """Hand over labels (class indices) for slots given out before, all or none.

        Returns:
            False where the ring has no room for them: nothing was taken, they are counted
            as turned away, and the caller may try again.
        """
        rows = np.zeros(len(slots), self._ring.records.dtype)
        rows["kind"], rows["slot"], rows["label"] = LABEL, slots, labels
        with self._ring.locked():
            state = self._ring.state()
            fits = len(rows) <= self._room(state.head)
            if fits:
                done = 0
                for place in self._ring.places(state.head, len(rows)):
                    length = place.stop - place.start
                    self._ring.records[place] = rows[done : done + length]
                    done += length
                state = state._replace(head=state.head + len(rows))
            else:
                state = state._replace(dropped_labels=state.dropped_labels + len(rows))
            self._ring.publish(state)
        return fits

    @property
    def next_slot(self) -> int:
        """The slot that the next row gets."""
        return self._ring.state().next_slot

    @property
    def dropped(self) -> int:
        """Rows that were served but not handed over, since the ring was made."""
        return self._ring.state().dropped

    def close(self) -> None:
        self._fields.clear()
        self._ring.close()

    def _room(self, head: int) -> int:
        return self._ring.capacity - (head - self._ring.tail)


class RingReader:
    """The one consumer of a ring. It remembers nothing: positions are the caller's to keep.

    Raises:
        StateError: there is no ring yet (no worker has served), or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._ring = RingFile(path)
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
        head, tail = self._ring.state().head, self._ring.tail
        if not tail <= position <= head:
            raise StateError(
                f"{self._ring.path} holds positions {tail} to {head}, not {position}: "
                "it is another ring than the one read before"
            )
        end = min(position + limit, head)
        places = self._ring.places(position, end - position)
        rows = np.concatenate([self._ring.records[place] for place in places])
        self._next_slot = self._slots_before(end)
        return rows, end

    def release(self, position: int) -> None:
        """Let producers overwrite everything before `position`; call it when that is safe."""
        self._ring.tail = position

    @property
    def position(self) -> int:
        """The oldest position that can still be read."""
        return self._ring.tail

    @property
    def next_slot(self) -> int:
        """All slots below were given out, and are in the records read so far or were dropped."""
        return self._next_slot

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
        in a power failure, must not give two rows one id.
        """
        with self._ring.locked():
            state = self._ring.state()
            missing = slot - state.next_slot
            if missing > 0:
                self._ring.publish(state._replace(next_slot=slot, dropped=state.dropped + missing))
            if self._next_slot == state.next_slot:
                self._next_slot = max(slot, state.next_slot)

    def close(self) -> None:
        self._ring.close()

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
